//! Replication connections: each has a server connection of its own, which belongs to no pool, to the
//! primary or to the node that its client names. Bytes are passed on as they come, both ways.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use pgwire::messages::startup::Authentication;
use tokio::time::{Instant, Sleep};
use tokio_util::sync::WaitForCancellationFutureOwned;

use super::greeting;
use super::refusal::Refusal;
use crate::backend::connect;
use crate::backend::want::AcquireError;
use crate::client::cancels::Slot;
use crate::client::connection::OWN_BOUND;
use crate::client::outcome::told::{Consequence, told};
use crate::client::relay::LookAfter;
use crate::client::session::local;
use crate::client::worker::{Common, Worker};
use crate::config::Secret;
use crate::core::exchange::TransactionStatus;
use crate::core::replication::{Bond, Passage};
use crate::core::topology::NodeId;
use crate::error::{Kind, Problem};
use crate::shared::connections::Entry;
use crate::wire::reply::Reply;
use crate::wire::socket::Socket;
use crate::wire::startup::Hello;

/// What the names of our own settings begin with.
const OWN: &str = "causeway.";
/// The startup option that names a node.
const NODE: &str = "causeway.node";
/// What a physical connection has in place of a database, as in `pg_hba.conf`.
const PHYSICAL: &str = "replication";
/// A connection whose one end has closed, and whose other end takes nothing for so long, is given up.
const STALLED: Duration = Duration::from_secs(60);
/// So long before the end of the grace the client is told of it.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// A server connection that is ready for the client's commands, as the client has been told.
pub(super) struct Stream {
    worker: Arc<Worker>,
    server: Socket,
    bond: Bond,
    slot: Arc<Slot>,
    /// On the list of clients while this lives.
    _entry: Entry,
}

/// Opens the server connection and greets the client as the server has greeted us.
pub(super) async fn open(
    worker: &Arc<Worker>,
    client: &mut Socket,
    hello: &Hello,
    kind: &str,
    key_length: usize,
    password: Option<Secret>,
) -> Result<Stream, Refusal> {
    let common = &worker.common;
    let named = named(common, hello)?;
    let asked = hello.settings.iter();
    let passed_on = asked.filter(|(name, _)| !name.starts_with(OWN));
    let mut startup: Vec<_> = passed_on.cloned().collect();
    startup.push(("replication".to_owned(), kind.to_owned()));
    let (database, user): (Arc<str>, Arc<str>) =
        (hello.database.as_str().into(), hello.user.as_str().into());
    // The server takes no notice of a physical connection's database, so it can be anything.
    let shown = match kind {
        "database" => Arc::clone(&database),
        _ => Arc::from(PHYSICAL),
    };
    common.pause.opened(&shown).await;
    let bond = find(worker, named).await?;
    let target = common.pools.target(bond.node, &database, &user, password);
    let target = target.ok_or(Refusal::Silent)?;
    let bound = common.rules.load().config.pool.connect_timeout;
    let opened = connect::open(&target, &startup, bound).await;
    common.metrics.pools.logged_in(&target.node, opened.is_ok());
    let opened = opened.map_err(|error| greeting::refusal(AcquireError::Connect(error)))?;

    let slot = common.cancels.register(key_length);
    // Nothing is under way that a request could have come for.
    let _ = slot.attach(&opened.cancel);
    let (from, encryption) = (client.peer().ok(), client.encryption());
    let entry = common.connections.enter(&user, &shown, from, encryption);
    entry.begin();
    let stream = Stream {
        worker: Arc::clone(worker),
        server: opened.socket,
        bond,
        slot,
        _entry: entry,
    };
    let mut reply = Reply::new().authentication(&Authentication::Ok);
    for (name, value) in &opened.parameters {
        reply = reply.parameter(name, value);
    }
    let reply = reply
        .key_data(stream.slot.process(), stream.slot.key())
        .ready(TransactionStatus::Idle);
    client.write_all(reply.as_bytes()).await?;
    Ok(stream)
}

/// The node that the client names; the other settings of ours mean nothing here, but are checked.
fn named(common: &Common, hello: &Hello) -> Result<Option<NodeId>, Problem> {
    let mut named = None;
    for (name, value) in &hello.settings {
        if name == NODE {
            named = Some(node(common, value)?);
        } else if let Some(own_name) = name.strip_prefix(OWN) {
            local::startup_level(own_name, value).map_err(|problem| Problem {
                fatal: true,
                ..problem
            })?;
        }
    }
    Ok(named)
}

