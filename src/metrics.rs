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

use self::clients::Clients;
use self::failover::Failover;
use self::make::Maker;
use self::nodes::Nodes;
use self::pools::Pools;
use self::process::Process;
use self::routing::Routing;

#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    pub clients: Clients,
    pub routing: Routing,
    pub pools: Pools,
    pub nodes: Nodes,
    pub failover: Failover,
    pub process: Process,
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
            clients: Clients::new(&make)?,
            routing: Routing::new(&make, workers)?,
            pools: Pools::new(&make)?,
            nodes: Nodes::new(&make)?,
            failover: Failover::new(&make)?,
            process: Process::new(&make)?,
            registry,
        })
    }

    /// The Prometheus text format.
    pub fn render(&self) -> Result<String, prometheus::Error> {
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }
}
