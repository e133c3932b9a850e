//! What operators and their tools read: dashboard, console, metrics, health, status. It reads snapshots, and
//! puts orders on the desk.

mod command;
mod console;
mod events;
mod gauges;
pub mod http;
mod orders;
mod page;
mod point;
mod sampler;
mod status;

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::board::Board;
use crate::config::{Config, Secret};
use crate::desk::Desk;
use crate::ledger::Ledger;
use crate::metrics::Metrics;
use sampler::Sampler;

/// What the pages are made from.
#[derive(Clone, Debug)]
pub struct State {
    board: Arc<Board>,
    metrics: Arc<Metrics>,
    desk: Arc<Desk>,
    /// What operators must show; without it only this machine's may give orders.
    secret: Option<Secret>,
    /// Host, port and zone by node, in configuration order.
    nodes: Arc<[crate::config::Node]>,
    /// What all viewers of the dashboard are shown.
    sampler: Arc<Sampler>,
    ledger: Arc<Ledger>,
    config: Arc<Config>,
    /// Cancelled, it ends the proxy.
    shutdown: CancellationToken,
}

impl State {
    /// Reads from these, and puts orders on the desk.
    pub fn new(
        config: &Config,
        board: Arc<Board>,
        metrics: Arc<Metrics>,
        desk: Arc<Desk>,
        ledger: Arc<Ledger>,
        shutdown: CancellationToken,
    ) -> Self {
        Self {
            board,
            metrics,
            desk,
            secret: config.admin_secret.clone(),
            nodes: Arc::from(config.nodes.as_slice()),
            sampler: Arc::default(),
            ledger,
            config: Arc::new(config.clone()),
            shutdown,
        }
    }
}
