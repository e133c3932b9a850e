//! A promotion, step by step: fence, discover, promote; and the way back when nobody can take over.

use super::candidate::{Election, elect};
use super::command::{Act, Event, Stop};
use super::fence;
use super::lineage::{fork, written};
use super::observation::{Part, Postmaster};
use super::plan::Step;
use super::policy::Durability;
use super::quorum::CommitRule;
use super::record::{Candidate, Cause, Fall, Phase, Proof, Quarantined, Reason, Record, Way};
use crate::core::topology::NodeId;

/// Begins: a new epoch, in which the fallen primary has no part.
pub(super) fn begin(step: &mut Step<'_>, node: NodeId, cause: Cause) {
    step.new_epoch();
    if !accepted_loss(&step.next) {
        let name = step.policy.name(node);
        step.answer_request(Err(format!(
            "{name} failed meanwhile and is being replaced"
        )));
    }
    let written = written(step.observation, node, step.next.timeline);
    step.report(Event::Fell { node, cause });
    step.enter(Phase::Fencing(Fall {
        node,
        cause,
        written,
    }));
    // The new epoch's commands are part of the same plan.
    let fall = Fall {
        node,
        cause,
        written,
    };
    step.hold();
    step.act(Act::CloseBackends(node));
    detach_all(step);
    stop(step, &fall);
    step.say(format!("fencing {}", step.policy.name(node)));
}

/// 1. The old primary is made harmless.
pub(super) fn fence(step: &mut Step<'_>, fall: &Fall) {
    let (observation, policy) = (step.observation, step.policy);
    let fall = &remembered(step, fall);
    if leads_after_all(step, fall) {
        return;
    }
    if let Some(why) = recovered(step, fall) {
        return call_off(step, fall.node, why);
    }
    match fence::proof(observation, policy, &step.next, fall.node) {
        Ok(proof) => {
            let node = fall.node;
            step.report(Event::Fenced { node, proof });
            step.enter(Phase::Discovering(fall.clone(), proof));
        }
        Err(why) => {
            step.say(why);
            step.enter(Phase::Fencing(fall.clone()));
        }
    }
    step.hold();
    step.close_backends(fall.node);
    detach_all(step);
    stop(step, fall);
}

/// 2. How far has each standby received?
pub(super) fn discover(step: &mut Step<'_>, fall: &Fall, proof: Proof) {
    let (observation, policy) = (step.observation, step.policy);
    let fall = &remembered(step, fall);
    if leads_after_all(step, fall) {
        return;
    }
    step.enter(Phase::Discovering(fall.clone(), proof));
    take_request(step);
    step.hold();
    step.close_backends(fall.node);
    detach_all(step);
    match elect(
        observation,
        policy,
        &step.next,
        fall,
        proof,
        step.phase_us(),
    ) {
        Election::Choose {
            candidate,
            lost_bytes,
        } => {
            let (node, end, written) = (candidate.node, candidate.end, fall.written);
            step.report(Event::Chosen {
                node,
                end,
                lost_bytes,
                written,
            });
            prepare_rule(step, node);
            step.enter(Phase::Promoting(fall.clone(), proof, candidate));
            step.say(format!("promoting {}", policy.name(node)));
        }
        Election::Wait { why } => {
            step.say(why);
            if step.phase_us() >= policy.timeout_us && restorable(step, fall) {
                go_back(step, fall);
            }
        }
    }
}

/// 3. The candidate is promoted; 4 begins when it is seen to lead.
pub(super) fn promote(step: &mut Step<'_>, fall: &Fall, proof: Proof, candidate: Candidate) {
    let (observation, policy) = (step.observation, step.policy);
    let node = candidate.node;
    let name = policy.name(node);
    step.hold();
    step.close_backends(fall.node);
    if let Some(answer) = observation.answer(node, policy.timeout_us) {
        if answer.primary().is_some() && answer.timeline > step.next.timeline {
            return promoted(step, fall, candidate);
        }
        step.say(format!("promoting {name}"));
        step.grant(node);
        if let Durability::Quorum { .. } = policy.durability {
            let wanted = step.next.sync.wanted().cloned();
            let settled_us = observation.now_us.saturating_sub(answer.rule_since_us);
            if answer.rule != wanted {
                if let Some(rule) = wanted {
                    step.act(Act::SetSync { node, rule });
                }
                return step.say(format!(
                    "setting whom {name} will wait for, then promoting it"
                ));
            }
            if settled_us < policy.settle_us {
                return step.say(format!("waiting for {name} to read whom it will wait for"));
            }
        }
        return step.act(Act::Promote(node));
    }
    step.say(format!("{name} is being promoted and does not answer"));
    let agent = observation.agent(node, policy.timeout_us);
    if let Some(Postmaster::Stopped { .. }) = agent.map(|agent| agent.postmaster) {
        let primary = None;
        return step.act(Act::StartAsStandby { node, primary });
    }
    let silent = observation.silent_us(node) >= policy.timeout_us;
    if silent && step.phase_us() >= policy.timeout_us {
        abandon(step, fall, proof, candidate);
    }
}

