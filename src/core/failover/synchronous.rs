//! Under `durability: quorum`: whom the primary waits for, changed in steps that `quorum` proves.

use std::collections::BTreeSet;

use super::command::Act;
use super::duties::follows;
use super::observation::Answer;
use super::plan::Step;
use super::policy::Durability;
use super::quorum::{CommitRule, SyncState};
use crate::core::topology::NodeId;

/// Takes the next step towards waiting for the standbys that follow.
pub(super) fn tend(step: &mut Step<'_>, primary: NodeId, leader: &Answer) {
    let Durability::Quorum { standbys } = step.policy.durability else {
        step.next.sync = SyncState::default();
        if step.next.sync_managed && leader.rule.is_some() {
            step.act(Act::ResetSync(primary));
        }
        return;
    };
    step.next.sync_managed = true;
    // Whatever another hand has set may have acknowledged something.
    step.next.sync.admit(leader.rule.clone());
    let wanted = wanted(step, primary, standbys.max(1));
    if let Some(wanted) = &wanted
        && step.next.sync.wanted() != Some(wanted)
    {
        step.next.sync.add(Some(wanted.clone()));
    }
    let Some(rule) = step.next.sync.wanted().cloned() else {
        return step.say("no standby follows that commits could wait for");
    };
    if leader.rule.as_ref() != Some(&rule) {
        step.next.sync.barrier = None;
        let node = primary;
        return step.act(Act::SetSync { node, rule });
    }
    if step.next.sync.changing() {
        settle(step, primary, leader, &rule);
    }
}

/// Forgets the older rules once what they acknowledged is held by the new one's standbys.
fn settle(step: &mut Step<'_>, primary: NodeId, leader: &Answer, rule: &CommitRule) {
    let (observation, policy) = (step.observation, step.policy);
    // Counted to when it was asked: all that is in the answer was so for at least that long.
    let in_force_us = leader.at_us.saturating_sub(leader.rule_since_us);
    if in_force_us < policy.settle_us {
        return;
    }
    let flush = leader.end();
    let barrier = *step.next.sync.barrier.get_or_insert(flush);
    let holds = |node: &&NodeId| {
        let answer = observation.answer(**node, policy.timeout_us);
        let here = answer.filter(|answer| answer.timeline == step.next.timeline);
        let follows = follows(step, policy, **node, primary);
        follows && here.is_some_and(|answer| answer.end() >= barrier)
    };
    if rule.members.iter().filter(holds).count() >= rule.needed {
        step.next.sync.settle();
    }
}

/// The standbys that commits should wait for. None: as it is; with too few, commits wait until
/// some come back rather than being acknowledged by fewer.
fn wanted(step: &Step<'_>, primary: NodeId, needed: usize) -> Option<CommitRule> {
    let (observation, policy) = (step.observation, step.policy);
    let present = step.next.sync.wanted();
    let member = |node: &NodeId| {
        if step.next.quarantine.contains_key(node) || *node == primary {
            return false;
        }
        // One that is a member stays until it has been away for the timeout.
        let known = present.is_some_and(|rule| rule.members.contains(node));
        let away = observation.silent_us(*node) >= policy.timeout_us;
        follows(step, policy, *node, primary) || known && !away
    };
    let members: BTreeSet<NodeId> = policy.ids().filter(member).collect();
    if members.len() >= needed {
        return Some(CommitRule { needed, members });
    }
    // Nothing may be acknowledged by the primary alone, whatever it is set to now.
    let everybody: BTreeSet<NodeId> = policy.ids().filter(|node| *node != primary).collect();
    let enough = everybody.len() >= needed;
    (present.is_none_or(|rule| rule.members.contains(&primary)) && enough).then_some(CommitRule {
        needed,
        members: everybody,
    })
}
