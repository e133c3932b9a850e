//! What the controller shares with the rest of the process.

use std::sync::Arc;

use crate::config::Live;
use crate::metrics::Metrics;
use crate::shared::cluster::ClusterState;
use crate::shared::operator::OperatorState;

#[derive(Clone)]
pub struct Shared {
    pub live: Arc<Live>,
    pub cluster: Arc<ClusterState>,
    pub operator: Arc<OperatorState>,
    pub metrics: Arc<Metrics>,
}