/// The old primary is started again: it holds everything, and nobody else does.
pub(super) fn restore(step: &mut Step<'_>, fall: &Fall) {
    let (observation, policy) = (step.observation, step.policy);
    let node = fall.node;
    let name = policy.name(node);
    step.hold();
    let answer = observation.answer(node, policy.timeout_us);
    if answer.is_some_and(|answer| answer.primary().is_some()) {
        step.release();
        step.report(Event::Restored(node));
        step.answer_request(Err(format!("{name} serves again")));
        step.enter(Phase::Following);
        return step.say(format!("{name} serves again"));
    }
    step.say(format!("starting {name} again: nobody can take over"));
    match observation.agent(node, policy.timeout_us) {
        Some(agent) if agent.epoch <= step.next.epoch => {
            step.grant(node);
            if let Postmaster::Stopped { .. } = agent.postmaster {
                step.act(Act::StartAsPrimary(node));
            }
        }
        _ => {}
    }
    if step.phase_us() >= policy.stop_us {
        begin(step, node, fall.cause);
    }
}

/// The candidate leads: the record says so, and clients go there.
fn promoted(step: &mut Step<'_>, fall: &Fall, candidate: Candidate) {
    let (observation, policy) = (step.observation, step.policy);
    let node = candidate.node;
    let Some(answer) = observation.answer(node, policy.timeout_us) else {
        return;
    };
    let fork = fork(answer, step.next.timeline);
    let timeline = answer.timeline;
    if fall.node != node {
        let way = match fall.cause {
            Cause::Switchover if candidate.complete => Way::Start,
            Cause::CandidateLost => Way::Copy,
            _ => Way::Rewind,
        };
        let reason = Reason::OldPrimary;
        quarantine(step, fall.node, Quarantined { reason, way });
    }
    step.next.primary = Some(node);
    step.next.timeline = timeline;
    step.next.quarantine.remove(&node);
    step.enter(Phase::Following);
    step.report(Event::Promoted {
        node,
        timeline,
        fork,
        cause: fall.cause,
    });
    step.answer_request(Ok(()));
    step.renew(node);
    super::duties::follow_all(step, node);
    step.release();
    step.act(Act::Checkpoint(node));
    step.say(format!(
        "{} leads on timeline {timeline}",
        policy.name(node)
    ));
}

/// Whether a candidate that was lost has been promoted is not known: it is fenced like a primary,
/// and may not come back without a copy, for its timeline may bear the number of its successor's.
fn abandon(step: &mut Step<'_>, fall: &Fall, proof: Proof, candidate: Candidate) {
    if proof != Proof::InRecovery && fall.node != candidate.node {
        let way = match fall.cause {
            Cause::CandidateLost => Way::Copy,
            _ => Way::Rewind,
        };
        let reason = Reason::OldPrimary;
        quarantine(step, fall.node, Quarantined { reason, way });
    }
    let written = fall.written.max(candidate.end);
    begin(step, candidate.node, Cause::CandidateLost);
    if let Phase::Fencing(fall) = &mut step.next.phase {
        fall.written = fall.written.max(written);
    }
}

/// A candidate that was given up and turns out to have been promoted: nobody else was since, it
/// was the right one, and it leads.
fn leads_after_all(step: &mut Step<'_>, fall: &Fall) -> bool {
    let answer = step.observation.answer(fall.node, step.policy.timeout_us);
    let leads = answer
        .is_some_and(|answer| answer.primary().is_some() && answer.timeline > step.next.timeline);
    if fall.cause != Cause::CandidateLost || !leads {
        return false;
    }
    step.new_epoch();
    let candidate = Candidate {
        node: fall.node,
        end: fall.written,
        complete: false,
    };
    promoted(step, fall, candidate);
    true
}

/// Writes down a node that must be rejoined.
pub(super) fn quarantine(step: &mut Step<'_>, node: NodeId, why: Quarantined) {
    let known = step.next.quarantine.get(&node);
    // A harder way back is never replaced by an easier one.
    if known.is_none_or(|known| known.way < why.way) {
        step.next.quarantine.insert(node, why);
        step.report(Event::Quarantined { node, why });
    }
}

/// Under quorum durability: whom the candidate will wait for, recorded before it is told.
pub(super) fn prepare_rule(step: &mut Step<'_>, candidate: NodeId) {
    let Durability::Quorum { standbys } = step.policy.durability else {
        return;
    };
    let needed = standbys.max(1);
    let record = &step.next;
    let (observation, policy) = (step.observation, step.policy);
    let healthy = |node: &NodeId| {
        let answer = observation.answer(*node, policy.timeout_us);
        *node != candidate
            && !record.quarantine.contains_key(node)
            && answer.is_some_and(|answer| matches!(answer.part, Part::Standby(_)))
    };
    let mut members: std::collections::BTreeSet<NodeId> = policy.ids().filter(healthy).collect();
    if members.len() < needed {
        // It acknowledges nothing until enough have come back.
        members = policy.ids().filter(|node| *node != candidate).collect();
    }
    step.next.sync.add(Some(CommitRule { needed, members }));
}

