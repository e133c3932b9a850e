//! One logged-in server connection and all that is known of its state.

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::Instant;

use super::prepared::{Held, server_name};
use super::senders::{Sender, Senders};
use super::settings::Settings;
use crate::core::exchange::Exchange;
use crate::core::gauge::Gauge;
use crate::core::plans::Plans;
use crate::core::session::LifeAt;
use crate::core::topology::{Incarnation, NodeId, NodeView, PATIENCE_US, Topology};
use crate::core::traces::Traces;
use crate::shared::cluster::ClusterState;
use crate::wire::frame::{self, Walker};
use crate::wire::socket::Socket;

/// Which life of which node a connection belongs to.
#[derive(Clone, Debug)]
pub struct Origin {
    /// The node.
    pub node: NodeId,
    /// The incarnation that was current when the connection was begun.
    pub incarnation: Incarnation,
    /// Its gauge.
    pub gauge: Arc<Gauge>,
}

impl Origin {
    /// For the marks of what is shown there.
    pub fn life(&self) -> LifeAt<'_> {
        LifeAt {
            incarnation: self.incarnation,
            gauge: &self.gauge,
        }
    }
}

/// What cancels the statement that a connection is running.
#[derive(Clone, Debug)]
pub struct CancelTarget {
    /// The server.
    pub address: SocketAddr,
    /// Process id from BackendKeyData.
    pub process: i32,
    /// Secret from BackendKeyData.
    pub key: i32,
}

/// Settings that a client's startup packet asked for. They stand in the server connection's own startup
/// packet, so that they are what RESET, SET … TO DEFAULT and DISCARD ALL return to.
pub type StartupSettings = Arc<[(String, String)]>;

/// Statements under a client's own names, with their numbers.
pub type Exposed = HashMap<Box<[u8]>, u64>;

/// The number of a name under which there may be a statement, or none.
pub const UNSURE: u64 = u64::MAX;

/// What is said on a server connection: what was sent, what is owed for it, what is prepared.
#[derive(Debug, Default)]
pub struct Conversation {
    /// Where frames begin in what it sends.
    pub walker: Walker,
    /// Where frames begin in what clients have sent to it in parts: COPY data.
    pub upstream: Walker,
    /// What it still owes.
    pub exchange: Exchange,
    /// Named statements prepared on it.
    pub held: Held,
    /// What their names have in common.
    pub token: u64,
    /// Parse messages on their way, in order: the named statement that each prepares, if it is one.
    pub parsing: VecDeque<Option<u64>>,
    /// Describe messages of named statements on their way, in order: number and the client's name.
    pub describing: VecDeque<(u64, Box<[u8]>)>,
    /// Whose unnamed statement it holds.
    pub unnamed: Option<u64>,
    /// A message of the batch that is being sent drops everything prepared.
    pub forgetting: bool,
    /// Everything prepared was dropped, or may have been: a name may still be taken.
    pub forgotten: bool,
    /// What is held and exposed after all if the message that drops everything fails.
    shelved: Option<Box<(Held, Exposed)>>,
    /// Statements that are prepared under a client's own names, for SQL that speaks of them: with their
    /// numbers.
    pub exposed: Exposed,
    /// What is being sent speaks of statements by their names: until its end they are the client's own.
    pub exposing: bool,
    /// A portal is run up to a number of rows in the pipeline that is being sent.
    pub pauses: bool,
    /// ParameterStatus since the login, where it differs from what was said then.
    pub reported: Vec<(String, String)>,
    /// Notifications that came while something of our own was asked, or behind the end of an answer that
    /// has not been said yet; as whole frames.
    pub unasked: Vec<u8>,
    /// It may listen to something.
    pub listens: bool,
    /// The words with which it left in the middle of an answer, as a frame.
    pub farewell: Option<Vec<u8>>,
}

impl Conversation {
    /// Everything prepared was dropped, or may have been: each is closed before it is prepared again.
    pub fn forget_prepared(&mut self) {
        self.held.clear();
        self.forgotten = true;
    }

    /// A message that drops everything prepared is about to be sent.
    pub fn shelve(&mut self) {
        let gone = (
            std::mem::take(&mut self.held),
            std::mem::take(&mut self.exposed),
        );
        self.shelved.get_or_insert_with(|| Box::new(gone));
    }

