//! The server connection that a session holds: taken for a batch, made ready for the session's settings,
//! asked what is left on it, and given back.

pub(super) mod ask;
pub(super) mod channels;
pub(super) mod cleaning;
pub(super) mod constants;
pub(super) mod context;
mod crowded;
pub(super) mod moving;
pub(super) mod routing;
pub(super) mod shapes;

use std::io;
use std::sync::Arc;

use self::context::Context;
use self::routing::{Failure, MAX_ATTEMPTS, Need};
use super::connection::batch::{Batch, End};
use super::connection::{Connection, OWN_BOUND};
use super::state::State;
use super::state::last_route::LastRoute;
use crate::backend::own_query::OwnQueryError;
use crate::backend::pool::Lease;
use crate::backend::server::Server;
use crate::backend::settings::{self, Settings};
use crate::config::PoolMode;
use crate::core::commit::Pending;
use crate::core::exchange::TransactionStatus;
use crate::core::mutant::{Rule, holds};
use crate::core::plans::Plans;
use crate::core::session::{Cover, Level};
use crate::core::statement::{Access, Effect, PinReason, WriteReason};
use crate::core::tag::frontend;
use crate::core::topology::NodeSet;
use crate::error::{Kind, Problem};
use crate::wire::reply::Reply;

/// A held server connection, and what has run on it since it was taken.
#[derive(Debug)]
pub(super) struct Attachment {
    lease: Lease,
    pub(super) unit: Unit,
    pub(super) last: LastRoute,
    /// It listens to all that the session hears.
    pub(super) exposes_channels: bool,
}

/// What has run since the connection was taken, or since the last transaction ended on it.
#[derive(Debug, Default)]
pub(super) struct Unit {
    /// The strictest access so far; none before the first batch.
    pub(super) access: Option<Access>,
    pub(super) may_commit_async: bool,
    /// What it changed need not have reached the WAL.
    pub(super) may_flush_nothing: bool,
    pub(super) level: Level,
    /// A statement has read: a snapshot has been taken.
    pub(super) has_read: bool,
    /// A cursor or a portal may be open.
    pub(super) has_portals: bool,
    /// The transaction whose COMMIT is on its way, if it is known.
    pub(super) pending: Option<Pending>,
    /// The connection was placed for the batch at hand, which is counted already.
    pub(super) just_placed: bool,
}

impl Unit {
    /// A batch is about to be sent: the strictest access so far.
    pub(super) fn runs(&mut self, batch: &Batch) -> Access {
        let access = self.access.unwrap_or(Access::Neutral).max(batch.access);
        self.access = Some(access);
        self.may_commit_async |= batch.may_commit_async;
        self.may_flush_nothing |= batch.may_flush_nothing;
        self.has_read |= batch.access != Access::Neutral;
        self.has_portals |= batch.opens_portals();
        if batch.only_chains() {
            (self.has_read, self.has_portals) = (false, false);
        }
        access
    }
}

impl Attachment {
    pub(super) fn server(&mut self) -> &mut Server {
        self.lease.server()
    }

    pub(super) fn node_name(&self) -> &Arc<str> {
        self.lease.pool().node_name()
    }

    pub(in crate::client) fn is_primary(&self) -> bool {
        self.last.route.primary
    }

    pub(super) fn status(&mut self) -> TransactionStatus {
        self.server().talk.exchange.status()
    }

