//! Every metric, in one struct that is passed in; there is no global.
//!
//! Counters of the hot path are resolved once and then only increased.

use std::sync::Arc;
use std::time::Duration;

use prometheus::{
    Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder,
};

use self::latency::Latency;
use crate::core::route::Reason;

pub mod latency;

/// Upper bounds of the buckets for short waits, in seconds.
const SHORT: [f64; 15] = [
    0.0001, 0.00025, 0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0,
    5.0,
];

/// Why a unit was run a second time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replay {
    /// The standby refused to write.
    ReadOnly,
    /// The standby cancelled it in favour of replay.
    RecoveryConflict,
    /// The server connection, or the node, was lost.
    NodeLost,
}

impl Replay {
    const ALL: [Self; 3] = [Self::ReadOnly, Self::RecoveryConflict, Self::NodeLost];

    /// Its label.
    pub fn label(self) -> &'static str {
        match self {
            Self::ReadOnly => "read_only",
            Self::RecoveryConflict => "recovery_conflict",
            Self::NodeLost => "node_lost",
        }
    }
}

/// Every metric.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// By route (`primary`, `standby`) and reason, in the order of `Reason::LABELS`.
    statements: [[IntCounter; Reason::LABELS.len()]; 2],
    /// By node, in configuration order.
    node_statements: Vec<IntCounter>,
    /// How long units took: on the primary, on standbys.
    latency: [Arc<Latency>; 2],
    /// A standby stood ready and would have broken the promise.
    pub stale_reads_prevented: IntCounter,
    /// Seconds that reads waited for a standby to catch up.
    pub catchup_wait: Histogram,
    fallback_behind: IntCounter,
    fallback_none: IntCounter,
    replays: [IntCounter; Replay::ALL.len()],
    /// Moves to the primary that went ahead without proof that it shows what was seen.
    pub visibility_unproven: IntCounter,
    /// Client connections that are open.
    pub client_connections: IntGauge,
    /// Client connections refused, for whatever reason.
    pub clients_refused: IntCounter,
    /// Server connections in use, by node.
    pub pool_active: IntGaugeVec,
    /// Server connections idle, by node.
    pub pool_idle: IntGaugeVec,
    /// Clients waiting for a server connection, by node.
    pub pool_waiting: IntGaugeVec,
    /// Seconds that clients waited for a server connection.
    pub pool_wait: Histogram,
    /// Logins to servers, by node and outcome.
    pub server_logins: IntCounterVec,
    /// 1 while the node answers its probes.
    pub node_up: IntGaugeVec,
    /// 1 for the role that the node has.
    pub node_role: IntGaugeVec,
    /// The node's timeline.
    pub node_timeline: IntGaugeVec,
    /// Bytes that the standby is behind the primary.
    pub lag_bytes: IntGaugeVec,
    /// Seconds since the primary was at the standby's position.
    pub lag_seconds: prometheus::GaugeVec,
    /// Seconds that probes took.
    pub probe: Histogram,
    /// Incarnations that ended, by node.
    pub incarnations_ended: IntCounterVec,
    /// The failover record's epoch.
    pub failover_epoch: IntGauge,
    /// Seconds during which no statement could go to a primary.
    pub failover_write_gap: Histogram,
    failovers: IntCounterVec,
    /// WAL of old primaries that a promotion left behind, in bytes.
    pub lost_write_bytes: IntCounter,
    reloads: IntCounterVec,
    /// When the configuration in force was read, in seconds of the Unix epoch.
    pub config_read: prometheus::Gauge,
    /// 1 while the node takes no new reads by an operator's word.
    pub node_drained: IntGaugeVec,
    /// Texts that had to be parsed.
    pub statements_parsed: IntCounter,
}

