//! One listening connection: opened at the primary, opened anew wherever that is next, and what it brings.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, MissedTickBehavior};

use super::inbox::{Inbox, Note, too_slow};
use super::words::{missed_some, statements};
use crate::backend::connect::{self, ConnectError};
use crate::backend::pools::Pools;
use crate::backend::server::Origin;
use crate::client::rules::LiveRules;
use crate::config::Secret;
use crate::core::fanout::{Channel, Fanout, HearerId, Round};
use crate::core::tag::{backend, frontend};
use crate::core::topology::{NodeView, PATIENCE_US};
use crate::error::{Kind, Problem};
use crate::metrics::Metrics;
use crate::shared::cluster::ClusterState;
use crate::shared::memory::MemoryBudget;
use crate::shared::pause::Pause;
use crate::wire::frame::{self, HEADER, Piece, Walker};
use crate::wire::reply::{Reply, error_text};
use crate::wire::socket::Socket;

/// How often is looked whether the connection's node is still the one.
const LOOK: Duration = Duration::from_millis(250);
/// Nobody waits longer for what was acknowledged before.
const CAUGHT_UP: Duration = Duration::from_secs(2);
/// A round that has not ended after so long never will.
const ROUND: Duration = Duration::from_secs(10);
/// A connection that nobody needs any more is kept for so long.
const LINGER: Duration = Duration::from_secs(1);
/// Between two attempts to open it, at first and at most.
const PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// After the time for which statements wait for a primary, sessions wait for so long to hear again.
const GIVEN_UP: Duration = Duration::from_secs(60);

/// What no server may end the connection for (PostgreSQL 14 and 17 have brought two of these).
const UNBOUND: &[u8] =
    b"SELECT pg_catalog.set_config(name, '0', false) FROM pg_catalog.pg_settings \
    WHERE name IN ('idle_session_timeout', 'idle_in_transaction_session_timeout', 'lock_timeout', \
    'statement_timeout', 'transaction_timeout')";

/// Whose notifications a connection brings, and in which encoding.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Audience {
    pub database: Arc<str>,
    pub user: Arc<str>,
    /// As the server names it.
    pub encoding: Arc<str>,
}

/// What the connections need.
#[derive(Debug)]
pub struct Means {
    pub rules: LiveRules,
    pub pools: Arc<Pools>,
    pub cluster: Arc<ClusterState>,
    pub metrics: Arc<Metrics>,
    pub memory: Arc<MemoryBudget>,
    pub pause: Arc<Pause>,
}

#[derive(Debug)]
pub(super) struct Feed {
    audience: Audience,
    /// As of the first session's login; for a user whom a reload has removed since.
    password: Option<Secret>,
    means: Arc<Means>,
    budgets: [Arc<MemoryBudget>; 2],
    state: Mutex<State>,
    /// There is something to be told to the server, or nobody is left.
    wake: Notify,
    /// A round has ended, or the connection has come or gone.
    changed: Notify,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) fanout: Fanout,
    /// How often no connection could be had.
    pub(super) failures: u64,
    /// The server takes its time: nobody waits for it.
    pub(super) is_late: bool,
    inboxes: HashMap<HearerId, Arc<Inbox>>,
    /// Since when there is no connection that has worked.
    without: Option<Instant>,
    pause: Duration,
}

/// A connection, and what is under way on it.
struct Connection {
    socket: Socket,
    walker: Walker,
    to_server: Vec<u8>,
    origin: Arc<Origin>,
    rounds: Rounds,
}

/// How far a connection has come.
#[derive(Default)]
struct Rounds {
    /// When the one that is under way was begun.
    began: Option<Instant>,
    /// One has ended.
    has_worked: bool,
}

/// Why none was opened.
enum Unopened {
    /// There is no primary, or the database is paused.
    Nowhere,
    Refused(ConnectError),
}

impl Feed {
    pub(super) fn new(
        audience: Audience,
        password: Option<Secret>,
        means: Arc<Means>,
        budgets: [Arc<MemoryBudget>; 2],
    ) -> Self {
        let state = State {
            fanout: Fanout::default(),
            failures: 0,
            is_late: false,
            inboxes: HashMap::new(),
            without: None,
            pause: PAUSE,
        };
        Self {
            audience,
            password,
            means,
            budgets,
            state: Mutex::new(state),
            wake: Notify::new(),
            changed: Notify::new(),
        }
    }

    pub(super) fn audience(&self) -> &Audience {
        &self.audience
    }