fn node(common: &Common, name: &str) -> Result<NodeId, Problem> {
    let names = &common.start.node_names;
    let found = names.iter().position(|known| known == name);
    found.map(|index| NodeId(index as u16)).ok_or_else(|| {
        let what = format!("invalid value for parameter \"{NODE}\": \"{name}\"");
        let hint = format!("Available values: {}.", names.join(", "));
        Problem::fatal(Kind::InvalidParameterValue, what).with_hint(hint)
    })
}

async fn find(worker: &Worker, named: Option<NodeId>) -> Result<Bond, Refusal> {
    let common = &worker.common;
    let found = greeting::wait_for(worker, || Bond::new(named, &common.cluster.topology())).await;
    found.map_err(|waited| {
        let what = match named {
            Some(node) => format!("node {} is not available", name_of(common, node)),
            None => "no primary is available".to_owned(),
        };
        let what = format!("{what}: waited {:.1} s for it", waited.as_secs_f64());
        Problem::fatal(Kind::CannotConnectNow, what).into()
    })
}

fn name_of(common: &Common, node: NodeId) -> &str {
    let names = &common.start.node_names;
    names.get(usize::from(node.0)).map_or("", String::as_str)
}

impl Stream {
    /// Passes bytes on until one end closes, or the proxy gives the connection up.
    pub(super) async fn run(self, client: Socket) {
        let common = Arc::clone(&self.worker.common);
        let mut relay = Relay::new(self, client);
        if let Some(problem) = std::future::poll_fn(|cx| relay.poll(cx)).await {
            relay.give_up(&common, &problem).await;
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.worker.common.cancels.unregister(&self.slot);
    }
}

struct Relay {
    stream: Stream,
    client: Socket,
    passage: Passage,
    /// What one end has sent and the other could not take yet.
    to_server: Vec<u8>,
    to_client: Vec<u8>,
    look_after: LookAfter,
    /// Resolves at the beginning of a shutdown, and then at the end of its grace.
    draining: Pin<Box<WaitForCancellationFutureOwned>>,
    grace: Option<Pin<Box<Sleep>>>,
    moved: Instant,
}

impl Relay {
    fn new(mut stream: Stream, mut client: Socket) -> Self {
        // Neither end need have waited for the other.
        let (to_server, to_client) = (client.take_rest(), stream.server.take_rest());
        let mut passage = Passage::default();
        sent(&mut passage, &stream.slot, &to_server);
        heard(&mut passage, &stream.slot, &to_client);
        Self {
            draining: Box::pin(stream.worker.common.draining.clone().cancelled_owned()),
            stream,
            client,
            passage,
            to_server,
            to_client,
            look_after: LookAfter::new(),
            grace: None,
            moved: Instant::now(),
        }
    }

    /// Ready once an end has closed, or with the reason why the connection is given up.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Problem>> {
        loop {
            let look = self.look_after.poll(cx);
            if look && self.is_stalled() {
                return Poll::Ready(None);
            }
            if look && let Some(problem) = self.lost() {
                return Poll::Ready(Some(problem));
            }
            if let Some(problem) = self.shut_down(cx) {
                return Poll::Ready(Some(problem));
            }
            match self.pass(cx) {
                Err(Closed) => return Poll::Ready(None),
                Ok(false) => return Poll::Pending,
                Ok(true) => self.moved = Instant::now(),
            }
        }
    }

