//! Telling people: events as they happen, how things stand, and what goes wrong, each once.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::tell;
use crate::core::failover::Policy;
use crate::core::failover::command::Event;
use crate::core::failover::policy::Durability;
use crate::core::failover::record::{Cause, Phase, Record};
use crate::core::lsn::Timeline;
use crate::core::route::NodeSet;
use crate::core::topology::NodeId;
use crate::metrics::Metrics;
use crate::metrics::failover::Ended;
use crate::shared::cluster::ClusterState;
use crate::shared::operator::OperatorState;
use crate::shared::operator::commands::Outcome;
use crate::shared::operator::status::FailoverStatus;

/// The kinds of events that tell who leads now: another than before, or the first one seen.
const PROMOTED: &str = "promoted";
const FOUND: &str = "primary_found";

/// Speaks for the controller.
pub(super) struct Reporter {
    cluster: Arc<ClusterState>,
    operator: Arc<OperatorState>,
    metrics: Arc<Metrics>,
    policy: Arc<Policy>,
    mode: &'static str,
    /// This proxy's address.
    address: String,
    /// When the latest failover or switchover began.
    began: Option<Instant>,
    /// It is still under way.
    busy: bool,
    /// Who leads, on which timeline, as far as it was told.
    followed: Option<(NodeId, Timeline)>,
    /// Said last, without its figures.
    why: String,
    /// Said last.
    failure: String,
}

impl Reporter {
    pub(super) fn new(
        cluster: Arc<ClusterState>,
        operator: Arc<OperatorState>,
        metrics: Arc<Metrics>,
        policy: Arc<Policy>,
        mode: &'static str,
        address: String,
    ) -> Self {
        Self {
            cluster,
            operator,
            metrics,
            policy,
            mode,
            address,
            began: None,
            busy: false,
            followed: None,
            why: String::new(),
            failure: String::new(),
        }
    }

    /// Speaks by another policy from now on.
    pub(super) fn adopt(&mut self, policy: Arc<Policy>, mode: &'static str) {
        self.policy = policy;
        self.mode = mode;
    }

    /// Something has happened; `stall` is for how long statements were held the last time.
    pub(super) fn event(&self, event: &Event, stall: Duration) {
        let text = tell::log(event, &self.policy);
        let by = match self.operator.commands.pending() {
            Some(_) => format!("an operator, through {}", self.address),
            None => self.address.clone(),
        };
        let after = self.began.map(|began| began.elapsed());
        self.operator
            .events
            .tell_of(tell::kind(event), text, &by, after);
        match event {
            Event::Promoted {
                cause: Cause::Switchover,
                ..
            } => self.metrics.failover.ended(Ended::SwitchedOver),
            Event::Promoted { .. } => self.metrics.failover.ended(Ended::Promoted),
            Event::Restored(_) => self.metrics.failover.ended(Ended::Restored),
            Event::CalledOff { .. } => self.metrics.failover.ended(Ended::CalledOff),
            Event::Chosen { lost_bytes, .. } => {
                self.metrics.failover.lost_write_bytes.inc_by(*lost_bytes)
            }
            // The record that reports it has released them already.
            Event::Done { request } => self
                .operator
                .commands
                .finish(*request, Outcome::Done { stall }),
            Event::Refused { request, why } => {
                self.operator
                    .commands
                    .finish(*request, Outcome::Refused(why.clone()));
            }
            _ => {}
        }
    }

    /// How things stand.
    pub(super) fn stand(
        &mut self,
        record: &Record,
        why: String,
        leads: bool,
        leader: Option<String>,
        answering: NodeSet,
    ) {
        self.keep_time(record);
        if leads {
            self.followed = record.primary.map(|primary| (primary, record.timeline));
        } else {
            self.tell_what_another_decided(record, leader.as_deref());
        }
        let shown = &self.metrics.failover.state;
        shown.stand(record.phase.label(), record.epoch, leads);
        let name = |node: &NodeId| self.policy.name(*node);
        let quarantine = record.quarantine.iter();
        let quarantine = quarantine.map(|(node, why)| (name(node), why.describe()));
        let fences = self.policy.ids().map(|node| {
            let fence = self.policy.describe_fence(node, answering.contains(node));
            (name(&node), fence)
        });
        self.operator.status.set(FailoverStatus {
            mode: self.mode.to_owned(),
            phase: record.phase.label().to_owned(),
            epoch: record.epoch,
            primary: record.primary.as_ref().map(name),
            durability: match (self.policy.durability, record.sync.wanted()) {
                (Durability::Async { .. }, _) => "async",
                (Durability::Quorum { .. }, Some(_)) if !record.sync.changing() => "quorum",
                (Durability::Quorum { .. }, _) => "quorum pending",
            },
            leads,
            leader,
            fences: fences.collect(),
            quarantine: quarantine.collect(),
            why: why.clone(),
        });
        self.cluster.explain(&why);
        let quiet = matches!(record.phase, Phase::Steady);
        // A wait that counts down is one wait.
        let without_figures = why.replace(|c: char| c.is_ascii_digit(), "");
        if without_figures != self.why {
            if !quiet && !why.is_empty() {
                tracing::info!(phase = record.phase.label(), %why, "failover waits");
            }
            self.why = without_figures;
        }
    }

    /// It lasts until every node is back, and the events of the step that ends it still belong to it.
    fn keep_time(&mut self, record: &Record) {
        let serving = matches!(record.phase, Phase::Steady | Phase::Looking);
        let busy = !serving || !record.quarantine.is_empty();
        match (busy, self.busy) {
            (true, false) => self.began = Some(Instant::now()),
            (false, false) => self.began = None,
            (_, true) => {}
        }
        self.busy = busy;
    }

    fn tell_what_another_decided(&mut self, record: &Record, leader: Option<&str>) {
        let serving = matches!(record.phase, Phase::Steady | Phase::Following);
        let Some(primary) = record.primary.filter(|_| serving) else {
            return;
        };
        let now = Some((primary, record.timeline));
        if self.followed != now {
            let kind = match self.followed {
                Some(_) => PROMOTED,
                None => FOUND,
            };
            let name = self.policy.name(primary);
            let text = format!("{name} leads on timeline {}", record.timeline);
            let after = self.began.map(|began| began.elapsed());
            let by = leader.unwrap_or_default();
            tracing::info!(event = kind, by, "{text}");
            self.operator.events.tell_of(kind, text, by, after);
        }
        self.followed = now;
    }

    /// Says what went wrong, once for each different reason.
    pub(super) fn fail(&mut self, doing: &str, error: &str) {
        let failure = format!("{doing}: {error}");
        self.cluster.explain(&failure);
        if failure != self.failure {
            tracing::warn!(doing, reason = error, "a step of the failover failed");
            self.failure = failure;
        }
    }
}
