//! A promotion, step by step: fence, discover, promote; and the way back when nobody can take over.

use std::collections::BTreeSet;

use super::following::follow_all;
use super::{giving_up, synchronous};
use crate::core::failover::candidate::{Election, elect, is_bound};
use crate::core::failover::command::{Act, Event, Stop};
use crate::core::failover::describe::seconds;
use crate::core::failover::facts::observation::{Postmaster, ServerAnswer, StandbyFacts, Upstream};
use crate::core::failover::fence;
use crate::core::failover::policy::Durability;
use crate::core::failover::quorum::CommitRule;
use crate::core::failover::record::{
    Candidate, Cause, FailedPrimary, FenceProof, Phase, QuarantineReason, Quarantined, Recovery,
    RequestKind,
};
use crate::core::failover::step::Step;
use crate::core::topology::NodeId;

/// Begins: a new epoch, in which the failed primary has no part.
pub(super) fn begin(step: &mut Step<'_>, node: NodeId, cause: Cause) {
    step.new_epoch();
    if !step.next.accepts_loss() {
        let name = step.name(node);
        let what = match cause {
            Cause::CandidateGivenUp => "could not be promoted",
            Cause::CandidateLost => "was lost while it was being promoted",
            _ => "failed meanwhile and is being replaced",
        };
        step.answer_request(Err(format!("{name} {what}")));
    }
    let written = step.observation.written(node, step.next.timeline);
    step.report(Event::PrimaryFailed { node, cause });
    let failed = FailedPrimary {
        node,
        cause,
        written,
    };
    step.enter(Phase::Fencing(failed.clone()));
    // The new epoch's commands are part of the same plan.
    step.hold();
    step.act(Act::CloseBackends(node));
    detach_all(step);
    announce(step, node);
    stop(step, &failed);
    step.say(format!("fencing {}", step.name(node)));
}

/// 1. The old primary is made harmless.
pub(in crate::core::failover) fn fence(step: &mut Step<'_>, failed: &FailedPrimary) {
    let failed = &remembered(step, failed);
    if !is_touched(step, failed.node) && leads_after_all(step, failed) {
        return;
    }
    if let Some(why) = recovered(step, failed) {
        return call_off(step, failed.node, why);
    }
    match fence::proof(step.view(), failed) {
        Ok(proof) => {
            let node = failed.node;
            step.report(Event::Fenced { node, proof });
            step.enter(Phase::Discovering(failed.clone(), proof));
        }
        Err(why) => {
            step.say(why);
            step.enter(Phase::Fencing(failed.clone()));
        }
    }
    step.hold();
    step.close_backends(failed.node);
    detach_all(step);
    announce(step, failed.node);
    stop(step, failed);
}

/// 2. How far has each standby received?
pub(in crate::core::failover) fn discover(
    step: &mut Step<'_>,
    failed: &FailedPrimary,
    proof: FenceProof,
) {
    let failed = &remembered(step, failed);
    // What `fence_command` has done may show only after its end.
    let is_going = proof == FenceProof::FenceCommand && step.phase_us() < step.policy.timeout_us;
    if !is_going && leads_after_all(step, failed) {
        return;
    }
    step.enter(Phase::Discovering(failed.clone(), proof));
    step.hold();
    step.close_backends(failed.node);
    detach_all(step);
    announce(step, failed.node);
    if is_bound(failed, proof) && asks_for_another(step, failed.node) {
        return give_up(step, failed);
    }
    // One that was lost and came back may still follow its order to lead.
    if !is_bound(failed, proof) && giving_up::brings_back(step, failed.node) {
        return;
    }
    match elect(step.view(), failed, proof, step.phase_us()) {
        Election::Choose {
            candidate,
            lost_bytes,
            passed_over,
        } => {
            let (node, end, written) = (candidate.node, candidate.end, failed.written);
            step.report(Event::Chosen {
                node,
                end,
                lost_bytes,
                written,
                passed_over,
            });
            prepare_rule(step, node);
            step.enter(Phase::Promoting(failed.clone(), proof, candidate));
            step.say(format!("promoting {}", step.name(node)));
        }
        Election::Wait { why } => {
            step.say(why);
            end_readers(step);
            if step.phase_us() < step.policy.timeout_us {
                return;
            }
            if is_bound(failed, proof) {
                // One that still replays what it holds comes to its end.
                let standby = step.answer(failed.node).and_then(ServerAnswer::standby);
                if standby.is_none_or(StandbyFacts::knows_end) {
                    give_up(step, failed);
                }
            } else if restorable(step, failed) {
                go_back(step, failed);
            } else {
                giving_up::start_again(step);
            }
        }
    }
}

