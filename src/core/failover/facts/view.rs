//! One moment as the planner sees it: what was observed, what is configured, and what is recorded.

use std::collections::BTreeSet;

use super::observation::{AgentAnswer, AgentPromise, NodeFacts, Observation, ServerAnswer};
use crate::core::failover::policy::{FailoverPolicy, Mode};
use crate::core::failover::record::Record;
use crate::core::topology::NodeId;

/// Everything that a decision depends on. The record may be younger than the rest: that of a plan in
/// the making.
#[derive(Clone, Copy, Debug)]
pub struct View<'a, 'r> {
    pub observation: &'a Observation,
    pub policy: &'a FailoverPolicy,
    pub record: &'r Record,
}

impl<'a> View<'a, '_> {
    pub fn node(self, node: NodeId) -> Option<&'a NodeFacts> {
        self.observation.node(node)
    }

    /// A node's answer, unless it is too old or a later attempt has failed.
    pub fn answer(self, node: NodeId) -> Option<&'a ServerAnswer> {
        self.observation.answer(node, self.policy.timeout_us)
    }

    /// An agent's answer, unless it is too old.
    pub fn agent(self, node: NodeId) -> Option<&'a AgentAnswer> {
        self.observation.agent(node, self.policy.timeout_us)
    }

    /// What a node's agent has promised and is not over, as far as is known.
    pub fn promise(self, node: NodeId) -> Option<&'a AgentPromise> {
        let agent = self.node(node)?.agent.as_ref()?;
        agent.promise(self.observation.now_us)
    }

    /// The nodes whose agents have confirmed the record's epoch and promise nothing: to whoever leads in
    /// a lower one they never will again, so that it does not matter how old the answer is.
    pub fn promising_nothing(self) -> BTreeSet<NodeId> {
        let nothing = |node: &NodeId| {
            let agent = self.node(*node).and_then(|facts| facts.agent.as_ref());
            agent.is_some_and(|agent| {
                agent.epoch >= self.record.epoch && self.promise(*node).is_none()
            })
        };
        self.policy.ids().filter(nothing).collect()
    }

    /// Whether a failed primary is replaced without an operator's word.
    pub fn promotes_unasked(self) -> bool {
        self.policy.mode == Mode::Automatic && !self.record.paused
    }

    /// A node has not answered for as long as the timeout.
    pub fn is_silent(self, node: NodeId) -> bool {
        self.observation.silent_us(node) >= self.policy.timeout_us
    }

    /// An answer comes from the cluster of the record, as far as that is known.
    pub fn is_ours(self, answer: &ServerAnswer) -> bool {
        let system = self.record.system;
        system.is_none_or(|system| system == answer.system)
    }

    pub fn is_quarantined(self, node: NodeId) -> bool {
        self.record.quarantine.contains_key(&node)
    }

    /// All nodes but one, in order.
    pub fn others(self, than: NodeId) -> impl Iterator<Item = NodeId> + use<> {
        self.policy.ids().filter(move |node| *node != than)
    }

    pub fn name(self, node: NodeId) -> String {
        self.policy.name(node)
    }
}
