//! One client's session from its login to its end: gather a batch, place it, relay it, again.

mod hearing;
mod idle;
mod inquiry;
mod kept;
pub(super) mod local;
mod ready;
mod unsent;

use std::time::Duration;

use tokio::time::Instant;

use self::hearing::Hearing;
use self::idle::Listened;
use self::inquiry::{Inquiry, Lost};
use self::kept::{Stop, Vigil};
use super::attachment::context::Context;
use super::attachment::routing::{Failure, MAX_ATTEMPTS};
use super::attachment::{self, Attachment, cleaning, moving};
use super::connection::batch::{Batch, End, Gathered};
use super::connection::gatherer::Gatherer;
use super::connection::{Connection, Ending, OWN_BOUND};
use super::definitions::Redefinition;
use super::outcome::{self, aborted};
use super::relay::render::{Rendered, render};
use super::relay::{Outcome, Relay, in_own_name};
use super::state::State;
use super::state::last_route::LastRoute;
use super::state::lost::Aborted;
use crate::core::exchange::TransactionStatus;
use crate::core::mutant::{Rule, holds};
use crate::core::route::Replay;
use crate::core::statement::{Access, WriteReason};
use crate::core::topology::NodeSet;
use crate::error::{Kind, Problem};
use crate::shared::memory::Share;
use crate::wire::frame::HEADER;
use crate::wire::reply::Reply;

/// A client that has sent statements without Sync or Flush, and then nothing for so long, waits for what
/// a server would have said by now.
const SILENCE: Duration = Duration::from_millis(50);

/// What the state holds is counted in steps of so many bytes.
const STEP: usize = 4096;

/// A session that has logged in.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) client: Connection,
    pub(super) state: State,
    pub(super) context: Context,
    held: Option<Attachment>,
    hearing: Hearing,
    /// Counts what the state holds.
    share: Share,
    /// Since the last batch.
    vigil: Vigil,
    inquiry: Inquiry,
    /// The last batch, for its memory.
    spare: Batch,
    /// The batch under way may change definitions.
    changing: Option<Redefinition>,
}

impl Session {
    pub(super) fn new(client: Connection, state: State, context: Context) -> Self {
        let share = context.worker.common.memory.share();
        Self {
            client,
            state,
            context,
            share,
            held: None,
            hearing: Hearing::default(),
            vigil: Vigil::new(Instant::now()),
            inquiry: Inquiry::default(),
            spare: Batch::default(),
            changing: None,
        }
    }

    /// Serves the client until it leaves.
    pub(super) async fn run(&mut self) {
        let ending = self.serve().await;
        if let Some(held) = self.held.take() {
            held.leave(&self.state, &self.context).await;
        }
        outcome::dismiss(&mut self.client, &self.context, ending).await;
        cleaning::take_along(&self.context).await;
    }

    async fn serve(&mut self) -> Ending {
        loop {
            let mut batch = std::mem::take(&mut self.spare);
            batch.clear();
            let mut silent = false;
            loop {
                match self.gather(&mut batch) {
                    Ok(Gathered::Batch) => break,
                    Ok(Gathered::Terminate) => return Ending::Quiet,
                    Ok(Gathered::Drop(bytes)) => self.client.drop_next(bytes),
                    Ok(Gathered::Incomplete) if silent && batch.close_early() => break,
                    Ok(Gathered::Incomplete) => {
                        let waiting = batch.runs_something() && !silent;
                        silent = match self.listen(waiting, &batch).await {
                            Ok(None) => true,
                            Ok(Some(Listened::Something)) => false,
                            Ok(Some(Listened::Look)) => match self.look().await {
                                Ok(()) => false,
                                Err(ending) => return ending,
                            },
                            Err(ending) => return ending,
                        };
                    }
                    Err(problem) => return Ending::Problem(problem),
                }
            }
            self.context.slot.begin();
            let ran = self.run_batch(&mut batch).await;
            self.context.slot.end();
            self.changing = None;
            if let Err(ending) = ran {
                return ending;
            }
            if self.held.is_some() {
                self.vigil = Vigil::new(Instant::now());
            }
            let bytes = self.state.bytes();
            if bytes.abs_diff(self.share.bytes()) > STEP {
                self.share.set(bytes);
            }
            self.spare = batch;
        }
    }

