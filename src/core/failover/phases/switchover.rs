//! A planned change of primary: no client sees an error and nothing is lost.

use super::failover::{self, go_back};
use super::following::{follow_all, follows};
use crate::core::failover::candidate::fitness;
use crate::core::failover::command::{Act, Stop};
use crate::core::failover::describe::seconds;
use crate::core::failover::facts::observation::{Postmaster, ServerAnswer};
use crate::core::failover::facts::primary_health::{Health, judge};
use crate::core::failover::record::{Candidate, Cause, FailedPrimary, FenceProof, Phase};
use crate::core::failover::step::Step;
use crate::core::lsn::Lsn;
use crate::core::topology::NodeId;

/// Begins, or says why it is refused.
pub(super) fn begin(
    step: &mut Step<'_>,
    primary: NodeId,
    to: Option<NodeId>,
) -> Result<(), String> {
    let name = step.name(primary);
    if step.next.phase != Phase::Steady {
        return Err("the last change of primary is not complete; try again".to_owned());
    }
    if !step.policy.has_agent(primary) {
        return Err(format!("{name} has no agent that could stop it cleanly"));
    }
    if step.agent(primary).is_none() {
        return Err(format!("the agent of {name} does not answer"));
    }
    match judge(step.view(), primary) {
        Health::Well => {}
        _ => return Err(format!("{name} is not well; FAILOVER replaces it")),
    }
    let to = match to {
        Some(to) => {
            able(step, primary, to)?;
            to
        }
        None => best(step, primary)?,
    };
    if let Some(why) = unheard(step, primary, |node, confirmed_us| {
        node.is_some() && step.observation.since_us(confirmed_us) >= step.policy.timeout_us
    }) {
        return Err(why);
    }
    step.new_epoch();
    step.enter(Phase::Checkpointing { to });
    step.keep(primary);
    step.act(Act::Checkpoint(primary));
    let target = step.name(to);
    step.say(format!("switching over to {target}: a checkpoint first"));
    Ok(())
}

/// The primary writes down what it has in memory, so that the clean stop is short: clients wait for that
/// one, and not for this. Nor do they wait for what the candidate's agent has promised to be over.
pub(in crate::core::failover) fn checkpoint(step: &mut Step<'_>, to: NodeId) {
    let Some(primary) = step.next.primary else {
        return step.enter(Phase::Looking);
    };
    let name = step.name(primary);
    match judge(step.view(), primary) {
        Health::Failed { cause, why } => return primary_failed(step, primary, cause, &why),
        Health::Foreign { why } => return lost(step, primary, why),
        Health::Well | Health::Doubtful { .. } | Health::CutOff { .. } => {}
    }
    if let Err(why) = able(step, primary, to) {
        return call_off(step, primary, why);
    }
    if is_overtaken(step) {
        return call_off(step, primary, "another order came".to_owned());
    }
    step.release();
    step.keep(primary);
    let asked = (primary, step.next.epoch);
    let has_ended = step.observation.checkpoint_ended == Some(asked);
    let promised = promised(step, to);
    // Whoever confirms nothing would hold up the clean stop, with everybody held. Tools do it at leisure.
    let unheard = unheard(step, primary, |_, confirmed_us| {
        confirmed_us < step.observation.phase_since_us
    });
    if has_ended && promised.is_none() && unheard.is_none() {
        step.enter(Phase::Draining { to });
        step.hold();
        let target = step.name(to);
        return step.say(format!(
            "switching over to {target}: letting transactions end"
        ));
    }
    if let Some(why) = unheard.clone().filter(|_| has_ended && promised.is_none())
        && step.phase_us() >= step.policy.stop_us / 2
    {
        return call_off(step, primary, why);
    }
    if step.phase_us() >= step.policy.checkpoint_us {
        let most = seconds(step.policy.checkpoint_us);
        let why = match promised.filter(|_| has_ended) {
            Some(promised) => format!("after {most}, {promised}"),
            None => format!("{name} has not ended its checkpoint after {most}"),
        };
        return call_off(step, primary, why);
    }
    let elapsed = step.elapsed(step.policy.checkpoint_us);
    match promised.filter(|_| has_ended) {
        Some(promised) => step.say(format!("waiting, {elapsed}: {promised}")),
        None if has_ended => step.say(unheard.unwrap_or_default()),
        None => {
            step.act(Act::Checkpoint(primary));
            step.say(format!("waiting for a checkpoint of {name}, {elapsed}"));
        }
    }
}

/// The primary dies before it was told to stop. Where nobody is promoted without an operator's word, the word
/// was for a change without loss, and that cannot be had any more.
fn primary_failed(step: &mut Step<'_>, primary: NodeId, cause: Cause, why: &str) {
    if step.promotes_unasked() {
        return failover::begin(step, primary, cause);
    }
    let waits = step.why_it_waits();
    lost(step, primary, format!("{why}; {waits}"));
}

