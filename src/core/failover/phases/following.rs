//! Standbys in service follow the primary.

use crate::core::failover::command::Act;
use crate::core::failover::facts::observation::{ServerAnswer, Upstream};
use crate::core::failover::step::Step;
use crate::core::timeline::Ancestry;
use crate::core::topology::NodeId;

/// Points every standby in service at the primary, if what it holds is part of that history.
pub(super) fn follow_all(step: &mut Step<'_>, primary: NodeId) {
    let Some(leader) = step.answer(primary) else {
        return;
    };
    for standby in step.view().others(primary) {
        let Some(answer) = step.answer(standby) else {
            continue;
        };
        let Some(facts) = answer.standby() else {
            continue;
        };
        let cascades = facts.streams(leader.timeline).is_some();
        let elsewhere = facts.upstream != Upstream::Node(primary) && !cascades;
        let ours = answer.system == leader.system && answer.ancestry(leader) == Ancestry::Shared;
        if elsewhere && ours && !step.view().is_quarantined(standby) {
            step.act(Act::Follow { standby, primary });
        }
    }
}

/// Whether a standby answers, is in service, and streams from `primary` on its timeline.
pub(super) fn follows(step: &Step<'_>, node: NodeId, primary: NodeId) -> bool {
    let standby = step.answer(node).and_then(ServerAnswer::standby);
    let streams = standby.and_then(|standby| standby.streams(step.next.timeline));
    node != primary && streams == Some(primary) && !step.view().is_quarantined(node)
}

/// Everybody who answers follows, or has had the time to.
pub(super) fn settled(step: &Step<'_>, primary: NodeId) -> bool {
    let view = step.view();
    let behind = |node: NodeId| {
        let standby = view.answer(node).and_then(ServerAnswer::standby);
        let behind = standby.is_some_and(|standby| standby.streams(step.next.timeline).is_none());
        behind && !view.is_quarantined(node)
    };
    step.phase_us() >= step.policy.stop_us || !view.others(primary).any(behind)
}