/// 3. The candidate is promoted; 4 begins when it is seen to lead.
pub(in crate::core::failover) fn promote(
    step: &mut Step<'_>,
    failed: &FailedPrimary,
    proof: FenceProof,
    candidate: Candidate,
) {
    let node = candidate.node;
    let name = step.name(node);
    step.hold();
    step.close_backends(failed.node);
    if let Some(answer) = step.answer(node) {
        if answer.primary().is_some() && answer.timeline > step.next.timeline {
            return promoted(step, failed, candidate);
        }
        let stuck = giving_up::is_stuck(step.view(), node, step.phase_us());
        if stuck && giving_up::can_be_replaced(step.view(), &candidate) {
            return abandon(step, failed, proof, candidate, Cause::CandidateGivenUp);
        }
        press(step, node, answer);
        // It leads once it has replayed everything, and the old one is fenced: readers give way.
        if answer.standby().is_some_and(StandbyFacts::has_to_replay) {
            step.act(Act::EndReaders(node));
        }
        if stuck {
            let passed = seconds(step.phase_us());
            let why = format!(
                "{}, for {passed} so far, and no other holds as much",
                step.why
            );
            step.say(why);
            giving_up::start_again(step);
        }
        return;
    }
    step.say(format!("{name} is being promoted and does not answer"));
    let agent = step.agent(node);
    if let Some(Postmaster::Stopped { .. }) = agent.map(|agent| agent.postmaster) {
        // It has had its time, and does not run.
        let is_lost = step.phase_us() >= step.policy.promote_us;
        let asked = step.next.asked_for();
        if is_lost && giving_up::can_lead_again(step.view(), node, asked) {
            return abandon(step, failed, proof, candidate, Cause::CandidateLost);
        }
        let primary = None;
        return step.act(Act::StartAsStandby { node, primary });
    }
    let silent = step.view().is_silent(node);
    if silent && step.phase_us() >= step.policy.timeout_us {
        abandon(step, failed, proof, candidate, Cause::CandidateLost);
    }
}

/// The next step of a promotion, on a candidate that answers.
fn press(step: &mut Step<'_>, node: NodeId, answer: &ServerAnswer) {
    let name = step.name(node);
    if let Some(promise) = step.view().promise(node) {
        let left = seconds(promise.until_us.saturating_sub(step.observation.now_us));
        let to = &promise.to;
        return step.say(format!(
            "promoting {name}, {left} from now: until then its agent has promised {to} not to"
        ));
    }
    step.say(format!("promoting {name}"));
    step.grant(node);
    if let Durability::Quorum { .. } = step.policy.durability
        && let Some(rule) = step.next.sync.wanted().cloned()
    {
        if synchronous::shown(step, node, answer, &rule).is_none() {
            return step.say(format!(
                "setting whom {name} will wait for, then promoting it"
            ));
        }
        if step.observation.since_us(answer.rule_since_us) < step.policy.settle_us {
            return step.say(format!("waiting for {name} to read whom it will wait for"));
        }
    }
    step.act(Act::Promote(node));
}

/// The old primary is started again: it holds everything, and nobody else does.
pub(in crate::core::failover) fn restore(step: &mut Step<'_>, failed: &FailedPrimary) {
    let node = failed.node;
    let name = step.name(node);
    step.hold();
    let answer = step.answer(node);
    if answer.is_some_and(|answer| answer.primary().is_some()) {
        step.release();
        step.report(Event::Restored(node));
        answer_asked(step, node, Err(format!("{name} serves again")));
        step.enter(Phase::Following);
        return step.say(format!("{name} serves again"));
    }
    step.say(format!("starting {name} again: nobody can take over"));
    let mut recovers = false;
    match step.agent(node) {
        Some(agent) if agent.epoch <= step.next.epoch => {
            step.grant(node);
            match agent.postmaster {
                Postmaster::Stopped { .. } => step.act(Act::StartAsPrimary(node)),
                Postmaster::Primary | Postmaster::Standby => recovers = true,
            }
        }
        _ => {}
    }
    if recovers {
        // After a crash that takes as long as it takes, and from the beginning if it is cut short.
        let passed = seconds(step.phase_us());
        step.say(format!("{name} is starting again, for {passed} so far"));
    }
    let gives_up = step.phase_us() >= step.policy.stop_us && !recovers && step.promotes_unasked();
    if gives_up || new_failover(step) {
        begin(step, node, failed.cause);
    }
}