/// There is no primary that could go on, and nobody is promoted in its place.
fn lost(step: &mut Step<'_>, primary: NodeId, why: String) {
    step.new_epoch();
    step.enter(Phase::Following);
    step.hold();
    step.renew(primary);
    step.say(format!("switchover called off: {why}"));
    step.answer_request(Err(why));
}

/// The clean stop has come to nothing, or nobody knows what came of it.
fn stop_failed(step: &mut Step<'_>, primary: NodeId, why: &str) {
    if step.promotes_unasked() {
        return failover::begin(step, primary, Cause::Switchover);
    }
    step.answer_request(Err(why.to_owned()));
    let failed = FailedPrimary {
        node: primary,
        cause: Cause::Switchover,
        written: step.observation.written(primary, step.next.timeline),
    };
    go_back(step, &failed);
    let name = step.name(primary);
    step.say(format!("{why}; starting {name} again"));
}

/// An operator asks for something else than what is being done.
fn is_overtaken(step: &Step<'_>) -> bool {
    let asked = step.next.pending(step.observation.request);
    let under_way = step.next.request;
    asked.is_some_and(|asked| under_way.is_none_or(|request| request.id < asked.id))
}

/// Running transactions may end, within bounds.
pub(in crate::core::failover) fn drain(step: &mut Step<'_>, to: NodeId) {
    let Some(primary) = step.next.primary else {
        return step.enter(Phase::Looking);
    };
    let name = step.name(primary);
    match judge(step.view(), primary) {
        Health::Failed { cause, why } => {
            return primary_failed(step, primary, cause, &why);
        }
        Health::Foreign { why } => return lost(step, primary, why),
        Health::Well => {}
        Health::Doubtful { .. } | Health::CutOff { .. } => {
            return call_off(step, primary, format!("{name} does not answer"));
        }
    }
    if is_overtaken(step) {
        return call_off(step, primary, "another order came".to_owned());
    }
    // What was promised only now would be waited for with everybody held.
    let hindered = able(step, primary, to).err();
    if let Some(why) = hindered.or_else(|| promised(step, to)) {
        return call_off(step, primary, why);
    }
    step.hold();
    step.renew(primary);
    // Held is seen one plan after it was asked for: before, a transaction could still begin.
    if !step.observation.holding || step.phase_us() == 0 {
        return step.say("holding new transactions");
    }
    let open = step.observation.open_transactions;
    if open > 0 && step.phase_us() >= step.policy.drain_us {
        let drain = seconds(step.policy.drain_us);
        let why = format!("{open} transactions were still open after {drain}");
        return call_off(step, primary, why);
    }
    let unheard = unheard(step, primary, |node, confirmed_us| {
        node.is_some() && step.observation.since_us(confirmed_us) >= step.policy.timeout_us
    });
    if let Some(why) = unheard {
        return call_off(step, primary, why);
    }
    if open > 0 {
        let elapsed = step.elapsed(step.policy.drain_us);
        return step.say(format!("waiting for {open} transactions to end, {elapsed}"));
    }
    step.new_epoch();
    step.enter(Phase::Stopping { to });
    step.act(Act::CloseBackends(primary));
    let (node, how) = (primary, Stop::Fast);
    step.act(Act::Stop { node, how });
    step.say(format!("stopping {name} cleanly"));
}

/// The old primary is stopped cleanly.
pub(in crate::core::failover) fn stop(step: &mut Step<'_>, to: NodeId) {
    let Some(primary) = step.next.primary else {
        return step.enter(Phase::Looking);
    };
    let name = step.name(primary);
    step.hold();
    // It runs as a primary until it has stopped, however long that takes.
    step.renew(primary);
    let Some(agent) = step.agent(primary) else {
        step.say(format!(
            "stopping {name} cleanly; its agent does not answer"
        ));
        if step.phase_us() >= step.policy.timeout_us {
            let why =
                format!("the agent of {name} does not answer since it was to stop its server");
            stop_failed(step, primary, &why);
        }
        return;
    };
    match agent.postmaster {
        Postmaster::Stopped {
            checkpoint: Some(checkpoint),
            ..
        } if agent.epoch >= step.next.epoch => {
            step.say(format!("{name} has stopped"));
            step.enter(Phase::CatchingUp { to, checkpoint });
        }
        Postmaster::Stopped {
            checkpoint: None, ..
        } if agent.epoch >= step.next.epoch => {
            // Not cleanly: who holds what must be found out.
            stop_failed(step, primary, &format!("{name} did not stop cleanly"));
        }
        _ if step.phase_us() >= step.policy.stop_us => {
            let most = seconds(step.policy.stop_us);
            stop_failed(
                step,
                primary,
                &format!("{name} has not stopped after {most}"),
            );
        }
        _ => {
            let (node, how) = (primary, Stop::Fast);
            step.act(Act::CloseBackends(primary));
            step.act(Act::Stop { node, how });
            let elapsed = step.elapsed(step.policy.stop_us);
            step.say(format!("waiting for {name} to stop cleanly, {elapsed}"));
        }
    }
}

