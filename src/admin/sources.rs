//! What the pages are made from, and whom orders go to.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::config::Live;
use crate::metrics::Metrics;
use crate::shared::cluster::ClusterState;
use crate::shared::connections::Connections;
use crate::shared::maintenance::Maintenance;
use crate::shared::memory::MemoryBudget;
use crate::shared::operator::OperatorState;
use crate::shared::pause::Pause;

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
    /// What sessions make the proxy hold.
    pub memory: Arc<MemoryBudget>,
    pub shutdown: CancellationToken,
}
