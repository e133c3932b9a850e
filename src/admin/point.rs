//! One point of every chart: counters as they stand, from which the page takes differences, and gauges.

use std::collections::BTreeMap;

use serde::Serialize;

use super::status::{PoolStatus, Status};
use crate::metrics::latency::Recorded;

/// What is charted, at one moment.
#[derive(Debug, Serialize)]
pub(super) struct Point {
    /// In milliseconds of the Unix epoch.
    pub(super) at_ms: u64,
    /// In configuration order.
    nodes: Vec<NodePoint>,
    /// Units so far, by `route.reason`.
    routes: BTreeMap<String, u64>,
    stale_reads_prevented: u64,
    waits: u64,
    wait_seconds: f64,
    clients: i64,
    /// On the primary and on standbys, over the latest points.
    latency: [Percentiles; 2],
}

#[derive(Debug, Serialize)]
struct NodePoint {
    lag_bytes: Option<u64>,
    lag_ms: Option<f64>,
    in_flight: u32,
    statements: u64,
    pool: PoolStatus,
}

/// Latencies in milliseconds; none where nothing ran.
#[derive(Debug, Serialize)]
struct Percentiles {
    p50: Option<f64>,
    p95: Option<f64>,
    p99: Option<f64>,
}

impl Point {
    /// Takes one from a snapshot, and from what latencies were recorded lately.
    pub(super) fn of(status: &Status, latency: [Recorded; 2], at_ms: u64) -> Self {
        let nodes = status.nodes.iter().map(|node| NodePoint {
            lag_bytes: node.lag_bytes,
            lag_ms: node.lag_ms,
            in_flight: node.transactions_in_flight,
            statements: node.statements,
            pool: node.pool,
        });
        let routing = &status.routing;
        let routes = routing.statements.iter().map(|count| {
            let route = count.route.unwrap_or_default();
            (format!("{route}.{}", count.reason), count.count)
        });
        Self {
            at_ms,
            nodes: nodes.collect(),
            routes: routes.collect(),
            stale_reads_prevented: routing.stale_reads_prevented,
            waits: routing.catchup_waits,
            wait_seconds: routing.catchup_wait_seconds,
            clients: status.clients,
            latency: latency.map(|recorded| Percentiles {
                p50: recorded.percentile_ms(0.5),
                p95: recorded.percentile_ms(0.95),
                p99: recorded.percentile_ms(0.99),
            }),
        }
    }
}
