//! What operators and their tools read: dashboard, console, metrics, health, status. It reads snapshots, and
//! puts orders on the desk.

mod command;
mod console;
mod events;
pub mod http;
mod orders;
mod page;
mod point;
mod requests;
mod sampler;
mod status;
mod upkeep;

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::board::Board;
use crate::config::Live;
use crate::desk::Desk;
use crate::gate::Gate;
use crate::ledger::Ledger;
use crate::metrics::Metrics;
use crate::operations::Operations;
use sampler::Sampler;

/// What the pages are made from.
#[derive(Clone, Debug)]
pub struct State {
    board: Arc<Board>,
    metrics: Arc<Metrics>,
    desk: Arc<Desk>,
    /// What all viewers of the dashboard are shown.
    sampler: Arc<Sampler>,
    ledger: Arc<Ledger>,
    /// The configuration in force; its nodes keep their order.
    live: Arc<Live>,
    operations: Arc<dyn Operations>,
    /// Closed by PAUSE.
    gate: Arc<Gate>,
    /// Cancelled, it ends the proxy.
    shutdown: CancellationToken,
}

impl State {
    /// Reads from these, and puts orders on the desk.
    pub fn new(
        live: Arc<Live>,
        operations: Arc<dyn Operations>,
        gate: Arc<Gate>,
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
            sampler: Arc::default(),
            ledger,
            live,
            operations,
            gate,
            shutdown,
        }
    }
}