    /// The server connection is idle: the session's mark moves.
    pub(super) fn transaction_ended(&mut self, state: &mut State, context: &Context) {
        let unit = std::mem::take(&mut self.unit);
        let (primary, server) = (self.last.route.primary, self.lease.server());
        let node = server.origin.node;
        match unit.access {
            None | Some(Access::Neutral) => {}
            // An eventual read may have gone back in time: it must not replace the mark.
            Some(Access::Read) if unit.level == Level::Eventual => {}
            Some(_) if primary => {
                let asynchronous =
                    unit.may_commit_async || server.commits_async || state.may_commit_async();
                let temporary = state.pins().contains(PinReason::TemporaryObject);
                let nothing = unit.may_flush_nothing || temporary;
                let left = state.flushes.take();
                let cover = match unit.access {
                    Some(Access::Write) if asynchronous => Cover::Insert,
                    _ if left.flushed && !nothing => Cover::Flush,
                    _ => Cover::Shown,
                };
                state.seen.ended_on_primary(node, server.life(), cover);
                if left.in_place {
                    let cover = Cover::Unknown;
                    state.seen.ended_on_primary(node, server.life(), cover);
                }
                let mut owed = NodeSet::default();
                owed.insert(node);
                context.worker.common.cluster.demands.ask(owed);
            }
            Some(_) => state.seen.read_on_standby(node, server.life()),
        }
        // What it tells of may have been committed behind the transaction's own end.
        if primary && std::mem::take(&mut state.after.told) {
            state.seen.told_by_primary(node, server.life());
        }
        self.unit.level = state.level();
    }

    /// Gives the connection back; it is closed if a cancel request may be on its way to it.
    pub(super) fn release(self, context: &Context) {
        if context.slot.detach() {
            self.lease.discard();
        }
    }

    /// Closes the connection.
    pub(super) fn discard(self, context: &Context) {
        context.slot.detach();
        self.lease.discard();
    }

    /// The session is over: what it held is closed unless nothing of the session is left on it.
    pub(super) async fn leave(mut self, state: &State, context: &Context) {
        let cancelled = context.slot.detach();
        let server = self.lease.server();
        if cancelled || !server.is_free() {
            // In the middle of a transaction: closing the connection rolls it back.
            return self.lease.discard();
        }
        if state.pins().stay_in_process() {
            return self.lease.discard();
        }
        let clean = state.pins().is_empty() && state.is_settled() && !context.is_session_pooled();
        if !clean && holds(Rule::LeaversTakeAll) {
            if server.run_own(b"DISCARD ALL", OWN_BOUND).await.is_err() {
                return self.lease.discard();
            }
            server.talk.held.clear();
            server.talk.exposed.clear();
            server.talk.unasked.clear();
            server.talk.listens = false;
            server.applied = Some(Arc::default());
            server.has_numbers = false;
            server.plans = Plans::default();
            // What its code may have left that this does not take away, such as a seed, is still there.
        }
    }

    /// What the session's statements have brought about is taken over into the connection's books.
    pub(super) fn settle(&mut self, state: &mut State, context: &Context) {
        let after = &mut state.after;
        if after.drew {
            let server = self.lease.server();
            server.numbers_of = Arc::downgrade(context.places.token());
            server.has_numbers = true;
            after.drew = false;
        }
        if after.discarded_numbers {
            let server = self.lease.server();
            server.numbers_of = Default::default();
            server.has_numbers = false;
            after.discarded_numbers = false;
        }
        if std::mem::take(&mut after.settings_changed) {
            self.lease.server().applied = Some(state.applied());
        }
        let after = &mut state.after;
        if std::mem::take(&mut after.ddl) {
            context.database.redefined();
            context.worker.common.cluster.catalogs.want();
        }
        for renew in after.renew.drain(..) {
            context.renew(&renew);
        }
    }
}

