//! What agents ask and promise each other while no proxy renews a lease.
//!
//! A question may be read, and its answer arrive, at any later moment; the next round of questions drops
//! what is still on its way, so that everything may be lost as well.

use std::collections::BTreeMap;

use super::mutants::Mutant;
use super::world::{Host, LEASE, NODES, Run, World};
use crate::core::failover::failsafe::FailsafeRule;
use crate::core::topology::NodeId;

/// A question from one agent to another, or the promise that answers it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Question {
    from: usize,
    to: usize,
    sent: u8,
    epoch: u64,
    version: u64,
    promised: bool,
}

/// What an agent knows of failsafe. All but `collected` is on its disk.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Failsafe {
    pub(super) rule: Option<FailsafeRule>,
    /// The epoch of its lease.
    pub(super) lease_epoch: u64,
    /// Its server is granted no lease before this tick.
    pub(super) promised_until: u8,
    /// By node, up to which tick the lease may go on by its promise.
    collected: BTreeMap<usize, u8>,
    /// The tick at which it last asked, plus one.
    asked: u8,
    pub(super) agent_down: bool,
}

impl Failsafe {
    /// A lease was granted, with a rule.
    pub(super) fn granted(&mut self, epoch: u64, rule: Option<FailsafeRule>) {
        let version = |rule: &Option<FailsafeRule>| rule.as_ref().map(|rule| rule.version);
        let before = (self.lease_epoch, version(&self.rule));
        if rule.is_none() || version(&rule) >= version(&self.rule) {
            self.rule = rule;
        }
        self.lease_epoch = epoch;
        if before != (epoch, version(&self.rule)) {
            self.collected.clear();
        }
    }
}

impl World {
    /// Whether a node's agent would ask now.
    pub(super) fn may_ask(&self, node: usize) -> bool {
        let server = &self.servers[node];
        let members = |rule: &FailsafeRule| !rule.members.is_empty();
        let in_force = server.governed && self.now < server.lease_until || server.run == Run::Held;
        self.agents
            && server.host == Host::Up
            && server.primary
            && server.run != Run::Down
            && in_force
            && server.failsafe.asked <= self.now
            && !server.failsafe.agent_down
            && server.failsafe.rule.as_ref().is_some_and(members)
            && server.failsafe.lease_epoch == server.agent_epoch
    }

    pub(super) fn ask(&mut self, node: usize) {
        let failsafe = &self.servers[node].failsafe;
        let Some(rule) = failsafe.rule.clone() else {
            return;
        };
        let (epoch, sent) = (failsafe.lease_epoch, self.now);
        self.servers[node].failsafe.asked = sent + 1;
        self.questions.retain(|question| question.from != node);
        self.questions
            .extend(rule.members.iter().map(|member| Question {
                from: node,
                to: usize::from(member.0),
                sent,
                epoch,
                version: rule.version,
                promised: false,
            }));
    }

    /// A round in which nothing is late.
    pub(super) fn confer(&mut self, mutant: Mutant, node: usize) {
        self.ask(node);
        let arrives = |world: &Self, index: &usize| {
            world.questions[*index].from == node && world.arrives(*index)
        };
        while let Some(index) = (0..self.questions.len()).find(|index| arrives(self, index)) {
            self.deliver(mutant, index);
        }
    }

    /// Whether a question or its answer can arrive.
    pub(super) fn arrives(&self, index: usize) -> bool {
        let question = &self.questions[index];
        let at = match question.promised {
            true => question.from,
            false => question.to,
        };
        let server = &self.servers[at];
        let up = server.host == Host::Up && !server.failsafe.agent_down;
        up && !self.peers_cut(question.from, question.to)
    }

    pub(super) fn deliver(&mut self, mutant: Mutant, index: usize) {
        let question = self.questions[index].clone();
        if question.promised {
            self.questions.remove(index);
            self.learn(mutant, &question);
        } else if self.promises(mutant, &question) {
            let until = self.now + LEASE;
            let server = &mut self.servers[question.to];
            server.agent_epoch = server.agent_epoch.max(question.epoch);
            server.failsafe.promised_until = server.failsafe.promised_until.max(until);
            self.questions[index].promised = true;
        } else {
            self.questions.remove(index);
        }
    }

    fn promises(&self, mutant: Mutant, question: &Question) -> bool {
        let (server, asker) = (&self.servers[question.to], &self.servers[question.from]);
        let told = server.agent_epoch > question.epoch;
        let has_lease = server.governed && self.now < server.lease_until;
        let streams = self.lives(question.to)
            && !server.primary
            && server
                .receiver
                .is_some_and(|from| self.attached(question.to, from))
            && server.timeline == asker.timeline;
        // It is to follow somebody, and starts, or has lost its receiver.
        let waits = server.run != Run::Down
            && !server.primary
            && server.receiver.is_some()
            && server.timeline <= asker.timeline;
        !has_lease
            && (!told || mutant == Mutant::PromisesToOldEpochs)
            && (streams || waits || mutant == Mutant::PromisesWithoutFollowing)
    }

    fn learn(&mut self, mutant: Mutant, question: &Question) {
        let now = self.now;
        let server = &mut self.servers[question.from];
        let Some(rule) = server.failsafe.rule.clone() else {
            return;
        };
        let asked = (server.failsafe.lease_epoch, rule.version);
        if asked != (question.epoch, question.version) {
            return;
        }
        let counted = match mutant {
            Mutant::CountsFromTheAnswer => now,
            _ => question.sent,
        };
        let collected = &mut server.failsafe.collected;
        let known = collected.entry(question.to).or_default();
        *known = (counted + LEASE).max(*known);
        let members = rule.members.iter().map(|member| usize::from(member.0));
        let mut ends: Vec<u8> = members.filter_map(|m| collected.get(&m).copied()).collect();
        ends.sort_unstable_by(|a, b| b.cmp(a));
        let needed = match mutant {
            Mutant::AsksTooFew => 1,
            _ => rule.needed,
        };
        let in_force = server.governed && now < server.lease_until || server.run == Run::Held;
        let undisturbed = server.agent_epoch == server.failsafe.lease_epoch;
        if let Some(until) = ends.get(needed - 1).filter(|_| in_force && undisturbed) {
            server.lease_until = server.lease_until.max(*until);
        }
    }

    /// An agent is killed and started again; its server runs on.
    pub(super) fn restart_agent(&mut self, mutant: Mutant, node: usize) {
        self.questions.retain(|question| question.from != node);
        let failsafe = &mut self.servers[node].failsafe;
        failsafe.collected.clear();
        if mutant == Mutant::ForgetsPromises {
            failsafe.promised_until = 0;
        }
    }

    /// One that was replaced is gone within a lease and what was promised to it.
    pub(super) fn notice_strays(&mut self) {
        for node in 0..NODES {
            let server = &self.servers[node];
            let replaced = server.primary && server.governed && server.reign < self.reigns;
            if replaced && self.lives(node) && self.now > self.reign_since + LEASE {
                self.broken = Some(format!(
                    "pg{} runs on in reign {}, long after reign {} has begun",
                    node + 1,
                    server.reign,
                    self.reigns
                ));
            }
        }
    }
}

/// A rule for three nodes of which the first leads.
pub(super) fn members(nodes: &[u16]) -> std::collections::BTreeSet<NodeId> {
    nodes.iter().map(|node| NodeId(*node)).collect()
}
