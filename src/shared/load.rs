//! What the data plane asks of control, and what it puts on each node: requests for fresher
//! measurements, and transactions in flight.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use tokio::sync::Notify;

use crate::core::topology::{MAX_NODES, NodeId, NodeSet};

/// Requests for a measurement, by node; those made while one is pending share it.
#[derive(Debug)]
pub struct Demands(Vec<Demand>);

#[derive(Debug, Default)]
struct Demand {
    wanted: AtomicBool,
    wake: Notify,
}

impl Demands {
    pub(super) fn new(nodes: usize) -> Self {
        Self((0..nodes).map(|_| Demand::default()).collect())
    }

    /// Asks for a fresh measurement of each node.
    pub fn ask(&self, nodes: NodeSet) {
        for (index, demand) in self.0.iter().enumerate() {
            let wanted = nodes.contains(NodeId(index as u16));
            if wanted && !demand.wanted.swap(true, Ordering::AcqRel) {
                demand.wake.notify_one();
            }
        }
    }

    /// Takes the pending request for a node's measurement, if there is one.
    pub fn take(&self, id: NodeId) -> bool {
        self.0
            .get(usize::from(id.0))
            .is_some_and(|demand| demand.wanted.swap(false, Ordering::AcqRel))
    }

    pub fn is_pending(&self, id: NodeId) -> bool {
        self.0
            .get(usize::from(id.0))
            .is_some_and(|demand| demand.wanted.load(Ordering::Acquire))
    }

    /// Resolves once a measurement of the node is asked for.
    pub async fn asked(&self, id: NodeId) {
        match self.0.get(usize::from(id.0)) {
            Some(demand) => {
                // A wake-up can be left over from a request that has been answered since.
                while !demand.wanted.load(Ordering::Acquire) {
                    demand.wake.notified().await;
                }
            }
            None => std::future::pending().await,
        }
    }
}

/// Transactions in flight, by node. Whoever begins one counts it, then looks whether new work is held; whoever holds
/// new work says so, then counts: one of the two sees the other.
#[derive(Debug)]
pub struct Load(Vec<AtomicU32>);

impl Load {
    pub(super) fn new(nodes: usize) -> Self {
        Self((0..nodes).map(|_| AtomicU32::new(0)).collect())
    }

    pub fn by_node(&self) -> [u32; MAX_NODES] {
        let mut loads = [0; MAX_NODES];
        for (slot, load) in loads.iter_mut().zip(&self.0) {
            *slot = load.load(Ordering::SeqCst);
        }
        loads
    }

    pub fn begin(&self, id: NodeId) {
        if let Some(load) = self.0.get(usize::from(id.0)) {
            load.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// A transaction that `begin` announced is over.
    pub fn end(&self, id: NodeId) {
        if let Some(load) = self.0.get(usize::from(id.0)) {
            load.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_request_for_a_measurement_is_pending_until_it_is_taken() {
        let demands = Demands::new(2);
        let (first, second) = (NodeId(0), NodeId(1));
        let mut both = NodeSet::default();
        both.insert(first);
        both.insert(second);
        demands.ask(both);
        assert!(demands.take(first) && !demands.take(first));
        demands.asked(second).await;
        assert!(demands.is_pending(second) && !demands.is_pending(first));
    }
}
