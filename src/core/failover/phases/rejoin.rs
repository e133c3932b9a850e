//! What fell out comes back as a standby, never as it was.

use crate::core::failover::command::{Act, Event, Stop};
use crate::core::failover::facts::observation::{Postmaster, RejoinJob, ServerAnswer, Upstream};
use crate::core::failover::record::{Quarantined, Recovery};
use crate::core::failover::step::Step;
use crate::core::timeline::Ancestry;
use crate::core::topology::NodeId;

/// How often a node is asked to start as it is. Not slowness, but that its server ends again: while one starts,
/// however long, none is asked for.
const MOST_STARTS: u32 = 5;

/// Brings quarantined nodes back, one step each.
pub(super) fn rejoin_all(step: &mut Step<'_>, primary: NodeId) {
    let quarantine = &step.next.quarantine;
    let starts = |node: &NodeId| {
        let why = quarantine.get(node);
        why.is_some_and(|why| why.recovery == Recovery::Start)
    };
    step.next.starts.retain(|node, _| starts(node));
    for (node, why) in step.next.quarantine.clone() {
        if node != primary {
            bring_back(step, primary, node, why);
        }
    }
}

fn bring_back(step: &mut Step<'_>, primary: NodeId, node: NodeId, why: Quarantined) {
    let (observation, policy) = (step.observation, step.policy);
    let (leader, answer) = (step.answer(primary), step.answer(node));
    let (Some(leader), Some(facts)) = (leader, observation.node(node)) else {
        return;
    };
    // Until it is done it may be stopped again.
    if facts.job == RejoinJob::Running {
        return;
    }
    if answer.is_some_and(|answer| back(answer, leader, primary)) {
        step.next.quarantine.remove(&node);
        step.next.starts.remove(&node);
        return step.report(Event::Rejoined(node));
    }
    if why.recovery == Recovery::Operator {
        return;
    }
    if let RejoinJob::Failed { at_us, .. } | RejoinJob::Done { at_us } = facts.job
        && observation.since_us(at_us) < policy.stop_us
    {
        return;
    }
    // On its way: PostgreSQL itself goes on trying to connect.
    let on_its_way = answer.is_some_and(|answer| {
        let upstream = answer.standby().map(|standby| standby.upstream);
        upstream == Some(Upstream::Node(primary)) && answer.ancestry(leader) == Ancestry::Shared
    });
    if on_its_way && facts.job == RejoinJob::None {
        return;
    }
    match step.agent(node).map(|agent| agent.postmaster) {
        Some(Postmaster::Primary) => {
            let how = Stop::Immediate;
            step.act(Act::Stop { node, how });
        }
        Some(Postmaster::Stopped { .. }) if why.recovery == Recovery::Start => {
            let asked = facts.start_us;
            if asked.is_some_and(|us| observation.since_us(us) < policy.timeout_us) {
                return;
            }
            let asked = step.next.starts.entry(node).or_default();
            if *asked >= MOST_STARTS {
                let recovery = Recovery::Rewind;
                return step.quarantine(node, Quarantined { recovery, ..why });
            }
            *asked += 1;
            let primary = Some(primary);
            step.act(Act::StartAsStandby { node, primary });
        }
        // Started as it was, it holds too much after all, or does not get on.
        Some(Postmaster::Standby) if why.recovery == Recovery::Start => {
            let foreign = answer.is_some_and(|answer| answer.ancestry(leader) != Ancestry::Shared);
            // A recovery that gets on is let go on, however long it takes.
            let agent = facts.agent.as_ref();
            let moved_us = agent.and_then(|agent| agent.moved_us).unwrap_or_default();
            match facts.start_us {
                // Started before this process was, or by another hand: it has its time from now on.
                None if !foreign => {
                    let primary = Some(primary);
                    step.act(Act::StartAsStandby { node, primary });
                }
                Some(us) if !foreign && observation.since_us(us.max(moved_us)) < policy.stop_us => {
                }
                _ => {
                    let recovery = Recovery::Rewind;
                    step.next
                        .quarantine
                        .insert(node, Quarantined { recovery, ..why });
                }
            }
        }
        Some(_) => rejoin(step, primary, node, why),
        None if policy.rejoin_command && !policy.has_agent(node) => {
            rejoin(step, primary, node, why);
        }
        None => {}
    }
}

fn rejoin(step: &mut Step<'_>, primary: NodeId, node: NodeId, why: Quarantined) {
    let copy = why.recovery == Recovery::Copy;
    // pg_rewind believes the control file, which a checkpoint brings up to date.
    step.act(Act::Checkpoint(primary));
    step.act(Act::Rejoin {
        node,
        primary,
        copy,
    });
}

/// It streams from the primary, on the primary's timeline, and holds nothing else.
fn back(answer: &ServerAnswer, leader: &ServerAnswer, primary: NodeId) -> bool {
    let streams = answer.standby().and_then(|s| s.streams(leader.timeline));
    let ours = answer.system == leader.system && answer.timeline == leader.timeline;
    ours && streams == Some(primary) && answer.ancestry(leader) == Ancestry::Shared
}
