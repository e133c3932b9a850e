//! While a primary serves: is it well, does everybody follow it, and who claims to be it?

use super::candidate::replaceable;
use super::command::{Act, Event};
use super::detect::{Health, judge};
use super::lineage::{Kin, kin};
use super::observation::{Answer, Postmaster, Upstream};
use super::plan::Step;
use super::policy::{Mode, Policy};
use super::promote::{begin, pending, quarantine};
use super::record::{Cause, Phase, Quarantined, Reason, RequestKind, Way};
use super::{rejoin, switchover, synchronous};
use crate::core::topology::NodeId;

/// Steady and following: the same duties; following ends when everybody who answers follows.
pub(super) fn serve(step: &mut Step<'_>) {
    let Some(primary) = step.next.primary else {
        return step.enter(Phase::Looking);
    };
    if take_request(step, primary) {
        return;
    }
    let name = step.policy.name(primary);
    match judge(step.observation, step.policy, &step.next, primary) {
        Health::Well => well(step, primary),
        Health::Doubtful { why } => {
            // Its agent may still be told that it leads.
            step.renew(primary);
            step.say(why);
        }
        Health::CutOff { witnesses } => {
            step.renew(primary);
            let names = step.policy.names(witnesses);
            step.say(format!(
                "{name} cannot be reached from here, but standbys receive from it ({names}): it is \
                 not dead, and nothing is promoted"
            ));
        }
        Health::Fallen { cause, why } => match step.policy.mode {
            Mode::Automatic => {
                begin(step, primary, cause);
                let doing = std::mem::take(&mut step.why);
                step.say(format!("{why}: {doing}"));
            }
            Mode::Manual | Mode::Observe => {
                step.hold();
                step.say(format!(
                    "{why}; mode is manual, waiting for an operator: FAILOVER"
                ));
            }
        },
    }
}

/// Takes up an operator's request; true if that is all there is to do now.
fn take_request(step: &mut Step<'_>, primary: NodeId) -> bool {
    let Some(request) = pending(&step.next, step.observation.request) else {
        return false;
    };
    step.next.request = Some(request);
    let unknown = request
        .to
        .filter(|to| step.policy.nodes.len() <= usize::from(to.0));
    if unknown.is_some() {
        step.answer_request(Err("that node is not configured".to_owned()));
        return false;
    }
    if request.to == Some(primary) {
        let name = step.policy.name(primary);
        step.answer_request(Err(format!("{name} leads already")));
        return false;
    }
    match request.kind {
        RequestKind::Failover => {
            let (observation, policy) = (step.observation, step.policy);
            match replaceable(observation, policy, &step.next, primary, request.to) {
                Ok(()) => {
                    begin(step, primary, Cause::Operator);
                    true
                }
                Err(why) => {
                    step.answer_request(Err(why));
                    false
                }
            }
        }
        RequestKind::Switchover => match switchover::begin(step, primary, request.to) {
            Ok(()) => true,
            Err(why) => {
                step.answer_request(Err(why));
                false
            }
        },
    }
}

fn well(step: &mut Step<'_>, primary: NodeId) {
    let (observation, policy) = (step.observation, step.policy);
    let Some(answer) = observation.answer(primary, policy.timeout_us) else {
        return;
    };
    if answer.timeline > step.next.timeline {
        // It was recovered, or promoted, by another hand.
        step.new_epoch();
        step.next.timeline = answer.timeline;
        let timeline = answer.timeline;
        step.report(Event::Found { primary, timeline });
    }
    step.release();
    step.renew(primary);
    let due_us = policy.timeout_us / 4;
    let sent = observation.heartbeat_us;
    if sent.is_none_or(|sent_us| observation.now_us.saturating_sub(sent_us) >= due_us) {
        step.act(Act::Heartbeat(primary));
    }
    let name = policy.name(primary);
    step.say(format!("{name} leads on timeline {}", answer.timeline));
    synchronous::tend(step, primary, answer);
    impostors(step, primary, answer);
    strays(step, primary, answer);
    crashed(step, primary);
    follow_all(step, primary);
    rejoin::tend(step, primary);
    if step.next.phase == Phase::Following && settled(step, primary) {
        step.enter(Phase::Steady);
    }
}

