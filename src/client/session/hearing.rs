//! How a session hears: what its statements have made a server connection listen to is taken over by a
//! connection that listens for several sessions, and what comes there reaches the client where PostgreSQL
//! would have said it: at once while the session is idle, otherwise before the ReadyForQuery that ends its
//! transaction.

use std::io;
use std::sync::Arc;
use std::task::{Context as Wakeup, Poll};

use crate::backend::own_query::OwnQueryError;
use crate::backend::server::{Origin, Server};
use crate::client::attachment::Attachment;
use crate::client::attachment::ask::Unanswered;
use crate::client::attachment::context::Context;
use crate::client::connection::{Connection, Ending, OWN_BOUND};
use crate::client::listening::ear::{Deaf, Ear};
use crate::client::listening::feed::Audience;
use crate::client::listening::inbox::Heard;
use crate::client::listening::words::{missed_some, statements};
use crate::client::state::State;
use crate::core::exchange::TransactionStatus;
use crate::core::fanout::Channel;
use crate::core::mutant::{Rule, holds};
use crate::core::residue::Residue;
use crate::core::topology::NodeSet;
use crate::shared::cluster::ClusterState;
use crate::wire::frame::{HEADER, Piece, Walker};
use crate::wire::reply::Reply;

/// So much is passed on to an idle client at once, in bytes.
const AT_ONCE: usize = 64 * 1024;

/// A session's hearing.
#[derive(Debug, Default)]
pub(super) struct Hearing {
    ear: Option<Ear>,
    /// A round has ended since the last transaction did.
    is_fresh: bool,
    /// What the client is to be told first, as frames, and who shows what they tell of.
    carried: (Vec<u8>, Vec<Arc<Origin>>),
    /// The client is to be told that it may have missed some.
    has_missed: bool,
}

impl Hearing {
    /// Takes over what the held connection listens to, on which nothing is open.
    pub(super) async fn settle(
        &mut self,
        held: &mut Attachment,
        state: &mut State,
        context: &Context,
    ) -> Result<(), Unanswered> {
        let exposed = held.exposes_channels;
        let server = held.server();
        let asked = state.channels.take_found();
        let unsure = state.channels.is_unsure();
        let moves = self.ear.as_ref().is_some_and(|ear| {
            let encoding = encoding(server);
            **ear.encoding() != *encoding
        });
        if asked.is_none() && !unsure && !exposed && !moves {
            return Ok(());
        }
        let found = match asked {
            Some(found) => found,
            None if unsure => ask(server).await?,
            None if exposed => state.channels.heard().to_vec(),
            None => Vec::new(),
        };
        let unspeakable = state.channels.are_unspeakable();
        server.talk.listens = !found.is_empty() || unspeakable;
        if context.is_session_pooled() {
            state.listens_here(server.talk.listens);
            return Ok(());
        }
        let mut wanted = found.clone();
        if !exposed {
            wanted = state.channels.heard().to_vec();
            let new = found.iter().filter(|new| !state.channels.has(new));
            wanted.extend(new.cloned());
        }
        if moves {
            translate(server, self.ear.as_ref(), &mut wanted).await?;
        }
        // What this connection has been promised, the next may not hear from the same moment on.
        let was_here = state.listens_here(false);
        if wanted != state.channels.heard() || moves || unspeakable {
            if unspeakable || self.hear(&wanted, server, moves, context).await.is_err() {
                self.stay(state, context);
                held.exposes_channels = false;
                return listen_here(held.server(), &wanted).await;
            }
            self.has_missed |= was_here;
            context.entry.listens(wanted.len());
            state.channels.hear(wanted);
        }
        held.exposes_channels = false;
        let server = held.server();
        let sql = Residue::aside("UNLISTEN *");
        let quiet = found.is_empty() || server.run_own(sql.as_bytes(), OWN_BOUND).await.is_ok();
        server.talk.unasked.clear();
        server.talk.listens = !quiet;
        match quiet {
            true => Ok(()),
            false => Err(Unanswered::Lost),
        }
    }