    fn gather(&mut self, batch: &mut Batch) -> Result<Gathered, Problem> {
        let gatherer = Gatherer {
            lexical: self.state.lexical(),
            reading: self.state.reading(),
            names: &mut self.state.names,
            database: &self.context.database,
            share: &mut self.client.share,
        };
        batch.gather(&self.client.inbox, gatherer)
    }

    /// Waits for the client; none when it said nothing for a while and `briefly` was asked for.
    async fn listen(&mut self, briefly: bool, batch: &Batch) -> Result<Option<Listened>, Ending> {
        // In the middle of a pipeline it is in a transaction.
        let hears =
            batch.messages.is_empty() && !self.client.skipping && self.state.aborted == Aborted::No;
        let Self {
            client,
            state,
            context,
            held,
            hearing,
            vigil,
            inquiry,
            ..
        } = self;
        let hearing = hears.then_some(&*hearing);
        let listening = idle::listen(client, state, context, held, hearing, (vigil, inquiry));
        match briefly {
            false => listening.await.map(Some),
            true => match tokio::time::timeout(SILENCE, listening).await {
                Ok(heard) => heard.map(Some),
                Err(_) => Ok(None),
            },
        }
    }

    /// What keeps the session on its server connection may have ended without its doing.
    async fn look(&mut self) -> Result<(), Ending> {
        self.vigil.look(Instant::now());
        self.state.may_be_free();
        self.finish().await
    }

    async fn run_batch(&mut self, batch: &mut Batch) -> Result<(), Ending> {
        // What is half said comes first: the rest may be said twice.
        if !self.client.out.is_empty() {
            self.client.pass(&[]).await?;
        }
        let status = self.status();
        if self.client.skipping {
            let synced = batch.end == End::Sync;
            self.state.names.failed();
            self.client.consume(batch.length);
            if let End::Large(missing) = batch.end {
                self.client.drop_next(missing);
            }
            if synced {
                self.client.skipping = false;
                self.hear(status).await?;
                return self
                    .client
                    .tell(Reply::new().ready(status).as_bytes())
                    .await;
            }
            return Ok(());
        }
        if self
            .held
            .as_mut()
            .is_some_and(|held| held.server().talk.exchange.skips_to_sync())
        {
            return self.skip_to_sync(batch).await;
        }
        if batch.is_simple() && !batch.calls_function() {
            self.state.names.drop_unnamed();
        }
        if let Some(problem) = batch.refused.take() {
            return self.refuse_for_room(batch, problem).await;
        }
        if batch.may_keep()
            && let Err(problem) = self.room_for(batch)
        {
            return self.refuse_for_room(batch, problem).await;
        }
        if let Some(fault) = &batch.hint_fault {
            let warning = Problem::error(Kind::InvalidParameterValue, fault.to_string());
            let reply = Reply::new().warning(&warning);
            self.client.tell(reply.as_bytes()).await?;
        }
        if self.state.aborted != Aborted::No
            && aborted::answer(&mut self.client, &mut self.state, &self.context, batch).await?
        {
            return Ok(());
        }
        if self.held.is_none() && batch.is_bare_sync() {
            self.client.consume(batch.length);
            self.hear(status).await?;
            return self
                .client
                .tell(Reply::new().ready(status).as_bytes())
                .await;
        }
        let quiet = self
            .held
            .as_mut()
            .is_none_or(|held| held.server().talk.exchange.is_quiet());
        if quiet && batch.is_own(&self.state.names) {
            self.hear(status).await?;
            return self.answer_here(batch, status).await;
        }
        self.relay_timed(batch).await
    }

