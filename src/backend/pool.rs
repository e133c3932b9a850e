//! The server connections of one node for one database and user, shared by all workers.
//!
//! A worker prefers connections of its own event loop. The limit, and the queue of those who wait,
//! are common to all, so that no worker starves while another one's connections are idle.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::connect::{self, ConnectError, Target};
use super::server::{Origin, Server, StartupSettings};
use crate::config::{self, Secret};
use crate::core::mutant::{Rule, holds};
use crate::core::topology::{NodeId, NodeView, Topology};
use crate::metrics::Metrics;
use crate::shared::cluster::ClusterState;
use crate::shared::pause::Pause;

/// Between two log lines about one exhausted pool.
const EXHAUSTED_PAUSE: Duration = Duration::from_secs(10);

/// Why no server connection was to be had.
#[derive(Debug, thiserror::Error)]
pub enum AcquireError {
    /// All were in use for as long as a client may wait.
    #[error("no server connection to node {node} came free within {waited:?}")]
    Exhausted {
        node: Arc<str>,
        /// How long was waited.
        waited: Duration,
    },
    /// The node has no present life.
    #[error("node {node} is not available")]
    Gone { node: Arc<str> },
    /// Operators have paused the database.
    #[error("database \"{database}\" is paused")]
    Paused { database: Arc<str> },
    /// A new one could not be opened.
    #[error(transparent)]
    Connect(#[from] ConnectError),
}

/// What all pools need to know.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) cluster: Arc<ClusterState>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) pause: Arc<Pause>,
    pub(super) workers: usize,
    /// Connections per pool; apart from the other limits, as it is asked for whenever one comes back.
    size: AtomicUsize,
    limits: ArcSwap<config::Pool>,
}

/// Which of a pool's connections a session can use.
#[derive(Clone, Copy, Debug)]
pub struct Want<'a> {
    /// The connection's startup packet must have asked for these.
    pub startup: &'a StartupSettings,
    /// Alive while the session is; to it belong the connections whose sequence numbers are its own.
    pub session: &'a Arc<()>,
}

impl Want<'_> {
    fn fits(&self, server: &Server) -> bool {
        Arc::ptr_eq(&server.startup, self.startup)
            || server.startup == *self.startup
            || !holds(Rule::StartupIsTheDefault)
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

impl Shared {
    pub(super) fn new(
        limits: &config::Pool,
        workers: usize,
        cluster: Arc<ClusterState>,
        metrics: Arc<Metrics>,
        pause: Arc<Pause>,
    ) -> Self {
        Self {
            cluster,
            metrics,
            pause,
            workers,
            size: AtomicUsize::new(limits.size),
            limits: ArcSwap::from_pointee(limits.clone()),
        }
    }

    pub(super) fn adopt(&self, limits: &config::Pool) {
        self.size.store(limits.size, Ordering::Relaxed);
        self.limits.store(Arc::new(limits.clone()));
    }
}

/// What a pool holds at one moment.
pub(super) struct Usage {
    pub(super) active: usize,
    pub(super) idle: usize,
    pub(super) waiting: usize,
    /// Since when the first of them waits.
    pub(super) waiting_since: Option<Instant>,
}

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
    pub(super) fn new(node: NodeId, target: Target, shared: Arc<Shared>) -> Self {
        Self {
            node,
            name: Arc::clone(&target.node),
            database: Arc::clone(&target.database),
            target: ArcSwap::from_pointee(target),
            state: Mutex::new(State {
                idle: (0..shared.workers).map(|_| Vec::new()).collect(),
                generation: 0,
                open: 0,
                waiting: VecDeque::new(),
            }),
            shared,
            exhausted_told: Mutex::default(),
        }
    }

    pub fn node_name(&self) -> &Arc<str> {
        &self.name
    }

    /// Takes an idle connection of the node's present life if there is one: the hot path.
    pub fn take_idle(self: &Arc<Self>, worker: usize, want: Want<'_>) -> Option<Lease> {
        let mut state = self.state.lock();
        let topology = self.shared.cluster.topology();
        // While the node is silent nothing is begun, and nothing is closed: it may have run on.
        if !self.is_usable() {
            return None;
        }
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
        if !self.is_usable() {
            let node = Arc::clone(&self.name);
            return Err(AcquireError::Gone { node });
        }
        let waiter = {
            let mut state = self.state.lock();
            // Under the lock: whoever has paused and then counted none may rely on it.
            if !self.shared.pause.is_open(&self.database) {
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
        let waits = metrics.pools.wait.with_label_values(&[node]);
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
                metrics.pools.timeouts.with_label_values(&[node]).inc();
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

    /// Connections from now on log in with this password.
    pub(super) fn set_password(&self, password: Option<Secret>) {
        let target = self.target.load();
        if target.password != password {
            self.target.store(Arc::new(Target {
                password,
                ..Target::clone(&target)
            }));
        }
    }

    /// The limits may have grown.
    pub(super) fn has_grown(&self) {
        self.hand_out_permits(&mut self.state.lock());
    }

    /// Connections that exist or are being opened.
    pub(super) fn open(&self) -> usize {
        self.state.lock().open
    }

    /// No connection of before this moment is given to anybody again.
    pub(super) fn renew(&self) {
        self.state.lock().generation += 1;
        self.close_idle();
    }

    /// Closes the idle connections; gives the number of those that are in use or being opened.
    pub(super) fn close_idle(&self) -> usize {
        let mut state = self.state.lock();
        let idle: Vec<_> = state
            .idle
            .iter_mut()
            .flat_map(|idle| idle.drain(..))
            .collect();
        state.open -= idle.len();
        self.hand_out_permits(&mut state);
        state.open
    }

    /// Closes what has been idle for too long, belongs to a life that is over, or is more than the size.
    pub(super) fn tidy(&self, topology: &Topology) -> Usage {
        let idle_timeout = self.shared.limits.load().idle_timeout;
        let mut state = self.state.lock();
        let mut closed = Vec::new();
        for idle in &mut state.idle {
            let (keep, close): (Vec<_>, _) = idle.drain(..).partition(|server| {
                server.idle_since.elapsed() < idle_timeout
                    && server.is_wanted(topology)
                    && !server.socket.has_something_to_say()
            });
            *idle = keep;
            closed.extend(close);
        }
        let mut excess = state.open.saturating_sub(closed.len() + self.size());
        for idle in &mut state.idle {
            let least = idle.len().saturating_sub(excess);
            excess -= idle.len() - least;
            closed.extend(idle.drain(least..));
        }
        state.open -= closed.len();
        // Who has given up would otherwise be counted until a connection comes back.
        state.waiting.retain(|(_, waiter)| !waiter.is_closed());
        self.hand_out_permits(&mut state);
        let idle: usize = state.idle.iter().map(Vec::len).sum();
        Usage {
            active: state.open - idle,
            idle,
            waiting: state.waiting.len(),
            waiting_since: state.longest_waiting(),
        }
    }

    fn is_usable(&self) -> bool {
        let topology = self.shared.cluster.topology();
        let node = topology.node(self.node);
        node.and_then(NodeView::usable).is_some()
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
    async fn open(self, worker: usize, startup: &StartupSettings) -> Result<Lease, AcquireError> {
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
        shared.metrics.pools.logged_in(&node, opened.is_ok());
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
