//! One client's session from its login to its end: gather a batch, place it, relay it, again.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::WaitForCancellationFutureOwned;

use super::aborted::Aborted;
use super::batch::{Batch, End, Gathered, Gatherer};
use super::cancels::Slot;
use super::names::Names;
use super::place::{Failure, LastRoute, MAX_ATTEMPTS, Places};
use super::relay::{Client, LookAfter, Outcome, Relay};
use super::render::{Rendered, render};
use super::track::Track;
use super::worker::{Database, Worker};
use crate::backend::pool::Lease;
use crate::config::PoolMode;
use crate::core::commit::Pending;
use crate::core::exchange::{Exchange, TransactionStatus};
use crate::core::route::NodeSet;
use crate::core::route::Replay;
use crate::core::session::{Cover, Level, Seen};
use crate::core::statement::{Access, WriteReason};
use crate::error::{Kind, Problem};
use crate::shared::registry::Entry;
use crate::wire::frame::Walker;
use crate::wire::reply::Reply;

/// Bound on statements of our own and on writing an error to a client.
pub(super) const OWN_BOUND: Duration = Duration::from_secs(10);

/// A session that has logged in.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) worker: Arc<Worker>,
    pub(super) client: Client,
    pub(super) database: Arc<Database>,
    pub(super) slot: Arc<Slot>,
    pub(super) entry: Entry,
    pub(super) places: Places,
    pub(super) track: Track,
    pub(super) seen: Seen,
    pub(super) names: Names,
    pub(super) held: Option<Lease>,
    pub(super) unit: Unit,
    pub(super) aborted: Aborted,
    pub(super) last_route: Option<LastRoute>,
    pub(super) look_after: LookAfter,
    /// Resolves when idle sessions are to end.
    pub(super) draining: Pin<Box<WaitForCancellationFutureOwned>>,
    /// The last batch, for its memory.
    pub(super) spare: Batch,
    /// Everything up to the next Sync is skipped, as a server does after an error.
    pub(super) skipping: bool,
    /// Bytes of failed COPY data that are still to be dropped.
    pub(super) drop_bytes: usize,
}

/// What has run on the held server connection since it was taken.
#[derive(Debug, Default)]
pub(super) struct Unit {
    /// The strictest access so far; none before the first batch.
    pub(super) access: Option<Access>,
    pub(super) may_commit_async: bool,
    pub(super) level: Level,
    /// The transaction whose COMMIT is on its way, if it is known.
    pub(super) pending: Option<Pending>,
    /// The connection was placed for the batch at hand, which is counted already.
    pub(super) just_placed: bool,
}

/// How a session ends.
#[derive(Debug)]
pub(super) enum Ending {
    /// The client said goodbye or is gone.
    Quiet,
    /// The client is told why.
    Problem(Problem),
}

impl From<Problem> for Ending {
    fn from(problem: Problem) -> Self {
        Self::Problem(problem)
    }
}

impl Session {
    /// Serves the client until it leaves.
    pub(super) async fn run(&mut self) {
        let ending = self.serve().await;
        self.let_go().await;
        if let Ending::Problem(problem) = ending {
            self.dismiss(problem).await;
        }
    }

    /// The session is over: what it held is closed unless nothing of the session is left on it.
    async fn let_go(&mut self) {
        let cancelled = self.slot.detach();
        let Some(mut lease) = self.held.take() else {
            return;
        };
        let server = lease.server();
        let pooled_for_session = self.worker.common.start.pool_mode == PoolMode::Session;
        if cancelled || !server.exchange.is_free() {
            // In the middle of a transaction: closing the connection rolls it back.
            return lease.discard();
        }
        if pooled_for_session || self.track.pinned.is_some() {
            if server.run_own("DISCARD ALL", OWN_BOUND).await.is_err() {
                return lease.discard();
            }
            server.held.clear();
            server.applied = Some(Arc::default());
        }
    }