/// Places a batch and makes the server connection ready for this session.
pub(super) async fn attach(
    client: &mut Connection,
    state: &mut State,
    context: &mut Context,
    batch: &Batch,
    exclude: NodeSet,
) -> Result<Attachment, Failure> {
    let need = need(state, context, batch, exclude);
    let (mut attempts, mut replaced) = (0, false);
    let (mut lease, last) = loop {
        attempts += 1;
        let (mut lease, last) = place(client, state, context, need).await?;
        if let Some(warning) = context.places.take_warning() {
            let reply = Reply::new().warning(&warning);
            // A client that is gone shows when its answer is due.
            let _ = client.tell(reply.as_bytes()).await;
        }
        let server = lease.server();
        let node = server.origin.node;
        // Each that is closed is one of those that wait; what is opened instead is not worn.
        if cleaning::wants_unworn(server, state, batch) {
            lease.discard();
            attempts -= 1;
            continue;
        }
        match cleaning::take_over(server, state, context).await {
            Ok(()) => {}
            // The server refuses the session's settings, which is told below.
            Err(OwnQueryError::Refused(_)) => {}
            // What is left there cannot be taken away: another will do. Nothing of the client's has been sent.
            Err(OwnQueryError::Io(error)) => {
                tracing::debug!(%error, "clean a server connection");
                lease.discard();
                attempts -= 1;
                continue;
            }
        }
        let server = lease.server();
        server.used_by = Arc::downgrade(context.places.token());
        let disowns = server.has_numbers && !owns_numbers(server, context);
        match settle(server, state, batch, disowns).await {
            Ok(()) => break (lease, last),
            // It may be for what others have done there, which nothing takes away: another will show it.
            Err(OwnQueryError::Refused(frame))
                if last.route.primary && !replaced && cleaning::is_of_process(server, &frame) =>
            {
                replaced = true;
                lease.discard();
            }
            // Whoever has the connection next resets it first.
            Err(OwnQueryError::Refused(frame)) => {
                return Err(if last.route.primary {
                    Failure::Said(frame)
                } else {
                    // It may not have replayed yet what they name, such as a new role.
                    Failure::Unfit(node)
                });
            }
            // It had died while nobody used it: nothing of the client's has been sent yet.
            Err(OwnQueryError::Io(error))
                if error.kind() != io::ErrorKind::TimedOut && attempts < MAX_ATTEMPTS =>
            {
                lease.discard();
            }
            Err(OwnQueryError::Io(error)) => {
                let node = lease.pool().node_name().clone();
                lease.discard();
                let what = format!("cannot prepare a connection to node {node}: {error}");
                return Err(Problem::error(Kind::CannotConnectNow, what).into());
            }
        }
    };
    let server = lease.server();
    // Notifications to whoever had it before.
    server.talk.unasked.clear();
    if context.slot.attach(&server.cancel) {
        context.slot.detach();
        return Err(canceled().into());
    }
    let metrics = &context.worker.common.metrics;
    metrics
        .routing
        .routed(last.route.node.0, last.route.primary, last.route.reason);
    state.last_route = Some(last);
    let unit = Unit {
        level: need.level,
        just_placed: true,
        ..Unit::default()
    };
    Ok(Attachment {
        lease,
        unit,
        last,
        exposes_channels: false,
    })
}

/// Makes the session's settings, if need be in other ways: what another session has set may not be for this
/// one to take back one by one; and what the batch sets anew need not be accepted before. With `disowns`, others'
/// numbers go with what is sent, if anything is.
async fn settle(
    server: &mut Server,
    state: &State,
    batch: &Batch,
    disowns: bool,
) -> Result<(), OwnQueryError> {
    let leftovers = server.applied.as_ref().is_some_and(|was| !was.is_empty());
    let mut done = sync(server, state.settings(), disowns).await;
    if leftovers && matches!(done, Err(OwnQueryError::Refused(_))) {
        done = sync(server, state.settings(), disowns).await;
    }
    if matches!(done, Err(OwnQueryError::Refused(_)))
        && let Some(others) = state.settings_beside(batch.effects())
    {
        done = sync(server, &others, disowns).await;
    }
    done
}

/// Makes the session's settings those of a connection on which no transaction is open. Refused, it is
/// reset as a whole before it has other settings.
async fn sync(
    server: &mut Server,
    settings: &Arc<Settings>,
    disowns: bool,
) -> Result<(), OwnQueryError> {
    let applied = server.applied.as_ref();
    let same = applied.is_some_and(|applied| settings::same(applied, settings));
    if same || !holds(Rule::SettingsFollow) {
        return Ok(());
    }
    server.apply(settings, disowns, OWN_BOUND).await
}

/// A connection that the session has kept may have gone back to defaults that are not its own, if it has said.
pub(super) async fn sync_held(
    held: &mut Attachment,
    state: &State,
    batch: &Batch,
) -> Result<(), Failure> {
    let server = held.server();
    if !server.is_free() || state.pins().contains(PinReason::Unanswered) {
        return Ok(());
    }
    match settle(server, state, batch, false).await {
        Ok(()) => Ok(()),
        Err(OwnQueryError::Refused(frame)) => Err(Failure::Said(frame)),
        Err(OwnQueryError::Io(_)) => Err(Failure::Lost),
    }
}

