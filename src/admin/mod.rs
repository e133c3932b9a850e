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

use crate::config::Live;
use crate::metrics::Metrics;
use crate::shared::cluster::ClusterState;
use crate::shared::maintenance::Maintenance;
use crate::shared::operator::Desk;
use crate::shared::pause::Pause;
use crate::shared::registry::Connections;
use sampler::Sampler;

/// What the pages are made from, and whom orders go to.
#[derive(Clone, Debug)]
pub struct Sources {
    /// The configuration in force; its nodes keep their order.
    pub live: Arc<Live>,
    /// Who carries out what concerns the whole proxy.
    pub operations: Arc<dyn Maintenance>,
    /// Closed by PAUSE.
    pub gate: Arc<Pause>,
    /// The topology.
    pub cluster: Arc<ClusterState>,
    /// The metrics.
    pub metrics: Arc<Metrics>,
    /// Where orders for the failover controller are put.
    pub desk: Arc<Desk>,
    /// Who is connected.
    pub connections: Arc<Connections>,
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
