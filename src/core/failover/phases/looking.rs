//! Finding the primary where none is recorded.

use super::synchronous;
use crate::core::failover::command::{Act, Event};
use crate::core::failover::facts::observation::{Attempt, ServerAnswer};
use crate::core::failover::record::Phase;
use crate::core::failover::step::Step;
use crate::core::topology::NodeId;

/// The one that claims to lead on the highest timeline is adopted, once every node was asked or the
/// timeout has passed. A lower timeline than recorded never leads.
pub(in crate::core::failover) fn look(step: &mut Step<'_>) {
    let (observation, policy) = (step.observation, step.policy);
    let Some((primary, answer)) = claimant(step) else {
        return step.say("no node claims to be the primary");
    };
    let asked = observation
        .nodes
        .iter()
        .all(|facts| matches!(facts.attempt, Attempt::Answered | Attempt::Refused));
    // What they know decides about the epoch.
    let heard = policy
        .ids()
        .all(|node| !policy.has_agent(node) || step.agent(node).is_some());
    if !(asked && heard) && step.phase_us() < policy.timeout_us {
        let name = step.name(primary);
        return step.say(format!(
            "{name} claims to be the primary; asking the others"
        ));
    }
    if let Some(why) = decided_elsewhere(step) {
        return step.say(why);
    }
    // A record that was lost begins again; agents, and clients of this proxy, go by nothing that is older
    // than what they know.
    let known = known_by_agents(step).max(observation.ruled_epoch);
    step.next.epoch = step.next.epoch.max(known);
    adopt(step, primary, answer);
    step.enter(Phase::Following);
}

/// Agents that know of a later epoch have been told of decisions which the record does not know: it was put
/// back from a copy, and what it says of the primary need not be so. They would refuse every command.
pub(in crate::core::failover) fn notice_a_later_record(step: &mut Step<'_>) {
    let known = known_by_agents(step);
    if known > step.next.epoch && step.next.phase != Phase::Looking {
        step.enter(Phase::Looking);
        step.say(format!(
            "agents know of epoch {known}, and the record only of {}: it is older than what was decided",
            step.next.epoch
        ));
    }
}

/// The latest epoch that any agent knows of.
fn known_by_agents(step: &Step<'_>) -> u64 {
    let nodes = step.observation.nodes.iter();
    let agents = nodes.filter_map(|facts| facts.agent.as_ref());
    agents.map(|agent| agent.epoch).max().unwrap_or_default()
}

/// Why nobody is adopted yet: a proxy with another record may be renewing leases in a later epoch, and would
/// be shut out. Whoever renews one does so in each quarter of its time.
fn decided_elsewhere(step: &Step<'_>) -> Option<String> {
    let policy = step.policy;
    let later = policy.ids().filter_map(|node| {
        let lease = step.agent(node)?.lease?;
        (lease.epoch > step.next.epoch && !lease.prolonged).then_some((node, lease))
    });
    for (node, lease) in later {
        let (name, epoch) = (step.name(node), lease.epoch);
        let renewed_us = lease.renewed_us.map(|us| step.observation.since_us(us));
        if renewed_us.is_some_and(|ago_us| ago_us < policy.lease_us.max(policy.timeout_us)) {
            return Some(format!(
                "another proxy renews the lease of {name}, in epoch {epoch}: it decides by another record \
                 than this one"
            ));
        }
        if step.phase_us() < policy.lease_us / 3 {
            return Some(format!(
                "{name} has a lease of epoch {epoch}; waiting to see whether another proxy renews it"
            ));
        }
    }
    None
}

/// From now on this one leads.
pub(super) fn adopt(step: &mut Step<'_>, primary: NodeId, answer: &ServerAnswer) {
    step.new_epoch();
    synchronous::unproven(step);
    if let Some(old) = step.next.primary.filter(|old| *old != primary) {
        step.act(Act::CloseBackends(old));
    }
    step.next.primary = Some(primary);
    step.next.timeline = answer.timeline;
    step.next.system = Some(answer.system);
    let timeline = answer.timeline;
    step.report(Event::Found { primary, timeline });
}

/// The one node that leads on the highest timeline, which is not below the recorded one. Two on
/// one timeline are a split brain, and then there is none.
pub(super) fn claimant<'a>(step: &Step<'a>) -> Option<(NodeId, &'a ServerAnswer)> {
    let view = step.view();
    let claims = view.policy.ids().filter_map(|node| {
        let answer = view.answer(node)?;
        let late = answer.timeline >= view.record.timeline;
        (answer.primary().is_some() && view.is_ours(answer) && late).then_some((node, answer))
    });
    let mut claims: Vec<_> = claims.collect();
    claims.sort_by_key(|(_, answer)| std::cmp::Reverse(answer.timeline));
    match claims.as_slice() {
        [(_, first), (_, second), ..] if first.timeline == second.timeline => None,
        [first, ..] => Some(*first),
        [] => None,
    }
}