    pub(super) fn join(&self) -> (HearerId, Arc<Inbox>) {
        let mut state = self.state.lock();
        let id = state.fanout.join();
        let inbox = Arc::new(Inbox::default());
        state.inboxes.insert(id, Arc::clone(&inbox));
        (id, inbox)
    }

    pub(super) fn leave(&self, id: HearerId) {
        self.tell(|state| {
            state.fanout.leave(id);
            state.inboxes.remove(&id);
        });
    }

    pub(super) fn is_idle(&self) -> bool {
        self.look(|state| state.fanout.is_empty())
    }

    /// Looks at what there is.
    pub(super) fn look<T>(&self, at: impl FnOnce(&State) -> T) -> T {
        at(&self.state.lock())
    }

    /// Changes what is wanted.
    pub(super) fn tell<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let told = change(&mut self.state.lock());
        self.wake.notify_one();
        told
    }

    /// Waits for something, within `bound`; whether it came.
    pub(super) async fn wait_for(&self, bound: Duration, done: impl Fn(&State) -> bool) -> bool {
        let wait = async {
            loop {
                let changed = self.changed.notified();
                tokio::pin!(changed);
                changed.as_mut().enable();
                if self.look(&done) {
                    return;
                }
                changed.await;
            }
        };
        tokio::time::timeout(bound, wait).await.is_ok()
    }

    /// Waits until everything has been read that was acknowledged before; not while there is no connection,
    /// or none that answers.
    pub(super) async fn catch_up(&self) {
        let round = self.tell(|state| {
            let can = state.fanout.is_open() && !state.is_late;
            can.then(|| state.fanout.ask())
        });
        let Some(round) = round else { return };
        let over =
            |state: &State| state.fanout.is_over(round) || !state.fanout.is_open() || state.is_late;
        if !self.wait_for(CAUGHT_UP, over).await {
            self.tell(|state| state.is_late = true);
        }
    }

    /// Opens the connection and serves it until it is lost, or nobody needs it; or waits for a better
    /// moment.
    pub(super) async fn serve_once(&self) {
        match self.open().await {
            Ok(mut connection) => {
                let shown = &self.means.metrics.clients.listening_connections;
                shown.inc();
                self.tell(|state| state.fanout.opened());
                let lost = self.serve(&mut connection).await;
                shown.dec();
                self.lost(lost);
                if lost && !connection.rounds.has_worked {
                    self.failed().await;
                }
            }
            Err(Unopened::Nowhere) => {
                self.give_up_in_time();
                let changed = self.means.cluster.turned();
                tokio::select! {
                    () = changed => {}
                    () = self.wake.notified() => {}
                    () = tokio::time::sleep(LOOK) => {}
                }
            }
            Err(Unopened::Refused(error)) => {
                let Audience { database, user, .. } = &self.audience;
                tracing::warn!(%error, %database, %user, "open a connection that listens for sessions");
                self.failed().await;
            }
        }
    }

    /// No connection could be had: another attempt is made after a pause.
    async fn failed(&self) {
        self.give_up_in_time();
        let pause = {
            let mut state = self.state.lock();
            state.failures += 1;
            let pause = state.pause;
            state.pause = LONGEST_PAUSE.min(pause * 2);
            pause
        };
        self.changed.notify_waiters();
        let nobody = async {
            while !self.is_idle() {
                self.wake.notified().await;
            }
        };
        let _ = tokio::time::timeout(pause, nobody).await;
    }

    /// Sessions that have heard nothing for too long are told so, at the cost of their connection.
    fn give_up_in_time(&self) {
        let patience = self.means.rules.load().bounds.hold_timeout + GIVEN_UP;
        let mut state = self.state.lock();
        let since = *state.without.get_or_insert_with(Instant::now);
        if since.elapsed() < patience {
            return;
        }
        let problem = Problem::fatal(
            Kind::ConnectionFailure,
            "terminating connection: the connection that notifications come by was lost, and no other \
             could be opened",
        );
        for inbox in state.inboxes.values() {
            inbox.end(problem.clone());
        }
        state.without = None;
    }

    async fn open(&self) -> Result<Connection, Unopened> {
        let Means {
            rules,
            pools,
            cluster,
            metrics,
            pause,
            ..
        } = &*self.means;
        let Audience {
            database,
            user,
            encoding,
        } = &self.audience;
        if !pause.is_open(database) {
            return Err(Unopened::Nowhere);
        }
        let origin = {
            let topology = cluster.topology();
            let primary = topology.primary().ok_or(Unopened::Nowhere)?;
            let life = primary.usable().ok_or(Unopened::Nowhere)?;
            Origin {
                node: primary.id,
                incarnation: life.incarnation,
                gauge: Arc::clone(&life.gauge),
            }
        };
        let rules = rules.load();
        let password = match rules.users.get(&**user) {
            Some(account) => account.server_password.clone(),
            None => self.password.clone(),
        };
        let bound = rules.config.pool.connect_timeout;
        drop(rules);
        let target = pools.target(origin.node, database, user, password);
        let target = target.ok_or(Unopened::Nowhere)?;
        let startup = [
            ("client_encoding", &**encoding),
            ("application_name", "causeway"),
        ];
        let startup = startup.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let opened = connect::open(&target, &startup, bound).await;
        metrics.pools.logged_in(&target.node, opened.is_ok());
        let mut socket = opened.map_err(Unopened::Refused)?.socket;
        let made_ready = tokio::time::timeout(bound, unbind(&mut socket)).await;
        if let Err(source) = made_ready.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
            let node = Arc::clone(&target.node);
            return Err(Unopened::Refused(ConnectError::Io { node, source }));
        }
        Ok(Connection {
            socket,
            walker: Walker::default(),
            to_server: Vec::new(),
            origin: Arc::new(origin),
            rounds: Rounds::default(),
        })
    }

    /// Serves the connection; true if it is lost, false if nobody needs it.
    async fn serve(&self, connection: &mut Connection) -> bool {
        let mut looks = tokio::time::interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut idle_since = None;
        loop {
            if connection.rounds.began.is_none()
                && let Some(round) = self.state.lock().fanout.begin()
            {
                connection.begin(&round);
            }
            tokio::select! {
                biased;
                read = std::future::poll_fn(|cx| connection.poll(cx, self)) => {
                    if let Err(error) = read {
                        tracing::debug!(%error, "a connection that listens for sessions is lost");
                        return true;
                    }
                }
                () = self.wake.notified() => {}
                _ = looks.tick() => {
                    if !self.may_go_on(connection) {
                        return true;
                    }
                    match (self.is_idle(), idle_since) {
                        (false, _) => idle_since = None,
                        (true, None) => idle_since = Some(Instant::now()),
                        (true, Some(since)) if since.elapsed() >= LINGER => return false,
                        (true, Some(_)) => {}
                    }
                }
            }
        }
    }

    fn may_go_on(&self, connection: &Connection) -> bool {
        let Means { cluster, pause, .. } = &*self.means;
        let stuck = connection.rounds.began;
        let stuck = stuck.is_some_and(|began| began.elapsed() > ROUND);
        let Origin {
            node, incarnation, ..
        } = *connection.origin;
        let now_us = cluster.now_us();
        let topology = cluster.topology();
        let keeps = |node: &NodeView| node.keeps(incarnation, now_us, PATIENCE_US);
        !stuck && pause.is_open(&self.audience.database) && topology.node(node).is_some_and(keeps)
    }

    fn lost(&self, lost: bool) {
        let mut state = self.state.lock();
        state.fanout.lost();
        state.is_late = false;
        if lost {
            state.without.get_or_insert_with(Instant::now);
        }
        drop(state);
        self.changed.notify_waiters();
    }

    /// A frame has come from the server; an error ends the connection.
    fn take(
        &self,
        tag: u8,
        frame: &[u8],
        rounds: &mut Rounds,
        origin: &Arc<Origin>,
    ) -> io::Result<()> {
        match tag {
            backend::NOTIFICATION => self.note(frame, origin),
            backend::READY => {
                rounds.began = None;
                rounds.has_worked = true;
                self.round_ended();
            }
            backend::ERROR => return Err(io::Error::other(error_text(frame))),
            _ => {}
        }
        Ok(())
    }

    fn round_ended(&self) {
        let mut state = self.state.lock();
        state.is_late = false;
        state.without = None;
        state.pause = PAUSE;
        let missed = state.fanout.ended();
        if !missed.is_empty() {
            let warning = Reply::new().warning(&missed_some());
            self.deliver(&mut state, &missed, None, warning.as_bytes().to_vec());
        }
        drop(state);
        self.changed.notify_waiters();
    }

    /// A notification: each session that listens to its channel hears it, from the process that the
    /// sender's client knows.
    fn note(&self, frame: &[u8], origin: &Arc<Origin>) {
        let Some((process, rest)) = frame.get(HEADER..).and_then(<[u8]>::split_first_chunk::<4>)
        else {
            return;
        };
        let Some((channel, _)) = frame::cstr(rest) else {
            return;
        };
        let mut state = self.state.lock();
        let hearers: Vec<_> = state.fanout.hearers(channel).collect();
        if hearers.is_empty() {
            return;
        }
        let mut frame = frame.to_vec();
        let senders = self.means.pools.senders();
        if let Some(client) = senders.client(origin.node, i32::from_be_bytes(*process)) {
            frame[HEADER..HEADER + 4].copy_from_slice(&client.to_be_bytes());
        }
        self.deliver(
            &mut state,
            &hearers,
            Some((&Arc::from(channel), origin)),
            frame,
        );
    }

    fn deliver(
        &self,
        state: &mut State,
        hearers: &[HearerId],
        note: Option<(&Channel, &Arc<Origin>)>,
        frame: Vec<u8>,
    ) {
        let inboxes = hearers.iter().filter_map(|id| state.inboxes.get(id));
        let (channel, from) = note.unzip();
        match self.counted(state, frame, from) {
            Some(note) => {
                let [_, undelivered] = &self.budgets;
                inboxes.for_each(|inbox| inbox.push(channel, &note, undelivered.session()));
            }
            None => inboxes.for_each(|inbox| inbox.end(too_slow())),
        }
    }

    /// A frame with its bytes taken from the budgets, at the cost of the session that has left most lie,
    /// if need be; none if there is no room at all.
    fn counted(
        &self,
        state: &State,
        frame: Vec<u8>,
        from: Option<&Arc<Origin>>,
    ) -> Option<Arc<Note>> {
        loop {
            let mut shares = self.budgets.each_ref().map(MemoryBudget::share);
            if shares.iter_mut().all(|share| share.grow_to(frame.len())) {
                return Some(Arc::new(Note {
                    frame,
                    from: from.cloned(),
                    _shares: shares,
                }));
            }
            let inboxes = state.inboxes.values();
            let slowest = inboxes.max_by_key(|inbox| inbox.bytes())?;
            if slowest.bytes() == 0 {
                return None;
            }
            slowest.end(too_slow());
        }
    }
}

