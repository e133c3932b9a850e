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
mod requests;
mod sampler;
mod status;
mod upkeep;

use std::ops::Deref;
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

/// What the pages are made from, and whom orders go to.
#[derive(Clone, Debug)]
pub struct Sources {
    /// The configuration in force; its nodes keep their order.
    pub live: Arc<Live>,
    /// Who carries out what concerns the whole proxy.
    pub operations: Arc<dyn Operations>,
    /// Closed by PAUSE.
    pub gate: Arc<Gate>,
    /// The topology.
    pub board: Arc<Board>,
    /// The metrics.
    pub metrics: Arc<Metrics>,
    /// Where orders for the failover controller are put.
    pub desk: Arc<Desk>,
    /// Who is connected.
    pub ledger: Arc<Ledger>,
    /// Cancelled, it ends the proxy.
    pub shutdown: CancellationToken,
}

/// The sources, with what all viewers of the dashboard are shown.
#[derive(Clone, Debug)]
pub struct State {
    sources: Arc<Sources>,
    sampler: Arc<Sampler>,
}

impl State {
    /// Reads from these, and puts orders on the desk.
    pub fn new(sources: Sources) -> Self {
        Self {
            sources: Arc::new(sources),
            sampler: Arc::default(),
        }
    }
}

impl Deref for State {
    type Target = Sources;

    fn deref(&self) -> &Sources {
        &self.sources
    }
}