    /// Relays a batch, and counts the time from its arrival to the end of its answer. What the client
    /// itself draws out, such as COPY data or a Flush in the middle, is not counted.
    async fn relay_timed(&mut self, batch: &mut Batch) -> Result<(), Ending> {
        let whole = matches!(batch.end, End::Query | End::Sync);
        let began = Instant::now();
        self.context.entry.begin();
        let result = self.answer(batch).await;
        let took = began.elapsed();
        let over = self.status() == TransactionStatus::Idle;
        self.context.entry.end(took, over);
        if whole
            && result.is_ok()
            && let Some(last) = &self.state.last_route
        {
            let metrics = &self.context.worker.common.metrics;
            metrics
                .routing
                .took(self.context.worker.index, last.route.primary, took);
        }
        result
    }

    async fn relay(&mut self, batch: &mut Batch) -> Result<(), Ending> {
        let mut exclude = NodeSet::default();
        let mut attempts = 0;
        self.context.renew_before(batch);
        loop {
            attempts += 1;
            let moves = self
                .held
                .as_mut()
                .is_some_and(|held| moving::is_needed(held, batch));
            let was_kept = self
                .held
                .as_mut()
                .is_some_and(|held| held.server().is_free());
            let mut held = match self.held.take() {
                Some(held) if moves => {
                    let (client, state) = (&mut self.client, &mut self.state);
                    match moving::to_primary(client, state, &mut self.context, held, batch).await {
                        Ok(held) => held,
                        Err(failure) => return self.transaction_lost(batch, failure).await,
                    }
                }
                Some(mut held) if was_kept => {
                    match kept::begin(&self.client, &mut self.context, &mut held).await {
                        Ok(()) => held,
                        Err(Stop::Refused(failure)) => {
                            self.held = Some(held);
                            return self.refuse(batch, failure).await;
                        }
                        Err(Stop::Over(ending)) => {
                            held.discard(&self.context);
                            return Err(ending);
                        }
                    }
                }
                Some(held) => held,
                None => {
                    let (client, state) = (&mut self.client, &mut self.state);
                    match attachment::attach(client, state, &mut self.context, batch, exclude).await
                    {
                        Ok(held) => held,
                        Err(Failure::Unfit(node)) if attempts < MAX_ATTEMPTS => {
                            exclude.insert(node);
                            continue;
                        }
                        Err(failure) => return self.refuse(batch, failure).await,
                    }
                }
            };
            match ready::make(&mut held, &self.state, &mut self.context, batch).await {
                Ok(()) => {}
                // Nothing of the batch has been sent: it goes to where it goes without this connection.
                Err(Failure::Lost)
                    if attempts < MAX_ATTEMPTS
                        && ready::is_fresh(&held, &self.state, &self.context) =>
                {
                    let routing = &self.context.worker.common.metrics.routing;
                    routing.replayed(Replay::NodeLost);
                    if !held.is_primary() {
                        exclude.insert(held.server().origin.node);
                    }
                    held.discard(&self.context);
                    continue;
                }
                Err(Failure::Lost) => return self.server_lost(held, batch, false).await,
                Err(failure) if held.server().talk.exchange.skips_to_sync() => {
                    self.held = Some(held);
                    match self.refuse_within(batch, failure).await? {
                        true => continue,
                        false => return self.finish().await,
                    }
                }
                Err(failure) => {
                    self.held = Some(held);
                    self.refuse(batch, failure).await?;
                    return self.finish().await;
                }
            }
            match self.relay_once(&mut held, batch).await {
                Outcome::Done | Outcome::Open => {
                    self.client.consume(batch.length);
                    self.held = Some(held);
                    return self.finish().await;
                }
                Outcome::Leftover => {
                    self.client.consume(batch.length);
                    let told = self.client.tell(&[]).await;
                    held.settle(&mut self.state, &self.context);
                    let over = held.server().is_free() && !self.context.is_session_pooled();
                    if !over || !self.state.pins().is_empty() || self.state.channels.is_unsure() {
                        told?;
                        return self.server_lost(held, batch, false).await;
                    }
                    let settled = outcome::unanswered(held, &mut self.state, &self.context);
                    return told.and(settled);
                }
                Outcome::Repeat(why) if attempts < MAX_ATTEMPTS => {
                    self.context.worker.common.metrics.routing.replayed(why);
                    // Only that it writes is true of a statement in every session and at all times.
                    if why == Replay::ReadOnly {
                        let lexical = self.state.lexical();
                        outcome::remember_refusal(&self.client, &self.context, lexical, batch);
                    }
                    match why {
                        Replay::ReadOnly | Replay::Refused | Replay::NotReplayed => {
                            batch.access = Access::Write;
                            batch.write_reason = Some(WriteReason::RefusedByStandby);
                        }
                        // There is no other; what the client has not seen may run on a new connection.
                        Replay::NodeLost if held.is_primary() => {}
                        Replay::RecoveryConflict | Replay::NodeLost => {
                            exclude.insert(held.server().origin.node);
                        }
                    }
                    match why {
                        Replay::NodeLost => held.discard(&self.context),
                        _ => held.release(&self.context),
                    }
                }
                Outcome::Repeat(_) | Outcome::ServerLost => {
                    return self.server_lost(held, batch, true).await;
                }
                Outcome::Farewell(frame) => {
                    held.discard(&self.context);
                    return Err(Ending::Said(frame));
                }
                Outcome::ClientGone => {
                    outcome::abandon(held, &self.context).await;
                    return Err(Ending::Quiet);
                }
                Outcome::Broken(problem) => {
                    outcome::abandon(held, &self.context).await;
                    return Err(Ending::Problem(problem));
                }
            }
        }
    }

