//! Sharing server connections: one pool for each node, database and user, over all workers.
//!
//! A worker prefers connections of its own event loop. The limit, and the queue of those who wait,
//! are common to all, so that no worker starves while another one's connections are idle.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::connect::{self, ConnectError, Target};
use super::server::{Origin, Server, Startup};
use crate::config::{self, Config, Secret};
use crate::core::topology::{NodeId, NodeView};
use crate::metrics::Metrics;
use crate::shared::cluster::ClusterState;
use crate::shared::pause::Pause;
use crate::shared::registry::{Connections, PoolEntry};

/// Between two log lines about one exhausted pool.
const EXHAUSTED_PAUSE: Duration = Duration::from_secs(10);

/// Why no server connection was to be had.
#[derive(Debug, thiserror::Error)]
pub enum AcquireError {
    /// All were in use for as long as a client may wait.
    #[error("no server connection to node {node} came free within {waited:?}")]
    Exhausted {
        /// Which node.
        node: Arc<str>,
        /// How long was waited.
        waited: Duration,
    },
    /// The node has no present life.
    #[error("node {node} is not available")]
    Gone {
        /// Which node.
        node: Arc<str>,
    },
    /// Operators have paused the database.
    #[error("database \"{database}\" is paused")]
    Paused {
        /// Which database.
        database: Arc<str>,
    },
    /// A new one could not be opened.
    #[error(transparent)]
    Connect(#[from] ConnectError),
}

/// What every pool needs to know.
#[derive(Debug)]
pub struct Shared {
    /// The cluster.
    pub cluster: Arc<ClusterState>,
    /// The metrics.
    pub metrics: Arc<Metrics>,
    /// Closed while operators pause clients.
    pub gate: Arc<Pause>,
    /// Where the pools are entered.
    pub connections: Arc<Connections>,
    /// Number of workers.
    pub workers: usize,
    /// Connections per pool; apart from the other limits, as it is asked for whenever one comes back.
    size: AtomicUsize,
    limits: ArcSwap<config::Pool>,
    nodes: Vec<NodeAddress>,
}

#[derive(Debug)]
struct NodeAddress {
    name: Arc<str>,
    host: String,
    port: u16,
}

/// One pool: its node, its database and its user.
type Key = (NodeId, Arc<str>, Arc<str>);

/// Which of a pool's connections a session can use.
#[derive(Clone, Copy, Debug)]
pub struct Want<'a> {
    /// The connection's startup packet must have asked for these.
    pub startup: &'a Startup,
    /// Alive while the session is; to it belong the connections whose sequence numbers are its own.
    pub session: &'a Arc<()>,
}

impl Want<'_> {
    fn fits(&self, server: &Server) -> bool {
        Arc::ptr_eq(&server.startup, self.startup) || server.startup == *self.startup
    }

    /// The best of the idle connections: the one whose sequence numbers are the session's own, then one
    /// whose numbers nobody may ask for; the last given back first.
    #[expect(clippy::vec_box, reason = "moving a server connection moves a pointer")]
    fn take(&self, idle: &mut Vec<Box<Server>>, is_last_resort: bool) -> Option<Box<Server>> {
        let own = |server: &Server| server.numbers_of.as_ptr() == Arc::as_ptr(self.session);
        let rank = |server: &Server| match server.numbers_of.strong_count() {
            0 => 1,
            _ if own(server) => 2,
            _ => 0,
        };
        if let Some(last) = idle.last()
            && rank(last) > 0
            && self.fits(last)
            && (rank(last) == 2 || !idle.iter().any(|server| own(server)))
        {
            return idle.pop();
        }
        let fitting = idle
            .iter()
            .enumerate()
            .filter(|(_, server)| self.fits(server));
        let (at, best) = fitting.max_by_key(|(_, server)| rank(server))?;
        (rank(best) > 0 || is_last_resort).then(|| idle.remove(at))
    }
}

/// All pools.
#[derive(Debug)]
pub struct Pools {
    shared: Arc<Shared>,
    by_key: Mutex<HashMap<Key, Arc<Pool>>>,
}

