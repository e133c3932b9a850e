//! The server connections of one node for one database and user, shared by all workers.
//!
//! A worker prefers connections of its own event loop. The limit, and the queue of those who wait,
//! are common to all, so that no worker starves while another one's connections are idle.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::sync::oneshot::error::RecvError;

use super::connect::{self, Target};
use super::server::{Origin, Server, StartupSettings};
use super::want::{AcquireError, Want};
use crate::config::{self, Secret};
use crate::core::topology::{NodeId, NodeView, Topology};
use crate::metrics::Metrics;
use crate::shared::cluster::ClusterState;
use crate::shared::pause::Pause;

/// Between two log lines about one exhausted pool.
const EXHAUSTED_PAUSE: Duration = Duration::from_secs(10);

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
    waiting: VecDeque<(Instant, oneshot::Sender<Offer>)>,
}

impl State {
    /// Since when somebody has waited who has not given up.
    fn longest_waiting(&self) -> Option<Instant> {
        let mut present = self.waiting.iter().filter(|(_, grant)| !grant.is_closed());
        present.next().map(|(since, _)| *since)
    }
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

    /// Takes an idle connection that this session had last, and on which code of users may have run.
    pub fn take_left(self: &Arc<Self>, worker: usize, session: &Arc<()>) -> Option<Lease> {
        let its_own = |server: &Server| server.used_by.as_ptr() == Arc::as_ptr(session);
        let server = self.state.lock().idle.iter_mut().find_map(|idle| {
            let mut each = idle.iter();
            let at = each.position(|server| its_own(server) && server.traces.ran_code())?;
            Some(idle.remove(at))
        })?;
        self.lease(server, worker)
    }

    /// Takes an idle connection, opens one, or waits in turn; bounded by the pool's two timeouts.
    pub async fn acquire(
        self: &Arc<Self>,
        worker: usize,
        want: Want<'_>,
    ) -> Result<Lease, AcquireError> {
        let mut place = match self.take_or_queue(worker, want).await? {
            Turn::Now(lease) => return Ok(lease),
            Turn::Later(place) => place,
        };
        match tokio::time::timeout(self.wait_timeout(), place.granted()).await {
            Ok(granted) => place.redeem(granted, worker, want).await,
            Err(_) => Err(place.give_up()),
        }
    }

    /// Takes an idle connection or opens one; where there is none to spare, a place in the queue.
    pub async fn take_or_queue(
        self: &Arc<Self>,
        worker: usize,
        want: Want<'_>,
    ) -> Result<Turn, AcquireError> {
        if let Some(lease) = self.take_idle(worker, want) {
            return Ok(Turn::Now(lease));
        }
        if !self.is_usable() {
            let node = Arc::clone(&self.name);
            return Err(AcquireError::Gone { node });
        }
        let permit = {
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
            if state.open >= self.size() {
                return Ok(Turn::Later(Place::last(self, &mut state)));
            }
            state.open += 1;
            Permit { pool: self }
        };
        permit.open(worker, want.startup).await.map(Turn::Now)
    }

    /// Longest wait of a client for a connection.
    pub fn wait_timeout(&self) -> Duration {
        self.shared.limits.load().wait_timeout
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
            match waiter.send(Offer::Server(server)) {
                Ok(()) => return,
                // That client gave up; the next one.
                Err(Offer::Server(back)) => server = back,
                Err(Offer::Permit) => return,
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
            if waiter.send(Offer::Permit).is_ok() {
                state.open += 1;
            }
        }
    }
}

/// What somebody gets who asks for a connection.
#[derive(Debug)]
pub enum Turn {
    Now(Lease),
    Later(Place),
}

/// What those who wait are given.
#[derive(Debug)]
pub enum Offer {
    /// A connection, perhaps of another worker's event loop.
    Server(Box<Server>),
    /// One may be opened.
    Permit,
}

/// A place in a pool's queue. Given up, what was granted at that very moment goes to the next.
#[derive(Debug)]
pub struct Place {
    pool: Arc<Pool>,
    grant: oneshot::Receiver<Offer>,
    since: Instant,
}

/// What came of waiting: only `Place::redeem` makes something of it.
#[derive(Debug)]
#[must_use]
pub struct Granted(Result<Offer, RecvError>);

impl Place {
    fn last(pool: &Arc<Pool>, state: &mut State) -> Self {
        let (granted, grant) = oneshot::channel();
        let since = Instant::now();
        state.waiting.push_back((since, granted));
        Self {
            pool: Arc::clone(pool),
            grant,
            since,
        }
    }

    pub fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    /// Its turn has come. What is granted must be redeemed.
    pub async fn granted(&mut self) -> Granted {
        std::future::poll_fn(|context| self.poll_granted(context)).await
    }

    pub fn poll_granted(&mut self, context: &mut Context<'_>) -> Poll<Granted> {
        Pin::new(&mut self.grant).poll(context).map(Granted)
    }

    /// Takes what was granted here.
    pub async fn redeem(
        self,
        granted: Granted,
        worker: usize,
        want: Want<'_>,
    ) -> Result<Lease, AcquireError> {
        let pool = Arc::clone(&self.pool);
        self.observe();
        match granted.0 {
            Ok(Offer::Server(server)) if want.fits(&server) => match pool.lease(server, worker) {
                Some(lease) => Ok(lease),
                None => {
                    let node = Arc::clone(&pool.name);
                    Err(AcquireError::Gone { node })
                }
            },
            // Its startup packet asked for something else: another takes its place.
            Ok(Offer::Server(server)) => {
                drop(server);
                Permit { pool: &pool }.open(worker, want.startup).await
            }
            Ok(Offer::Permit) => Permit { pool: &pool }.open(worker, want.startup).await,
            Err(_) => Err(self.exhausted()),
        }
    }

    /// It was waited for in vain.
    pub fn give_up(self) -> AcquireError {
        self.observe();
        self.exhausted()
    }

    fn observe(&self) {
        let waits = &self.pool.shared.metrics.pools.wait;
        let waits = waits.with_label_values(&[&*self.pool.name]);
        waits.observe(self.since.elapsed().as_secs_f64());
    }

    fn exhausted(&self) -> AcquireError {
        let (pool, waited) = (&self.pool, self.since.elapsed());
        let timeouts = &pool.shared.metrics.pools.timeouts;
        timeouts.with_label_values(&[&*pool.name]).inc();
        pool.tell_exhausted(pool.wait_timeout());
        let node = Arc::clone(&pool.name);
        AcquireError::Exhausted { node, waited }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.grant.close();
        match self.grant.try_recv() {
            Ok(Offer::Server(server)) => self.pool.give_back(server),
            Ok(Offer::Permit) => self.pool.closed(),
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
