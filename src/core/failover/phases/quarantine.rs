//! Nodes that serve nobody until they have been rejoined: who is one, and how it may come back.

use std::cmp::Ordering;

use crate::core::failover::command::{Act, Event};
use crate::core::failover::facts::observation::{Postmaster, ServerAnswer};
use crate::core::failover::record::{QuarantineReason, Quarantined, Recovery};
use crate::core::failover::step::Step;
use crate::core::timeline::Ancestry;
use crate::core::topology::NodeId;

/// Nodes where a server of another cluster answers: a wrong address, or a directory of data that was made
/// anew. Whatever it is, it is not ours to stop, to rewind or to overwrite.
pub(super) fn foreigners(step: &mut Step<'_>, primary: NodeId, leader: &ServerAnswer) {
    for node in step.view().others(primary) {
        let foreign = step
            .answer(node)
            .is_some_and(|answer| answer.system != leader.system);
        if foreign {
            let (reason, recovery) = (QuarantineReason::OtherCluster, Recovery::Operator);
            step.quarantine(node, Quarantined { reason, recovery });
            step.close_backends(node);
        }
    }
}

/// Other nodes that claim to lead.
pub(super) fn stray_primaries(step: &mut Step<'_>, primary: NodeId, leader: &ServerAnswer) {
    for node in step.view().others(primary) {
        let Some(answer) = step.answer(node) else {
            continue;
        };
        if answer.primary().is_none() || answer.system != leader.system {
            continue;
        }
        let recovery = match answer.timeline.cmp(&leader.timeline) {
            Ordering::Less => Recovery::Rewind,
            // One that was to lead itself, and was replaced before it did.
            Ordering::Equal if was_candidate(step, node) => Recovery::Copy,
            // What was written there by another hand is not ours to destroy.
            Ordering::Equal | Ordering::Greater => Recovery::Operator,
        };
        let reason = QuarantineReason::ClaimsToLead;
        if !step.view().is_quarantined(node) {
            let timeline = answer.timeline;
            step.report(Event::StrayPrimary {
                node,
                timeline,
                reason,
            });
        }
        step.quarantine(node, Quarantined { reason, recovery });
        step.close_backends(node);
    }
}

fn was_candidate(step: &Step<'_>, node: NodeId) -> bool {
    let known = step.next.quarantine.get(&node);
    known.is_some_and(|known| {
        (known.reason, known.recovery) == (QuarantineReason::OldPrimary, Recovery::Copy)
    })
}

/// Standbys that hold what is not part of the primary's history.
pub(super) fn diverged_standbys(step: &mut Step<'_>, primary: NodeId, leader: &ServerAnswer) {
    for node in step.view().others(primary) {
        let Some(answer) = step.answer(node) else {
            continue;
        };
        let ours = answer.standby().is_some() && answer.system == leader.system;
        if !ours || step.view().is_quarantined(node) {
            continue;
        }
        let recovery = match answer.ancestry(leader) {
            Ancestry::Shared | Ancestry::Unknown => continue,
            Ancestry::Diverged => Recovery::Rewind,
            Ancestry::Unrelated => Recovery::Copy,
        };
        let reason = QuarantineReason::BeyondFork;
        step.quarantine(node, Quarantined { reason, recovery });
        step.act(Act::CloseBackends(node));
    }
}

/// Standbys whose servers have crashed and that nobody has started again for a while.
pub(super) fn crashed_standbys(step: &mut Step<'_>, primary: NodeId) {
    for node in step.view().others(primary) {
        let postmaster = step.agent(node).map(|agent| agent.postmaster);
        let crashed = matches!(postmaster, Some(Postmaster::Stopped { crashed: true, .. }));
        let view = step.view();
        if crashed && view.is_silent(node) && !view.is_quarantined(node) {
            let (reason, recovery) = (QuarantineReason::Crashed, Recovery::Start);
            step.quarantine(node, Quarantined { reason, recovery });
        }
    }
}

/// Primaries that have crashed and of which the record knows nothing: it was lost, or another proxy's was followed
/// meanwhile.
pub(super) fn crashed_primaries(step: &mut Step<'_>, primary: NodeId, leader: &ServerAnswer) {
    for node in step.view().others(primary) {
        let agent = step.agent(node);
        let Some(wrote) = agent.and_then(|agent| agent.crashed_primary) else {
            continue;
        };
        let view = step.view();
        if !view.is_silent(node) || view.is_quarantined(node) {
            continue;
        }
        let recovery = match wrote.cmp(&leader.timeline) {
            Ordering::Less => Recovery::Rewind,
            // Which of the two is the cluster's is not ours to say.
            Ordering::Equal | Ordering::Greater => Recovery::Operator,
        };
        let reason = QuarantineReason::OldPrimary;
        step.quarantine(node, Quarantined { reason, recovery });
    }
}
