//! Under `durability: quorum`: whom the primary waits for, changed in steps that `quorum` proves.

use std::collections::BTreeSet;

use super::following::follows;
use crate::core::failover::command::Act;
use crate::core::failover::facts::observation::{RuleOrder, ServerAnswer};
use crate::core::failover::policy::Durability;
use crate::core::failover::quorum::{CommitRule, SyncState};
use crate::core::failover::step::Step;
use crate::core::topology::NodeId;

/// Takes the next step towards waiting for the standbys that follow.
pub(super) fn maintain(step: &mut Step<'_>, primary: NodeId, leader: &ServerAnswer) {
    let Durability::Quorum { standbys } = step.policy.durability else {
        step.next.sync = SyncState::default();
        if step.next.sync_managed && leader.rule.is_some() {
            step.act(Act::ResetSync(primary));
        }
        return;
    };
    step.next.sync_managed = true;
    let unknown = step.next.sync.rules.is_empty();
    // Whatever another hand has set may have acknowledged something.
    step.next.sync.admit(leader.rule.clone());
    if unknown {
        // What commits waited for until now, and whether they do as the setting says, is not known.
        step.next.sync.admit(None);
    }
    let early = leader.primary().is_some_and(|facts| facts.early.server);
    let doubled = leader
        .primary()
        .is_some_and(|facts| !facts.doubled.is_empty());
    let unkept = early || doubled;
    if unkept {
        // No commit waits, whoever is named, or for whom is not known.
        step.next.sync.admit(None);
        step.next.sync.barrier = None;
    }
    let wanted = wanted(step, primary, standbys.max(1));
    if let Some(wanted) = &wanted
        && step.next.sync.wanted() != Some(wanted)
    {
        step.next.sync.add(Some(wanted.clone()));
    }
    let Some(rule) = step.next.sync.wanted().cloned() else {
        return step.say("no standby follows that commits could wait for");
    };
    if !step.next.sync.changing() {
        return;
    }
    match shown(step, primary, leader, &rule) {
        Some(_) if unkept => {}
        Some(order) => settle(step, primary, leader, &rule, order),
        None => step.next.sync.barrier = None,
    }
}

/// A server's latest order, if that is to go by this rule and its setting shows it; otherwise it is told to.
/// An earlier order whose end is not known may still arrive where the setting shows what it should.
pub(super) fn shown<'a>(
    step: &mut Step<'a>,
    node: NodeId,
    answer: &ServerAnswer,
    rule: &CommitRule,
) -> Option<&'a RuleOrder> {
    let order = step.observation.rule_order(node, step.next.epoch, rule);
    match order {
        Some(order) if answer.rule.as_ref() == Some(rule) => return Some(order),
        // It was asked before it was told.
        Some(order) if answer.at_us < order.set_us => {}
        _ => {
            let rule = rule.clone();
            step.act(Act::SetSync { node, rule });
        }
    }
    None
}

/// Forgets the older rules once what they acknowledged is held by the new one's standbys.
fn settle(
    step: &mut Step<'_>,
    primary: NodeId,
    leader: &ServerAnswer,
    rule: &CommitRule,
    order: &RuleOrder,
) {
    let Some(in_force_us) = order.in_force_us else {
        step.next.sync.barrier = None;
        let (node, rule) = (primary, rule.clone());
        return step.act(Act::ProveSync { node, rule });
    };
    if leader.at_us < in_force_us {
        return;
    }
    let flush = leader.end();
    let barrier = *step.next.sync.barrier.get_or_insert(flush);
    let holds = |node: &&NodeId| {
        let here = step
            .answer(**node)
            .filter(|answer| answer.timeline == step.next.timeline);
        let follows = follows(step, **node, primary);
        follows && here.is_some_and(|answer| answer.end() >= barrier)
    };
    if rule.members.iter().filter(holds).count() >= rule.needed {
        step.next.sync.settle();
    }
}

/// Another server acknowledges from now on, and what it shows is not yet what it does.
pub(super) fn unproven(step: &mut Step<'_>) {
    if let Durability::Quorum { .. } = step.policy.durability {
        step.next.sync.admit(None);
    }
}

/// The standbys that commits should wait for. None: as it is; with too few, commits wait until
/// some come back rather than being acknowledged by fewer.
fn wanted(step: &Step<'_>, primary: NodeId, needed: usize) -> Option<CommitRule> {
    let view = step.view();
    let present = step.next.sync.wanted();
    let member = |node: &NodeId| {
        if view.is_quarantined(*node) {
            return false;
        }
        // One that is a member stays until it has been away for the timeout.
        let known = present.is_some_and(|rule| rule.members.contains(node));
        follows(step, *node, primary) || known && !view.is_silent(*node)
    };
    let members: BTreeSet<NodeId> = view.others(primary).filter(member).collect();
    if members.len() >= needed {
        return Some(CommitRule { needed, members });
    }
    // Nothing may be acknowledged by the primary alone, whatever it is set to now.
    let everybody: BTreeSet<NodeId> = view.others(primary).collect();
    let enough = everybody.len() >= needed;
    // None is wanted either where nodes that are gone could fulfil the one before.
    (present.is_none_or(|rule| rule.members.contains(&primary)) && enough).then_some(CommitRule {
        needed,
        members: everybody,
    })
}