impl Pools {
    /// No pools yet.
    pub fn new(
        config: &Config,
        workers: usize,
        cluster: Arc<ClusterState>,
        metrics: Arc<Metrics>,
        connections: Arc<Connections>,
        gate: Arc<Pause>,
    ) -> Self {
        let nodes = config.nodes.iter().map(|node| NodeAddress {
            name: Arc::from(node.name.as_str()),
            host: node.host.clone(),
            port: node.port,
        });
        Self {
            shared: Arc::new(Shared {
                cluster,
                metrics,
                connections,
                gate,
                workers,
                size: AtomicUsize::new(config.pool.size),
                limits: ArcSwap::from_pointee(config.pool.clone()),
                nodes: nodes.collect(),
            }),
            by_key: Mutex::default(),
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
        let address = self.shared.nodes.get(usize::from(node.0))?;
        let mut pools = self.by_key.lock();
        let key = (node, Arc::clone(database), Arc::clone(user));
        let pool = pools.entry(key).or_insert_with(|| {
            Arc::new(Pool {
                node,
                name: Arc::clone(&address.name),
                database: Arc::clone(database),
                target: ArcSwap::from_pointee(Target {
                    node: Arc::clone(&address.name),
                    host: address.host.clone(),
                    port: address.port,
                    database: Arc::clone(database),
                    user: Arc::clone(user),
                    // Asked under the lock: what a reload brings next, it finds here.
                    password: password(),
                }),
                shared: Arc::clone(&self.shared),
                state: Mutex::new(State {
                    idle: (0..self.shared.workers).map(|_| Vec::new()).collect(),
                    generation: 0,
                    open: 0,
                    waiting: VecDeque::new(),
                }),
                exhausted_told: Mutex::default(),
            })
        });
        Some(Arc::clone(pool))
    }

    /// Other limits, and other passwords for the servers, are in force from now on; `password` gives
    /// none for a user whose password stays. Connections above the size are closed as they come back.
    pub fn adopt(&self, limits: &config::Pool, password: impl Fn(&str) -> Option<Option<Secret>>) {
        self.shared.size.store(limits.size, Ordering::Relaxed);
        self.shared.limits.store(Arc::new(limits.clone()));
        for ((_, _, user), pool) in self.by_key.lock().iter() {
            let target = pool.target.load();
            if let Some(password) = password(user)
                && target.password != password
            {
                pool.target.store(Arc::new(Target {
                    password,
                    ..Target::clone(&target)
                }));
            }
            // It may have grown.
            pool.hand_out_permits(&mut pool.state.lock());
        }
    }

    /// Lets no connection of before this moment be given to anybody again, of a role and a database, or
    /// of all that are not named: what a new one would find at its login has changed.
    pub fn renew(&self, database: Option<&str>, user: Option<&str>) {
        let pools = self.by_key.lock();
        for ((_, of, by), pool) in pools.iter() {
            if database.is_none_or(|name| name == &**of) && user.is_none_or(|name| name == &**by) {
                let mut state = pool.state.lock();
                state.generation += 1;
                let idle = state.idle.iter_mut().flat_map(std::mem::take);
                let closed = idle.count();
                state.open -= closed;
                pool.hand_out_permits(&mut state);
            }
        }
    }

    /// Closes the idle connections of a database, or all; gives the number of those that are in use or
    /// being opened at this moment.
    pub fn close_idle(&self, database: Option<&str>) -> usize {
        let pools = self.by_key.lock();
        let asked = |name: &str| database.is_none_or(|asked| asked == name);
        let pools = pools.iter().filter(|((_, name, _), _)| asked(name));
        let in_use = pools.map(|(_, pool)| {
            let mut state = pool.state.lock();
            let idle: Vec<_> = state
                .idle
                .iter_mut()
                .flat_map(|idle| idle.drain(..))
                .collect();
            state.open -= idle.len();
            pool.hand_out_permits(&mut state);
            state.open
        });
        in_use.sum()
    }

    /// Connections to a node that exist or are being opened at this moment.
    pub fn open_on(&self, node: NodeId) -> usize {
        let pools = self.by_key.lock();
        let pools = pools.iter().filter(|((of, _, _), _)| *of == node);
        pools.map(|(_, pool)| pool.state.lock().open).sum()
    }

    /// Closes what has been idle for too long or belongs to a life that is over, drops pools that
    /// nobody uses, and brings the gauges up to date.
    pub fn tidy(&self) {
        let topology = self.shared.cluster.topology();
        let idle_timeout = self.shared.limits.load().idle_timeout;
        let mut pools = self.by_key.lock();
        let mut totals: HashMap<NodeId, (i64, i64, i64)> = HashMap::new();
        let mut entries = Vec::with_capacity(pools.len());
        pools.retain(|(node, database, user), pool| {
            let mut state = pool.state.lock();
            let mut closed = Vec::new();
            for idle in &mut state.idle {
                let (keep, close): (Vec<_>, _) = idle.drain(..).partition(|server| {
                    server.idle_since.elapsed() < idle_timeout
                        && server.is_wanted(&topology)
                        && !server.socket.has_something_to_say()
                });
                *idle = keep;
                closed.extend(close);
            }
            let mut excess = state.open.saturating_sub(closed.len() + pool.size());
            for idle in &mut state.idle {
                let least = idle.len().saturating_sub(excess);
                excess -= idle.len() - least;
                closed.extend(idle.drain(least..));
            }
            state.open -= closed.len();
            // Who has given up would otherwise be counted until a connection comes back.
            state.waiting.retain(|(_, waiter)| !waiter.is_closed());
            pool.hand_out_permits(&mut state);
            let idle: usize = state.idle.iter().map(Vec::len).sum();
            let total = totals.entry(*node).or_default();
            total.0 += (state.open - idle) as i64;
            total.1 += idle as i64;
            total.2 += state.waiting.len() as i64;
            entries.push(PoolEntry {
                node: *node,
                database: Arc::clone(database),
                user: Arc::clone(user),
                active: state.open - idle,
                idle,
                waiting: state.waiting.len(),
                waiting_since: state.longest_waiting(),
            });
            state.open > 0 || Arc::strong_count(pool) > 1
        });
        drop(pools);
        self.shared.connections.set_pools(entries);
        for (index, node) in self.shared.nodes.iter().enumerate() {
            let (active, idle, waiting) = totals.remove(&NodeId(index as u16)).unwrap_or_default();
            let metrics = &self.shared.metrics;
            metrics
                .pool_active
                .with_label_values(&[&*node.name])
                .set(active);
            metrics
                .pool_idle
                .with_label_values(&[&*node.name])
                .set(idle);
            metrics
                .pool_waiting
                .with_label_values(&[&*node.name])
                .set(waiting);
        }
    }
}

/// The server connections of one node for one database and user.
#[derive(Debug)]
pub struct Pool {
    node: NodeId,
    name: Arc<str>,
    database: Arc<str>,
    target: ArcSwap<Target>,
    shared: Arc<Shared>,
    state: Mutex<State>,
    /// When it was last said that nothing came free.
    exhausted_told: Mutex<Option<Instant>>,
}

#[derive(Debug)]
struct State {
    /// By worker; the last given back is the first taken.
    #[expect(clippy::vec_box, reason = "moving a server connection moves a pointer")]
    idle: Vec<Vec<Box<Server>>>,
    /// Rises when connections of before are no longer to be given to anybody.
    generation: u64,
    /// Connections that exist or are being opened.
    open: usize,
    /// First come, first served.
    waiting: VecDeque<(Instant, oneshot::Sender<Grant>)>,
}

impl State {
    /// Since when somebody has waited who has not given up.
    fn longest_waiting(&self) -> Option<Instant> {
        let mut present = self.waiting.iter().filter(|(_, grant)| !grant.is_closed());
        present.next().map(|(since, _)| *since)
    }
}

#[derive(Debug)]
enum Grant {
    /// A connection, perhaps of another worker's event loop.
    Server(Box<Server>),
    /// One may be opened.
    Permit,
}

impl Pool {
    /// The node that it belongs to.
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// The node's name.
    pub fn node_name(&self) -> &Arc<str> {
        &self.name
    }

