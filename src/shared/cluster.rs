//! The cluster as it is seen: control publishes the topology and rules who may be written to, for a time
//! that runs out by itself; clients read it and wait for a newer one.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use parking_lot::Mutex;

use super::catalogs::Catalogs;
use super::load::{Demands, Load};
use super::logins::Logins;
use super::signals::{Signal, Signals};
use crate::clock;
use crate::config::{Config, Node};
use crate::core::topology::{NodeId, NodeSet, NodeView, Ruling, Topology};

#[derive(Debug)]
pub struct ClusterState {
    pub demands: Demands,
    pub load: Load,
    pub catalogs: Catalogs,
    pub logins: Logins,
    topology: ArcSwap<Topology>,
    publishing: Mutex<()>,
    /// Until when the ruling may be relied on, by this cluster's clock.
    ruled_until_us: AtomicU64,
    /// Until when what is under way on the primary may go on after that.
    under_way_until_us: AtomicU64,
    signals: Signals,
    /// What a failover waits for.
    why: Mutex<Arc<str>>,
    started: Duration,
}

impl ClusterState {
    /// The configured nodes, of which nothing is known yet.
    pub fn new(config: &Config) -> Self {
        let nodes = node_views(config);
        Self {
            demands: Demands::new(nodes.len()),
            load: Load::new(nodes.len()),
            catalogs: Catalogs::default(),
            logins: Logins::default(),
            publishing: Mutex::new(()),
            ruled_until_us: AtomicU64::new(u64::MAX),
            under_way_until_us: AtomicU64::new(0),
            signals: Signals::new(nodes.len()),
            topology: ArcSwap::from_pointee(Topology {
                nodes,
                ..Topology::default()
            }),
            why: Mutex::new(Arc::from("")),
            started: clock::now(),
        }
    }

    /// The clock that all measurements and decisions share, in microseconds. It is the one of leases and
    /// claims, and goes on while the machine sleeps: what is compared is measured by one clock.
    pub fn now_us(&self) -> u64 {
        clock::now().saturating_sub(self.started).as_micros() as u64
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

    /// Until when what is under way on the primary may go on once the ruling has run out: nobody else leads before.
    pub fn goes_on_until(&self, until_us: u64) {
        self.under_way_until_us.store(until_us, Ordering::Release);
    }

    /// Nobody may be written to any more: another proxy may have decided since.
    fn expire(&self) {
        {
            let _one_at_a_time = self.publishing.lock();
            if self.ruled_until_us.load(Ordering::Acquire) > self.now_us() {
                return;
            }
            let mut next = Topology::clone(&self.topology.load());
            let under_way_until_us = self.under_way_until_us.load(Ordering::Acquire);
            let goes_on = under_way_until_us > self.now_us();
            next.expire(goes_on);
            self.topology.store(Arc::new(next));
            // The next ruling brings the next time.
            let next_us = if goes_on {
                under_way_until_us
            } else {
                u64::MAX
            };
            self.ruled_until_us.store(next_us, Ordering::Release);
        }
        self.signals.turned();
    }

    /// Publishes a change to one node, and wakes those whom it concerns.
    pub fn publish(&self, id: NodeId, change: impl FnOnce(&mut NodeView)) {
        let mut turned = true;
        {
            let _one_at_a_time = self.publishing.lock();
            let before = self.topology.load();
            let mut next = Topology::clone(&before);
            if let Some(node) = next.nodes.get_mut(usize::from(id.0)) {
                change(node);
                turned = before.node(id).is_none_or(|before| !node.stands_as(before));
            }
            next.remember_primary();
            self.topology.store(Arc::new(next));
        }
        match turned {
            true => self.signals.turned(),
            false => self.signals.measured(id),
        }
    }

    /// Publishes what a reload may change of nodes.
    pub fn reconfigure(&self, config: &Config) {
        {
            let _one_at_a_time = self.publishing.lock();
            let mut next = Topology::clone(&self.topology.load());
            for (view, node) in next.nodes.iter_mut().zip(&config.nodes) {
                view.weight = node.weight;
                view.near = is_near(config, node);
            }
            self.topology.store(Arc::new(next));
        }
        self.signals.turned();
    }

    /// Publishes the failover controller's ruling, in force until `until_us` by this cluster's clock. One of an
    /// earlier epoch than the one in force is ignored: then the epoch in force is given back.
    pub fn rule(&self, ruling: Ruling, until_us: u64) -> Result<(), u64> {
        {
            let _one_at_a_time = self.publishing.lock();
            let mut next = Topology::clone(&self.topology.load());
            if ruling.epoch < next.epoch {
                return Err(next.epoch);
            }
            next.rule(ruling);
            self.topology.store(Arc::new(next));
            self.ruled_until_us.store(until_us, Ordering::Release);
        }
        self.signals.turned();
        Ok(())
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

    /// Resolves at the next publication after it was created that says more than where a node stands, such
    /// as who leads; and at the next measurement of one of `nodes`.
    pub fn signal(&self, nodes: NodeSet) -> Signal<'_> {
        self.signals.of(nodes)
    }

    /// Resolves at the next publication after it was created that says who leads, or which nodes may be used.
    pub fn turned(&self) -> Signal<'_> {
        self.signal(NodeSet::default())
    }
}

fn node_views(config: &Config) -> Vec<NodeView> {
    let nodes = config.nodes.iter().enumerate();
    let views = nodes.map(|(index, node)| NodeView {
        id: NodeId(index as u16),
        name: Arc::from(node.name.as_str()),
        weight: node.weight,
        near: is_near(config, node),
        life: None,
        silent: None,
        barred: false,
        suspended: false,
        drained: false,
        previous: Arc::default(),
    });
    views.collect()
}

/// Whether a node stands in this proxy's zone, or zones are not in use.
fn is_near(config: &Config, node: &Node) -> bool {
    let zone = &config.routing.zone;
    zone.is_none() || node.zone == *zone
}
