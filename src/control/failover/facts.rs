//! What is known at present, gathered by the pollers and frozen for the planner.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::core::failover::facts::observation::{
    AgentAnswer, AgentLease, Attempt, Leadership, LifeSign, NodeFacts, Observation, Postmaster,
    RejoinJob, RuleOrder, ServerAnswer, SignOfLife,
};
use crate::core::failover::quorum::CommitRule;
use crate::core::failover::record::Request;
use crate::core::topology::{NodeId, NodeSet};
use crate::shared::cluster::ClusterState;

/// The facts, shared by pollers, executor and controller.
#[derive(Debug)]
pub(super) struct Facts {
    cluster: Arc<ClusterState>,
    known: Mutex<LatestFacts>,
    changed: Notify,
    /// By node: its agent is to be asked at once.
    agents: Vec<Notify>,
    /// The primary is to be asked for open transactions.
    wants_open: AtomicBool,
}

#[derive(Debug, Default)]
struct LatestFacts {
    nodes: Vec<NodeFacts>,
    fence_command_done: Option<(NodeId, u64)>,
    fence_command_failed: Option<(NodeId, u64)>,
    fence_command_under_way: Option<(NodeId, u64)>,
    checkpoint_ended: Option<(NodeId, u64)>,
    heartbeat_us: Option<u64>,
    rule_order: Option<RuleOrder>,
    open: Option<(NodeId, OpenTransactions)>,
}

/// The transactions of clients that a server had open, through whatever proxy.
#[derive(Clone, Debug)]
pub(super) struct OpenTransactions {
    /// When it was asked.
    pub(super) at_us: u64,
    /// When each began, at the earliest.
    pub(super) begun_us: Vec<u64>,
}

/// What only the controller knows.
pub(super) struct ControllerFacts {
    pub(super) leadership: Leadership,
    pub(super) phase_since_us: u64,
    pub(super) ruled_epoch: u64,
    pub(super) request: Option<Request>,
    pub(super) holding: bool,
    /// Transactions of clients that are open on the primary.
    pub(super) open_transactions: u32,
    /// By node: connections in use that belong to an older epoch.
    pub(super) stale_connections: Vec<u32>,
    /// By node: whether an operator keeps new reads from it.
    pub(super) drained: Vec<bool>,
}

impl Facts {
    pub(super) fn new(cluster: Arc<ClusterState>, nodes: usize) -> Self {
        let known = LatestFacts {
            nodes: vec![NodeFacts::default(); nodes],
            ..LatestFacts::default()
        };
        Self {
            cluster,
            known: Mutex::new(known),
            changed: Notify::new(),
            agents: (0..nodes).map(|_| Notify::new()).collect(),
            wants_open: AtomicBool::new(false),
        }
    }

    /// The clock of all facts, in microseconds.
    pub(super) fn now_us(&self) -> u64 {
        self.cluster.now_us()
    }

    /// Resolves at the next change of something that can change a plan at once.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Everything that is known, frozen.
    pub(super) fn freeze(&self, frame: ControllerFacts) -> Observation {
        let known = self.known.lock();
        let mut nodes = known.nodes.clone();
        for (facts, stale) in nodes.iter_mut().zip(frame.stale_connections) {
            facts.stale_connections = stale;
        }
        for (facts, drained) in nodes.iter_mut().zip(frame.drained) {
            facts.drained = drained;
        }
        Observation {
            now_us: self.now_us(),
            leadership: frame.leadership,
            phase_since_us: frame.phase_since_us,
            ruled_epoch: frame.ruled_epoch,
            nodes,
            request: frame.request,
            open_transactions: frame.open_transactions,
            holding: frame.holding,
            fence_command_done: known.fence_command_done,
            fence_command_failed: known.fence_command_failed,
            fence_command_under_way: known.fence_command_under_way,
            checkpoint_ended: known.checkpoint_ended,
            heartbeat_us: known.heartbeat_us,
            rule_order: known.rule_order.clone(),
        }
    }

    /// A node's latest answer, however old.
    pub(super) fn last_answer(&self, id: NodeId) -> Option<ServerAnswer> {
        let known = self.known.lock();
        known.nodes.get(usize::from(id.0))?.answer.clone()
    }

    pub(super) fn answered(&self, id: NodeId, answer: ServerAnswer) {
        self.change(id, |node| {
            let news = node.attempt != Attempt::Answered
                || node.answer.as_ref().is_none_or(|before| {
                    before.timeline != answer.timeline
                        || before.rule != answer.rule
                        || std::mem::discriminant(&before.role)
                            != std::mem::discriminant(&answer.role)
                });
            node.answer = Some(answer);
            node.attempt = Attempt::Answered;
            news
        });
    }

