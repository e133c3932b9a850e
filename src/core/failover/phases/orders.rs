//! Orders that come while something else is being done: each is carried out at once, or refused with why.
//! While a primary serves, its own phase takes them.

use super::{failover, giving_up};
use crate::core::failover::candidate::replaceable;
use crate::core::failover::record::{Cause, Phase, Request, RequestKind};
use crate::core::failover::step::Step;
use crate::core::topology::NodeId;

/// Takes up what is ordered, or answers it; true if that is all there is to do now.
pub(in crate::core::failover) fn take(step: &mut Step<'_>) -> bool {
    let Some(request) = step.next.pending(step.observation.request) else {
        return false;
    };
    if step.next.request == Some(request) {
        return false;
    }
    let answer = match (step.next.phase.clone(), request.kind) {
        // In a switchover that has stopped nothing yet, what is ordered instead calls it off.
        (
            Phase::Steady
            | Phase::Following
            | Phase::Restoring(_)
            | Phase::Checkpointing { .. }
            | Phase::Draining { .. },
            RequestKind::Failover,
        )
        | (Phase::Steady | Phase::Following, _) => return false,
        (_, RequestKind::Resume) => {
            step.next.paused = false;
            Ok(())
        }
        (Phase::Looking, RequestKind::Switchover | RequestKind::Failover) => {
            Err("no primary is known yet".to_owned())
        }
        (
            Phase::Fencing(failed)
            | Phase::Discovering(failed, _)
            | Phase::Promoting(failed, ..)
            | Phase::Restoring(failed),
            RequestKind::Pause | RequestKind::Switchover,
        ) => {
            let name = step.name(failed.node);
            Err(format!(
                "{name} is being replaced: order it again afterwards"
            ))
        }
        (Phase::Fencing(failed) | Phase::Discovering(failed, _), RequestKind::Failover) => {
            match request.to {
                // One that was to lead, and could not, may be asked once more where it can be started.
                Some(to)
                    if to == failed.node
                        && (!failed.cause.was_candidate() || step.agent(to).is_none())
                        || !is_configured(step, to) =>
                {
                    Err(format!("{} cannot be promoted", step.name(to)))
                }
                _ => return take_up(step, request),
            }
        }
        (Phase::Promoting(_, _, candidate), RequestKind::Failover) => {
            let Some(to) = request.to.filter(|to| *to != candidate.node) else {
                return take_up(step, request);
            };
            match change_candidate(step, request, to) {
                Ok(()) => return true,
                why => why,
            }
        }
        (Phase::Stopping { .. } | Phase::CatchingUp { .. }, RequestKind::Failover) => {
            match overtake(step, request) {
                Ok(()) => return true,
                why => why,
            }
        }
        (
            Phase::Checkpointing { to }
            | Phase::Draining { to }
            | Phase::Stopping { to }
            | Phase::CatchingUp { to, .. },
            RequestKind::Switchover,
        ) => {
            let name = step.name(to);
            Err(format!("a switchover to {name} is under way"))
        }
        (_, RequestKind::Pause) => {
            step.next.paused = true;
            Ok(())
        }
    };
    step.answer_order(request.id, answer);
    false
}

/// Another is to be promoted than the one whose promotion is under way.
fn change_candidate(step: &mut Step<'_>, request: Request, to: NodeId) -> Result<(), String> {
    let Phase::Promoting(failed, proof, candidate) = step.next.phase.clone() else {
        return Err("nobody is being promoted".to_owned());
    };
    let name = step.name(candidate.node);
    let is_intact = step.next.intact == Some(to);
    if to == failed.node && !is_intact || !is_configured(step, to) {
        return Err(format!("{} cannot be promoted", step.name(to)));
    }
    if !giving_up::can_be_stopped(step.view(), candidate.node) {
        return Err(format!(
            "{name} is being promoted, and nothing could stop it: its agent does not answer"
        ));
    }
    if !giving_up::can_lead_again(step.view(), candidate.node, Some(to)) {
        replaceable(step.view(), candidate.node, Some(to))?;
    }
    step.answer_request(Err("a failover was ordered instead".to_owned()));
    step.next.request = Some(request);
    failover::abandon(step, &failed, proof, candidate, Cause::CandidateGivenUp);
    Ok(())
}

fn is_configured(step: &Step<'_>, node: NodeId) -> bool {
    usize::from(node.0) < step.policy.nodes.len()
}

/// It goes with what is being done.
fn take_up(step: &mut Step<'_>, request: Request) -> bool {
    step.next.request = Some(request);
    false
}

/// The primary of a switchover is replaced with what is there.
fn overtake(step: &mut Step<'_>, request: Request) -> Result<(), String> {
    let Some(primary) = step.next.primary else {
        return Err("no primary is known".to_owned());
    };
    replaceable(step.view(), primary, request.to)?;
    step.answer_request(Err("a failover was ordered instead".to_owned()));
    step.next.request = Some(request);
    failover::begin(step, primary, Cause::Operator);
    Ok(())
}
