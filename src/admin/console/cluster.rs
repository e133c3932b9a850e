//! The console's tables about the cluster: nodes, lag, failover, events.

use super::{maybe, table, text};
use crate::admin::{State, status};
use crate::shared::admin::Answer;

pub(super) fn nodes(state: &State) -> Answer {
    let status = status::take(state);
    let rows = status.nodes.into_iter().map(|node| {
        vec![
            text(node.name),
            text(node.host),
            text(node.port),
            node.zone,
            maybe(node.role),
            text(node.state),
            maybe(node.drain.map(|drain| drain.state)),
            maybe(node.timeline),
            node.position,
            maybe(node.lag_bytes),
            maybe(node.lag_ms),
            text(node.transactions_in_flight),
            text(node.pool.active),
            text(node.pool.idle),
            text(node.pool.waiting),
            text(node.statements),
        ]
    });
    let columns = vec![
        "name",
        "host",
        "port",
        "zone",
        "role",
        "state",
        "drain",
        "timeline",
        "position",
        "lag_bytes",
        "lag_ms",
        "in_flight",
        "sv_active",
        "sv_idle",
        "cl_waiting",
        "total_query_count",
    ];
    table(columns, rows.collect())
}

pub(super) fn lag(state: &State) -> Answer {
    let status = status::take(state);
    let standbys = status.nodes.into_iter();
    let standbys = standbys.filter(|node| node.role == Some("standby"));
    let rows = standbys.map(|node| {
        vec![
            text(node.name),
            maybe(node.lag_bytes),
            maybe(node.lag_ms),
            node.position,
            maybe(node.measured_ms_ago),
        ]
    });
    let columns = vec!["name", "lag_bytes", "lag_ms", "position", "measured_ms_ago"];
    table(columns, rows.collect())
}

pub(super) fn failover(state: &State) -> Answer {
    let standing = state.operator.status.get();
    let mode = if standing.mode.is_empty() {
        "off"
    } else {
        &standing.mode
    };
    let quarantine: Vec<String> = standing
        .quarantine
        .iter()
        .map(|(node, why)| format!("{node}: {why}"))
        .collect();
    let pairs = [
        ("mode", text(mode)),
        ("phase", text(&standing.phase)),
        ("epoch", text(standing.epoch)),
        ("primary", standing.primary.clone()),
        ("durability", text(standing.durability)),
        ("leads", text(standing.leads)),
        ("why", text(&standing.why)),
        ("quarantine", text(quarantine.join("; "))),
    ];
    let rows = pairs.map(|(key, value)| vec![text(key), value]);
    table(vec!["key", "value"], rows.into())
}

pub(super) fn events(state: &State) -> Answer {
    let events = state.operator.events.all().into_iter();
    let rows = events.map(|event| {
        vec![
            text(event.number),
            text(super::pooler::time_of(event.at_ms)),
            text(event.kind),
            text(event.text),
            text(event.by),
            event.after_ms.map_or_else(|| text(""), text),
        ]
    });
    table(
        vec!["number", "at", "kind", "text", "by", "after_ms"],
        rows.collect(),
    )
}