    async fn relay_once(&mut self, held: &mut Attachment, batch: &mut Batch) -> Outcome {
        let on_standby = !held.is_primary();
        let first = held.unit.access.is_none();
        let access = held.unit.runs(batch);
        let asynchronous = held.unit.may_commit_async || self.state.may_commit_async();
        let just_placed = std::mem::take(&mut held.unit.just_placed);
        if !just_placed {
            held.last = LastRoute::held(held.last.route);
            self.state.last_route = Some(held.last);
            let route = held.last.route;
            let metrics = &self.context.worker.common.metrics;
            metrics
                .routing
                .routed(route.node.0, route.primary, route.reason);
        }
        let pinned = !self.state.pins().is_empty() || !self.state.is_settled();
        let session_pooled = self.context.is_session_pooled();
        let kept = session_pooled && !just_placed;
        let server = held.server();
        cleaning::note(server, &self.state, batch);
        if self.state.may_define(batch.effects()) {
            self.changing = Some(self.context.database.redefines());
        }
        if !on_standby && access == Access::Write && (asynchronous || server.commits_async) {
            server.commits_asynchronously();
        }
        let idle = server.talk.exchange.is_free();
        let autocommit = first && idle;
        // What runs nothing, such as Parse and Describe, can be repeated anywhere.
        let repeatable = (on_standby || batch.runs_nothing())
            && autocommit
            && batch.has_no_effects()
            && !pinned
            && !kept
            && matches!(batch.end, End::Query | End::Sync);
        // Its client may have given it up while it waited, and be at its second attempt elsewhere.
        if !repeatable && idle && self.client.has_left() {
            return Outcome::ClientGone;
        }
        let frees_at_once =
            batch.end == End::Flush && batch.runs_nothing() && idle && !session_pooled;
        let max_prepared = self.context.places.bounds().max_prepared;
        let inbox = &self.client.inbox;
        let rendered = render(batch, inbox, &mut server.talk, max_prepared, frees_at_once);
        let bytes = match &rendered {
            Rendered::Verbatim => &inbox[..batch.length],
            Rendered::Rewritten(bytes) => bytes,
        };
        // A failed write is noticed by the read that follows, after what the server still had to say.
        let written = server.socket.write_now(bytes).unwrap_or(bytes.len());
        let to_server = bytes[written..].to_vec();
        let large = match batch.end {
            End::Large(missing) => missing,
            _ => 0,
        };
        let skim = (large > 0 && batch.is_simple() && !batch.calls_function()).then(|| {
            let mut skim = self.context.database.skim();
            skim.feed(inbox.get(HEADER..batch.length).unwrap_or_default());
            skim
        });
        // Its beginning is not needed again, and its end must not be taken for a new batch.
        if !repeatable {
            self.client.consume(batch.length);
            batch.length = 0;
        }
        let processes = (self.context.slot.process(), server.cancel.process);
        let mut progress = super::relay::begin(repeatable, on_standby, processes);
        // Under session pooling the session's own connection goes on listening.
        progress.may_listen = !on_standby && !session_pooled;
        // What a repeatable batch leaves in the inbox counts as sent ahead; the relay only adds to it.
        let mut relay = Relay {
            client: &mut self.client,
            state: &mut self.state,
            server,
            cluster: &self.context.worker.common.cluster,
            look_after: &mut self.context.look_after,
            to_server,
            large,
            skim,
            flush_after_large: large > 0 && !batch.is_simple(),
            kept: batch.length,
            beside: batch.beside(),
            progress,
            stalled: 0,
        };
        let outcome = relay.run().await;
        if relay.progress.plan_outdated {
            let prepared = batch.messages.iter().filter_map(|m| m.prepared.as_ref());
            prepared.for_each(|prepared| prepared.outdate());
        }
        if relay.progress.failed && frees_at_once {
            // The server has had a Sync; the client's own is still to come.
            self.client.skipping = true;
        }
        if batch.calls_function() {
            // The fast path can call anything, and does not say what.
            self.state.after.scrub = true;
        }
        outcome
    }