fn need(state: &State, context: &Context, batch: &Batch, exclude: NodeSet) -> Need {
    let (mut access, mut write_reason) = (batch.access, batch.write_reason);
    let whole = matches!(batch.end, End::Query | End::Sync);
    if let Some(read_only) = batch.read_only_transaction()
        && (write_reason.is_none() || write_reason == Some(WriteReason::Transaction))
    {
        // What follows in the same pipeline comes before anything could be moved.
        (access, write_reason) = match read_only && whole {
            true => (Access::Read, None),
            false => (Access::Write, Some(WriteReason::Transaction)),
        };
    }
    if context.is_session_pooled() || access == Access::Neutral && !whole && !batch.runs_nothing() {
        // The connection is kept, for good or for what follows, so it must be able to do everything.
        access = Access::Write;
    }
    Need {
        access,
        write_reason,
        level: batch.level.unwrap_or_else(|| state.level()),
        exclude,
    }
}

/// Waits for a server connection for as long as the client does.
async fn place(
    client: &Connection,
    state: &mut State,
    context: &mut Context,
    need: Need,
) -> Result<(Lease, LastRoute), Failure> {
    let Context {
        worker,
        database,
        slot,
        entry,
        places,
        ..
    } = context;
    let pause = &worker.common.pause;
    let waiting = async {
        loop {
            if !pause.is_open(&database.name) {
                entry.pause(true);
                let opened = tokio::select! {
                    () = pause.opened(&database.name) => Ok(()),
                    () = worker.common.draining.cancelled() => Err(Problem::error(
                        Kind::AdminShutdown,
                        "the database was paused, and causeway is shutting down",
                    )),
                };
                entry.pause(false);
                opened?;
            }
            match places.place(worker, &mut state.seen, need).await {
                Ok(placed) if pause.is_open(&database.name) => return Ok(placed),
                // It was waited for in a queue.
                Ok((lease, _)) => lease.discard(),
                Err(Failure::Paused) => {}
                Err(failure) => return Err(failure),
            }
        }
    };
    let placed = tokio::select! {
        biased;
        placed = waiting => placed,
        () = slot.cancelled() => Err(canceled().into()),
        // Nobody will read it, and the application may be at its second attempt elsewhere.
        () = client.socket.closed() => Err(Failure::ClientGone),
    };
    entry.pause(false);
    placed
}

pub(super) fn canceled() -> Problem {
    Problem::error(
        Kind::QueryCanceled,
        "canceling statement due to user request",
    )
}

/// SQL that speaks of prepared statements by name finds those of the protocol under the client's names.
pub(super) async fn expose_names(
    held: &mut Attachment,
    state: &State,
    context: &Context,
    batch: &Batch,
) -> Result<(), Failure> {
    let server = held.server();
    let quiet = server.talk.exchange.is_quiet();
    if !quiet {
        // A pipeline goes on as it began.
        return Ok(());
    }
    server.talk.exposing = batch.names_statements(&state.names);
    if !server.talk.exposing {
        return Ok(());
    }
    let nothing = state.names.is_empty() && server.talk.exposed.is_empty();
    if server.talk.exchange.status() == TransactionStatus::Failed {
        server.talk.exposing = false;
        return Ok(());
    }
    // Statements of others are not for SQL to see, or to drop.
    if nothing && server.talk.held.is_empty() {
        return Ok(());
    }
    let names = state.names.all();
    let names = names.iter().map(|(name, prepared)| (*name, &***prepared));
    match server
        .expose(context.worker.common.token, names, OWN_BOUND)
        .await
    {
        Ok(()) => Ok(()),
        // One of them is no longer understood, which is nobody's question.
        Err(OwnQueryError::Refused(_))
            if server.talk.exchange.status() == TransactionStatus::Idle =>
        {
            server.talk.doubt_exposed();
            Ok(())
        }
        Err(OwnQueryError::Refused(frame)) => Err(Failure::Said(frame)),
        Err(OwnQueryError::Io(_)) => Err(Failure::Lost),
    }
}