    async fn serve(&mut self) -> Ending {
        loop {
            let mut batch = std::mem::take(&mut self.spare);
            batch.clear();
            loop {
                match self.gather(&mut batch) {
                    Ok(Gathered::Batch) => break,
                    Ok(Gathered::Terminate) => return Ending::Quiet,
                    Ok(Gathered::Drop(bytes)) => {
                        self.drop_bytes = bytes;
                        self.drop_data();
                    }
                    Ok(Gathered::Incomplete) => {
                        if let Err(ending) = self.listen().await {
                            return ending;
                        }
                    }
                    Err(problem) => return Ending::Problem(problem),
                }
            }
            if let Err(ending) = self.run_batch(&mut batch).await {
                return ending;
            }
            self.spare = batch;
        }
    }

    fn gather(&mut self, batch: &mut Batch) -> Result<Gathered, Problem> {
        let gatherer = Gatherer {
            names: &mut self.names,
            database: &self.database,
            standard_strings: self.track.standard_strings(),
        };
        batch.gather(&self.client.inbox, gatherer)
    }

    pub(super) fn drop_data(&mut self) {
        let part = self.drop_bytes.min(self.client.inbox.len());
        self.client.consume(part);
        self.drop_bytes -= part;
    }

    pub(super) async fn tell(&mut self, bytes: &[u8]) -> Result<(), Ending> {
        match tokio::time::timeout(OWN_BOUND, self.client.socket.write_all(bytes)).await {
            Ok(Ok(())) => Ok(()),
            _ => Err(Ending::Quiet),
        }
    }

    async fn run_batch(&mut self, batch: &mut Batch) -> Result<(), Ending> {
        let status = self.status();
        if self.skipping {
            let synced = batch.end == End::Sync;
            self.client.consume(batch.length);
            if synced {
                self.skipping = false;
                return self.tell(Reply::new().ready(status).as_bytes()).await;
            }
            return Ok(());
        }
        if self
            .held
            .as_mut()
            .is_some_and(|lease| lease.server().exchange.skips_to_sync())
        {
            return self.skip_to_sync(batch).await;
        }
        if let Some(fault) = &batch.hint_fault {
            let warning = Problem::error(Kind::InvalidParameterValue, fault.to_string());
            self.tell(Reply::new().warning(&warning).as_bytes()).await?;
        }
        if self.aborted != Aborted::No && self.answer_aborted(batch).await? {
            return Ok(());
        }
        if self.held.is_none() && batch.is_bare_sync() {
            self.client.consume(batch.length);
            return self.tell(Reply::new().ready(status).as_bytes()).await;
        }
        if batch.is_own(&self.names)
            && self
                .held
                .as_mut()
                .is_none_or(|lease| lease.server().exchange.is_quiet())
        {
            return self.answer_own(batch, status).await;
        }
        self.relay_timed(batch).await
    }

    /// The server has met an error and ignores all but a Sync, so that nothing else is sent.
    async fn skip_to_sync(&mut self, batch: &mut Batch) -> Result<(), Ending> {
        self.names.failed();
        if batch.end == End::Sync {
            let before = batch.reduce_to_sync();
            self.client.consume(before);
            return self.relay_batch(batch).await;
        }
        self.client.consume(batch.length);
        if let End::Large(missing) = batch.end {
            self.drop_bytes = missing;
            self.drop_data();
        }
        Ok(())
    }

    pub(super) async fn relay_batch(&mut self, batch: &mut Batch) -> Result<(), Ending> {
        let mut exclude = NodeSet::default();
        let mut attempts = 0;
        loop {
            attempts += 1;
            if self.held.is_none() {
                match self.attach(batch, exclude).await {
                    Ok(()) => {}
                    Err(Failure::Unfit(node)) if attempts < MAX_ATTEMPTS => {
                        exclude.insert(node);
                        continue;
                    }
                    Err(failure) => return self.refuse(batch, failure).await,
                }
            }
            match self.make_ready(batch).await {
                Ok(()) => {}
                Err(Failure::Lost) => return self.server_lost(batch, false).await,
                Err(failure) => {
                    self.refuse(batch, failure).await?;
                    return self.unit_refused();
                }
            }
            let outcome = self.relay_once(batch).await;
            match outcome {
                Outcome::Done | Outcome::Open => return self.finish(batch).await,
                Outcome::Repeat(why) if attempts < MAX_ATTEMPTS => {
                    self.worker.common.metrics.routing.replayed(why);
                    if why == Replay::ReadOnly {
                        self.remember_refusal(batch);
                        batch.access = Access::Write;
                        batch.write_reason = Some(WriteReason::RefusedByStandby);
                    } else if let Some(lease) = &mut self.held {
                        exclude.insert(lease.server().origin.node);
                    }
                    self.release(why == Replay::NodeLost);
                }
                Outcome::Repeat(_) | Outcome::ServerLost => {
                    return self.server_lost(batch, true).await;
                }
                Outcome::ClientGone => {
                    self.abandon().await;
                    return Err(Ending::Quiet);
                }
                Outcome::Broken(problem) => {
                    self.abandon().await;
                    return Err(Ending::Problem(problem));
                }
            }
        }
    }