fn detach_all(step: &mut Step<'_>) {
    let (observation, policy) = (step.observation, step.policy);
    for node in policy.ids() {
        let answer = observation.answer(node, policy.timeout_us);
        let standby = answer.and_then(|answer| answer.standby());
        if standby.is_some_and(|standby| !standby.detached()) {
            step.act(Act::Detach(node));
        }
    }
}

/// The last commands of fencing: they speak to what may not answer.
fn stop(step: &mut Step<'_>, fall: &Fall) {
    let (observation, policy) = (step.observation, step.policy);
    let node = fall.node;
    if !matches!(step.next.phase, Phase::Fencing(_)) {
        return;
    }
    if policy.has_agent(node) && observation.agent(node, policy.timeout_us).is_some() {
        let how = Stop::Immediate;
        step.act(Act::Stop { node, how });
    } else if policy.fence_command {
        step.act(Act::Fence(node));
    }
}

/// With what has been learnt since of how far the old primary got.
fn remembered(step: &Step<'_>, fall: &Fall) -> Fall {
    let seen = written(step.observation, fall.node, step.next.timeline);
    let written = fall.written.max(seen);
    Fall {
        written,
        ..fall.clone()
    }
}

/// Why the old primary may go on, if it answers again and nothing has been done to it.
fn recovered(step: &Step<'_>, fall: &Fall) -> Option<String> {
    let unforced = matches!(fall.cause, Cause::Dead | Cause::Hung);
    let (observation, policy) = (step.observation, step.policy);
    let answer = observation.answer(fall.node, policy.timeout_us)?;
    let later = answer.at_us > observation.phase_since_us;
    let leads = answer.primary().is_some() && answer.timeline == step.next.timeline;
    let agent = observation.agent(fall.node, policy.timeout_us);
    let untold = agent.is_none_or(|agent| {
        agent.epoch < step.next.epoch && agent.postmaster == Postmaster::Primary
    });
    (unforced && later && leads && untold)
        .then(|| format!("{} answers again", policy.name(fall.node)))
}

fn call_off(step: &mut Step<'_>, node: NodeId, why: String) {
    // What is still under way in the old epoch is refused from now on.
    step.new_epoch();
    step.enter(Phase::Following);
    step.renew(node);
    super::duties::follow_all(step, node);
    step.release();
    step.answer_request(Err(why.clone()));
    step.say(why.clone());
    step.report(Event::CalledOff { node, why });
}

fn restorable(step: &Step<'_>, fall: &Fall) -> bool {
    let (observation, policy) = (step.observation, step.policy);
    let agent = observation.agent(fall.node, policy.timeout_us);
    let stopped = matches!(
        agent.map(|agent| agent.postmaster),
        Some(Postmaster::Stopped { .. })
    );
    stopped
}

/// Back to the fallen one: a primary is started as such; a lost candidate as a standby, because
/// whether it was promoted is not known, and is promoted again.
pub(super) fn go_back(step: &mut Step<'_>, fall: &Fall) {
    step.new_epoch();
    let name = step.policy.name(fall.node);
    step.say(format!("starting {name} again: nobody can take over"));
    if fall.cause == Cause::CandidateLost {
        let candidate = Candidate {
            node: fall.node,
            end: fall.written,
            complete: false,
        };
        step.enter(Phase::Promoting(
            fall.clone(),
            Proof::AgentStopped,
            candidate,
        ));
        let (node, primary) = (fall.node, None);
        return step.act(Act::StartAsStandby { node, primary });
    }
    step.enter(Phase::Restoring(fall.clone()));
    step.grant(fall.node);
    step.act(Act::StartAsPrimary(fall.node));
}

/// Takes up an operator's `FAILOVER`, which accepts losses.
fn take_request(step: &mut Step<'_>) {
    if let Some(request) = pending(&step.next, step.observation.request)
        && request.kind == super::record::RequestKind::Failover
    {
        step.next.request = Some(request);
    }
}

/// Whether an operator has accepted that something is lost.
pub(super) fn accepted_loss(record: &Record) -> bool {
    let request = record.request;
    request.is_some_and(|request| request.kind == super::record::RequestKind::Failover)
}

/// A request that has not been answered.
pub(super) fn pending(
    record: &Record,
    request: Option<super::record::Request>,
) -> Option<super::record::Request> {
    request.filter(|request| record.answered_request.is_none_or(|last| request.id > last))
}
