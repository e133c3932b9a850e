//! The door: facts, policy and record in; the record to store and the commands to run out.
//!
//! `plan` is total, deterministic and without effects. The executor stores `next`, then runs the
//! commands in order, stops at the first that fails, observes again and calls `plan` again. It may
//! be killed anywhere: whoever reads the record next goes on from there.

use super::command::{Act, Command, Event};
use super::detect::seconds;
use super::observation::Observation;
use super::policy::{Mode, Policy};
use super::record::{Phase, Record};
use super::{duties, observe, promote, switchover};

/// A decision.
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
pub fn plan(observation: &Observation, policy: &Policy, record: &Record) -> Plan {
    if !record.fits(policy) {
        return Plan::idle(
            record,
            "the stored record names other nodes; it must be renumbered",
        );
    }
    let leads = observation.leadership.until_us;
    if leads.is_none_or(|until_us| until_us <= observation.now_us) {
        return Plan::idle(record, "another proxy decides");
    }
    let mut at = Step::begin(observation, policy, record);
    // Phases that need no command are passed through at once.
    for _ in 0..MOST_STEPS {
        let before = at.next.phase.clone();
        at.advance();
        if at.next.phase == before || at.acts.iter().any(|act| !matches!(act, Act::Report(_))) {
            break;
        }
    }
    at.finish()
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

/// A plan in the making.
pub(super) struct Step<'a> {
    /// The epoch and phase that the observation's `phase_since_us` speaks of.
    began: (u64, &'static str),
    pub(super) observation: &'a Observation,
    pub(super) policy: &'a Policy,
    pub(super) next: Record,
    pub(super) acts: Vec<Act>,
    pub(super) why: String,
}

impl<'a> Step<'a> {
    fn begin(observation: &'a Observation, policy: &'a Policy, record: &Record) -> Self {
        Self {
            began: (record.epoch, record.phase.label()),
            observation,
            policy,
            next: record.clone(),
            acts: Vec::new(),
            why: String::new(),
        }
    }

    fn advance(&mut self) {
        if self.policy.mode == Mode::Observe {
            return observe::follow(self);
        }
        match self.next.phase.clone() {
            Phase::Looking => observe::look(self),
            Phase::Steady | Phase::Following => duties::serve(self),
            Phase::Fencing(fall) => promote::fence(self, &fall),
            Phase::Discovering(fall, proof) => promote::discover(self, &fall, proof),
            Phase::Promoting(fall, proof, candidate) => {
                promote::promote(self, &fall, proof, candidate);
            }
            Phase::Restoring(fall) => promote::restore(self, &fall),
            Phase::Draining { to } => switchover::drain(self, to),
            Phase::Stopping { to } => switchover::stop(self, to),
            Phase::CatchingUp { to, checkpoint } => switchover::catch_up(self, to, checkpoint),
        }
    }

    fn finish(self) -> Plan {
        let epoch = self.next.epoch;
        let commands = self.acts.into_iter().map(|act| Command { epoch, act });
        Plan {
            commands: commands.collect(),
            next: self.next,
            why: self.why,
        }
    }

    pub(super) fn act(&mut self, act: Act) {
        if !self.acts.contains(&act) {
            self.acts.push(act);
        }
    }

    pub(super) fn report(&mut self, event: Event) {
        self.act(Act::Report(event));
    }

    pub(super) fn say(&mut self, why: impl Into<String>) {
        self.why = why.into();
    }

    /// Enters a phase. A decision about who leads is a new epoch.
    pub(super) fn enter(&mut self, phase: Phase) {
        self.next.phase = phase;
    }

    pub(super) fn new_epoch(&mut self) {
        self.next.epoch += 1;
    }

    /// How long the phase has lasted as far as this process knows, in microseconds.
    pub(super) fn phase_us(&self) -> u64 {
        if self.began == (self.next.epoch, self.next.phase.label()) {
            self.observation.phase_us()
        } else {
            0
        }
    }

    /// Clients wait, if they do not already.
    pub(super) fn hold(&mut self) {
        if !self.observation.holding {
            self.act(Act::Hold);
        }
    }

    /// Clients go on, if they wait.
    pub(super) fn release(&mut self) {
        if self.observation.holding {
            self.act(Act::Release);
        }
    }

    /// Closes what refers to the past.
    pub(super) fn close_backends(&mut self, node: crate::core::topology::NodeId) {
        let facts = self.observation.node(node);
        // Of the connections that this very plan makes stale, the observation does not know yet.
        let fresh_epoch = self.began.0 != self.next.epoch;
        if fresh_epoch || facts.is_some_and(|facts| facts.stale_connections > 0) {
            self.act(Act::CloseBackends(node));
        }
    }

    /// Prolongs a node's lease when a quarter of it is gone, if its agent answers.
    pub(super) fn renew(&mut self, node: crate::core::topology::NodeId) {
        let (observation, policy) = (self.observation, self.policy);
        if observation.agent(node, policy.timeout_us).is_none() || !policy.has_agent(node) {
            return;
        }
        let asked = observation.node(node).and_then(|facts| facts.renewal_us);
        let age_us = asked.map(|asked_us| observation.now_us.saturating_sub(asked_us));
        if age_us.is_none_or(|age_us| age_us >= policy.lease_us / 4) {
            self.act(Act::RenewLease(node));
        }
    }

    /// Has a node's agent grant a lease before its server is to lead: also when one was asked for just
    /// now in an older epoch, in which it led or stood by, and which says nothing of this one.
    pub(super) fn grant(&mut self, node: crate::core::topology::NodeId) {
        let (observation, policy) = (self.observation, self.policy);
        let agent = observation.agent(node, policy.timeout_us);
        let untold = agent.is_some_and(|agent| agent.epoch < self.next.epoch);
        if untold && policy.has_agent(node) {
            self.act(Act::RenewLease(node));
        } else {
            self.renew(node);
        }
    }

    /// Ends the operator's request, carried out or not.
    pub(super) fn answer_request(&mut self, outcome: Result<(), String>) {
        if let Some(request) = self.next.request.take() {
            self.next.answered_request = Some(request.id);
            let request = request.id;
            self.report(match outcome {
                Ok(()) => Event::Done { request },
                Err(why) => Event::Refused { request, why },
            });
        }
    }

    /// How long a phase has lasted that may last `most_us`: "1.2 s of 5.0 s".
    pub(super) fn elapsed(&self, most_us: u64) -> String {
        let passed = seconds(self.phase_us());
        format!("{passed} of {}", seconds(most_us))
    }
}
