//! Sharing server connections: one pool for each node, database and user, over all workers.
//!
//! A worker prefers connections of its own event loop. The limit, and the queue of those who wait,
//! are common to all, so that no worker starves while another one's connections are idle.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::connect::{self, ConnectError, Target};
use super::server::{Origin, Server};
use crate::board::Board;
use crate::config::{Config, Secret};
use crate::core::topology::{NodeId, NodeView};
use crate::ledger::{Ledger, PoolEntry};
use crate::metrics::Metrics;

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
    /// A new one could not be opened.
    #[error(transparent)]
    Connect(#[from] ConnectError),
}

/// What every pool needs to know.
#[derive(Debug)]
pub struct Shared {
    /// The board.
    pub board: Arc<Board>,
    /// The metrics.
    pub metrics: Arc<Metrics>,
    /// Where the pools are entered.
    pub ledger: Arc<Ledger>,
    /// Number of workers.
    pub workers: usize,
    /// Connections per pool.
    pub size: usize,
    /// Longest wait for a connection to come free.
    pub wait_timeout: Duration,
    /// Bound on connecting and logging in.
    pub connect_timeout: Duration,
    /// Idle connections are closed after this.
    pub idle_timeout: Duration,
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
        board: Arc<Board>,
        metrics: Arc<Metrics>,
        ledger: Arc<Ledger>,
    ) -> Self {
        let nodes = config.nodes.iter().map(|node| NodeAddress {
            name: Arc::from(node.name.as_str()),
            host: node.host.clone(),
            port: node.port,
        });
        Self {
            shared: Arc::new(Shared {
                board,
                metrics,
                ledger,
                workers,
                size: config.pool.size,
                wait_timeout: config.pool.wait_timeout,
                connect_timeout: config.pool.connect_timeout,
                idle_timeout: config.pool.idle_timeout,
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
        password: Option<&Secret>,
    ) -> Option<Arc<Pool>> {
        let address = self.shared.nodes.get(usize::from(node.0))?;
        let mut pools = self.by_key.lock();
        let key = (node, Arc::clone(database), Arc::clone(user));
        let pool = pools.entry(key).or_insert_with(|| {
            Arc::new(Pool {
                node,
                target: Target {
                    node: Arc::clone(&address.name),
                    host: address.host.clone(),
                    port: address.port,
                    database: Arc::clone(database),
                    user: Arc::clone(user),
                    password: password.cloned(),
                },
                shared: Arc::clone(&self.shared),
                state: Mutex::new(State {
                    idle: (0..self.shared.workers).map(|_| Vec::new()).collect(),
                    open: 0,
                    waiting: VecDeque::new(),
                }),
                exhausted_told: Mutex::default(),
            })
        });
        Some(Arc::clone(pool))
    }

    /// Closes what has been idle for too long or belongs to a life that is over, drops pools that
    /// nobody uses, and brings the gauges up to date.
    pub fn tidy(&self) {
        let topology = self.shared.board.topology();
        let mut pools = self.by_key.lock();
        let mut totals: HashMap<NodeId, (i64, i64, i64)> = HashMap::new();
        let mut entries = Vec::with_capacity(pools.len());
        pools.retain(|(node, database, user), pool| {
            let mut state = pool.state.lock();
            let mut closed = Vec::new();
            for idle in &mut state.idle {
                let (keep, close): (Vec<_>, _) = idle.drain(..).partition(|server| {
                    server.idle_since.elapsed() < self.shared.idle_timeout
                        && server.is_current(&topology)
                        && !server.socket.has_something_to_say()
                });
                *idle = keep;
                closed.extend(close);
            }
            state.open -= closed.len();
            // Who has given up would otherwise be counted until a connection comes back.
            state.waiting.retain(|waiter| !waiter.is_closed());
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
            });
            state.open > 0 || Arc::strong_count(pool) > 1
        });
        drop(pools);
        self.shared.ledger.set_pools(entries);
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
    target: Target,
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
    /// Connections that exist or are being opened.
    open: usize,
    /// First come, first served.
    waiting: VecDeque<oneshot::Sender<Grant>>,
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
        &self.target.node
    }

    /// Takes an idle connection of the node's present life if there is one: the hot path.
    pub fn take_idle(self: &Arc<Self>, worker: usize) -> Option<Lease> {
        let mut state = self.state.lock();
        let topology = self.shared.board.topology();
        loop {
            let own = state.idle.get_mut(worker).and_then(Vec::pop);
            let server = match own {
                Some(server) => server,
                None => state.idle.iter_mut().find_map(Vec::pop)?,
            };
            if server.is_current(&topology) && !server.socket.has_something_to_say() {
                drop(state);
                return self.lease(server, worker);
            }
            // The server has closed it, or said its farewell.
            state.open -= 1;
        }
    }

    /// Takes an idle connection, opens one, or waits in turn; bounded by the pool's two timeouts.
    pub async fn acquire(self: &Arc<Self>, worker: usize) -> Result<Lease, AcquireError> {
        if let Some(lease) = self.take_idle(worker) {
            return Ok(lease);
        }
        let waiter = {
            let mut state = self.state.lock();
            if state.open < self.shared.size {
                state.open += 1;
                None
            } else {
                let (grant, waiter) = oneshot::channel();
                state.waiting.push_back(grant);
                Some(waiter)
            }
        };
        let permit = Permit { pool: self };
        let Some(waiter) = waiter else {
            return permit.open(worker).await;
        };
        std::mem::forget(permit);

        let began = Instant::now();
        let mut waiting = Waiting { pool: self, waiter };
        let granted = tokio::time::timeout(self.shared.wait_timeout, &mut waiting.waiter).await;
        drop(waiting);
        let node = &*self.target.node;
        let metrics = &self.shared.metrics;
        let waits = metrics.pool_wait.with_label_values(&[node]);
        waits.observe(began.elapsed().as_secs_f64());
        match granted {
            Ok(Ok(Grant::Server(server))) => match self.lease(server, worker) {
                Some(lease) => Ok(lease),
                None => Err(AcquireError::Gone {
                    node: Arc::clone(&self.target.node),
                }),
            },
            Ok(Ok(Grant::Permit)) => Permit { pool: self }.open(worker).await,
            Ok(Err(_)) | Err(_) => {
                metrics.pool_timeouts.with_label_values(&[node]).inc();
                self.tell_exhausted();
                Err(AcquireError::Exhausted {
                    node: Arc::clone(&self.target.node),
                    waited: began.elapsed(),
                })
            }
        }
    }

    /// Says now and then that clients get no connection here: each of them is told by itself.
    fn tell_exhausted(&self) {
        let mut told = self.exhausted_told.lock();
        if told.is_some_and(|told| told.elapsed() < EXHAUSTED_PAUSE) {
            return;
        }
        *told = Some(Instant::now());
        drop(told);
        let waiting = self.state.lock().waiting.len();
        tracing::warn!(
            node = %self.target.node,
            database = %self.target.database,
            user = %self.target.user,
            size = self.shared.size,
            waiting,
            "pool is exhausted: no server connection came free within {:?}",
            self.shared.wait_timeout
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
        let current = server.is_current(&self.shared.board.topology());
        if !current || !server.is_reusable() {
            drop(server);
            return self.closed();
        }
        let mut state = self.state.lock();
        while let Some(waiter) = state.waiting.pop_front() {
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

    /// One connection fewer exists: whoever waits first may open another.
    fn closed(&self) {
        let mut state = self.state.lock();
        state.open -= 1;
        self.hand_out_permits(&mut state);
    }

    fn hand_out_permits(&self, state: &mut State) {
        while state.open < self.shared.size {
            let Some(waiter) = state.waiting.pop_front() else {
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
    async fn open(self, worker: usize) -> Result<Lease, AcquireError> {
        let pool = self.pool;
        let shared = &pool.shared;
        let node = Arc::clone(&pool.target.node);
        let origin = {
            let topology = shared.board.topology();
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
        let board = Arc::clone(&shared.board);
        let opened =
            connect::connect(&pool.target, origin, worker, board, shared.connect_timeout).await;
        let outcome = if opened.is_ok() { "ok" } else { "failed" };
        shared
            .metrics
            .server_logins
            .with_label_values(&[&*node, outcome])
            .inc();
        let mut server = Box::new(opened?);
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
