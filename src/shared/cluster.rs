//! The cluster between the two planes: control publishes the topology on it, clients read it, wait
//! for a newer one and ask for fresher measurements. Neither side knows the other.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Instant;

use arc_swap::{ArcSwap, Guard};
use parking_lot::{Mutex, RwLock};
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use crate::core::route::NodeSet;
use crate::core::topology::{NodeId, NodeView, Topology, Writer};
use crate::sql::catalog::Catalog;

/// As many nodes as a `NodeSet` has bits.
pub const MAX_NODES: usize = 64;

/// The shared cluster.
#[derive(Debug)]
pub struct ClusterState {
    topology: ArcSwap<Topology>,
    publishing: Mutex<()>,
    /// Until when the ruling may be relied on, by this cluster's clock.
    ruled_until_us: AtomicU64,
    changed: Notify,
    demands: Vec<Demand>,
    load: Vec<AtomicU32>,
    catalogs: RwLock<HashMap<Arc<str>, Arc<ArcSwap<Catalog>>>>,
    catalog_wanted: Notify,
    why: Mutex<Arc<str>>,
    started: Instant,
}

#[derive(Debug, Default)]
struct Demand {
    wanted: AtomicBool,
    wake: Notify,
}

impl ClusterState {
    /// A cluster on which every node is still unknown.
    pub fn new(nodes: Vec<NodeView>) -> Self {
        Self {
            publishing: Mutex::new(()),
            ruled_until_us: AtomicU64::new(u64::MAX),
            changed: Notify::new(),
            demands: nodes.iter().map(|_| Demand::default()).collect(),
            load: nodes.iter().map(|_| AtomicU32::new(0)).collect(),
            topology: ArcSwap::from_pointee(Topology {
                nodes,
                ..Topology::default()
            }),
            catalogs: RwLock::default(),
            catalog_wanted: Notify::new(),
            why: Mutex::new(Arc::from("")),
            started: Instant::now(),
        }
    }

    /// The clock that all measurements and decisions share, in microseconds.
    pub fn now_us(&self) -> u64 {
        self.started.elapsed().as_micros() as u64
    }

    /// The topology as last published; a ruling whose time has run out is withdrawn before.
    ///
    /// So nobody is written to on the word of a controller that was frozen, or is held up.
    pub fn topology(&self) -> Guard<Arc<Topology>> {
        let until_us = self.ruled_until_us.load(Ordering::Acquire);
        if until_us != u64::MAX && until_us <= self.now_us() {
            self.expire();
        }
        self.topology.load()
    }

    /// Until when the ruling may be relied on.
    pub fn ruled_until_us(&self) -> u64 {
        self.ruled_until_us.load(Ordering::Acquire)
    }

    /// Prolongs the ruling in force, unless it has been withdrawn or replaced by one of another epoch.
    pub fn prolong(&self, epoch: u64, until_us: u64) {
        let _one_at_a_time = self.publishing.lock();
        let known_us = self.ruled_until_us.load(Ordering::Acquire);
        let same = self.topology.load().epoch == epoch;
        if same && known_us > self.now_us() && until_us > known_us {
            self.ruled_until_us.store(until_us, Ordering::Release);
        }
    }

    /// Nobody may be written to any more: another proxy may have decided since.
    fn expire(&self) {
        {
            let _one_at_a_time = self.publishing.lock();
            if self.ruled_until_us.load(Ordering::Acquire) > self.now_us() {
                return;
            }
            let mut next = Topology::clone(&self.topology.load());
            if let Writer::Only(node, _) = next.writer {
                next.writer = Writer::Nobody;
                if let Some(node) = next.nodes.get_mut(usize::from(node.0)) {
                    node.barred = true;
                }
                self.topology.store(Arc::new(next));
            }
            // The next ruling brings the next time.
            self.ruled_until_us.store(u64::MAX, Ordering::Release);
        }
        self.changed.notify_waiters();
    }

    /// Publishes a change to one node and wakes everyone who waits for a newer topology.
    pub fn publish(&self, id: NodeId, change: impl FnOnce(&mut NodeView)) {
        {
            let _one_at_a_time = self.publishing.lock();
            let mut next = Topology::clone(&self.topology.load());
            if let Some(node) = next.nodes.get_mut(usize::from(id.0)) {
                change(node);
            }
            self.topology.store(Arc::new(next));
        }
        self.changed.notify_waiters();
    }