    /// Has a node's agent asked at once.
    pub(super) fn want_agent(&self, id: NodeId) {
        if let Some(agent) = self.agents.get(usize::from(id.0)) {
            agent.notify_one();
        }
    }

    /// Resolves once a node's agent is to be asked.
    pub(super) async fn agent_wanted(&self, id: NodeId) {
        match self.agents.get(usize::from(id.0)) {
            Some(agent) => agent.notified().await,
            None => std::future::pending().await,
        }
    }

    pub(super) fn attempted(&self, id: NodeId, attempt: Attempt) {
        if attempt == Attempt::Refused {
            // Whether its server runs is what decides now.
            self.want_agent(id);
        }
        self.change(id, |node| {
            std::mem::replace(&mut node.attempt, attempt) != attempt
        });
    }

    /// It did not answer what it was asked at that moment, and lives.
    pub(super) fn lives(&self, id: NodeId, at_us: u64, kind: LifeSign) {
        self.change(id, |node| {
            node.sign = Some(SignOfLife { at_us, kind });
            false
        });
    }

    /// The nodes whose agents have answered within `timeout_us`.
    pub(super) fn answering(&self, timeout_us: u64) -> NodeSet {
        let now_us = self.now_us();
        let known = self.known.lock();
        let mut answering = NodeSet::default();
        for (index, node) in known.nodes.iter().enumerate() {
            let at_us = node.agent.as_ref().map(|agent| agent.at_us);
            if at_us.is_some_and(|at_us| now_us.saturating_sub(at_us) < timeout_us) {
                answering.insert(NodeId(index as u16));
            }
        }
        answering
    }

    /// Until when a node's agent has said that it lets its server lead, at the latest; 0 if it has not.
    pub(super) fn leads_until_us(&self, id: NodeId) -> u64 {
        let known = self.known.lock();
        let node = known.nodes.get(usize::from(id.0));
        let agent = node.and_then(|node| node.agent.as_ref());
        let agent = agent.filter(|agent| agent.governed && agent.postmaster == Postmaster::Primary);
        agent
            .and_then(|agent| agent.lease)
            .map_or(0, |lease| lease.until_us)
    }

    /// Why nodes could not be rejoined, as was said last.
    pub(super) fn unjoined(&self) -> BTreeMap<NodeId, String> {
        let known = self.known.lock();
        let failed = |(index, node): (usize, &NodeFacts)| match &node.job {
            RejoinJob::Failed { detail, .. } => Some((NodeId(index as u16), detail.clone())),
            _ => None,
        };
        known.nodes.iter().enumerate().filter_map(failed).collect()
    }

    pub(super) fn agent_answered(&self, id: NodeId, mut answer: AgentAnswer, job: RejoinJob) {
        let job = self.same_end(id, job);
        self.change(id, |node| {
            let before = node.agent.as_ref().and_then(|agent| agent.lease);
            if let (Some(lease), Some(before)) = (&mut answer.lease, before) {
                lease.renewed_us = renewed_us(&before, lease, answer.at_us);
            }
            let promises = |answer: &AgentAnswer| {
                answer
                    .failsafe
                    .as_ref()
                    .is_some_and(|told| told.promise.is_some())
            };
            let stopped =
                |answer: &AgentAnswer| matches!(answer.postmaster, Postmaster::Stopped { .. });
            let news = node.job != job
                || node.agent.as_ref().is_none_or(|before| {
                    stopped(before) != stopped(&answer)
                        || before.epoch != answer.epoch
                        || before.governed != answer.governed
                        || promises(before) != promises(&answer)
                });
            node.agent = Some(answer);
            node.job = job;
            news
        });
    }

    /// An end that is reported again happened when it was first reported.
    fn same_end(&self, id: NodeId, job: RejoinJob) -> RejoinJob {
        let known = self.known.lock();
        let before = known.nodes.get(usize::from(id.0)).map(|node| &node.job);
        match (before, &job) {
            (Some(known @ RejoinJob::Done { .. }), RejoinJob::Done { .. }) => known.clone(),
            (
                Some(known @ RejoinJob::Failed { detail: old, .. }),
                RejoinJob::Failed { detail, .. },
            ) if old == detail => known.clone(),
            _ => job,
        }
    }

    /// Whether the primary is to be asked for open transactions.
    pub(super) fn want_open(&self, wanted: bool) {
        self.wants_open.store(wanted, Ordering::Relaxed);
        if !wanted {
            self.known.lock().open = None;
        }
    }

    pub(super) fn wants_open(&self) -> bool {
        self.wants_open.load(Ordering::Relaxed)
    }

    pub(super) fn opened(&self, id: NodeId, open: OpenTransactions) {
        self.known.lock().open = Some((id, open));
        self.changed.notify_one();
    }