impl Metrics {
    /// All metrics at zero, for nodes of these names.
    pub fn new(nodes: &[String]) -> Result<Self, prometheus::Error> {
        let registry = Registry::new_custom(Some("causeway".to_owned()), None)?;
        let counter = |name: &str, help: &str| {
            let counter = IntCounter::new(name, help)?;
            registry.register(Box::new(counter.clone()))?;
            Ok::<_, prometheus::Error>(counter)
        };
        let counters = |name: &str, help: &str, labels: &[&str]| {
            let counters = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(counters.clone()))?;
            Ok::<_, prometheus::Error>(counters)
        };
        let gauges = |name: &str, help: &str, labels: &[&str]| {
            let gauges = IntGaugeVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(gauges.clone()))?;
            Ok::<_, prometheus::Error>(gauges)
        };
        let seconds = |name: &str, help: &str, buckets: &[f64]| {
            let histogram =
                Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets.to_vec()))?;
            registry.register(Box::new(histogram.clone()))?;
            Ok::<_, prometheus::Error>(histogram)
        };

        let statements = counters(
            "statements_total",
            "Units of work by where they ran and why: a simple query, or an extended batch up to Sync.",
            &["route", "reason"],
        )?;
        let by_reason =
            |route: &str| Reason::LABELS.map(|r| statements.with_label_values(&[route, r]));
        let by_node = counters("node_statements_total", "Units of work by node.", &["node"])?;
        let fallback = counters(
            "primary_fallback_total",
            "Reads that went to the primary because no standby was fit.",
            &["reason"],
        )?;
        let replays = counters(
            "replays_total",
            "Units that were repeated on another node, unseen by the client.",
            &["reason"],
        )?;
        let lag_seconds = prometheus::GaugeVec::new(
            Opts::new(
                "replication_lag_seconds",
                "Seconds since the primary was first seen beyond the standby's replay position.",
            ),
            &["node"],
        )?;
        registry.register(Box::new(lag_seconds.clone()))?;
        let client_connections =
            IntGauge::new("client_connections", "Client connections that are open.")?;
        registry.register(Box::new(client_connections.clone()))?;
        let failover_epoch = IntGauge::new(
            "failover_epoch",
            "Rises with every decision about who leads.",
        )?;
        registry.register(Box::new(failover_epoch.clone()))?;
        let config_read = prometheus::Gauge::new(
            "config_last_reload_success_timestamp_seconds",
            "When the configuration in force was read, in seconds of the Unix epoch.",
        )?;
        registry.register(Box::new(config_read.clone()))?;
        gauges("build_info", "The version that runs.", &["version"])?
            .with_label_values(&[env!("CARGO_PKG_VERSION")])
            .set(1);

        let latency = [Arc::new(Latency::default()), Arc::new(Latency::default())];
        let [on_primary, on_standbys] = latency.clone();
        let routes = vec![("primary", on_primary), ("standby", on_standbys)];
        registry.register(Box::new(latency::Shown::new(routes, &SHORT)?))?;

        Ok(Self {
            statements: [by_reason("primary"), by_reason("standby")],
            node_statements: nodes
                .iter()
                .map(|n| by_node.with_label_values(&[n]))
                .collect(),
            latency,
            stale_reads_prevented: counter(
                "stale_reads_prevented_total",
                "Reads for which a standby stood ready that would have broken the session's promise.",
            )?,
            catchup_wait: seconds(
                "catchup_wait_seconds",
                "How long reads waited for a standby to catch up.",
                &SHORT,
            )?,
            fallback_behind: fallback.with_label_values(&["standbys_behind"]),
            fallback_none: fallback.with_label_values(&["no_standby"]),
            replays: Replay::ALL.map(|reason| replays.with_label_values(&[reason.label()])),
            visibility_unproven: counter(
                "visibility_unproven_total",
                "Moves from a standby to the primary without proof that it shows what was seen.",
            )?,
            client_connections,
            clients_refused: counter("clients_refused_total", "Client connections refused.")?,
            pool_active: gauges("pool_active", "Server connections in use.", &["node"])?,
            pool_idle: gauges("pool_idle", "Server connections that are idle.", &["node"])?,
            pool_waiting: gauges(
                "pool_waiting",
                "Clients that wait for a server connection.",
                &["node"],
            )?,
            pool_wait: seconds(
                "pool_wait_seconds",
                "How long clients waited for a server connection.",
                &SHORT,
            )?,
            server_logins: counters(
                "server_logins_total",
                "Logins to servers.",
                &["node", "outcome"],
            )?,
            node_up: gauges("node_up", "1 while the node answers its probes.", &["node"])?,
            node_role: gauges(
                "node_role",
                "1 for the role that the node has.",
                &["node", "role"],
            )?,
            node_timeline: gauges(
                "node_timeline",
                "The timeline that the node follows.",
                &["node"],
            )?,
            lag_bytes: gauges(
                "replication_lag_bytes",
                "WAL that the primary has flushed and the standby has not replayed.",
                &["node"],
            )?,
            lag_seconds,
            probe: seconds(
                "probe_seconds",
                "How long probes of the nodes took.",
                &SHORT,
            )?,
            incarnations_ended: counters(
                "incarnations_ended_total",
                "Times that a node's measurements had to be thrown away.",
                &["node"],
            )?,
            failover_epoch,
            failover_write_gap: seconds(
                "failover_write_gap_seconds",
                "For how long statements that need a primary were held.",
                &[
                    0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0, 60.0,
                ],
            )?,
            failovers: counters(
                "failovers_total",
                "Replacements of the primary that have ended.",
                &["outcome"],
            )?,
            lost_write_bytes: counter(
                "lost_write_bytes_total",
                "WAL of old primaries that a promotion left behind.",
            )?,
            reloads: counters(
                "config_reloads_total",
                "Reloads of the configuration, by whether it was taken over.",
                &["outcome"],
            )?,
            config_read,
            node_drained: gauges(
                "node_drained",
                "1 while the node takes no new reads by an operator's word.",
                &["node"],
            )?,
            statements_parsed: counter(
                "statements_parsed_total",
                "Statement texts whose shape had not been seen before.",
            )?,
            registry,
        })
    }

    /// Counts a unit of work.
    pub fn routed(&self, node: u16, primary: bool, reason: Reason) {
        let route = &self.statements[usize::from(!primary)];
        if let Some(index) = Reason::LABELS
            .iter()
            .position(|label| *label == reason.label())
        {
            route[index].inc();
        }
        if let Some(counter) = self.node_statements.get(usize::from(node)) {
            counter.inc();
        }
        match reason {
            Reason::StandbysBehind => self.fallback_behind.inc(),
            Reason::NoStandby => self.fallback_none.inc(),
            _ => {}
        }
    }

    /// A unit has been answered so long after it had arrived.
    pub fn took(&self, primary: bool, time: Duration) {
        self.latency[usize::from(!primary)].record(time);
    }

    /// How long units took: on the primary, on standbys.
    pub fn latency(&self) -> &[Arc<Latency>; 2] {
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
        ["primary", "standby"]
            .into_iter()
            .zip(&self.statements)
            .flat_map(|(route, counters)| {
                Reason::LABELS
                    .into_iter()
                    .zip(counters)
                    .map(move |(reason, c)| (route, reason, c.get()))
            })
    }

    /// Counts a replacement of the primary that has ended.
    pub fn failover_ended(&self, outcome: &str) {
        self.failovers.with_label_values(&[outcome]).inc();
    }

    /// Counts a reload of the configuration: `applied` or `refused`.
    pub fn reloaded(&self, outcome: &str) {
        self.reloads.with_label_values(&[outcome]).inc();
    }

    /// Counts a unit that is run again.
    pub fn replayed(&self, reason: Replay) {
        self.replays[reason as usize].inc();
    }

    /// How often units were run again for a reason.
    pub fn replays(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        Replay::ALL
            .into_iter()
            .zip(&self.replays)
            .map(|(reason, c)| (reason.label(), c.get()))
    }

    /// The Prometheus text format.
    pub fn render(&self) -> Result<String, prometheus::Error> {
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }
}