    /// An error: what was to be prepared or closed under the client's names may not have been.
    pub fn doubt_exposed(&mut self) {
        if self.exposing {
            self.exposed.values_mut().for_each(|id| *id = UNSURE);
        }
    }

    /// How many statements of the protocol the server should know by a name.
    pub fn statements(&self) -> usize {
        self.held.len() + self.exposed.len()
    }

    /// The server knows these names and no others. Gives those that are nobody's, to be closed.
    pub fn reconcile<'a>(&mut self, names: &[&'a [u8]]) -> Vec<&'a [u8]> {
        let mut unknown: HashSet<&[u8]> = names.iter().copied().collect();
        let token = self.token;
        self.held
            .retain(|id| unknown.remove(server_name(token, id).as_bytes()));
        self.exposed.retain(|name, _| unknown.remove(&**name));
        names
            .iter()
            .copied()
            .filter(|name| unknown.contains(name))
            .collect()
    }

    /// A statement that is held is to be closed and parsed again when a client parses it.
    pub fn parse_again(&mut self, id: u64) {
        self.held.remove(id);
        self.forgotten = true;
    }

    /// The message that drops everything prepared has succeeded.
    pub fn dropped(&mut self) {
        self.shelved = None;
    }

    /// That message has failed, or was never reached.
    pub fn unshelve(&mut self) {
        if let Some((held, exposed)) = self.shelved.take().map(|shelved| *shelved) {
            self.held.merge(held);
            self.exposed.extend(exposed);
        }
    }

    /// A ParameterStatus body: what the server shows now.
    pub fn note_parameter(&mut self, body: &[u8]) {
        let Some((name, value)) = frame::parameter(body) else {
            return;
        };
        match self.reported.iter_mut().find(|(known, _)| *known == name) {
            Some((_, known)) => *known = value,
            None => self.reported.push((name, value)),
        }
    }
}

/// A server connection.
#[derive(Debug)]
pub struct Server {
    /// The connection itself.
    pub socket: Socket,
    /// What is said on it.
    pub talk: Conversation,
    /// What its startup packet asked for.
    pub startup: StartupSettings,
    /// The session whose numbers `lastval` and `currval` speak of here.
    pub numbers_of: Weak<()>,
    /// Somebody has drawn a number here since it was opened, or since DISCARD SEQUENCES.
    pub has_numbers: bool,
    /// The session that had it last.
    pub used_by: Weak<()>,
    /// What has run on it since it was clean.
    pub traces: Traces,
    /// Code of users may have run in its process, or a temporary table may have been used: of that the process
    /// keeps what nothing takes away.
    pub worn: bool,
    /// Plans that code has left since they were last discarded.
    pub plans: Plans,
    /// Which of its pool's generations it belongs to.
    pub generation: u64,
    /// The node's life that it belongs to.
    pub origin: Origin,
    /// How to cancel.
    pub cancel: CancelTarget,
    /// Session settings in force on it; none when they cannot be known.
    pub applied: Option<Arc<Settings>>,
    /// `synchronous_commit` was off at the login.
    pub commits_async: bool,
    /// When it was last given back.
    pub idle_since: Instant,
    /// Which worker's event loop it is registered with.
    pub worker: usize,
    /// ParameterStatus at login.
    pub parameters: Arc<[(String, String)]>,
    born_at_probe: u64,
    proven: bool,
    busy: bool,
    /// It runs a unit that may commit asynchronously.
    asynchronous: bool,
    /// In whose name its notifications are.
    sender: Option<Sender>,
    cluster: Arc<ClusterState>,
}

