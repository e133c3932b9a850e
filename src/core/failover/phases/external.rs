//! `observe` mode, where something else promotes: whoever leads is followed; nothing is promoted,
//! stopped or repointed.

use super::looking::{adopt, claimant};
use crate::core::failover::command::Act;
use crate::core::failover::quorum::SyncState;
use crate::core::failover::record::Phase;
use crate::core::failover::step::Step;

pub(in crate::core::failover) fn follow(step: &mut Step<'_>) {
    step.next.request = step.next.pending(step.observation.request);
    step.answer_request(Err(
        "mode is observe: something else promotes here".to_owned()
    ));
    release_all(step);
    step.next.epoch = step.next.epoch.max(step.observation.ruled_epoch);
    let Some((primary, answer)) = claimant(step) else {
        step.hold();
        return step.say("no node leads on the latest timeline; waiting for whoever promotes");
    };
    if step.next.primary != Some(primary) || step.next.timeline != answer.timeline {
        adopt(step, primary, answer);
    }
    // Whatever was being done belongs to another mode.
    step.enter(Phase::Steady);
    step.next.sync = SyncState::default();
    for node in step.view().others(primary) {
        let answer = step.answer(node);
        if answer.is_some_and(|answer| answer.primary().is_some()) {
            step.close_backends(node);
        }
    }
    step.release();
    let name = step.name(primary);
    step.say(format!("{name} leads on timeline {}", answer.timeline));
}

/// Whoever else promotes knows nothing of leases: no agent that this record has governed is to stop what it
/// has promoted. One that has fallen out might lead where it should not, until it is seen to stand by.
fn release_all(step: &mut Step<'_>) {
    // From now on nobody reckons that their leases run out.
    let governed = std::mem::take(&mut step.next.governed);
    step.next.to_release.extend(governed);
    for node in step.next.to_release.clone() {
        let Some(agent) = step.agent(node) else {
            continue;
        };
        if !agent.governed {
            step.next.to_release.remove(&node);
            continue;
        }
        let stands_by = step
            .answer(node)
            .is_some_and(|answer| answer.standby().is_some());
        if stands_by || !step.next.quarantine.contains_key(&node) {
            step.next.epoch = step.next.epoch.max(agent.epoch);
            step.act(Act::ReleaseLease(node));
        }
    }
}
