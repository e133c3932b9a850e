//! A candidate that answers and is not promoted: a full disk, an agent that refuses, a reader whom nobody may
//! end. Another that holds as much leads in its place.
//!
//! An order to promote that a server has taken cannot be taken back: it leads as soon as what kept it from that is
//! over. Only a restart forgets the order, so that the candidate is stopped, as a primary would be, before
//! another is promoted, or the primary that was stopped for a switchover leads again.

use crate::core::failover::candidate::{fitness, is_present};
use crate::core::failover::command::Act;
use crate::core::failover::facts::View;
use crate::core::failover::facts::observation::{Postmaster, ServerAnswer, StandbyFacts};
use crate::core::failover::record::Candidate;
use crate::core::failover::step::Step;
use crate::core::lsn::Lsn;
use crate::core::topology::NodeId;

/// Whether a candidate has been promoted in vain for too long, this phase having lasted for `waited_us`.
pub(super) fn is_stuck(view: View<'_, '_>, candidate: NodeId, waited_us: u64) -> bool {
    let agent = view.agent(candidate);
    // What replays leads in the end, however long that takes.
    let still_us = agent
        .and_then(|agent| agent.moved_us)
        .map_or(u64::MAX, |moved_us| view.observation.since_us(moved_us));
    let promised = view.promise(candidate).is_some();
    !promised && waited_us.min(still_us) >= view.policy.promote_us
}

/// Whether somebody else can lead without a loss, and the candidate can be stopped first.
pub(super) fn can_be_replaced(view: View<'_, '_>, candidate: &Candidate) -> bool {
    can_lead_again(view, candidate.node, view.record.asked_for())
        || instead(view, candidate).is_some()
}

/// Whether the primary that was stopped for a switchover would be asked to lead again if its successor were given
/// up now, an operator having asked for this node to lead, whatever is lost.
pub(super) fn can_lead_again(view: View<'_, '_>, candidate: NodeId, asked: Option<NodeId>) -> bool {
    let stopped = intact(view, candidate, asked).is_some_and(|old| {
        let postmaster = view.agent(old).map(|agent| agent.postmaster);
        matches!(postmaster, Some(Postmaster::Stopped { .. }))
    });
    stopped && can_be_stopped(view, candidate)
}

/// The primary that was stopped for a switchover, if it may lead in a candidate's place.
fn intact(view: View<'_, '_>, candidate: NodeId, asked: Option<NodeId>) -> Option<NodeId> {
    view.record.intact.filter(|old| {
        *old != candidate
            && view.policy.has_agent(*old)
            && !view.is_quarantined(*old)
            && asked.is_none_or(|to| to == *old)
    })
}

/// Brings back the primary that was stopped for a switchover, to be elected by what it holds: as a standby, since
/// the candidate, fenced by now, may have begun the next timeline, and a new one must lie above it. Whether it is
/// waited for.
pub(super) fn brings_back(step: &mut Step<'_>, candidate: NodeId) -> bool {
    let Some(old) = intact(step.view(), candidate, step.next.asked_for()) else {
        return false;
    };
    let name = step.name(old);
    let (most_us, what) = match step.agent(old).map(|agent| agent.postmaster) {
        Some(Postmaster::Stopped { .. }) => {
            let (node, primary) = (old, None);
            step.act(Act::StartAsStandby { node, primary });
            (step.policy.promote_us, "to start")
        }
        Some(_) => {
            let standby = step.answer(old).and_then(ServerAnswer::standby);
            if standby.is_some_and(|standby| standby.detached() && standby.knows_end()) {
                return false;
            }
            (step.policy.stop_us, "to answer")
        }
        None => (step.policy.timeout_us, "to be reached"),
    };
    let waits = step.phase_us() < most_us;
    if waits {
        step.say(format!(
            "waiting for {name} {what}: it holds everything and can lead again"
        ));
    }
    waits
}

/// Another that holds all that the candidate holds, is as near to leading, and has been promised by no order:
/// nothing is lost by the change. The candidate must be one that can be stopped.
pub(super) fn instead(view: View<'_, '_>, candidate: &Candidate) -> Option<NodeId> {
    let own = view.answer(candidate.node)?;
    let stands = own.standby()?;
    if !can_be_stopped(view, candidate.node) {
        return None;
    }
    let held = end(own, candidate.end);
    let asked = view.record.asked_for();
    let able = |node: &NodeId| {
        let Some(answer) = view.answer(*node) else {
            return false;
        };
        let settled = |standby: &StandbyFacts| {
            standby.detached() && standby.knows_end() && standby.replayed >= stands.replayed
        };
        view.is_ours(answer)
            && is_present(view, *node, answer, false)
            && answer.standby().is_some_and(settled)
            && answer.end() >= held
            && fitness(view, *node).is_ok()
            && view.promise(*node).is_none()
            && asked.is_none_or(|to| to == *node)
    };
    view.others(candidate.node).find(able)
}

/// Whether somebody answers for a candidate's coming to stand still.
pub(super) fn can_be_stopped(view: View<'_, '_>, candidate: NodeId) -> bool {
    match view.policy.has_agent(candidate) {
        true => view.agent(candidate).is_some(),
        false => view.policy.fence_command,
    }
}

/// Where the WAL of a candidate ends that is given up.
pub(super) fn end(answer: &ServerAnswer, chosen: Lsn) -> Lsn {
    match answer.standby() {
        Some(standby) if standby.knows_end() => answer.end(),
        _ => answer.end().max(chosen),
    }
}

/// Those that were given up, and were stopped for that, can be asked again: nobody else is left.
pub(super) fn start_again(step: &mut Step<'_>) {
    for node in step.next.given_up.clone().into_keys() {
        let postmaster = step.agent(node).map(|agent| agent.postmaster);
        if let Some(Postmaster::Stopped { .. }) = postmaster {
            let primary = None;
            step.act(Act::StartAsStandby { node, primary });
        }
    }
}