impl Server {
    /// Wraps a connection that has just become ready.
    #[allow(
        clippy::too_many_arguments,
        reason = "one caller, which has just gathered all of it"
    )]
    pub(super) fn new(
        socket: Socket,
        origin: Origin,
        cancel: CancelTarget,
        parameters: Arc<[(String, String)]>,
        commits_async: bool,
        startup: StartupSettings,
        worker: usize,
        cluster: Arc<ClusterState>,
    ) -> Self {
        Self {
            socket,
            talk: Conversation::default(),
            startup,
            numbers_of: Weak::new(),
            has_numbers: false,
            used_by: Weak::new(),
            traces: Traces::default(),
            worn: false,
            plans: Plans::default(),
            generation: 0,
            born_at_probe: origin.gauge.sent(),
            origin,
            cancel,
            applied: Some(Arc::default()),
            commits_async,
            idle_since: Instant::now(),
            worker,
            parameters,
            proven: false,
            busy: false,
            asynchronous: false,
            sender: None,
            cluster,
        }
    }

    /// The node's life, for marks.
    pub fn life(&self) -> LifeAt<'_> {
        self.origin.life()
    }

    /// Whether measurements of its incarnation speak for this connection.
    ///
    /// It was begun in that incarnation, but the node may have been restarted unnoticed before it
    /// was ready. A probe sent after that, answered in the same incarnation, rules it out.
    pub fn is_proven(&mut self, topology: &Topology) -> bool {
        if !self.proven {
            let life = topology
                .node(self.origin.node)
                .and_then(|node| node.life.as_ref());
            self.proven = life.is_some_and(|life| {
                life.incarnation == self.origin.incarnation
                    && life.latest.probe > self.born_at_probe
            });
        }
        self.proven
    }

    /// Whether its node still lives the life that it belongs to.
    pub fn is_current(&self, topology: &Topology) -> bool {
        topology
            .node(self.origin.node)
            .and_then(NodeView::usable)
            .is_some_and(|life| life.incarnation == self.origin.incarnation)
    }

    /// Whether what is under way on it may go on, although its node may not have answered its monitor
    /// for as long as `patience_us`.
    pub fn may_go_on(&self, topology: &Topology, patience_us: u64) -> bool {
        let (incarnation, now_us) = (self.origin.incarnation, self.cluster.now_us());
        let node = topology.node(self.origin.node);
        node.is_some_and(|node| node.keeps(incarnation, now_us, patience_us))
    }

    /// Whether anybody may be given it, now or once its node answers again: not on a node that is drained.
    pub fn is_wanted(&self, topology: &Topology) -> bool {
        let drained = topology
            .node(self.origin.node)
            .is_some_and(NodeView::is_drained);
        !drained && self.may_go_on(topology, PATIENCE_US)
    }

    /// Whether nothing is open on it: no transaction, nothing owed, half read or half sent.
    pub fn is_free(&self) -> bool {
        self.talk.exchange.is_free()
            && !self.talk.walker.is_inside()
            && !self.talk.upstream.is_inside()
    }

    /// Whether it can be given to the next session.
    pub fn is_reusable(&self) -> bool {
        self.is_free()
            && !self.talk.listens
            && !self.talk.exchange.has_leftover()
            && !self.socket.has_something_to_say()
    }

    /// Moves it to the calling worker's event loop.
    pub(super) fn adopt(mut self: Box<Self>, worker: usize) -> std::io::Result<Box<Self>> {
        self.socket.adopt()?;
        self.worker = worker;
        Ok(self)
    }

    /// A unit that may commit asynchronously is about to be sent: what it commits can be read
    /// before it is flushed, by everybody.
    pub fn commits_asynchronously(&mut self) {
        if !self.asynchronous {
            self.asynchronous = true;
            self.origin.gauge.asynchronous_begins();
        }
    }

    /// What it runs from now on may notify, in the name of the client with this process id.
    pub fn speaks_for(&mut self, senders: &Arc<Senders>, client: i32) {
        match &self.sender {
            Some(sender) => sender.set(client),
            None => {
                let (node, process) = (self.origin.node, self.cancel.process);
                self.sender = Some(senders.speaks(node, process, client));
            }
        }
    }

    /// Counts it among its node's load, or no longer.
    pub fn set_busy(&mut self, busy: bool) {
        // Given up in the middle, it may commit at any time from now on.
        if !busy && self.asynchronous && self.talk.exchange.is_free() {
            self.asynchronous = false;
            self.origin.gauge.asynchronous_ended();
        }
        match (busy, self.busy) {
            (true, false) => self.cluster.load.begin(self.origin.node),
            (false, true) => self.cluster.load.end(self.origin.node),
            _ => {}
        }
        self.busy = busy;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.set_busy(false);
        if self.asynchronous {
            let process = self.cancel.process;
            self.origin.gauge.asynchronous_abandoned(process);
        }
    }
}
