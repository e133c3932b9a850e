//! What operators and their tools read: metrics, health, status. It reads snapshots only.

pub mod http;
mod status;

use std::sync::Arc;

use crate::board::Board;
use crate::config::Config;
use crate::metrics::Metrics;

/// What the pages are made from.
#[derive(Clone, Debug)]
pub struct State {
    board: Arc<Board>,
    metrics: Arc<Metrics>,
    /// Host, port and zone by node, in configuration order.
    nodes: Arc<[crate::config::Node]>,
}

impl State {
    /// Reads from this board and these metrics.
    pub fn new(config: &Config, board: Arc<Board>, metrics: Arc<Metrics>) -> Self {
        Self {
            board,
            metrics,
            nodes: Arc::from(config.nodes.as_slice()),
        }
    }
}
