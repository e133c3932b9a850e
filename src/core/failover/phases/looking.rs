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
    // A record that was lost begins again; agents, and clients of this proxy, go by nothing that is older
    // than what they know.
    let agents = observation
        .nodes
        .iter()
        .filter_map(|facts| facts.agent.as_ref());
    let known = agents.map(|agent| agent.epoch).max().unwrap_or_default();
    let known = known.max(observation.ruled_epoch);
    step.next.epoch = step.next.epoch.max(known);
    adopt(step, primary, answer);
    step.enter(Phase::Following);
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
