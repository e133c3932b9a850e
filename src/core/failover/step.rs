//! A plan in the making: the record as it will be, the commands so far, and what every phase does with
//! them.

use super::command::{Act, Event};
use super::describe::seconds;
use super::facts::View;
use super::facts::observation::{AgentAnswer, Observation, ServerAnswer};
use super::policy::{FailoverPolicy, Mode};
use super::record::{Phase, Quarantined, Record};
use crate::core::topology::NodeId;

pub(super) struct Step<'a> {
    /// The epoch and phase that the observation's `phase_since_us` speaks of.
    began: (u64, &'static str),
    pub(super) observation: &'a Observation,
    pub(super) policy: &'a FailoverPolicy,
    pub(super) next: Record,
    pub(super) acts: Vec<Act>,
    pub(super) why: String,
}

impl<'a> Step<'a> {
    pub(super) fn begin(view: View<'a, '_>) -> Self {
        Self {
            began: (view.record.epoch, view.record.phase.label()),
            observation: view.observation,
            policy: view.policy,
            next: view.record.clone(),
            acts: Vec::new(),
            why: String::new(),
        }
    }

    /// The facts with the record as it is by now.
    pub(super) fn view(&self) -> View<'a, '_> {
        View {
            observation: self.observation,
            policy: self.policy,
            record: &self.next,
        }
    }