    /// Passes on what can be passed on at once; whether there was anything.
    fn pass(&mut self, cx: &mut Context<'_>) -> Result<bool, Closed> {
        let Self {
            stream: Stream { server, slot, .. },
            client,
            passage,
            to_server,
            to_client,
            ..
        } = self;
        let before = to_server.len() + to_client.len();
        if !to_server.is_empty()
            && let Poll::Ready(Err(_)) = server.poll_write(cx, to_server)
        {
            // What the server said before it closed may still be there to be read.
            to_server.clear();
        }
        if !to_client.is_empty()
            && let Poll::Ready(Err(_)) = client.poll_write(cx, to_client)
        {
            return Err(Closed);
        }
        let mut moved = to_server.len() + to_client.len() < before;
        if to_server.is_empty() {
            let read = client.poll_read(cx, |bytes| {
                sent(passage, slot, bytes);
                let written = server.write_now(bytes).unwrap_or(bytes.len());
                to_server.extend_from_slice(&bytes[written..]);
                (bytes.len(), ())
            });
            match read {
                Poll::Ready(Ok(Some(()))) => moved = true,
                Poll::Ready(_) => return Err(Closed),
                Poll::Pending => {}
            }
        }
        if to_client.is_empty() {
            let read = server.poll_read(cx, |bytes| {
                heard(passage, slot, bytes);
                let written = client.write_now(bytes);
                to_client.extend_from_slice(&bytes[*written.as_ref().unwrap_or(&0)..]);
                (bytes.len(), written.is_ok())
            });
            match read {
                Poll::Ready(Ok(Some(true))) => moved = true,
                Poll::Ready(_) => return Err(Closed),
                Poll::Pending => {}
            }
        }
        Ok(moved)
    }

    /// Whether one end is gone, which shows only when it is read from or written to, and the other end
    /// keeps that from happening.
    fn is_stalled(&self) -> bool {
        let blocked = !self.to_server.is_empty() || !self.to_client.is_empty();
        blocked
            && self.moved.elapsed() >= STALLED
            && (self.client.is_closed() || self.stream.server.is_closed())
    }

    fn lost(&self) -> Option<Problem> {
        let common = &self.stream.worker.common;
        let bond = self.stream.bond;
        let cluster = &common.cluster;
        if bond.holds(&cluster.topology(), cluster.now_us()) {
            return None;
        }
        let name = name_of(common, bond.node);
        let what = match bond.is_named() {
            true => format!("node {name} is not available any more"),
            false => format!("node {name} is not the primary any more, or was restarted"),
        };
        let problem = Problem::fatal(
            Kind::ConnectionFailure,
            format!("terminating replication connection: {what}"),
        );
        Some(match bond.is_named() {
            true => problem,
            false => problem.with_hint("Connect again to reach the present primary."),
        })
    }

    /// At a shutdown what would go on for ever ends at once, and a base backup when the grace is over.
    fn shut_down(&mut self, cx: &mut Context<'_>) -> Option<Problem> {
        let grace = match &mut self.grace {
            Some(grace) => grace,
            None => {
                if self.draining.as_mut().poll(cx).is_pending() {
                    return None;
                }
                let grace = self.stream.worker.common.grace;
                let sleep = tokio::time::sleep(grace.saturating_sub(LAST_WORDS));
                self.grace.insert(Box::pin(sleep))
            }
        };
        let over = grace.as_mut().poll(cx).is_ready();
        let whole = self.passage.is_between_frames() && self.passage.may_be_cut();
        (over || whole).then(|| {
            Problem::fatal(
                Kind::AdminShutdown,
                "terminating connection: causeway is shutting down",
            )
        })
    }

    /// Closes the server connection and tells the client why, unless it is in the middle of a frame.
    async fn give_up(self, common: &Common, problem: &Problem) {
        let Self {
            stream,
            mut client,
            passage,
            to_client,
            ..
        } = self;
        drop(stream);
        told(common, Consequence::Closed, problem, &client);
        if passage.is_between_frames() {
            let reply = Reply::new().raw(&to_client).error(problem);
            let _ = tokio::time::timeout(OWN_BOUND, client.write_all(reply.as_bytes())).await;
        }
    }
}

/// One of the two ends has closed.
struct Closed;

/// Bytes from the client: a cancel request that comes now may mean them.
fn sent(passage: &mut Passage, slot: &Slot, bytes: &[u8]) {
    let waited = passage.is_waiting();
    passage.sent(bytes);
    if !waited && passage.is_waiting() {
        slot.begin();
    }
}

/// Bytes from the server: what they answer can no longer be cancelled, only what was sent after it.
fn heard(passage: &mut Passage, slot: &Slot, bytes: &[u8]) {
    let waited = passage.is_waiting();
    if passage.heard(bytes) && waited {
        slot.end();
        if passage.is_waiting() {
            slot.begin();
        }
    }
}
