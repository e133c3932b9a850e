//! Promotion 5, and ever after: what fell out comes back as a standby, never as it was.

use super::command::{Act, Event, Stop};
use super::lineage::{Kin, kin};
use super::observation::{Answer, Job, Postmaster, Upstream};
use super::plan::Step;
use super::record::{Quarantined, Way};
use crate::core::topology::NodeId;

/// Brings quarantined nodes back, one step each.
pub(super) fn tend(step: &mut Step<'_>, primary: NodeId) {
    for (node, why) in step.next.quarantine.clone() {
        if node != primary {
            bring_back(step, primary, node, why);
        }
    }
}

fn bring_back(step: &mut Step<'_>, primary: NodeId, node: NodeId, why: Quarantined) {
    let (observation, policy) = (step.observation, step.policy);
    let leader = observation.answer(primary, policy.timeout_us);
    let answer = observation.answer(node, policy.timeout_us);
    let (Some(leader), Some(facts)) = (leader, observation.node(node)) else {
        return;
    };
    if answer.is_some_and(|answer| back(answer, leader, primary)) {
        step.next.quarantine.remove(&node);
        return step.report(Event::Rejoined(node));
    }
    if why.way == Way::Operator || facts.job == Job::Running {
        return;
    }
    if let Job::Failed { at_us, .. } | Job::Done { at_us } = facts.job
        && observation.now_us.saturating_sub(at_us) < policy.stop_us
    {
        return;
    }
    // On its way: PostgreSQL itself goes on trying to connect.
    let on_its_way = answer.is_some_and(|answer| {
        let upstream = answer.standby().map(|standby| standby.upstream);
        upstream == Some(Upstream::Node(primary)) && kin(answer, leader) == Kin::Within
    });
    if on_its_way && facts.job == Job::None {
        return;
    }
    let agent = observation.agent(node, policy.timeout_us);
    match agent.map(|agent| agent.postmaster) {
        Some(Postmaster::Primary) => {
            let how = Stop::Immediate;
            step.act(Act::Stop { node, how });
        }
        Some(Postmaster::Stopped { .. }) if why.way == Way::Start => {
            let age_us = |asked_us| observation.now_us.saturating_sub(asked_us);
            if facts
                .start_us
                .is_some_and(|us| age_us(us) < policy.timeout_us)
            {
                return;
            }
            let primary = Some(primary);
            step.act(Act::StartAsStandby { node, primary });
        }
        // Started as it was, it holds too much after all, or does not get on.
        Some(Postmaster::Standby) if why.way == Way::Start => {
            let astray = answer.is_some_and(|answer| kin(answer, leader) != Kin::Within);
            if astray || step.phase_us() >= policy.stop_us {
                let way = Way::Rewind;
                step.next
                    .quarantine
                    .insert(node, Quarantined { way, ..why });
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
    let copy = why.way == Way::Copy;
    // pg_rewind believes the control file, which a checkpoint brings up to date.
    step.act(Act::Checkpoint(primary));
    step.act(Act::Rejoin {
        node,
        primary,
        copy,
    });
}

/// It streams from the primary, on the primary's timeline, and holds nothing else.
fn back(answer: &Answer, leader: &Answer, primary: NodeId) -> bool {
    let streams = answer.standby().and_then(|s| s.streams(leader.timeline));
    let ours = answer.system == leader.system && answer.timeline == leader.timeline;
    ours && streams == Some(primary) && kin(answer, leader) == Kin::Within
}
