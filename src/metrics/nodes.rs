//! What probing finds of each node, and how far standbys are behind.

use prometheus::{GaugeVec, HistogramVec, IntCounterVec, IntGauge, IntGaugeVec};

use super::make::{Made, Maker, SHORT};

/// Upper bounds of the buckets for lag, in seconds.
const LAG: [f64; 15] = [
    0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0,
];

#[derive(Debug)]
pub struct NodeMetrics {
    pub up: IntGaugeVec,
    pub role: IntGaugeVec,
    pub timeline: IntGaugeVec,
    pub barred: IntGaugeVec,
    pub drained: IntGaugeVec,
    pub transactions: IntGaugeVec,
    pub primary_available: IntGauge,
    /// None where it is not known.
    pub lag_bytes: IntGaugeVec,
    /// None where it is not known.
    pub lag_seconds: GaugeVec,
    pub lag_sampled: HistogramVec,
    pub probe: HistogramVec,
    pub probe_failures: IntCounterVec,
    pub incarnations_ended: IntCounterVec,
}

impl NodeMetrics {
    pub(super) fn new(make: &Maker<'_>) -> Made<Self> {
        let drained = make.gauges(
            "node_drained",
            "1 while the node takes no new reads by an operator's word.",
            &["node"],
        )?;
        for node in make.nodes {
            drained.with_label_values(&[node.as_str()]).set(0);
        }
        Ok(Self {
            up: make.gauges("node_up", "1 while the node answers its probes.", &["node"])?,
            role: make.gauges(
                "node_role",
                "1 for the role that the node has.",
                &["node", "role"],
            )?,
            timeline: make.gauges(
                "node_timeline",
                "The timeline that the node follows.",
                &["node"],
            )?,
            barred: make.gauges(
                "node_barred",
                "1 while clients are kept away from the node: it was fenced, stands on another history, or may have been replaced unseen.",
                &["node"],
            )?,
            drained,
            transactions: make.gauges(
                "node_transactions",
                "Transactions in flight through this proxy.",
                &["node"],
            )?,
            primary_available: make.gauge(
                "primary_available",
                "1 while some node may be written to.",
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
            )?,
            probe: make.seconds_by_node(
                "probe_seconds",
                "How long answered probes of the nodes took.",
                &SHORT,
            )?,
            probe_failures: make.counters_by_node(
                "probe_failures_total",
                "Probes, and attempts to connect for them, that failed.",
            )?,
            incarnations_ended: make.counters_by_node(
                "incarnations_ended_total",
                "Times that a node's measurements had to be thrown away.",
            )?,
        })
    }
}
