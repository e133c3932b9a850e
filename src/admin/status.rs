//! `/api/status`: the state of everything, as JSON.

use serde::Serialize;

use super::State;
use crate::core::topology::{NodeView, Role};
use crate::desk::{Standing, Told};

/// The whole answer.
#[derive(Debug, Serialize)]
pub(super) struct Status {
    version: &'static str,
    uptime_seconds: f64,
    /// The name of the node that accepts writes, if there is one.
    primary: Option<String>,
    nodes: Vec<NodeStatus>,
    routing: Routing,
    clients: i64,
    /// None without a failover section.
    failover: Option<Standing>,
    /// What happened, oldest first.
    events: Vec<Told>,
}

#[derive(Debug, Serialize)]
struct NodeStatus {
    name: String,
    host: String,
    port: u16,
    zone: Option<String>,
    /// `up` while it answers probes, `barred` while clients are kept away from it, else `down`.
    state: &'static str,
    role: Option<&'static str>,
    timeline: Option<u32>,
    incarnation: Option<u64>,
    /// Flushed WAL on the primary, replayed WAL on a standby.
    position: Option<String>,
    lag_bytes: Option<u64>,
    lag_ms: Option<f64>,
    /// How long ago the latest measurement arrived.
    measured_ms_ago: Option<f64>,
    transactions_in_flight: u32,
    statements: u64,
}

#[derive(Debug, Serialize)]
struct Routing {
    statements: Vec<Count>,
    replays: Vec<Count>,
    stale_reads_prevented: u64,
    visibility_unproven: u64,
    catchup_waits: u64,
    catchup_wait_seconds: f64,
}

#[derive(Debug, Serialize)]
struct Count {
    #[serde(skip_serializing_if = "Option::is_none")]
    route: Option<&'static str>,
    reason: &'static str,
    count: u64,
}

/// Takes a snapshot.
pub(super) fn take(state: &State) -> Status {
    let topology = state.board.topology();
    let now_us = state.board.now_us();
    let loads = state.board.loads();
    let nodes = topology.nodes.iter().zip(state.nodes.iter()).zip(loads);
    let nodes = nodes.map(|((view, node), load)| NodeStatus {
        transactions_in_flight: load,
        statements: state.metrics.node_statements(view.id.0),
        host: node.host.clone(),
        port: node.port,
        zone: node.zone.clone(),
        ..node_status(view, &topology, now_us)
    });
    let metrics = &state.metrics;
    let statements = metrics.statements().filter(|(_, _, count)| *count > 0);
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
                .replays()
                .map(|(reason, count)| Count {
                    route: None,
                    reason,
                    count,
                })
                .collect(),
            stale_reads_prevented: metrics.stale_reads_prevented.get(),
            visibility_unproven: metrics.visibility_unproven.get(),
            catchup_waits: metrics.catchup_wait.get_sample_count(),
            catchup_wait_seconds: metrics.catchup_wait.get_sample_sum(),
        },
        clients: metrics.client_connections.get(),
        failover: Some(Standing::clone(&state.desk.standing()))
            .filter(|standing| !standing.mode.is_empty()),
        events: state.desk.events(),
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
        state: match (life, view.barred) {
            (Some(_), false) => "up",
            (Some(_), true) => "barred",
            (None, _) => "down",
        },
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
    }
}