    /// The server would not say what the connection listens to: if that is all, nobody else hears it as well.
    pub(super) fn unanswered(
        &mut self,
        held: &mut Attachment,
        state: &mut State,
        context: &Context,
    ) {
        if std::mem::take(&mut held.exposes_channels) {
            self.stay(state, context);
        }
    }

    /// The session hears by its own server connection alone.
    fn stay(&mut self, state: &mut State, context: &Context) {
        self.ear = None;
        state.channels.hear(Vec::new());
        state.listens_here(true);
        context.entry.listens(0);
    }

    async fn hear(
        &mut self,
        wanted: &[Channel],
        server: &Server,
        moves: bool,
        context: &Context,
    ) -> Result<(), Deaf> {
        if wanted.is_empty() {
            self.ear = None;
            return Ok(());
        }
        let before = self.ear.take_if(|_| moves);
        if let Some(before) = &before {
            before.catch_up().await;
            self.carry(before.take());
        }
        let ear = self.ear.get_or_insert_with(|| {
            let audience = Audience {
                database: Arc::clone(&context.database.name),
                user: Arc::clone(context.places.user()),
                encoding: encoding(server),
            };
            let listening = &context.worker.common.listening;
            listening.join(&audience, context.places.password())
        });
        ear.listen(wanted).await?;
        self.is_fresh = true;
        if let Some(before) = before {
            // What has come on both cannot be told apart from what was said twice.
            before.catch_up().await;
            self.has_missed |= before.take().is_some();
        }
        Ok(())
    }

    /// What was heard before the encoding changed means the same only in ASCII.
    fn carry(&mut self, heard: Option<Heard>) {
        match heard {
            Some(Heard::Frames(frames, from)) if is_plain(&frames) => self.carried = (frames, from),
            None => {}
            _ => self.has_missed = true,
        }
    }

    /// Outside of a transaction the client is told what there is for it, and then, where that is owed, that
    /// its answer ends here.
    pub(super) async fn tell(
        &mut self,
        client: &mut Connection,
        state: &mut State,
        cluster: &ClusterState,
    ) -> Result<(), Ending> {
        let (carried, from) = std::mem::take(&mut self.carried);
        shown(&from, state, cluster);
        let mut reply = Reply::new().raw(&carried);
        if let Some(ear) = &self.ear {
            if !std::mem::take(&mut self.is_fresh) && holds(Rule::NotificationsComeFirst) {
                ear.catch_up().await;
            }
            match ear.take() {
                Some(Heard::Frames(frames, from)) => {
                    shown(&from, state, cluster);
                    reply = reply.raw(&frames);
                }
                Some(Heard::Over(problem)) => return Err(Ending::Problem(problem)),
                None => {}
            }
        }
        if std::mem::take(&mut self.has_missed) {
            reply = reply.warning(&missed_some());
        }
        if std::mem::take(&mut client.owes_ready) {
            reply = reply.ready(TransactionStatus::Idle);
        }
        match reply.as_bytes() {
            [] => Ok(()),
            bytes => client.pass(bytes).await,
        }
    }

