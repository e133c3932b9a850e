//! Telling people: events as they happen, how things stand, and what goes wrong, each once.

use std::sync::Arc;
use std::time::Duration;

use super::tell;
use crate::core::failover::Policy;
use crate::core::failover::command::Event;
use crate::core::failover::policy::Durability;
use crate::core::failover::record::{Phase, Record};
use crate::core::topology::NodeId;
use crate::desk::{Desk, Outcome, Standing};
use crate::metrics::Metrics;

/// Speaks for the controller.
pub(super) struct Reporter {
    desk: Arc<Desk>,
    metrics: Arc<Metrics>,
    policy: Arc<Policy>,
    mode: &'static str,
    /// Said last.
    why: String,
    /// Said last.
    failure: String,
}

impl Reporter {
    pub(super) fn new(
        desk: Arc<Desk>,
        metrics: Arc<Metrics>,
        policy: Arc<Policy>,
        mode: &'static str,
    ) -> Self {
        Self {
            desk,
            metrics,
            policy,
            mode,
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
        let told = tell::event(event, &self.policy);
        tell::log(&told);
        self.desk.tell(told.kind, told.text);
        match event {
            Event::Promoted { .. } => self.metrics.failover_ended("promoted"),
            Event::Restored(_) => self.metrics.failover_ended("restored"),
            Event::CalledOff { .. } => self.metrics.failover_ended("called_off"),
            Event::Chosen { lost_bytes, .. } => self.metrics.lost_write_bytes.inc_by(*lost_bytes),
            // The record that reports it has released them already.
            Event::Done { request } => self.desk.end(*request, Outcome::Done { stall }),
            Event::Refused { request, why } => {
                self.desk.end(*request, Outcome::Refused(why.clone()));
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
    ) {
        let name = |node: &NodeId| self.policy.name(*node);
        let quarantine = record.quarantine.iter();
        let quarantine = quarantine.map(|(node, why)| (name(node), tell::quarantined(why)));
        self.desk.stand(Standing {
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
            quarantine: quarantine.collect(),
            why: why.clone(),
        });
        let quiet = matches!(record.phase, Phase::Steady);
        if why != self.why {
            if !quiet && !why.is_empty() {
                tracing::info!(phase = record.phase.label(), %why, "failover waits");
            }
            self.why = why;
        }
    }

    /// Says what went wrong, once for each different reason.
    pub(super) fn fail(&mut self, doing: &str, error: &str) {
        let failure = format!("{doing}: {error}");
        if failure != self.failure {
            tracing::warn!(reason = error, "{doing}");
            self.failure = failure;
        }
    }
}