/// Other nodes that claim to lead.
fn impostors(step: &mut Step<'_>, primary: NodeId, leader: &Answer) {
    let (observation, policy) = (step.observation, step.policy);
    for node in policy.ids().filter(|node| *node != primary) {
        let Some(answer) = observation.answer(node, policy.timeout_us) else {
            continue;
        };
        if answer.primary().is_none() {
            continue;
        }
        let way = match answer.timeline.cmp(&leader.timeline) {
            std::cmp::Ordering::Less => Way::Rewind,
            std::cmp::Ordering::Equal => Way::Copy,
            // What was written there by another hand is not ours to destroy.
            std::cmp::Ordering::Greater => Way::Operator,
        };
        let reason = Reason::ClaimsToLead;
        if !step.next.quarantine.contains_key(&node) {
            let timeline = answer.timeline;
            step.report(Event::Impostor {
                node,
                timeline,
                reason,
            });
        }
        quarantine(step, node, Quarantined { reason, way });
        step.close_backends(node);
    }
}

/// Standbys that hold what is not part of the primary's history.
fn strays(step: &mut Step<'_>, primary: NodeId, leader: &Answer) {
    let (observation, policy) = (step.observation, step.policy);
    for node in policy.ids().filter(|node| *node != primary) {
        let Some(answer) = observation.answer(node, policy.timeout_us) else {
            continue;
        };
        if answer.standby().is_none() || step.next.quarantine.contains_key(&node) {
            continue;
        }
        let way = match kin(answer, leader) {
            Kin::Within | Kin::Unknown => continue,
            Kin::Beyond(_) => Way::Rewind,
            Kin::Stranger => Way::Copy,
        };
        let reason = Reason::BeyondFork;
        quarantine(step, node, Quarantined { reason, way });
        step.act(Act::CloseBackends(node));
    }
}

/// Standbys whose servers have crashed and that nobody has started again for a while.
fn crashed(step: &mut Step<'_>, primary: NodeId) {
    let (observation, policy) = (step.observation, step.policy);
    for node in policy.ids().filter(|node| *node != primary) {
        let agent = observation.agent(node, policy.timeout_us);
        let down = agent.map(|agent| agent.postmaster);
        let crashed = matches!(down, Some(Postmaster::Stopped { crashed: true, .. }));
        let left = observation.silent_us(node) >= policy.timeout_us;
        if crashed && left && !step.next.quarantine.contains_key(&node) {
            let (reason, way) = (Reason::Crashed, Way::Start);
            quarantine(step, node, Quarantined { reason, way });
        }
    }
}

/// Points every standby in service at the primary, if what it holds is part of that history.
pub(super) fn follow_all(step: &mut Step<'_>, primary: NodeId) {
    let (observation, policy) = (step.observation, step.policy);
    let Some(leader) = observation.answer(primary, policy.timeout_us) else {
        return;
    };
    for standby in policy.ids().filter(|node| *node != primary) {
        let Some(answer) = observation.answer(standby, policy.timeout_us) else {
            continue;
        };
        let Some(facts) = answer.standby() else {
            continue;
        };
        let cascades = facts.streams(leader.timeline).is_some();
        let astray = facts.upstream != Upstream::Node(primary) && !cascades;
        let ours = answer.system == leader.system && kin(answer, leader) == Kin::Within;
        let away = step.next.quarantine.contains_key(&standby);
        if astray && ours && !away {
            step.act(Act::Follow { standby, primary });
        }
    }
}

/// Everybody who answers follows, or has had the time to.
fn settled(step: &Step<'_>, primary: NodeId) -> bool {
    let (observation, policy) = (step.observation, step.policy);
    let behind = |node: &NodeId| {
        let answer = observation.answer(*node, policy.timeout_us);
        let standby = answer.and_then(Answer::standby);
        let away = *node == primary || step.next.quarantine.contains_key(node);
        standby.is_some_and(|standby| !away && standby.streams(step.next.timeline).is_none())
    };
    step.phase_us() >= policy.stop_us || !policy.ids().any(|node| behind(&node))
}

/// Whether a standby answers, is in service, and streams from `primary` on its timeline.
pub(super) fn follows(step: &Step<'_>, policy: &Policy, node: NodeId, primary: NodeId) -> bool {
    let answer = step.observation.answer(node, policy.timeout_us);
    let standby = answer.and_then(Answer::standby);
    let streams = standby.and_then(|standby| standby.streams(step.next.timeline));
    node != primary && streams == Some(primary) && !step.next.quarantine.contains_key(&node)
}