/// An operator asks for a `FAILOVER` that has not been taken up.
fn new_failover(step: &mut Step<'_>) -> bool {
    let before = step.next.request.map(|request| request.id);
    take_request(step);
    let is_new = step.next.request.map(|request| request.id) != before;
    // Who is being started anyway need not be replaced for that.
    let Phase::Restoring(failed) = &step.next.phase else {
        return false;
    };
    is_new && step.next.accepts_loss() && step.next.asked_for() != Some(failed.node)
}

/// The candidate leads: the record says so, and clients go there.
fn promoted(step: &mut Step<'_>, failed: &FailedPrimary, candidate: Candidate) {
    let node = candidate.node;
    let Some(answer) = step.answer(node) else {
        return;
    };
    let fork = answer
        .history
        .as_ref()
        .and_then(|history| history.end_of(step.next.timeline));
    let timeline = answer.timeline;
    let reason = QuarantineReason::OldPrimary;
    if failed.node != node {
        let recovery = match failed.cause {
            Cause::Switchover if candidate.complete => Recovery::Start,
            cause if cause.was_candidate() => Recovery::Copy,
            _ => Recovery::Rewind,
        };
        step.quarantine(failed.node, Quarantined { reason, recovery });
    }
    if let Some(old) = step
        .next
        .intact
        .filter(|old| ![node, failed.node].contains(old))
    {
        // Whoever leads in its place need not hold everything.
        let recovery = Recovery::Rewind;
        step.quarantine(old, Quarantined { reason, recovery });
    }
    // Whoever was given up may have been promoted on a timeline of its own: only a copy brings it back.
    for given_up in std::mem::take(&mut step.next.given_up).into_keys() {
        if given_up != node {
            let recovery = Recovery::Copy;
            step.quarantine(given_up, Quarantined { reason, recovery });
        }
    }
    step.next.primary = Some(node);
    step.next.timeline = timeline;
    step.next.quarantine.remove(&node);
    synchronous::unproven(step);
    step.enter(Phase::Following);
    step.report(Event::Promoted {
        node,
        timeline,
        fork,
        cause: failed.cause,
    });
    answer_asked(step, node, Ok(()));
    step.renew(node);
    follow_all(step, node);
    step.release();
    step.act(Act::Checkpoint(node));
    step.say(format!("{} leads on timeline {timeline}", step.name(node)));
}

/// Whether a candidate that was lost, or given up, has been promoted or will be is not known: it is fenced like
/// a primary, and may not come back without a copy, for its timeline may bear the number of its successor's.
pub(super) fn abandon(
    step: &mut Step<'_>,
    failed: &FailedPrimary,
    proof: FenceProof,
    candidate: Candidate,
    cause: Cause,
) {
    // One that was given up before is at hand, should all others fail too; so is one that may lead again.
    let at_hand =
        step.next.given_up.contains_key(&failed.node) || step.next.intact == Some(failed.node);
    if proof != FenceProof::InRecovery && failed.node != candidate.node && !at_hand {
        let recovery = match failed.cause {
            cause if cause.was_candidate() => Recovery::Copy,
            _ => Recovery::Rewind,
        };
        let reason = QuarantineReason::OldPrimary;
        step.quarantine(failed.node, Quarantined { reason, recovery });
    }
    let written = failed.written.max(candidate.end);
    let end = step
        .answer(candidate.node)
        .map(|answer| giving_up::end(answer, candidate.end));
    begin(step, candidate.node, cause);
    if let Phase::Fencing(failed) = &mut step.next.phase {
        failed.written = failed.written.max(written);
    }
    if let Some(end) = end.filter(|_| cause == Cause::CandidateGivenUp) {
        step.next.given_up.insert(candidate.node, end);
    }
}