    /// Takes an idle connection of the node's present life if there is one: the hot path.
    pub fn take_idle(self: &Arc<Self>, worker: usize, want: Want<'_>) -> Option<Lease> {
        let mut state = self.state.lock();
        let topology = self.shared.cluster.topology();
        // Rather than take the numbers of a session that is still there, open another connection.
        let is_last_resort = state.open >= self.size();
        loop {
            let own = state
                .idle
                .get_mut(worker)
                .and_then(|idle| want.take(idle, is_last_resort));
            let server = match own {
                Some(server) => server,
                None => state
                    .idle
                    .iter_mut()
                    .find_map(|idle| want.take(idle, is_last_resort))?,
            };
            if server.is_wanted(&topology) && !server.socket.has_something_to_say() {
                drop(state);
                return self.lease(server, worker);
            }
            // The server has closed it, or said its farewell.
            state.open -= 1;
        }
    }

    /// Takes an idle connection, opens one, or waits in turn; bounded by the pool's two timeouts.
    pub async fn acquire(
        self: &Arc<Self>,
        worker: usize,
        want: Want<'_>,
    ) -> Result<Lease, AcquireError> {
        if let Some(lease) = self.take_idle(worker, want) {
            return Ok(lease);
        }
        let waiter = {
            let mut state = self.state.lock();
            // Under the lock: whoever has closed the gate and then counted none may rely on it.
            if !self.shared.gate.is_open(&self.database) {
                let database = Arc::clone(&self.database);
                return Err(AcquireError::Paused { database });
            }
            // One that nobody uses and that this session cannot use makes room.
            if state.open >= self.size()
                && let Some(unfit) = state.idle.iter_mut().find_map(Vec::pop)
            {
                state.open -= 1;
                drop(unfit);
            }
            if state.open < self.size() {
                state.open += 1;
                None
            } else {
                let (grant, waiter) = oneshot::channel();
                state.waiting.push_back((Instant::now(), grant));
                Some(waiter)
            }
        };
        let permit = Permit { pool: self };
        let Some(waiter) = waiter else {
            return permit.open(worker, want.startup).await;
        };
        std::mem::forget(permit);

        let began = Instant::now();
        let mut waiting = Waiting { pool: self, waiter };
        let bound = self.shared.limits.load().wait_timeout;
        let granted = tokio::time::timeout(bound, &mut waiting.waiter).await;
        drop(waiting);
        let node = &*self.name;
        let metrics = &self.shared.metrics;
        let waits = metrics.pool_wait.with_label_values(&[node]);
        waits.observe(began.elapsed().as_secs_f64());
        match granted {
            Ok(Ok(Grant::Server(server))) if want.fits(&server) => {
                match self.lease(server, worker) {
                    Some(lease) => Ok(lease),
                    None => Err(AcquireError::Gone {
                        node: Arc::clone(&self.name),
                    }),
                }
            }
            // Its startup packet asked for something else: another takes its place.
            Ok(Ok(Grant::Server(server))) => {
                drop(server);
                Permit { pool: self }.open(worker, want.startup).await
            }
            Ok(Ok(Grant::Permit)) => Permit { pool: self }.open(worker, want.startup).await,
            Ok(Err(_)) | Err(_) => {
                metrics.pool_timeouts.with_label_values(&[node]).inc();
                self.tell_exhausted(bound);
                Err(AcquireError::Exhausted {
                    node: Arc::clone(&self.name),
                    waited: began.elapsed(),
                })
            }
        }
    }