impl Connection {
    fn begin(&mut self, round: &Round) {
        self.rounds.began = Some(Instant::now());
        match round {
            Round::Sync => self.to_server.extend_from_slice(frame::SYNC),
            Round::Change { listen, unlisten } => {
                frame::write(&mut self.to_server, frontend::QUERY, |text| {
                    statements(text, b"LISTEN ", listen);
                    statements(text, b"UNLISTEN ", unlisten);
                    text.push(0);
                });
            }
        }
    }

    /// Sends what is to be sent and reads what has come. Ready when something has.
    fn poll(&mut self, cx: &mut Context<'_>, feed: &Feed) -> Poll<io::Result<()>> {
        if !self.to_server.is_empty()
            && let Poll::Ready(Err(error)) = self.socket.poll_write(cx, &mut self.to_server)
        {
            return Poll::Ready(Err(error));
        }
        let Self {
            socket,
            walker,
            rounds,
            origin,
            ..
        } = self;
        let read = socket.poll_read(cx, |bytes| {
            let mut at = 0;
            loop {
                match walker.next(bytes, &mut at, |_| false) {
                    Ok(Some(Piece::Frame { tag, bytes })) => {
                        if let Err(error) = feed.take(tag, bytes, rounds, origin) {
                            return (at, Err(error));
                        }
                    }
                    // Nothing that is of interest is so long.
                    Ok(Some(Piece::Start { .. } | Piece::More(_))) => {}
                    Ok(None) => return (at, Ok(())),
                    Err(error) => {
                        return (at, Err(io::Error::new(io::ErrorKind::InvalidData, error)));
                    }
                }
            }
        });
        match read {
            Poll::Ready(Ok(Some(taken))) => Poll::Ready(taken),
            Poll::Ready(Ok(None)) => Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => Poll::Pending,
        }
    }
}

/// Takes away what the role's own settings would end the connection for.
async fn unbind(socket: &mut Socket) -> io::Result<()> {
    let mut message = Vec::new();
    frame::write(&mut message, frontend::QUERY, |text| {
        text.extend_from_slice(UNBOUND);
        text.push(0);
    });
    socket.write_all(&message).await?;
    loop {
        match socket.next_frame().await? {
            (backend::READY, _) => return Ok(()),
            (backend::ERROR, frame) => return Err(io::Error::other(error_text(&frame))),
            _ => {}
        }
    }
}
