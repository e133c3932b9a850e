//! All pools of server connections: one for each node, database and user.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use super::connect::Target;
use super::pool::{Pool, Shared};
use super::senders::Senders;
use crate::config::{self, Config, Secret};
use crate::core::topology::NodeId;
use crate::metrics::Metrics;
use crate::shared::cluster::ClusterState;
use crate::shared::connections::{Connections, PoolEntry};
use crate::shared::pause::Pause;

/// One pool: its node, its database and its user.
type Key = (NodeId, Arc<str>, Arc<str>);

#[derive(Debug)]
pub struct Pools {
    shared: Arc<Shared>,
    /// Where the pools are entered.
    connections: Arc<Connections>,
    /// In configuration order.
    nodes: Vec<NodeAddress>,
    by_key: Mutex<HashMap<Key, Arc<Pool>>>,
    senders: Arc<Senders>,
}

#[derive(Debug)]
struct NodeAddress {
    name: Arc<str>,
    host: String,
    port: u16,
}

impl NodeAddress {
    fn target(&self, database: &Arc<str>, user: &Arc<str>, password: Option<Secret>) -> Target {
        Target {
            node: Arc::clone(&self.name),
            host: self.host.clone(),
            port: self.port,
            database: Arc::clone(database),
            user: Arc::clone(user),
            password,
        }
    }
}

impl Pools {
    pub fn new(
        config: &Config,
        workers: usize,
        cluster: Arc<ClusterState>,
        metrics: Arc<Metrics>,
        connections: Arc<Connections>,
        pause: Arc<Pause>,
    ) -> Self {
        let nodes = config.nodes.iter().map(|node| NodeAddress {
            name: Arc::from(node.name.as_str()),
            host: node.host.clone(),
            port: node.port,
        });
        Self {
            shared: Arc::new(Shared::new(&config.pool, workers, cluster, metrics, pause)),
            connections,
            nodes: nodes.collect(),
            by_key: Mutex::default(),
            senders: Arc::default(),
        }
    }

    /// The pool of a node for a database and user.
    pub fn get(
        &self,
        node: NodeId,
        database: &Arc<str>,
        user: &Arc<str>,
        password: impl FnOnce() -> Option<Secret>,
    ) -> Option<Arc<Pool>> {
        let address = self.nodes.get(usize::from(node.0))?;
        let mut pools = self.by_key.lock();
        let key = (node, Arc::clone(database), Arc::clone(user));
        let pool = pools.entry(key).or_insert_with(|| {
            // Asked under the lock: what a reload brings next, it finds here.
            let target = address.target(database, user, password());
            Arc::new(Pool::new(node, target, Arc::clone(&self.shared)))
        });
        Some(Arc::clone(pool))
    }

    /// For whom the server connections speak.
    pub fn senders(&self) -> &Arc<Senders> {
        &self.senders
    }

    /// Where a connection that belongs to no pool is to be opened.
    pub fn target(
        &self,
        node: NodeId,
        database: &Arc<str>,
        user: &Arc<str>,
        password: Option<Secret>,
    ) -> Option<Target> {
        let address = self.nodes.get(usize::from(node.0))?;
        Some(address.target(database, user, password))
    }

    /// Other limits, and other passwords for the servers, are in force from now on; `password` gives
    /// none for a user whose password stays. Connections above the size are closed as they come back.
    pub fn adopt(&self, limits: &config::Pool, password: impl Fn(&str) -> Option<Option<Secret>>) {
        self.shared.adopt(limits);
        for ((_, _, user), pool) in self.by_key.lock().iter() {
            if let Some(password) = password(user) {
                pool.set_password(password);
            }
            pool.has_grown();
        }
    }

    /// Lets no connection of before this moment be given to anybody again, on a node, of a role and a
    /// database, or of all that are not named: what a new one would find at its login has changed.
    pub fn renew(&self, node: Option<NodeId>, database: Option<&str>, user: Option<&str>) {
        let pools = self.by_key.lock();
        let asked = |asked: Option<&str>, name: &str| asked.is_none_or(|asked| asked == name);
        for ((at, of, by), pool) in pools.iter() {
            if node.is_none_or(|node| node == *at) && asked(database, of) && asked(user, by) {
                pool.renew();
            }
        }
    }

    /// Closes the idle connections of a database, or all; gives the number of those that are in use or
    /// being opened at this moment.
    pub fn close_idle(&self, database: Option<&str>) -> usize {
        let pools = self.by_key.lock();
        let asked = |name: &str| database.is_none_or(|asked| asked == name);
        let pools = pools.iter().filter(|((_, name, _), _)| asked(name));
        pools.map(|(_, pool)| pool.close_idle()).sum()
    }

    /// Connections to a node that exist or are being opened at this moment.
    pub fn open_on(&self, node: NodeId) -> usize {
        let pools = self.by_key.lock();
        let pools = pools.iter().filter(|((of, _, _), _)| *of == node);
        pools.map(|(_, pool)| pool.open()).sum()
    }

    /// Closes what has been idle for too long or belongs to a life that is over, drops pools that
    /// nobody uses, and brings the gauges up to date.
    pub fn tidy(&self) {
        let topology = self.shared.cluster.topology();
        let mut pools = self.by_key.lock();
        let mut totals: HashMap<NodeId, [usize; 3]> = HashMap::new();
        let mut entries = Vec::with_capacity(pools.len());
        pools.retain(|(node, database, user), pool| {
            let usage = pool.tidy(&topology);
            let [active, idle, waiting] = totals.entry(*node).or_default();
            *active += usage.active;
            *idle += usage.idle;
            *waiting += usage.waiting;
            entries.push(PoolEntry {
                node: *node,
                database: Arc::clone(database),
                user: Arc::clone(user),
                active: usage.active,
                idle: usage.idle,
                waiting: usage.waiting,
                waiting_since: usage.waiting_since,
            });
            usage.active + usage.idle > 0 || Arc::strong_count(pool) > 1
        });
        drop(pools);
        self.connections.set_pools(entries);
        let shown = &self.shared.metrics.pools;
        for (index, node) in self.nodes.iter().enumerate() {
            let name: &[&str] = &[&*node.name];
            let [active, idle, waiting] = totals.remove(&NodeId(index as u16)).unwrap_or_default();
            shown.active.with_label_values(name).set(active as i64);
            shown.idle.with_label_values(name).set(idle as i64);
            shown.waiting.with_label_values(name).set(waiting as i64);
        }
    }
}