/// Ends the operator's request now that a node leads, which may not be the one that was asked for.
fn answer_asked(step: &mut Step<'_>, leader: NodeId, otherwise: Result<(), String>) {
    let name = step.name(leader);
    step.answer_request(match step.next.asked_for() {
        Some(asked) if asked == leader => Ok(()),
        Some(_) => Err(format!("{name} leads")),
        None => otherwise,
    });
}

/// One that was lost, came back as a standby and alone could be promoted cannot be: it is stopped.
fn give_up(step: &mut Step<'_>, failed: &FailedPrimary) {
    let candidate = Candidate {
        node: failed.node,
        end: failed.written,
        complete: false,
    };
    let (proof, cause) = (FenceProof::InRecovery, Cause::CandidateGivenUp);
    abandon(step, failed, proof, candidate, cause);
}

fn asks_for_another(step: &Step<'_>, than: NodeId) -> bool {
    let asked = step.next.asked_for();
    asked.is_some_and(|to| to != than)
}

/// A candidate that was given up and turns out to have been promoted: nobody else was since, it
/// was the right one, and it leads.
fn leads_after_all(step: &mut Step<'_>, failed: &FailedPrimary) -> bool {
    let answer = step.answer(failed.node);
    let leads = answer
        .is_some_and(|answer| answer.primary().is_some() && answer.timeline > step.next.timeline);
    if !failed.cause.was_candidate() || !leads {
        return false;
    }
    step.new_epoch();
    let candidate = Candidate {
        node: failed.node,
        end: failed.written,
        complete: false,
    };
    promoted(step, failed, candidate);
    true
}

/// Under quorum durability: whom the candidate will wait for, recorded before it is told.
pub(super) fn prepare_rule(step: &mut Step<'_>, candidate: NodeId) {
    let Durability::Quorum { standbys } = step.policy.durability else {
        return;
    };
    let needed = standbys.max(1);
    let view = step.view();
    let healthy = |node: &NodeId| {
        let standby = view.answer(*node).and_then(ServerAnswer::standby);
        standby.is_some() && !view.is_quarantined(*node)
    };
    let mut members: BTreeSet<NodeId> = view.others(candidate).filter(healthy).collect();
    if members.len() < needed {
        // How far those go is known, whoever fails next.
        let given_up = step.next.given_up.keys().copied();
        members.extend(given_up.filter(|node| *node != candidate));
    }
    if members.len() < needed {
        // It acknowledges nothing until enough have come back.
        members = view.others(candidate).collect();
    }
    step.next.sync.add(Some(CommitRule { needed, members }));
}

fn detach_all(step: &mut Step<'_>) {
    for node in step.policy.ids() {
        let standby = step.answer(node).and_then(ServerAnswer::standby);
        if standby.is_some_and(|standby| !standby.detached()) {
            step.act(Act::Detach(node));
        }
    }
}

/// A standby that stands in its replay neither lets go of the old primary, though it has been told to, nor comes
/// to know how much it holds.
fn end_readers(step: &mut Step<'_>) {
    for node in step.policy.ids() {
        let standby = step.answer(node).and_then(ServerAnswer::standby);
        let stands = |standby: &StandbyFacts| {
            let holds_on = standby.upstream == Upstream::Nowhere && standby.receiver.is_some();
            standby.has_to_replay() && (holds_on || !standby.knows_end())
        };
        if standby.is_some_and(stands) {
            step.act(Act::EndReaders(node));
        }
    }
}

/// Those who may have promised the failed one something learn of the epoch, and promise it nothing more.
fn announce(step: &mut Step<'_>, failed: NodeId) {
    for node in step.next.failsafe.members(failed) {
        let agent = step.agent(node);
        if agent.is_some_and(|agent| agent.epoch < step.next.epoch) {
            step.act(Act::Announce(node));
        }
    }
}

