//! The door: facts, policy and record in; the record to store and the commands to run out.
//!
//! `plan` is total, deterministic and without effects. The executor stores `next`, then runs the
//! commands in order, whether or not one fails, observes again and calls `plan` again. It may be killed
//! anywhere: whoever reads the record next goes on from there.

use super::command::{Act, Command};
use super::facts::View;
use super::phases::{external, failover, looking, orders, steady, switchover};
use super::policy::Mode;
use super::record::{Phase, Record};
use super::step::Step;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// To be stored before any command runs, if it differs from the record.
    pub next: Record,
    /// To be run in order.
    pub commands: Vec<Command>,
    /// What is being done, or waited for, for an operator to read.
    pub why: String,
}

/// Phases that follow each other without a command between them, at most.
const MOST_STEPS: usize = 8;

/// Decides what to do.
pub fn plan(view: View<'_, '_>) -> Plan {
    if !view.record.fits(view.policy) {
        return Plan::idle(
            view.record,
            "the stored record names other nodes; it must be renumbered",
        );
    }
    let leads = view.observation.leadership.until_us;
    if leads.is_none_or(|until_us| until_us <= view.observation.now_us) {
        return Plan::idle(view.record, "another proxy decides");
    }
    let mut step = Step::begin(view);
    step.note_governed();
    if step.policy.mode != Mode::Observe {
        step.note_leases();
    }
    step.note_failsafe();
    if step.policy.mode != Mode::Observe {
        looking::notice_a_later_record(&mut step);
    }
    // Where something else promotes, no order is carried out.
    let begun = step.policy.mode != Mode::Observe && orders::take(&mut step);
    let most = if begun { 0 } else { MOST_STEPS };
    // Phases that need no command are passed through at once.
    for _ in 0..most {
        let before = step.next.phase.clone();
        advance(&mut step);
        if step.next.phase == before || step.acts.iter().any(|act| !matches!(act, Act::Report(_))) {
            break;
        }
    }
    if step.next.serving().is_some() {
        step.next.given_up.clear();
        step.next.intact = None;
    }
    let epoch = step.next.epoch;
    let commands = step.acts.into_iter().map(|act| Command { epoch, act });
    Plan {
        commands: commands.collect(),
        next: step.next,
        why: step.why,
    }
}

/// The renewal that a record which is stored justifies by itself, whatever becomes of what is planned.
pub fn renewal(view: View<'_, '_>) -> Option<Command> {
    let (observation, policy, record) = (view.observation, view.policy, view.record);
    let leads = observation.leadership.until_us;
    let leads = leads.is_some_and(|until_us| until_us > observation.now_us);
    if !leads || !record.fits(policy) || policy.mode == Mode::Observe {
        return None;
    }
    let mut step = Step::begin(view);
    step.renew(record.leading()?);
    // A lease that is longer than any before is written down first.
    let act = step.acts.pop().filter(|_| step.next == *record)?;
    let epoch = record.epoch;
    Some(Command { epoch, act })
}

fn advance(step: &mut Step<'_>) {
    if step.policy.mode == Mode::Observe {
        return external::follow(step);
    }
    match step.next.phase.clone() {
        Phase::Looking => looking::look(step),
        Phase::Steady | Phase::Following => steady::serve(step),
        Phase::Fencing(failed) => failover::fence(step, &failed),
        Phase::Discovering(failed, proof) => failover::discover(step, &failed, proof),
        Phase::Promoting(failed, proof, candidate) => {
            failover::promote(step, &failed, proof, candidate);
        }
        Phase::Restoring(failed) => failover::restore(step, &failed),
        Phase::Checkpointing { to } => switchover::checkpoint(step, to),
        Phase::Draining { to } => switchover::drain(step, to),
        Phase::Stopping { to } => switchover::stop(step, to),
        Phase::CatchingUp { to, checkpoint } => switchover::catch_up(step, to, checkpoint),
    }
}

impl Plan {
    fn idle(record: &Record, why: &str) -> Self {
        Self {
            next: record.clone(),
            commands: Vec::new(),
            why: why.to_owned(),
        }
    }
}