    /// What has to be known before the batch is sent.
    async fn make_ready(&mut self, batch: &Batch) -> Result<(), Failure> {
        self.check_shapes(batch).await?;
        self.identify(batch).await
    }

    async fn relay_once(&mut self, batch: &mut Batch) -> Outcome {
        let Some(lease) = &mut self.held else {
            return Outcome::ServerLost;
        };
        let first = self.unit.access.is_none();
        self.unit.access = Some(
            self.unit
                .access
                .unwrap_or(Access::Neutral)
                .max(batch.access),
        );
        self.unit.may_commit_async |= batch.may_commit_async;
        let asynchronous = self.unit.may_commit_async || self.track.may_commit_async();
        let on_standby = self.last_route.is_some_and(|last| !last.route.primary);
        let server = lease.server();
        if !on_standby
            && self.unit.access == Some(Access::Write)
            && (asynchronous || server.commits_async)
        {
            server.commits_asynchronously();
        }
        let autocommit = first && server.exchange.status() == TransactionStatus::Idle;
        // What runs nothing, such as Parse and Describe, can be repeated anywhere.
        let repeatable = (on_standby || batch.runs_nothing())
            && autocommit
            && batch.effects.is_empty()
            && matches!(batch.end, End::Query | End::Sync);
        if !std::mem::take(&mut self.unit.just_placed)
            && let Some(last) = &mut self.last_route
        {
            *last = LastRoute::held(last.route);
            let route = last.route;
            self.worker
                .common
                .metrics
                .routing
                .routed(route.node.0, route.primary, route.reason);
        }

        let max_prepared = self.places.bounds().max_prepared;
        let rendered = render(batch, &self.client.inbox, server, max_prepared);
        let bytes = match &rendered {
            Rendered::Verbatim => &self.client.inbox[..batch.length],
            Rendered::Rewritten(bytes) => bytes,
        };
        // A failed write is noticed by the read that follows, after what the server still had to say.
        let written = server.socket.write_now(bytes).unwrap_or(bytes.len());
        let to_server = bytes[written..].to_vec();
        let large = match batch.end {
            End::Large(missing) => missing,
            _ => 0,
        };
        // Its beginning is not needed again, and its end must not be taken for a new batch.
        if !repeatable {
            self.client.consume(batch.length);
            batch.length = 0;
        }
        let flush_after_large = large > 0 && !batch.is_simple();
        // What a repeatable batch leaves in the inbox counts as sent ahead; the relay only adds to it.
        let mut relay = Relay {
            client: &mut self.client,
            server,
            names: &mut self.names,
            cluster: &self.worker.common.cluster,
            look_after: &mut self.look_after,
            to_server,
            large,
            flush_after_large,
            kept: batch.length,
            hold: repeatable,
            repeat: None,
            failed: false,
            rolled_back: false,
            plan_outdated: false,
            copy_walker: Walker::default(),
        };
        let outcome = relay.run().await;
        batch.failed = relay.failed;
        batch.rolled_back = relay.rolled_back;
        if relay.plan_outdated {
            batch
                .messages
                .iter()
                .filter_map(|m| m.prepared.as_ref())
                .for_each(|p| p.outdate());
        }
        outcome
    }

