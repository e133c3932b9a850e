//! Where statements ran and why, how long they took, and what they waited for. Counters of this hot path
//! are resolved once and then only increased.

use std::time::Duration;

use prometheus::{Histogram, IntCounter, IntGauge};
use strum::VariantArray;

use super::latency::{Exported, Latency};
use super::make::{Made, Maker, SHORT};
use crate::core::route::{Reason, Replay};

/// In the order of what is kept by route.
const ROUTES: [&str; 2] = ["primary", "standby"];

#[derive(Debug)]
pub struct RoutingMetrics {
    /// By route and `Reason::index`.
    statements: [[IntCounter; Reason::LABELS.len()]; 2],
    /// By node, in configuration order.
    node_statements: Vec<IntCounter>,
    /// By route.
    latency: [Latency; 2],
    pub stale_reads_prevented: IntCounter,
    pub catchup_wait: Histogram,
    fallback_behind: IntCounter,
    fallback_full: IntCounter,
    fallback_none: IntCounter,
    replays: [IntCounter; Replay::VARIANTS.len()],
    pub visibility_unproven: IntCounter,
    pub statements_held: IntGauge,
    pub hold_timeouts: IntCounter,
}

impl RoutingMetrics {
    pub(super) fn new(make: &Maker<'_>, workers: usize) -> Made<Self> {
        let statements = make.counters(
            "statements_total",
            "Units of work by where they ran and why: a simple query, or an extended batch up to Sync.",
            &["route", "reason"],
        )?;
        let by_node = make.counters_by_node("node_statements_total", "Units of work by node.")?;
        let fallback = make.counters(
            "primary_fallback_total",
            "Reads that went to the primary because no standby was fit.",
            &["reason"],
        )?;
        let replays = make.counters(
            "replays_total",
            "Units that were repeated on another node, unseen by the client.",
            &["reason"],
        )?;
        let latency = [Latency::new(workers)?, Latency::new(workers)?];
        make.keep(Exported::new(
            "statement_seconds",
            "From a unit's arrival to the end of its answer, waiting included, by where it ran.",
            "route",
            ROUTES.into_iter().zip(latency.clone()).collect(),
            &SHORT,
        )?)?;
        Ok(Self {
            statements: ROUTES.map(|route| {
                Reason::LABELS.map(|reason| statements.with_label_values(&[route, reason]))
            }),
            node_statements: make
                .nodes
                .iter()
                .map(|node| by_node.with_label_values(&[node]))
                .collect(),
            latency,
            stale_reads_prevented: make.counter(
                "stale_reads_prevented_total",
                "Reads for which a standby stood ready that would have broken the session's promise.",
            )?,
            catchup_wait: make.seconds(
                "catchup_wait_seconds",
                "How long reads waited for a standby to catch up.",
                &SHORT,
            )?,
            fallback_behind: fallback.with_label_values(&["standbys_behind"]),
            fallback_full: fallback.with_label_values(&["standbys_full"]),
            fallback_none: fallback.with_label_values(&["no_standby"]),
            replays: std::array::from_fn(|index| {
                replays.with_label_values(&[<&str>::from(Replay::VARIANTS[index])])
            }),
            visibility_unproven: make.counter(
                "visibility_unproven_total",
                "Moves from a standby to the primary without proof that it shows what was seen.",
            )?,
            statements_held: make
                .gauge("statements_held", "Statements that wait for a primary.")?,
            hold_timeouts: make.counter(
                "hold_timeouts_total",
                "Statements that waited for a primary in vain.",
            )?,
        })
    }

    /// Counts a unit of work.
    pub fn routed(&self, node: u16, primary: bool, reason: Reason) {
        self.statements[usize::from(!primary)][reason.index()].inc();
        if let Some(counter) = self.node_statements.get(usize::from(node)) {
            counter.inc();
        }
        match reason {
            Reason::StandbysBehind => self.fallback_behind.inc(),
            Reason::StandbysFull => self.fallback_full.inc(),
            Reason::NoStandby => self.fallback_none.inc(),
            _ => {}
        }
    }

    /// An event loop has answered a unit so long after it had arrived.
    pub fn took(&self, worker: usize, primary: bool, time: Duration) {
        self.latency[usize::from(!primary)].record(worker, time);
    }

    /// How long units took: on the primary, on standbys.
    pub fn latency(&self) -> &[Latency; 2] {
        &self.latency
    }

    /// Units of work that a node has run.
    pub fn node_statements(&self, node: u16) -> u64 {
        self.node_statements
            .get(usize::from(node))
            .map_or(0, IntCounter::get)
    }

    /// Units of work by route (`primary`, `standby`) and reason.
    pub fn statements(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> + '_ {
        ROUTES
            .into_iter()
            .zip(&self.statements)
            .flat_map(|(route, counters)| {
                Reason::LABELS
                    .into_iter()
                    .zip(counters)
                    .map(move |(reason, counter)| (route, reason, counter.get()))
            })
    }

    /// Counts a unit that is run again.
    pub fn replayed(&self, reason: Replay) {
        self.replays[reason as usize].inc();
    }

    /// How often units were run again for a reason.
    pub fn replays(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        Replay::VARIANTS
            .iter()
            .zip(&self.replays)
            .map(|(reason, counter)| (reason.into(), counter.get()))
    }
}
