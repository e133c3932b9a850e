//! While a primary serves: is it well, does everybody follow it, and who claims to be it?
//!
//! Steady and following are the same duties; following ends when everybody who answers follows.

use super::following::{follow_all, settled};
use super::{failover, failsafe, quarantine, rejoin, switchover, synchronous};
use crate::core::failover::candidate::replaceable;
use crate::core::failover::command::Event;
use crate::core::failover::facts::primary_health::{Health, judge};
use crate::core::failover::record::{Cause, Phase, RequestKind};
use crate::core::failover::step::Step;
use crate::core::topology::NodeId;

pub(in crate::core::failover) fn serve(step: &mut Step<'_>) {
    let Some(primary) = step.next.primary else {
        return step.enter(Phase::Looking);
    };
    if take_request(step, primary) {
        return;
    }
    let name = step.name(primary);
    match judge(step.view(), primary) {
        Health::Well => well(step, primary),
        Health::Doubtful { why } => {
            // Its agent may still be told that it leads.
            step.renew(primary);
            step.say(why);
        }
        Health::Foreign { why } => {
            // Clients are kept from it, and whoever runs there is let be.
            step.hold();
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
        Health::Failed { cause, why } => {
            if step.promotes_unasked() {
                failover::begin(step, primary, cause);
                let doing = std::mem::take(&mut step.why);
                return step.say(format!("{why}: {doing}"));
            }
            let waits = step.why_it_waits();
            step.hold();
            // It may come back by itself, and is not to be stopped then.
            step.renew(primary);
            step.say(format!("{why}; {waits}"));
        }
    }
}

/// Takes up an operator's request; true if that is all there is to do now.
fn take_request(step: &mut Step<'_>, primary: NodeId) -> bool {
    let Some(request) = step.next.pending(step.observation.request) else {
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
        let name = step.name(primary);
        step.answer_request(Err(format!("{name} leads already")));
        return false;
    }
    let begun = match request.kind {
        RequestKind::Failover => replaceable(step.view(), primary, request.to)
            .map(|()| failover::begin(step, primary, Cause::Operator)),
        RequestKind::Switchover => switchover::begin(step, primary, request.to),
        RequestKind::Pause | RequestKind::Resume => {
            step.next.paused = request.kind == RequestKind::Pause;
            step.answer_request(Ok(()));
            return false;
        }
    };
    match begun {
        Ok(()) => true,
        Err(why) => {
            step.answer_request(Err(why));
            false
        }
    }
}

fn well(step: &mut Step<'_>, primary: NodeId) {
    let Some(answer) = step.answer(primary) else {
        return;
    };
    if answer.timeline > step.next.timeline {
        // It was recovered, or promoted, by another hand.
        step.new_epoch();
        synchronous::unproven(step);
        step.next.timeline = answer.timeline;
        let timeline = answer.timeline;
        step.report(Event::Found { primary, timeline });
    }
    step.release();
    failsafe::maintain(step, primary);
    step.keep(primary);
    let name = step.name(primary);
    step.say(format!("{name} leads on timeline {}", answer.timeline));
    synchronous::maintain(step, primary, answer);
    quarantine::foreigners(step, primary, answer);
    quarantine::stray_primaries(step, primary, answer);
    quarantine::diverged_standbys(step, primary, answer);
    if !step.next.paused {
        quarantine::crashed_standbys(step, primary);
        quarantine::crashed_primaries(step, primary, answer);
    }
    follow_all(step, primary);
    rejoin::rejoin_all(step, primary);
    if step.next.phase == Phase::Following && settled(step, primary) {
        step.enter(Phase::Steady);
    }
}