/// The last commands of fencing: they speak to what may not answer.
fn stop(step: &mut Step<'_>, failed: &FailedPrimary) {
    let node = failed.node;
    if !matches!(step.next.phase, Phase::Fencing(_)) {
        return;
    }
    if step.policy.has_agent(node) && step.agent(node).is_some() {
        let how = Stop::Immediate;
        step.act(Act::Stop { node, how });
    } else if step.policy.fence_command {
        step.next.fence_begun = Some(step.next.epoch);
        step.act(Act::Fence(node));
    }
}

/// Whether `fence_command` has done something to a node in this epoch, or may yet, whatever its server answers:
/// it is under way, it has succeeded, or it was begun by a process that is gone.
fn is_touched(step: &Step<'_>, node: NodeId) -> bool {
    let (seen, epoch) = (step.observation, step.next.epoch);
    let is_this = |fact: Option<(NodeId, u64)>| {
        fact.is_some_and(|(fenced, begun)| fenced == node && begun >= epoch)
    };
    let under_way = seen.fence_command_under_way;
    // Without a command any more none of our own will end, and another's has had the time to.
    let waits = step.policy.fence_command || step.phase_us() < step.policy.stop_us;
    let of_another = step.next.fence_begun == Some(epoch) && !is_this(seen.fence_command_failed);
    under_way.is_some_and(|(fenced, _)| fenced == node)
        || is_this(seen.fence_command_done)
        || of_another && waits
}

/// With what has been learnt since of how far the old primary got.
fn remembered(step: &Step<'_>, failed: &FailedPrimary) -> FailedPrimary {
    let seen = step.observation.written(failed.node, step.next.timeline);
    let written = failed.written.max(seen);
    FailedPrimary {
        written,
        ..failed.clone()
    }
}

/// Why the old primary may go on, if it answers again and nothing has been done to it.
fn recovered(step: &Step<'_>, failed: &FailedPrimary) -> Option<String> {
    let unforced = matches!(failed.cause, Cause::Dead | Cause::Hung);
    let answer = step.answer(failed.node)?;
    let later = answer.at_us > step.observation.phase_since_us;
    let leads = answer.primary().is_some() && answer.timeline == step.next.timeline;
    let agent = step.agent(failed.node);
    let untold = agent.is_none_or(|agent| {
        agent.epoch < step.next.epoch && agent.postmaster == Postmaster::Primary
    });
    let unharmed = !is_touched(step, failed.node);
    (unforced && later && leads && untold && unharmed)
        .then(|| format!("{} answers again", step.name(failed.node)))
}

fn call_off(step: &mut Step<'_>, node: NodeId, why: String) {
    // What is still under way in the old epoch is refused from now on.
    step.new_epoch();
    step.enter(Phase::Following);
    step.renew(node);
    follow_all(step, node);
    step.release();
    step.answer_request(Err(why.clone()));
    step.say(why.clone());
    step.report(Event::CalledOff { node, why });
}

fn restorable(step: &Step<'_>, failed: &FailedPrimary) -> bool {
    let agent = step.agent(failed.node);
    let postmaster = agent.map(|agent| agent.postmaster);
    matches!(postmaster, Some(Postmaster::Stopped { .. }))
}

/// Back to the failed one: a primary is started as such; a lost candidate as a standby, because
/// whether it was promoted is not known, and is promoted again.
pub(super) fn go_back(step: &mut Step<'_>, failed: &FailedPrimary) {
    step.new_epoch();
    let name = step.name(failed.node);
    step.say(format!("starting {name} again: nobody can take over"));
    if failed.cause.was_candidate() {
        let candidate = Candidate {
            node: failed.node,
            end: failed.written,
            complete: false,
        };
        step.enter(Phase::Promoting(
            failed.clone(),
            FenceProof::AgentStopped,
            candidate,
        ));
        let (node, primary) = (failed.node, None);
        return step.act(Act::StartAsStandby { node, primary });
    }
    step.enter(Phase::Restoring(failed.clone()));
    step.grant(failed.node);
    step.act(Act::StartAsPrimary(failed.node));
}

/// Takes up an operator's `FAILOVER`, which accepts losses.
fn take_request(step: &mut Step<'_>) {
    if let Some(request) = step.next.pending(step.observation.request)
        && request.kind == RequestKind::Failover
    {
        step.next.request = Some(request);
    }
}
