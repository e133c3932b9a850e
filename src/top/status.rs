//! What a proxy says at `/api/events`, as far as it is shown. What another version adds is passed over;
//! what it lacks is empty.

use std::collections::BTreeMap;

use serde::Deserialize;

/// The event `past`: how things stand, and the points that the proxy has kept.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Past {
    pub(super) status: Status,
    pub(super) points: Vec<Point>,
}

/// The event `now`: `status.events` holds only what was not told before.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct News {
    pub(super) status: Status,
    pub(super) point: Point,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Status {
    pub(super) version: String,
    pub(super) uptime_seconds: f64,
    pub(super) primary: Option<String>,
    pub(super) pinned: Pinned,
    pub(super) nodes: Vec<Node>,
    pub(super) failover: Option<Standing>,
    pub(super) troubles: Vec<Trouble>,
    pub(super) events: Vec<Told>,
}

/// Sessions that keep a server connection outside of transactions.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Pinned {
    pub(super) sessions: u64,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Node {
    pub(super) name: String,
    pub(super) state: String,
    pub(super) role: Option<String>,
    pub(super) timeline: Option<u32>,
    pub(super) position: Option<String>,
    pub(super) lag_bytes: Option<u64>,
    pub(super) lag_ms: Option<f64>,
    pub(super) pool: Pool,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Pool {
    pub(super) active: i64,
    pub(super) idle: i64,
    pub(super) waiting: i64,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Standing {
    pub(super) mode: String,
    pub(super) phase: String,
    pub(super) epoch: u64,
    pub(super) primary: Option<String>,
    pub(super) durability: String,
    pub(super) why: String,
    pub(super) leads: bool,
    pub(super) leader: Option<String>,
    pub(super) quarantine: Vec<(String, String)>,
}

/// Something that is wrong at present.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Trouble {
    pub(super) node: String,
    pub(super) kind: String,
    pub(super) text: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Told {
    pub(super) number: u64,
    pub(super) at_ms: u64,
    pub(super) kind: String,
    pub(super) text: String,
}

/// Counters and gauges at one moment.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Point {
    pub(super) at_ms: u64,
    pub(super) nodes: Vec<NodePoint>,
    /// By `route.reason`.
    pub(super) routes: BTreeMap<String, u64>,
    pub(super) stale_reads_prevented: u64,
    pub(super) waits: u64,
    pub(super) wait_seconds: f64,
    pub(super) clients: i64,
    /// On the primary, and on standbys.
    pub(super) latency: [Percentiles; 2],
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct NodePoint {
    pub(super) lag_ms: Option<f64>,
    pub(super) statements: u64,
}

/// Latencies in milliseconds; none where nothing ran.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Percentiles {
    pub(super) p50: Option<f64>,
    pub(super) p95: Option<f64>,
    pub(super) p99: Option<f64>,
}