    /// A batch has been answered.
    async fn finish(&mut self, batch: &Batch) -> Result<(), Ending> {
        self.client.consume(batch.length);
        let Some(lease) = &mut self.held else {
            return Ok(());
        };
        let server = lease.server();
        let status = server.exchange.status();
        let after = self
            .track
            .batch_ended(&batch.effects, batch.failed, batch.rolled_back, status);
        if after.discarded {
            self.names.clear();
            server.held.clear();
        }
        for name in &after.deallocated {
            match name {
                Some(name) => {
                    self.names.close(name.as_bytes());
                }
                // It dropped what other sessions had prepared on this connection as well.
                None => {
                    self.names.clear();
                    server.held.clear();
                }
            }
        }
        if after.settings_unknown {
            server.applied = None;
        } else if after.settings_changed {
            server.applied = Some(Arc::clone(&self.track.settings));
        }
        if after.ddl {
            self.worker.common.cluster.catalogs.want();
        }
        if server.exchange.is_free() {
            self.transaction_ended();
        }
        if !after.restored.is_empty() {
            let told = after.restored.iter();
            let reply = told.fold(Reply::new(), |reply, (name, value)| {
                reply.parameter(name, value)
            });
            self.tell(reply.as_bytes()).await?;
        }
        Ok(())
    }

    /// A batch was refused before anything of it ran.
    fn unit_refused(&mut self) -> Result<(), Ending> {
        let status = self.status();
        self.track.batch_ended(&[], true, false, status);
        if let Some(lease) = &mut self.held
            && lease.server().exchange.is_free()
        {
            self.transaction_ended();
        }
        Ok(())
    }

    /// The held server connection is idle: the mark moves, and the connection is given back.
    fn transaction_ended(&mut self) {
        let Some(lease) = &mut self.held else { return };
        let server = lease.server();
        let node = server.origin.node;
        let primary = self.last_route.is_some_and(|last| last.route.primary);
        match self.unit.access.take() {
            None | Some(Access::Neutral) => {}
            // An eventual read may have gone back in time: it must not replace the mark.
            Some(Access::Read) if self.unit.level == Level::Eventual => {}
            Some(_) if primary => {
                let may_commit_async = self.unit.may_commit_async
                    || server.commits_async
                    || self.track.may_commit_async();
                let cover = if may_commit_async {
                    Cover::Insert
                } else {
                    Cover::Flush
                };
                self.seen.ended_on_primary(node, server.life(), cover);
                let mut owed = NodeSet::default();
                owed.insert(node);
                self.worker.common.cluster.demands.ask(owed);
            }
            Some(_) => self.seen.read_on_standby(node, server.life()),
        }
        self.unit.may_commit_async = false;
        self.unit.level = self.track.level();
        let keep =
            self.track.pinned.is_some() || self.worker.common.start.pool_mode == PoolMode::Session;
        if !keep {
            self.release(false);
        }
    }

    /// Gives the server connection back, or closes it.
    fn release(&mut self, close: bool) {
        let cancelled = self.slot.detach();
        let Some(lease) = self.held.take() else {
            return;
        };
        if close || cancelled {
            lease.discard()
        } else {
            drop(lease)
        }
    }

    fn remember_refusal(&mut self, batch: &Batch) {
        for message in &batch.messages {
            if let Some(prepared) = &message.prepared {
                prepared.refuse();
            } else if message.tag == b'Q'
                && let Some(text) = self.client.inbox.get(message.start + 5..message.end - 1)
            {
                self.database.refused_by_standby(text);
            }
        }
    }

    pub(super) fn status(&mut self) -> TransactionStatus {
        match &mut self.held {
            Some(lease) => Exchange::status(&lease.server().exchange),
            None if self.aborted != Aborted::No => TransactionStatus::Failed,
            None => TransactionStatus::Idle,
        }
    }

    pub(super) fn held_node_name(&self) -> Arc<str> {
        self.held.as_ref().map_or_else(
            || Arc::from("?"),
            |lease| Arc::clone(lease.pool().node_name()),
        )
    }

    pub(super) fn node_name(&self, node: u16) -> String {
        let names = &self.worker.common.start.node_names;
        names.get(usize::from(node)).cloned().unwrap_or_default()
    }
}
