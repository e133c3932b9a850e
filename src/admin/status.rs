//! `/api/status`: the state of everything, as JSON.

use serde::Serialize;

use super::sources::Sources;
use super::upkeep::{Drain, drain_of};
use crate::core::topology::{NodeView, Role};
use crate::shared::connections::Pinned;
use crate::shared::operator::events::OperatorEvent;
use crate::shared::operator::problems::NodeProblem;
use crate::shared::operator::status::FailoverStatus;

#[derive(Debug, Serialize)]
pub(super) struct Status {
    pub(super) version: &'static str,
    uptime_seconds: f64,
    /// The name of the node that accepts writes, if there is one.
    primary: Option<String>,
    pub(super) nodes: Vec<NodeStatus>,
    pub(super) routing: Routing,
    pub(super) clients: i64,
    pinned: Pinned,
    memory: Memory,
    /// Whose clients wait by an operator's word, if any do.
    paused: Option<Paused>,
    /// None without a failover section.
    failover: Option<FailoverStatus>,
    /// What is wrong at present, by node.
    troubles: Vec<NodeProblem>,
    /// What happened, oldest first.
    pub(super) events: Vec<OperatorEvent>,
}

/// What sessions make the proxy hold.
#[derive(Debug, Serialize)]
struct Memory {
    held_bytes: usize,
    total_bytes: usize,
}

/// What PAUSE holds.
#[derive(Debug, Serialize)]
struct Paused {
    all: bool,
    /// The clients of these databases.
    databases: Vec<String>,
}

#[derive(Debug, Serialize)]
pub(super) struct NodeStatus {
    pub(super) name: String,
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) zone: Option<String>,
    /// `up` while it answers probes, `barred` while clients are kept away from it, else `down`.
    pub(super) state: &'static str,
    /// How far a DRAIN has come, if there was one.
    pub(super) drain: Option<Drain>,
    pub(super) role: Option<&'static str>,
    pub(super) timeline: Option<u32>,
    pub(super) incarnation: Option<u64>,
    /// Flushed WAL on the primary, replayed WAL on a standby.
    pub(super) position: Option<String>,
    pub(super) lag_bytes: Option<u64>,
    pub(super) lag_ms: Option<f64>,
    /// How long ago the latest measurement arrived.
    pub(super) measured_ms_ago: Option<f64>,
    pub(super) transactions_in_flight: u32,
    pub(super) statements: u64,
    pub(super) pool: PoolStatus,
}

/// The server connections of one node, over all databases and users.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct PoolStatus {
    pub(super) active: i64,
    /// Open, and not in use.
    pub(super) idle: i64,
    /// Clients that wait for one.
    pub(super) waiting: i64,
}

#[derive(Debug, Serialize)]
pub(super) struct Routing {
    pub(super) statements: Vec<Count>,
    pub(super) replays: Vec<Count>,
    pub(super) stale_reads_prevented: u64,
    pub(super) visibility_unproven: u64,
    pub(super) catchup_waits: u64,
    pub(super) catchup_wait_seconds: f64,
}

#[derive(Debug, Serialize)]
pub(super) struct Count {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) route: Option<&'static str>,
    pub(super) reason: &'static str,
    pub(super) count: u64,
}

pub(super) fn take(state: &Sources) -> Status {
    let topology = state.cluster.topology();
    let now_us = state.cluster.now_us();
    let loads = state.cluster.load.by_node();
    let config = state.live.load();
    let nodes = topology.nodes.iter().zip(config.nodes.iter()).zip(loads);
    let nodes = nodes.map(|((view, node), load)| NodeStatus {
        transactions_in_flight: load,
        statements: state.metrics.routing.node_statements(view.id.0),
        pool: pool(state, &view.name),
        drain: drain_of(state, view),
        host: node.host.clone(),
        port: node.port,
        zone: node.zone.clone(),
        ..node_status(view, &topology, now_us)
    });
    let metrics = &state.metrics;
    let statements = metrics
        .routing
        .statements()
        .filter(|(_, _, count)| *count > 0);
    Status {
        version: env!("CARGO_PKG_VERSION"),
        uptime_seconds: now_us as f64 / 1e6,
        primary: topology.primary().map(|node| node.name.to_string()),
        nodes: nodes.collect(),
        routing: Routing {
            statements: statements
                .map(|(route, reason, count)| Count {
                    route: Some(route),
                    reason,
                    count,
                })
                .collect(),
            replays: metrics
                .routing
                .replays()
                .map(|(reason, count)| Count {
                    route: None,
                    reason,
                    count,
                })
                .collect(),
            stale_reads_prevented: metrics.routing.stale_reads_prevented.get(),
            visibility_unproven: metrics.routing.visibility_unproven.get(),
            catchup_waits: metrics.routing.catchup_wait.get_sample_count(),
            catchup_wait_seconds: metrics.routing.catchup_wait.get_sample_sum(),
        },
        clients: metrics.clients.connections.get(),
        pinned: state.connections.pinned(),
        memory: Memory {
            held_bytes: state.memory.held(),
            total_bytes: state.memory.total(),
        },
        paused: paused(state),
        failover: Some(FailoverStatus::clone(&state.operator.status.get()))
            .filter(|standing| !standing.mode.is_empty()),
        troubles: state.operator.problems.all(),
        events: state.operator.events.all(),
    }
}

fn node_status(
    view: &NodeView,
    topology: &crate::core::topology::Topology,
    now_us: u64,
) -> NodeStatus {
    let life = view.life.as_ref();
    let lag = view
        .as_standby()
        .and_then(|(life, _)| topology.lag(life, now_us));
    NodeStatus {
        name: view.name.to_string(),
        host: String::new(),
        port: 0,
        zone: None,
        state: match (life, view.is_closed()) {
            (Some(_), false) => "up",
            (Some(_), true) => "barred",
            (None, _) => "down",
        },
        drain: None,
        role: life.map(|life| match life.role {
            Role::Primary(_) => "primary",
            Role::Standby(_) => "standby",
        }),
        timeline: life.map(|life| life.timeline.0),
        incarnation: life.map(|life| life.incarnation.0),
        position: life.map(|life| life.latest.position.flush.to_string()),
        lag_bytes: lag.map(|lag| lag.bytes),
        lag_ms: lag.map(|lag| lag.us as f64 / 1000.0),
        measured_ms_ago: life.map(|life| now_us.saturating_sub(life.latest.at_us) as f64 / 1000.0),
        transactions_in_flight: 0,
        statements: 0,
        pool: PoolStatus::default(),
    }
}

fn paused(state: &Sources) -> Option<Paused> {
    let held = state.pause.held();
    let paused = Paused {
        all: held.all,
        databases: held.databases.into_iter().collect(),
    };
    (paused.all || !paused.databases.is_empty()).then_some(paused)
}

fn pool(state: &Sources, node: &str) -> PoolStatus {
    let of = |gauges: &prometheus::IntGaugeVec| gauges.with_label_values(&[node]).get();
    PoolStatus {
        active: of(&state.metrics.pools.active),
        idle: of(&state.metrics.pools.idle),
        waiting: of(&state.metrics.pools.waiting),
    }
}