    /// Says now and then that clients get no connection here: each of them is told by itself.
    fn tell_exhausted(&self, bound: Duration) {
        let mut told = self.exhausted_told.lock();
        if told.is_some_and(|told| told.elapsed() < EXHAUSTED_PAUSE) {
            return;
        }
        *told = Some(Instant::now());
        drop(told);
        let waiting = self.state.lock().waiting.len();
        tracing::warn!(
            node = %self.name,
            database = %self.database,
            user = %self.target.load().user,
            size = self.size(),
            waiting,
            "pool is exhausted: no server connection came free within {:?}",
            bound
        );
    }

    fn lease(self: &Arc<Self>, mut server: Box<Server>, worker: usize) -> Option<Lease> {
        if server.worker != worker {
            // Moved here, its readiness would otherwise be reported by another thread for good.
            server = match server.adopt(worker) {
                Ok(server) => server,
                Err(error) => {
                    tracing::debug!(%error, "move a server connection to another worker");
                    self.closed();
                    return None;
                }
            };
        }
        server.set_busy(true);
        Some(Lease {
            server: Some(server),
            pool: Arc::clone(self),
        })
    }

    fn give_back(&self, mut server: Box<Server>) {
        server.set_busy(false);
        server.idle_since = Instant::now();
        let wanted = server.is_wanted(&self.shared.cluster.topology());
        if !wanted || !server.is_reusable() {
            drop(server);
            return self.closed();
        }
        let mut state = self.state.lock();
        if state.open > self.size() || server.generation != state.generation {
            // A reload has made the pool smaller, or the role's settings have changed.
            state.open -= 1;
            self.hand_out_permits(&mut state);
            return;
        }
        while let Some((_, waiter)) = state.waiting.pop_front() {
            match waiter.send(Grant::Server(server)) {
                Ok(()) => return,
                // That client gave up; the next one.
                Err(Grant::Server(back)) => server = back,
                Err(Grant::Permit) => return,
            }
        }
        let worker = server.worker;
        match state.idle.get_mut(worker) {
            Some(idle) => idle.push(server),
            None => state.open -= 1,
        }
    }