    /// Publishes a change to all nodes at once.
    pub fn change_all(&self, change: impl FnMut(&mut NodeView)) {
        {
            let _one_at_a_time = self.publishing.lock();
            let mut next = Topology::clone(&self.topology.load());
            next.nodes.iter_mut().for_each(change);
            self.topology.store(Arc::new(next));
        }
        self.changed.notify_waiters();
    }

    /// Publishes the failover controller's ruling: who may be written to, and from whom clients are kept
    /// away, until `until_us` by this cluster's clock. A ruling of an earlier epoch than the one in force
    /// is ignored.
    pub fn rule(&self, epoch: u64, writer: Writer, barred: NodeSet, until_us: u64) {
        {
            let _one_at_a_time = self.publishing.lock();
            let mut next = Topology::clone(&self.topology.load());
            if epoch < next.epoch {
                return;
            }
            next.epoch = epoch;
            next.writer = writer;
            for node in &mut next.nodes {
                node.barred = barred.contains(node.id);
            }
            self.topology.store(Arc::new(next));
            self.ruled_until_us.store(until_us, Ordering::Release);
        }
        self.changed.notify_waiters();
    }

    /// Says what a failover waits for; empty when it waits for nothing.
    pub fn explain(&self, why: &str) {
        let mut said = self.why.lock();
        if **said != *why {
            *said = Arc::from(why);
        }
    }

    /// What a failover waits for; empty when nothing was said.
    pub fn why(&self) -> Arc<str> {
        Arc::clone(&self.why.lock())
    }

    /// Resolves at the next publication after it was created and enabled.
    pub fn changed(&self) -> Notified<'_> {
        self.changed.notified()
    }

    /// Asks for a fresh measurement of each node; requests while one is pending share it.
    pub fn demand(&self, nodes: NodeSet) {
        for (index, demand) in self.demands.iter().enumerate() {
            let wanted = nodes.contains(NodeId(index as u16));
            if wanted && !demand.wanted.swap(true, Ordering::AcqRel) {
                demand.wake.notify_one();
            }
        }
    }

    /// Takes the pending request for a node's measurement, if there is one.
    pub fn take_demand(&self, id: NodeId) -> bool {
        self.demands
            .get(usize::from(id.0))
            .is_some_and(|demand| demand.wanted.swap(false, Ordering::AcqRel))
    }

    /// Whether a measurement of the node is asked for.
    pub fn is_demanded(&self, id: NodeId) -> bool {
        self.demands
            .get(usize::from(id.0))
            .is_some_and(|demand| demand.wanted.load(Ordering::Acquire))
    }

    /// Resolves once a measurement of the node is asked for.
    pub async fn demanded(&self, id: NodeId) {
        match self.demands.get(usize::from(id.0)) {
            Some(demand) => {
                // A wake-up can be left over from a request that has been answered since.
                while !demand.wanted.load(Ordering::Acquire) {
                    demand.wake.notified().await;
                }
            }
            None => std::future::pending().await,
        }
    }

    /// Transactions in flight on each node.
    pub fn loads(&self) -> [u32; MAX_NODES] {
        let mut loads = [0; MAX_NODES];
        for (slot, load) in loads.iter_mut().zip(&self.load) {
            *slot = load.load(Ordering::Relaxed);
        }
        loads
    }

    /// A transaction begins on a node.
    pub fn begin(&self, id: NodeId) {
        if let Some(load) = self.load.get(usize::from(id.0)) {
            load.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A transaction that `begin` announced is over.
    pub fn end(&self, id: NodeId) {
        if let Some(load) = self.load.get(usize::from(id.0)) {
            load.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// The function catalogue of a database; empty until control has read it.
    pub fn catalog(&self, database: &str) -> Arc<ArcSwap<Catalog>> {
        if let Some(found) = self.catalogs.read().get(database) {
            return Arc::clone(found);
        }
        let mut catalogs = self.catalogs.write();
        let entry = catalogs
            .entry(Arc::from(database))
            .or_insert_with(|| Arc::new(ArcSwap::from_pointee(Catalog::empty())));
        let entry = Arc::clone(entry);
        drop(catalogs);
        self.catalog_wanted.notify_one();
        entry
    }

    /// Databases whose catalogue is in use.
    pub fn databases(&self) -> Vec<Arc<str>> {
        self.catalogs.read().keys().cloned().collect()
    }

    /// Asks control to read the catalogues again.
    pub fn want_catalogs(&self) {
        self.catalog_wanted.notify_one();
    }

    /// Resolves once catalogues are wanted.
    pub async fn catalogs_wanted(&self) {
        self.catalog_wanted.notified().await;
    }
}
