//! Finding the primary: at the beginning, and always in `observe` mode, where another hand promotes.

use super::command::{Act, Event};
use super::observation::{Answer, Attempt};
use super::plan::Step;
use super::quorum::SyncState;
use super::record::Phase;
use crate::core::topology::NodeId;

/// No primary is known yet: the one that claims to lead on the highest timeline is adopted, once
/// every node was asked or the timeout has passed. A lower timeline than recorded never leads.
pub(super) fn look(step: &mut Step<'_>) {
    let (observation, policy) = (step.observation, step.policy);
    let Some((primary, answer)) = claimant(step) else {
        return step.say("no node claims to be the primary");
    };
    let asked = observation
        .nodes
        .iter()
        .all(|facts| matches!(facts.attempt, Attempt::Answered | Attempt::Refused));
    // What they know decides about the epoch.
    let heard = policy.ids().all(|node| {
        !policy.has_agent(node) || observation.agent(node, policy.timeout_us).is_some()
    });
    if !(asked && heard) && step.phase_us() < policy.timeout_us {
        let name = policy.name(primary);
        return step.say(format!(
            "{name} claims to be the primary; asking the others"
        ));
    }
    // A record that was lost begins again, and agents refuse what is older than what they know.
    let agents = observation
        .nodes
        .iter()
        .filter_map(|facts| facts.agent.as_ref());
    let known = agents.map(|agent| agent.epoch).max().unwrap_or_default();
    step.next.epoch = step.next.epoch.max(known);
    adopt(step, primary, answer);
    step.enter(Phase::Following);
}

/// `observe` mode: whoever leads is followed; nothing is promoted, stopped or repointed.
pub(super) fn follow(step: &mut Step<'_>) {
    step.next.request = step.observation.request.filter(|request| {
        let answered = step.next.answered_request;
        answered.is_none_or(|last| request.id > last)
    });
    step.answer_request(Err(
        "mode is observe: something else promotes here".to_owned()
    ));
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
    for node in step.policy.ids().filter(|node| *node != primary) {
        let answer = step.observation.answer(node, step.policy.timeout_us);
        if answer.is_some_and(|answer| answer.primary().is_some()) {
            step.close_backends(node);
        }
    }
    step.release();
    let name = step.policy.name(primary);
    step.say(format!("{name} leads on timeline {}", answer.timeline));
}

fn adopt(step: &mut Step<'_>, primary: NodeId, answer: &Answer) {
    step.new_epoch();
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
fn claimant<'a>(step: &Step<'a>) -> Option<(NodeId, &'a Answer)> {
    let (observation, policy) = (step.observation, step.policy);
    let claims = policy.ids().filter_map(|node| {
        let answer = observation.answer(node, policy.timeout_us)?;
        let ours = step
            .next
            .system
            .is_none_or(|system| system == answer.system);
        let late = answer.timeline >= step.next.timeline;
        (answer.primary().is_some() && ours && late).then_some((node, answer))
    });
    let mut claims: Vec<_> = claims.collect();
    claims.sort_by_key(|(_, answer)| std::cmp::Reverse(answer.timeline));
    match claims.as_slice() {
        [(_, first), (_, second), ..] if first.timeline == second.timeline => None,
        [first, ..] => Some(*first),
        [] => None,
    }
}