    fn size(&self) -> usize {
        self.shared.size.load(Ordering::Relaxed)
    }

    /// One connection fewer exists: whoever waits first may open another.
    fn closed(&self) {
        let mut state = self.state.lock();
        state.open -= 1;
        self.hand_out_permits(&mut state);
    }

    fn hand_out_permits(&self, state: &mut State) {
        while state.open < self.size() {
            let Some((_, waiter)) = state.waiting.pop_front() else {
                return;
            };
            if waiter.send(Grant::Permit).is_ok() {
                state.open += 1;
            }
        }
    }
}

/// A place in the queue. What was granted at the very moment of giving up goes to the next.
struct Waiting<'a> {
    pool: &'a Pool,
    waiter: oneshot::Receiver<Grant>,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.waiter.close();
        match self.waiter.try_recv() {
            Ok(Grant::Server(server)) => self.pool.give_back(server),
            Ok(Grant::Permit) => self.pool.closed(),
            Err(_) => {}
        }
    }
}

/// The right to open one connection; given back unless used.
struct Permit<'a> {
    pool: &'a Arc<Pool>,
}

impl Permit<'_> {
    async fn open(self, worker: usize, startup: &Startup) -> Result<Lease, AcquireError> {
        let pool = self.pool;
        let shared = &pool.shared;
        let node = Arc::clone(&pool.name);
        let origin = {
            let topology = shared.cluster.topology();
            let life = topology.node(pool.node).and_then(NodeView::usable);
            life.map(|life| Origin {
                node: pool.node,
                incarnation: life.incarnation,
                gauge: Arc::clone(&life.gauge),
            })
        };
        let Some(origin) = origin else {
            return Err(AcquireError::Gone { node });
        };
        let generation = pool.state.lock().generation;
        let cluster = Arc::clone(&shared.cluster);
        let (target, bound) = (
            pool.target.load_full(),
            shared.limits.load().connect_timeout,
        );
        let opened = connect::connect(&target, startup, origin, worker, cluster, bound).await;
        let outcome = if opened.is_ok() { "ok" } else { "failed" };
        shared
            .metrics
            .server_logins
            .with_label_values(&[&*node, outcome])
            .inc();
        let mut server = Box::new(opened?);
        server.generation = generation;
        std::mem::forget(self);
        server.set_busy(true);
        Ok(Lease {
            server: Some(server),
            pool: Arc::clone(pool),
        })
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        self.pool.closed();
    }
}

/// A server connection in use. Dropped, it goes back if it is free, and is closed otherwise.
#[derive(Debug)]
pub struct Lease {
    server: Option<Box<Server>>,
    pool: Arc<Pool>,
}

impl Lease {
    /// The connection.
    pub fn server(&mut self) -> &mut Server {
        // Only `drop` takes it out.
        #[allow(clippy::expect_used, reason = "held from creation to drop")]
        self.server
            .as_mut()
            .expect("a lease holds its server until it is dropped")
    }

    /// The pool that it came from.
    pub fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    /// Closes the connection instead of giving it back.
    pub fn discard(mut self) {
        if let Some(server) = self.server.take() {
            drop(server);
            self.pool.closed();
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(server) = self.server.take() {
            self.pool.give_back(server);
        }
    }
}