/// Lets the open transaction, if there is one, fail as by an error of the server's own.
///
/// # Errors
///
/// In the middle of a pipeline, where nothing of our own can be sent, or when the server is lost.
pub(super) async fn fail_transaction(held: &mut Attachment, kind: Kind) -> Result<(), Failure> {
    let server = held.server();
    if !server.talk.exchange.is_quiet() {
        return Err(Failure::Lost);
    }
    if server.talk.exchange.status() != TransactionStatus::InTransaction {
        return Ok(());
    }
    match server.run_own(raising(kind).as_bytes(), OWN_BOUND).await {
        Err(OwnQueryError::Io(_)) => Err(Failure::Lost),
        Ok(()) | Err(OwnQueryError::Refused(_)) => Ok(()),
    }
}

/// What a server fails at with this error.
fn raising(kind: Kind) -> String {
    format!(
        "DO $$ BEGIN RAISE SQLSTATE '{}' USING MESSAGE = 'refused by causeway'; END $$",
        kind.sqlstate()
    )
}

/// A transaction that chooses its isolation may not have parsed anything before: neither for a client that
/// had done so on another connection, nor without a word for one that does so now.
pub(super) async fn prepare_before_begin(
    held: &mut Attachment,
    batch: &Batch,
) -> Result<(), Failure> {
    let chooses = |effect: &Effect| {
        matches!(
            effect,
            Effect::Begin {
                isolation: Some(_),
                ..
            }
        )
    };
    if batch.has_no_effects() || !held.server().is_free() || !batch.effects().any(chooses) {
        return Ok(());
    }
    let server = held.server();
    let mut parsed = Vec::new();
    for message in &batch.messages {
        let Some(prepared) = message.prepared.as_ref().filter(|_| message.named) else {
            continue;
        };
        match message.tag {
            frontend::PARSE => {
                parsed.push(prepared.id());
                server.talk.parse_again(prepared.id());
            }
            frontend::BIND | frontend::DESCRIBE if !parsed.contains(&prepared.id()) => {
                if let Err(OwnQueryError::Io(_)) = server.describe_own(prepared, OWN_BOUND).await {
                    return Err(Failure::Lost);
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// `lastval` and `currval` answer for this session, or say that nothing was drawn yet.
pub(super) async fn disown_numbers(
    attachment: &mut Attachment,
    state: &State,
    context: &Context,
    batch: &Batch,
) -> Result<(), Failure> {
    let server = attachment.server();
    if !server.has_numbers || owns_numbers(server, context) {
        return Ok(());
    }
    let asks = |effect: &Effect| match effect {
        Effect::Execute(name) => {
            let effects = state.names.executed(name);
            effects.is_some_and(|effects| effects.contains(&Effect::AsksNumber))
        }
        effect => *effect == Effect::AsksNumber,
    };
    // Code may ask unseen; and what follows in a pipeline comes when nothing can be sent before it.
    let unseen = batch.may_run_code || !matches!(batch.end, End::Query | End::Sync);
    if !unseen && !batch.effects().any(asks)
        || !holds(Rule::NumbersAreOwn)
        || !server.talk.exchange.is_quiet()
        || server.talk.exchange.status() == TransactionStatus::Failed
    {
        return Ok(());
    }
    match server.run_own(b"DISCARD SEQUENCES", OWN_BOUND).await {
        Ok(()) => {
            server.has_numbers = false;
            Ok(())
        }
        Err(OwnQueryError::Refused(frame)) => Err(Failure::Said(frame)),
        Err(OwnQueryError::Io(_)) => Err(Failure::Lost),
    }
}

/// Whether the numbers that were drawn there are the session's own.
fn owns_numbers(server: &Server, context: &Context) -> bool {
    server.numbers_of.as_ptr() == Arc::as_ptr(context.places.token())
}

impl Context {
    /// Whether sessions keep their first server connection.
    pub(super) fn is_session_pooled(&self) -> bool {
        self.worker.common.start.pool_mode == PoolMode::Session
    }
}
