//! What `/metrics` shows of the cluster: gauges are brought up to date for each scrape, and lag is
//! sampled at a steady pace, so that its histogram does not depend on who scrapes.

use std::time::Duration;

use tokio::time::MissedTickBehavior;

use super::State;
use crate::core::statement::PinReason;
use crate::core::topology::Lag;

/// Between samples of lag.
const PACE: Duration = Duration::from_millis(100);

/// Brings the gauges up to date.
pub(super) fn refresh(state: &State) {
    let topology = state.cluster.topology();
    let metrics = &state.metrics;
    let pinned = state.connections.pinned().reasons;
    for reason in PinReason::ALL.map(PinReason::label) {
        let sessions = pinned.get(reason).copied().unwrap_or_default();
        let gauge = metrics.clients.pinned.with_label_values(&[reason]);
        gauge.set(sessions as i64);
    }
    let listening = state.connections.listening();
    metrics.clients.listening.set(listening as i64);
    let bytes = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
    metrics.clients.memory.set(bytes(state.memory.held()));
    metrics.clients.memory_max.set(bytes(state.memory.total()));
    let primary = topology.primary().is_some();
    metrics.nodes.primary_available.set(i64::from(primary));
    let loads = state.cluster.load.by_node();
    for (node, load) in topology.nodes.iter().zip(loads) {
        let name: &[&str] = &[&*node.name];
        let barred = metrics.nodes.barred.with_label_values(name);
        barred.set(i64::from(node.is_closed()));
        let transactions = metrics.nodes.transactions.with_label_values(name);
        transactions.set(i64::from(load));
    }
    drop(topology);
    for (node, lag) in lags(state) {
        let name: &[&str] = &[node.as_str()];
        match lag {
            Some(lag) => {
                let bytes = metrics.nodes.lag_bytes.with_label_values(name);
                bytes.set(i64::try_from(lag.bytes).unwrap_or(i64::MAX));
                let seconds = metrics.nodes.lag_seconds.with_label_values(name);
                seconds.set(lag.us as f64 / 1e6);
            }
            // Not a standby, or nobody to compare with: an old figure would be a wrong one.
            None => {
                let _ = metrics.nodes.lag_bytes.remove_label_values(name);
                let _ = metrics.nodes.lag_seconds.remove_label_values(name);
            }
        }
    }
}

/// Samples lag for ever.
pub(super) async fn sample(state: State) {
    let mut ticks = tokio::time::interval(PACE);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        for (node, lag) in lags(&state) {
            if let Some(lag) = lag {
                let sampled = state.metrics.nodes.lag_sampled.with_label_values(&[&node]);
                sampled.observe(lag.us as f64 / 1e6);
            }
        }
    }
}

/// Each node with its lag; none where it is no standby in service, or there is no primary.
fn lags(state: &State) -> Vec<(String, Option<Lag>)> {
    let topology = state.cluster.topology();
    let now_us = state.cluster.now_us();
    let lags = topology.nodes.iter().map(|node| {
        let standby = node.as_standby();
        let lag = standby.and_then(|(life, _)| topology.lag(life, now_us));
        (node.name.to_string(), lag)
    });
    lags.collect()
}
