//! Every metric, in one struct that is passed in; there is no global. Each area has a group of its own.

pub mod clients;
pub mod failover;
pub mod latency;
mod make;
pub mod nodes;
pub mod pools;
pub mod process;
pub mod routing;

use prometheus::{Registry, TextEncoder};

use self::clients::ClientMetrics;
use self::failover::FailoverMetrics;
use self::make::Maker;
use self::nodes::NodeMetrics;
use self::pools::PoolMetrics;
use self::process::ProcessMetrics;
use self::routing::RoutingMetrics;

#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    pub clients: ClientMetrics,
    pub routing: RoutingMetrics,
    pub pools: PoolMetrics,
    pub nodes: NodeMetrics,
    pub failover: FailoverMetrics,
    pub process: ProcessMetrics,
}

impl Metrics {
    /// All metrics at zero, for nodes of these names and so many event loops.
    pub fn new(nodes: &[String], workers: usize) -> Result<Self, prometheus::Error> {
        let registry = Registry::new_custom(Some("causeway".to_owned()), None)?;
        let make = Maker {
            registry: &registry,
            nodes,
        };
        Ok(Self {
            clients: ClientMetrics::new(&make)?,
            routing: RoutingMetrics::new(&make, workers)?,
            pools: PoolMetrics::new(&make)?,
            nodes: NodeMetrics::new(&make)?,
            failover: FailoverMetrics::new(&make)?,
            process: ProcessMetrics::new(&make)?,
            registry,
        })
    }

    /// The Prometheus text format.
    pub fn render(&self) -> Result<String, prometheus::Error> {
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }
}