    /// Passes on to an idle client what comes. Ready when the session is to end.
    pub(super) fn poll(
        &self,
        cx: &mut Wakeup<'_>,
        client: &mut Connection,
        state: &mut State,
        cluster: &ClusterState,
    ) -> Poll<Result<Ending, io::Error>> {
        let Some(ear) = &self.ear else {
            return Poll::Pending;
        };
        loop {
            if !client.out.is_empty() {
                let written = client.socket.poll_write(cx, &mut client.out);
                client.count(0);
                match written {
                    Poll::Ready(Ok(())) => {}
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    // What comes meanwhile waits where it is counted.
                    Poll::Pending => {
                        return ear
                            .poll_over(cx)
                            .map(|problem| Ok(Ending::Problem(problem)));
                    }
                }
            }
            match ear.poll(cx, AT_ONCE) {
                Poll::Ready(Heard::Frames(frames, from)) => {
                    shown(&from, state, cluster);
                    client.out = frames;
                }
                Poll::Ready(Heard::Over(problem)) => {
                    return Poll::Ready(Ok(Ending::Problem(problem)));
                }
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}

/// Notifications are handed over: each tells of a commit, and whoever is told of one has seen it.
pub(super) fn shown<'a>(
    from: impl IntoIterator<Item = &'a Arc<Origin>>,
    state: &mut State,
    cluster: &ClusterState,
) {
    for origin in from {
        was_told(origin, state, cluster);
    }
}

/// The same, of a connection of the session's own.
pub(super) fn was_told(origin: &Origin, state: &mut State, cluster: &ClusterState) {
    state.seen.told_by_primary(origin.node, origin.life());
    let mut owed = NodeSet::default();
    owed.insert(origin.node);
    cluster.demands.ask(owed);
}

/// Something is about to run on a server connection that may notify: in this client's name, and not before
/// what another has sent from there is known by its own.
pub(super) async fn speak(held: &mut Attachment, context: &Context) {
    if !holds(Rule::OwnProcessId) {
        return;
    }
    let own = context.slot.process();
    let common = &context.worker.common;
    let senders = common.pools.senders();
    let server = held.server();
    let before = senders.client(server.origin.node, server.cancel.process);
    if before.is_some_and(|before| before != own) {
        common.listening.catch_up(&context.database.name).await;
    }
    server.speaks_for(senders, own);
}

/// In which encoding a server connection speaks, as the server names it.
fn encoding(server: &Server) -> Arc<str> {
    const NAME: &str = "client_encoding";
    let all = server.talk.reported.iter().chain(server.parameters.iter());
    let mut named = all.filter(|(name, _)| name == NAME);
    named.next().map_or("UTF8", |(_, value)| value).into()
}

async fn ask(server: &mut Server) -> Result<Vec<Channel>, Unanswered> {
    rows(server, "SELECT pg_catalog.pg_listening_channels()").await
}

async fn rows(server: &mut Server, sql: &str) -> Result<Vec<Channel>, Unanswered> {
    let sql = Residue::aside(sql);
    let rows = match server.rows_own(sql.as_bytes(), OWN_BOUND).await {
        // A cancel request may come late for the client's own statement.
        Err(OwnQueryError::Refused(_)) => server.rows_own(sql.as_bytes(), OWN_BOUND).await,
        answer => answer,
    };
    let first = |row: Vec<Option<Box<[u8]>>>| row.into_iter().next().flatten();
    Ok(rows?.into_iter().filter_map(first).map(Arc::from).collect())
}

/// The channels' names in the encoding that the connection speaks now.
async fn translate(
    server: &mut Server,
    ear: Option<&Ear>,
    channels: &mut [Channel],
) -> Result<(), Unanswered> {
    let Some(ear) = ear else { return Ok(()) };
    for channel in channels.iter_mut().filter(|channel| !channel.is_ascii()) {
        let hex: String = channel.iter().map(|byte| format!("{byte:02x}")).collect();
        let from = ear.encoding();
        let sql =
            format!("SELECT pg_catalog.convert_from(pg_catalog.decode('{hex}', 'hex'), '{from}')");
        let name = rows(server, &sql).await?.pop();
        *channel = name.ok_or(Unanswered::Refused)?;
    }
    Ok(())
}

/// Nobody else listens for the session: its server connection does, and is kept for that.
async fn listen_here(server: &mut Server, channels: &[Channel]) -> Result<(), Unanswered> {
    let mut sql = Residue::aside("").into_bytes();
    statements(&mut sql, b"LISTEN ", channels);
    server.talk.listens = true;
    let listened = server.run_own(&sql, OWN_BOUND).await;
    listened.map_err(|_| Unanswered::Lost)
}

/// Whether all that notifications say is ASCII.
fn is_plain(frames: &[u8]) -> bool {
    let (mut walker, mut at) = (Walker::default(), 0);
    while let Ok(Some(Piece::Frame { bytes, .. })) = walker.next(frames, &mut at, |_| false) {
        if !bytes.get(HEADER + 4..).unwrap_or_default().is_ascii() {
            return false;
        }
    }
    true
}
