//! Server connections, by node.

use prometheus::{HistogramVec, IntCounterVec, IntGauge, IntGaugeVec};

use super::make::{Made, Maker, SHORT};

#[derive(Debug)]
pub struct PoolMetrics {
    pub active: IntGaugeVec,
    pub idle: IntGaugeVec,
    pub waiting: IntGaugeVec,
    pub wait: HistogramVec,
    pub timeouts: IntCounterVec,
    pub size: IntGauge,
    logins: IntCounterVec,
}

const LOGIN_OUTCOMES: [&str; 2] = ["failed", "ok"];

impl PoolMetrics {
    pub(super) fn new(make: &Maker<'_>) -> Made<Self> {
        let logins = make.counters(
            "server_logins_total",
            "Logins to servers.",
            &["node", "outcome"],
        )?;
        for node in make.nodes {
            for outcome in LOGIN_OUTCOMES {
                logins.with_label_values(&[node.as_str(), outcome]);
            }
        }
        Ok(Self {
            active: make.gauges("pool_active", "Server connections in use.", &["node"])?,
            idle: make.gauges("pool_idle", "Server connections that are idle.", &["node"])?,
            waiting: make.gauges(
                "pool_waiting",
                "Clients that wait for a server connection.",
                &["node"],
            )?,
            wait: make.seconds_by_node(
                "pool_wait_seconds",
                "How long clients waited for a server connection, where none was free.",
                &SHORT,
            )?,
            timeouts: make.counters_by_node(
                "pool_timeouts_total",
                "Clients that waited for a server connection in vain.",
            )?,
            size: make.gauge(
                "pool_size",
                "Server connections that one pool opens at most; each node has a pool for each database and user.",
            )?,
            logins,
        })
    }

    /// Counts an attempt to log in to a node.
    pub fn logged_in(&self, node: &str, ok: bool) {
        let outcome = LOGIN_OUTCOMES[usize::from(ok)];
        self.logins.with_label_values(&[node, outcome]).inc();
    }
}
