//! What operators and their tools read: dashboard, console, metrics, health, status. It reads snapshots, and
//! passes requests on.

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
use crate::shared::operator::OperatorState;
use crate::shared::pause::Pause;
use crate::shared::registry::Connections;
use sampler::Sampler;

/// What the pages are made from, and whom orders go to.
#[derive(Clone, Debug)]
pub struct Sources {
    /// The configuration in force; its nodes keep their order.
    pub live: Arc<Live>,
    /// Who carries out what concerns the whole proxy.
    pub maintenance: Arc<dyn Maintenance>,
    /// Closed by PAUSE.
    pub pause: Arc<Pause>,
    pub cluster: Arc<ClusterState>,
    pub metrics: Arc<Metrics>,
    /// Between operators and the failover controller.
    pub operator: Arc<OperatorState>,
    pub connections: Arc<Connections>,
    pub shutdown: CancellationToken,
}

/// The sources, with what all viewers of the dashboard are shown.
#[derive(Clone, Debug)]
pub struct State {
    sources: Arc<Sources>,
    sampler: Arc<Sampler>,
}

impl State {
    /// Reads from these, and passes requests on.
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