/// The candidate receives the rest.
pub(in crate::core::failover) fn catch_up(step: &mut Step<'_>, to: NodeId, checkpoint: Lsn) {
    let Some(primary) = step.next.primary else {
        return step.enter(Phase::Looking);
    };
    let name = step.name(to);
    step.hold();
    let failed = FailedPrimary {
        node: primary,
        cause: Cause::Switchover,
        written: checkpoint,
    };
    let answer = step.answer(to);
    let standby = answer.and_then(ServerAnswer::standby);
    if let Some(standby) = standby
        && standby.end() > checkpoint
        && fitness(step.view(), to).is_ok()
    {
        let end = standby.end();
        let candidate = Candidate {
            node: to,
            end,
            complete: true,
        };
        failover::prepare_rule(step, to);
        step.next.intact = Some(primary);
        step.enter(Phase::Promoting(
            failed,
            FenceProof::AgentStopped,
            candidate,
        ));
        return step.say(format!("{name} holds everything; promoting it"));
    }
    let elapsed = step.elapsed(step.policy.timeout_us);
    step.say(format!("waiting for {name} to receive the rest, {elapsed}"));
    if step.phase_us() >= step.policy.timeout_us {
        // The old primary is whole; it goes on.
        step.answer_request(Err(format!("{name} did not receive everything")));
        go_back(step, &failed);
    }
}

/// Nothing has been stopped: the primary goes on.
fn call_off(step: &mut Step<'_>, primary: NodeId, why: String) {
    step.new_epoch();
    step.enter(Phase::Following);
    step.renew(primary);
    follow_all(step, primary);
    step.release();
    step.say(format!("switchover called off: {why}"));
    step.answer_request(Err(why));
}

/// Whoever receives WAL from the primary, and has confirmed too little of it, for people. A clean stop would
/// wait for them.
fn unheard(
    step: &Step<'_>,
    primary: NodeId,
    too_little: impl Fn(Option<NodeId>, u64) -> bool,
) -> Option<String> {
    let facts = step.answer(primary)?.primary()?;
    let attached = facts.attached.iter();
    let silent = attached.filter(|attached| too_little(attached.node, attached.confirmed_us));
    let names: Vec<&str> = silent.map(|attached| attached.name.as_str()).collect();
    let leader = step.name(primary);
    (!names.is_empty()).then(|| {
        format!(
            "{} receives from {leader} and does not confirm it: a clean stop would wait for that",
            names.join(", ")
        )
    })
}

/// Whether a node could take over; if not, why.
fn able(step: &Step<'_>, primary: NodeId, to: NodeId) -> Result<(), String> {
    let name = step.name(to);
    fitness(step.view(), to)?;
    if !follows(step, to, primary) {
        let leader = step.name(primary);
        let timeline = step.next.timeline;
        return Err(format!(
            "{name} does not stream from {leader} on timeline {timeline}"
        ));
    }
    Ok(())
}

/// What a node's agent has promised that keeps it from leading yet, for people. It ends by itself.
fn promised(step: &Step<'_>, to: NodeId) -> Option<String> {
    let promise = step.view().promise(to)?;
    let left = seconds(promise.until_us.saturating_sub(step.observation.now_us));
    let (name, leader) = (step.name(to), &promise.to);
    Some(format!(
        "the agent of {name} has promised {leader} not to let it lead for another {left}"
    ))
}

/// The standby that is furthest; ties as in a failover.
fn best(step: &Step<'_>, primary: NodeId) -> Result<NodeId, String> {
    let mut faults = Vec::new();
    let mut able_ones = Vec::new();
    for node in step.policy.ids().filter(|node| *node != primary) {
        match able(step, primary, node) {
            Ok(()) => able_ones.push(node),
            Err(why) => faults.push(why),
        }
    }
    // All will have everything: configured preference goes first here.
    let rank = |node: &NodeId| {
        let configured = step.policy.nodes.get(usize::from(node.0));
        let priority = configured.map(|node| node.promote_priority);
        let near = configured.is_some_and(|node| node.zone == step.policy.zone);
        let end = step.answer(*node).map(ServerAnswer::end);
        let name = configured.map(|node| std::cmp::Reverse(node.name.clone()));
        (priority, near, end, name)
    };
    let best = able_ones.into_iter().max_by_key(rank);
    best.ok_or_else(|| format!("no standby could take over: {}", faults.join("; ")))
}