    /// A batch has been answered: what it did is taken over, and the connection is given back if nothing
    /// of the session is left on it.
    async fn finish(&mut self) -> Result<(), Ending> {
        let Some(mut held) = self.held.take() else {
            return Ok(());
        };
        held.settle(&mut self.state, &self.context);
        let server = held.server();
        if !server.is_free() {
            if server.talk.exchange.is_quiet()
                && server.talk.exchange.status() == TransactionStatus::InTransaction
                && let Some(sql) = self.state.restores_name()
            {
                // A connection that is lost is noticed by the batch that comes next.
                let _ = server.run_own(sql.as_bytes(), OWN_BOUND).await;
            }
            self.held = Some(held);
            return Ok(());
        }
        let Self {
            inquiry,
            hearing,
            state,
            context,
            ..
        } = self;
        if let Err(Lost) = inquiry.put(&mut held, hearing, state, context).await {
            return outcome::unanswered(held, state, context);
        }
        held.transaction_ended(&mut self.state, &self.context);
        let server = held.server();
        let processes = (self.context.slot.process(), server.cancel.process);
        let heard = in_own_name(&std::mem::take(&mut server.talk.unasked), processes);
        if !heard.is_empty() {
            hearing::was_told(
                &server.origin,
                &mut self.state,
                &self.context.worker.common.cluster,
            );
        }
        let pinned = !self.state.pins().is_empty() && holds(Rule::PinsHold);
        let keep = pinned || self.context.is_session_pooled();
        self.context.entry.pinned(self.state.pins());
        if std::mem::take(&mut self.state.after.scrub) && !keep {
            held.server().applied = None;
        }
        if keep {
            // Until it begins something, it is nobody's work.
            held.server().set_busy(false);
            self.held = Some(held);
        } else if held.server().conceal(OWN_BOUND).await.is_ok() {
            held.release(&self.context);
        } else {
            held.discard(&self.context);
        }
        self.state.after.renamed = false;
        match heard.is_empty() {
            true => Ok(()),
            false => self.client.tell(&heard).await,
        }
    }

    async fn server_lost(
        &mut self,
        held: Attachment,
        batch: &Batch,
        sent: bool,
    ) -> Result<(), Ending> {
        let Self {
            client,
            state,
            context,
            ..
        } = self;
        outcome::server_lost(client, state, context, held, batch, sent).await
    }

    fn status(&mut self) -> TransactionStatus {
        match &mut self.held {
            Some(held) => held.status(),
            None => self.state.aborted.status(),
        }
    }
}