    pub(super) fn answer(&self, node: NodeId) -> Option<&'a ServerAnswer> {
        self.view().answer(node)
    }

    pub(super) fn agent(&self, node: NodeId) -> Option<&'a AgentAnswer> {
        self.view().agent(node)
    }

    pub(super) fn name(&self, node: NodeId) -> String {
        self.policy.name(node)
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

    pub(super) fn enter(&mut self, phase: Phase) {
        self.next.phase = phase;
    }

    /// Whether a failed primary is replaced without an operator's word.
    pub(super) fn promotes_unasked(&self) -> bool {
        self.view().promotes_unasked()
    }

    /// What a failed primary waits for where it is not.
    pub(super) fn why_it_waits(&self) -> &'static str {
        match self.next.paused {
            true => "failover is paused, waiting for RESUME FAILOVER, or FAILOVER",
            false => "mode is manual, waiting for an operator: FAILOVER",
        }
    }

    /// Every decision about who leads is one.
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

    /// How long a phase has lasted that may last `most_us`: "1.2 s of 5.0 s".
    pub(super) fn elapsed(&self, most_us: u64) -> String {
        let passed = seconds(self.phase_us());
        format!("{passed} of {}", seconds(most_us))
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
    pub(super) fn close_backends(&mut self, node: NodeId) {
        let facts = self.observation.node(node);
        // Of the connections that this very plan makes stale, the observation does not know yet.
        let fresh_epoch = self.began.0 != self.next.epoch;
        if fresh_epoch || facts.is_some_and(|facts| facts.stale_connections > 0) {
            self.act(Act::CloseBackends(node));
        }
    }

    /// Prolongs a node's lease when a quarter of it is gone, if its agent answers, or its server does: a
    /// status that comes late is no reason to let a healthy primary's lease run out.
    pub(super) fn renew(&mut self, node: NodeId) {
        let server = self.answer(node);
        let leads = server.is_some_and(|answer| answer.primary().is_some());
        if !self.policy.has_agent(node) || self.agent(node).is_none() && !leads {
            return;
        }
        self.may_be_granted(node, self.policy.lease_us);
        let facts = self.observation.node(node);
        let asked = facts.and_then(|facts| facts.renewal_us);
        let age_us = asked.map(|asked_us| self.observation.since_us(asked_us));
        if age_us.is_none_or(|age_us| age_us >= self.policy.lease_us / 4) {
            self.ask_for_lease(node);
        }
    }

    /// Notes that a lease of this length may be in force there from now on.
    fn may_be_granted(&mut self, node: NodeId, lease_us: u64) {
        let longest = self.next.leases.entry(node).or_default();
        *longest = lease_us.max(*longest);
    }

    /// Notes for how long agents say that their leases last. One that was granted in this epoch is of our own
    /// length, and took the place of whatever was before.
    pub(super) fn note_leases(&mut self) {
        for node in self.policy.ids() {
            let agent = self.agent(node);
            let Some((agent, lease)) = agent.and_then(|agent| Some((agent, agent.lease?))) else {
                continue;
            };
            if lease.epoch == self.next.epoch && agent.epoch == lease.epoch {
                self.next.leases.insert(node, self.policy.lease_us);
            } else if !self.next.leases.contains_key(&node) {
                let left_us = lease.until_us.saturating_sub(agent.at_us);
                self.may_be_granted(node, left_us.max(self.policy.lease_us));
            }
        }
    }

    fn ask_for_lease(&mut self, node: NodeId) {
        self.may_be_granted(node, self.policy.lease_us);
        let failsafe = self.next.failsafe.wanted(node).cloned();
        self.act(Act::RenewLease { node, failsafe });
    }

    /// A primary that is well goes on: its lease is prolonged, and its standbys hear of it.
    pub(super) fn keep(&mut self, primary: NodeId) {
        self.renew(primary);
        let due_us = self.policy.timeout_us / 4;
        let sent = self.observation.heartbeat_us;
        if sent.is_none_or(|sent_us| self.observation.since_us(sent_us) >= due_us) {
            self.act(Act::Heartbeat(primary));
        }
    }

    /// Notes whose agents keep leases, by their own word since they were last released.
    pub(super) fn note_governed(&mut self) {
        if self.policy.mode == Mode::Observe {
            return;
        }
        self.next.to_release.clear();
        for node in self.policy.ids() {
            let released = self
                .observation
                .node(node)
                .and_then(|facts| facts.release_us);
            let Some(agent) = self.agent(node) else {
                continue;
            };
            if !agent.governed {
                self.next.governed.remove(&node);
            } else if released.is_none_or(|released_us| released_us < agent.at_us) {
                self.next.governed.insert(node);
            }
        }
    }

    /// Notes by which rules agents say that they go.
    pub(super) fn note_failsafe(&mut self) {
        for node in self.policy.ids() {
            let failsafe = self.agent(node).and_then(|agent| agent.failsafe.as_ref());
            if let Some(rule) = failsafe.and_then(|failsafe| failsafe.rule.as_ref()) {
                self.next.failsafe.heard(node, rule);
            }
        }
    }

    /// Has a node's agent grant a lease before its server is to lead: also when one was asked for just
    /// now in an older epoch, in which it led or stood by, and which says nothing of this one.
    pub(super) fn grant(&mut self, node: NodeId) {
        if self.policy.has_agent(node) {
            self.may_be_granted(node, self.policy.lease_us);
        }
        let agent = self.agent(node);
        let untold = agent.is_some_and(|agent| agent.epoch < self.next.epoch);
        if untold && self.policy.has_agent(node) {
            self.ask_for_lease(node);
        } else {
            self.renew(node);
        }
    }

    /// Writes down a node that must be rejoined.
    pub(super) fn quarantine(&mut self, node: NodeId, why: Quarantined) {
        let known = self.next.quarantine.get(&node);
        // A harder way back is never replaced by an easier one.
        if known.is_none_or(|known| known.recovery < why.recovery) {
            self.next.quarantine.insert(node, why);
            self.report(Event::Quarantined { node, why });
        }
    }

    /// Ends the operator's request, carried out or not.
    pub(super) fn answer_request(&mut self, outcome: Result<(), String>) {
        if let Some(request) = self.next.request.take() {
            self.answer_order(request.id, outcome);
        }
    }

    /// Ends an order, carried out or not, beside what is being worked on.
    pub(super) fn answer_order(&mut self, request: u64, outcome: Result<(), String>) {
        let latest = self.next.answered_request.unwrap_or_default();
        self.next.answered_request = Some(request.max(latest));
        self.report(match outcome {
            Ok(()) => Event::Done { request },
            Err(why) => Event::Refused { request, why },
        });
    }
}
