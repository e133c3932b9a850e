//! Every metric, in one struct that is passed in; there is no global.
//!
//! Counters of the hot path are resolved once and then only increased.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use prometheus::{
    GaugeVec, Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry,
    TextEncoder,
};

use self::latency::Latency;
use self::make::Maker;
use self::standing::Failover;
use crate::core::route::Reason;

pub mod latency;
mod make;
pub mod standing;

/// Upper bounds of the buckets for short waits, in seconds.
const SHORT: [f64; 15] = [
    0.0001, 0.00025, 0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0,
    5.0,
];

/// Upper bounds of the buckets for lag, in seconds.
const LAG: [f64; 15] = [
    0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0,
];
/// Upper bounds of the buckets for the time without a primary, in seconds.
const GAP: [f64; 12] = [
    0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0, 60.0,
];
/// How replacing a primary can end.
const OUTCOMES: [&str; 4] = ["promoted", "switched_over", "restored", "called_off"];

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
    /// Client connections that are let in at most.
    pub client_connections_max: IntGauge,
    /// Client connections refused, for whatever reason.
    pub clients_refused: IntCounter,
    /// Errors of Causeway's own making that clients were told, by SQLSTATE.
    pub errors: IntCounterVec,
    /// Statements that wait for a primary.
    pub statements_held: IntGauge,
    /// Statements that waited in vain for a primary.
    pub hold_timeouts: IntCounter,
    /// Server connections in use, by node.
    pub pool_active: IntGaugeVec,
    /// Server connections idle, by node.
    pub pool_idle: IntGaugeVec,
    /// Clients waiting for a server connection, by node.
    pub pool_waiting: IntGaugeVec,
    /// Seconds that clients waited for a server connection, by node.
    pub pool_wait: HistogramVec,
    /// Clients that waited in vain for a server connection, by node.
    pub pool_timeouts: IntCounterVec,
    /// Server connections that one pool opens at most.
    pub pool_size: IntGauge,
    /// Logins to servers, by node and outcome.
    pub server_logins: IntCounterVec,
    /// 1 while the node answers its probes.
    pub node_up: IntGaugeVec,
    /// 1 for the role that the node has.
    pub node_role: IntGaugeVec,
    /// The node's timeline.
    pub node_timeline: IntGaugeVec,
    /// 1 while clients are kept away from the node.
    pub node_barred: IntGaugeVec,
    /// Transactions in flight, by node.
    pub node_transactions: IntGaugeVec,
    /// 1 while some node may be written to.
    pub primary_available: IntGauge,
    /// Bytes that the standby is behind the primary; none where that is not known.
    pub lag_bytes: IntGaugeVec,
    /// Seconds since the primary was at the standby's position; none where that is not known.
    pub lag_seconds: GaugeVec,
    /// The same, sampled at a steady pace.
    pub lag_sampled: HistogramVec,
    /// Seconds that answered probes took, by node.
    pub probe: HistogramVec,
    /// Probes, and attempts to connect for them, that failed, by node.
    pub probe_failures: IntCounterVec,
    /// Incarnations that ended, by node.
    pub incarnations_ended: IntCounterVec,
    /// How failover stands.
    pub failover: Failover,
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
        let make = Maker(&registry);
        let statements = make.counters(
            "statements_total",
            "Units of work by where they ran and why: a simple query, or an extended batch up to Sync.",
            &["route", "reason"],
        )?;
        let by_reason =
            |route: &str| Reason::LABELS.map(|r| statements.with_label_values(&[route, r]));
        let by_node =
            make.counters_by_node("node_statements_total", "Units of work by node.", nodes)?;
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
        let started = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        make.gauge(
            "start_time_seconds",
            "When the process started, in seconds of the Unix epoch.",
        )?
        .set(started.map_or(0, |since| since.as_secs() as i64));
        let reloads = make.counters(
            "config_reloads_total",
            "Reloads of the configuration, by whether it was taken over.",
            &["outcome"],
        )?;
        for outcome in ["applied", "refused"] {
            reloads.with_label_values(&[outcome]);
        }
        let node_drained = make.gauges(
            "node_drained",
            "1 while the node takes no new reads by an operator's word.",
            &["node"],
        )?;
        for node in nodes {
            node_drained.with_label_values(&[node.as_str()]).set(0);
        }
        make.gauges("build_info", "The version that runs.", &["version"])?
            .with_label_values(&[env!("CARGO_PKG_VERSION")])
            .set(1);

        let failovers = make.counters(
            "failovers_total",
            "Replacements of the primary that have ended.",
            &["outcome"],
        )?;
        // A counter that first appears with 1 has not increased, to Prometheus.
        for outcome in OUTCOMES {
            failovers.with_label_values(&[outcome]);
        }
        let server_logins = make.counters(
            "server_logins_total",
            "Logins to servers.",
            &["node", "outcome"],
        )?;
        for node in nodes {
            for outcome in ["ok", "failed"] {
                server_logins.with_label_values(&[node, outcome]);
            }
        }

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
            fallback_none: fallback.with_label_values(&["no_standby"]),
            replays: Replay::ALL.map(|reason| replays.with_label_values(&[reason.label()])),
            visibility_unproven: make.counter(
                "visibility_unproven_total",
                "Moves from a standby to the primary without proof that it shows what was seen.",
            )?,
            client_connections: make.gauge(
                "client_connections",
                "Client connections that are open.",
            )?,
            client_connections_max: make.gauge(
                "client_connections_max",
                "Client connections that are let in at most.",
            )?,
            clients_refused: make.counter("clients_refused_total", "Client connections refused.")?,
            errors: make.counters(
                "errors_total",
                "Errors of Causeway's own making that clients were told.",
                &["sqlstate"],
            )?,
            statements_held: make.gauge(
                "statements_held",
                "Statements that wait for a primary.",
            )?,
            hold_timeouts: make.counter(
                "hold_timeouts_total",
                "Statements that waited for a primary in vain.",
            )?,
            pool_active: make.gauges("pool_active", "Server connections in use.", &["node"])?,
            pool_idle: make.gauges("pool_idle", "Server connections that are idle.", &["node"])?,
            pool_waiting: make.gauges(
                "pool_waiting",
                "Clients that wait for a server connection.",
                &["node"],
            )?,
            pool_wait: make.seconds_by_node(
                "pool_wait_seconds",
                "How long clients waited for a server connection, where none was free.",
                &SHORT,
                nodes,
            )?,
            pool_timeouts: make.counters_by_node(
                "pool_timeouts_total",
                "Clients that waited for a server connection in vain.",
                nodes,
            )?,
            pool_size: make.gauge(
                "pool_size",
                "Server connections that one pool opens at most; each node has a pool for each database and user.",
            )?,
            server_logins,
            node_up: make.gauges("node_up", "1 while the node answers its probes.", &["node"])?,
            node_role: make.gauges(
                "node_role",
                "1 for the role that the node has.",
                &["node", "role"],
            )?,
            node_barred: make.gauges(
                "node_barred",
                "1 while clients are kept away from the node: it was fenced, or stands on another history.",
                &["node"],
            )?,
            node_transactions: make.gauges(
                "node_transactions",
                "Transactions in flight through this proxy.",
                &["node"],
            )?,
            primary_available: make.gauge(
                "primary_available",
                "1 while some node may be written to.",
            )?,
            node_timeline: make.gauges(
                "node_timeline",
                "The timeline that the node follows.",
                &["node"],
            )?,
            lag_bytes: make.gauges(
                "replication_lag_bytes",
                "WAL that the primary has flushed and the standby has not replayed.",
                &["node"],
            )?,
            lag_seconds: make.fractions(
                "replication_lag_seconds",
                "Seconds since the primary was first seen beyond the standby's replay position.",
                &["node"],
            )?,
            lag_sampled: make.seconds_by_node(
                "replication_lag_sampled_seconds",
                "The lag of standbys in service, sampled ten times a second.",
                &LAG,
                nodes,
            )?,
            probe: make.seconds_by_node(
                "probe_seconds",
                "How long answered probes of the nodes took.",
                &SHORT,
                nodes,
            )?,
            probe_failures: make.counters_by_node(
                "probe_failures_total",
                "Probes, and attempts to connect for them, that failed.",
                nodes,
            )?,
            incarnations_ended: make.counters_by_node(
                "incarnations_ended_total",
                "Times that a node's measurements had to be thrown away.",
                nodes,
            )?,
            failover: Failover::new(&registry)?,
            failover_epoch: make.gauge(
                "failover_epoch",
                "Rises with every decision about who leads.",
            )?,
            failover_write_gap: make.seconds(
                "failover_write_gap_seconds",
                "For how long statements that need a primary were held.",
                &GAP,
            )?,
            failovers,
            lost_write_bytes: make.counter(
                "lost_write_bytes_total",
                "WAL of old primaries that a promotion left behind.",
            )?,
            reloads,
            config_read: make.fraction(
                "config_last_reload_success_timestamp_seconds",
                "When the configuration in force was read, in seconds of the Unix epoch.",
            )?,
            node_drained,
            statements_parsed: make.counter(
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