    /// How many transactions that began before `until_us` a server still had open when it was asked
    /// after that; none when it has not been asked since.
    pub(super) fn open_since_before(&self, id: NodeId, until_us: u64) -> Option<u32> {
        let known = self.known.lock();
        let (_, open) = known.open.as_ref().filter(|(node, _)| *node == id)?;
        let begun = open
            .begun_us
            .iter()
            .filter(|begun_us| **begun_us <= until_us);
        let count = u32::try_from(begun.count()).unwrap_or(u32::MAX);
        (open.at_us > until_us).then_some(count)
    }

    /// A lease is asked for from now on.
    pub(super) fn renewing(&self, id: NodeId) {
        let now = self.now_us();
        self.change(id, |node| {
            node.renewal_us = Some(now);
            false
        });
    }

    /// Its agent has granted one, and keeps it.
    pub(super) fn granted(&self, id: NodeId) {
        self.change(id, |node| match &mut node.agent {
            Some(agent) => !std::mem::replace(&mut agent.governed, true),
            None => false,
        });
    }

    /// It may be without a lease from now on.
    pub(super) fn releasing(&self, id: NodeId) {
        let now = self.now_us();
        self.change(id, |node| {
            node.release_us = Some(now);
            false
        });
    }

    /// It is asked to start as a standby from now on.
    pub(super) fn starting(&self, id: NodeId) {
        let now = self.now_us();
        self.change(id, |node| {
            node.start_us = Some(now);
            false
        });
    }

    pub(super) fn job(&self, id: NodeId, job: RejoinJob) {
        self.change(id, |node| {
            let news = node.job != job;
            node.job = job;
            news
        });
    }

    pub(super) fn fence_command_begins(&self, id: NodeId, epoch: u64) {
        self.known.lock().fence_command_under_way = Some((id, epoch));
    }

    pub(super) fn fence_command_ended(&self, id: NodeId, epoch: u64, well: bool) {
        {
            let mut known = self.known.lock();
            // One of a later epoch may have begun meanwhile.
            if known.fence_command_under_way == Some((id, epoch)) {
                known.fence_command_under_way = None;
            }
            let end = match well {
                true => &mut known.fence_command_done,
                false => &mut known.fence_command_failed,
            };
            *end = Some((id, epoch));
        }
        self.changed.notify_one();
    }

    pub(super) fn checkpoint_ended(&self, id: NodeId, epoch: u64) {
        self.known.lock().checkpoint_ended = Some((id, epoch));
        self.changed.notify_one();
    }

    /// A rule of commits is being set: whether the one before still stands is not known.
    pub(super) fn setting_rule(&self) {
        self.known.lock().rule_order = None;
    }

    pub(super) fn rule_set(&self, node: NodeId, epoch: u64, rule: CommitRule) {
        let set_us = self.now_us();
        self.known.lock().rule_order = Some(RuleOrder {
            node,
            epoch,
            rule,
            set_us,
            in_force_us: None,
        });
    }

    /// When a rule was set, if no other was since.
    pub(super) fn rule_set_us(&self, node: NodeId, epoch: u64, rule: &CommitRule) -> Option<u64> {
        let known = self.known.lock();
        let order = known.rule_order.as_ref()?;
        let same = order.node == node && order.epoch == epoch && order.rule == *rule;
        same.then_some(order.set_us)
    }

    /// The rule that was set at that moment is seen to be in force.
    pub(super) fn rule_in_force(&self, set_us: u64) {
        let now_us = self.now_us();
        let mut known = self.known.lock();
        if let Some(order) = &mut known.rule_order
            && order.set_us == set_us
        {
            order.in_force_us = Some(now_us);
        }
        drop(known);
        self.changed.notify_one();
    }

    pub(super) fn heartbeat(&self) {
        let now = self.now_us();
        self.known.lock().heartbeat_us = Some(now);
    }

    fn change(&self, id: NodeId, change: impl FnOnce(&mut NodeFacts) -> bool) {
        let mut known = self.known.lock();
        let news = known.nodes.get_mut(usize::from(id.0)).is_some_and(change);
        drop(known);
        if news {
            self.changed.notify_one();
        }
    }
}

/// Estimates of one end differ by less.
const SAME_END_US: u64 = 150_000;

/// When a lease was last seen to have been renewed, by what was told of it before and now.
fn renewed_us(before: &AgentLease, now: &AgentLease, at_us: u64) -> Option<u64> {
    let moved = now.until_us > before.until_us + SAME_END_US;
    match moved && !now.prolonged || before.epoch != now.epoch {
        true => Some(at_us),
        false => before.renewed_us,
    }
}
