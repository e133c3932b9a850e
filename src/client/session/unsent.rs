//! Batches that no server sees: those that are answered here, those that would have the session hold more
//! than it may, those that are refused, and what follows an error up to its Sync.

use super::{Session, local};
use crate::client::attachment;
use crate::client::attachment::routing::Failure;
use crate::client::connection::Ending;
use crate::client::connection::batch::{Batch, End};
use crate::client::connection::room::{no_room, too_much};
use crate::client::outcome::{self, aborted};
use crate::client::state::lost::Aborted;
use crate::core::exchange::TransactionStatus;
use crate::error::{Kind, Problem};
use crate::wire::reply::Reply;

impl Session {
    /// Answers a batch that no server needs to see. An error in it breaks the open transaction, as any does.
    pub(super) async fn answer_here(
        &mut self,
        batch: &Batch,
        status: TransactionStatus,
    ) -> Result<(), Ending> {
        let (reply, failed) = local::answer(&mut self.state, &self.context, batch, status);
        if failed && status == TransactionStatus::InTransaction {
            self.state.failed();
            if let Some(mut held) = self.held.take() {
                match attachment::fail_transaction(&mut held, Kind::FeatureNotSupported).await {
                    Ok(()) => self.held = Some(held),
                    Err(_) => {
                        aborted::transaction_lost(held, &mut self.state, &self.context);
                        self.state.aborted = Aborted::Told;
                    }
                }
            }
        }
        if failed && matches!(batch.end, End::Flush | End::Part) {
            self.client.skipping = true;
        }
        self.client.consume(batch.length);
        self.client.tell(reply.as_bytes()).await
    }

    /// The server has met an error and ignores all but a Sync, so that nothing else is sent.
    pub(super) async fn skip_to_sync(&mut self, batch: &mut Batch) -> Result<(), Ending> {
        self.state.names.failed();
        match self.skip(batch) {
            true => self.answer(batch).await,
            false => Ok(()),
        }
    }

    /// Drops all of it but the Sync that ends it, if one does.
    fn skip(&mut self, batch: &mut Batch) -> bool {
        if batch.end == End::Sync {
            let before = batch.reduce_to_sync();
            self.client.consume(before);
            return true;
        }
        self.client.consume(batch.length);
        if let End::Large(missing) = batch.end {
            self.client.drop_next(missing);
        }
        false
    }

    /// What had to be asked in the middle of a pipeline was refused, so that the server skips the rest of it.
    /// Whether its Sync is there.
    pub(super) async fn refuse_within(
        &mut self,
        batch: &mut Batch,
        failure: Failure,
    ) -> Result<bool, Ending> {
        self.state.failed();
        let reply = match failure {
            Failure::Said(frame) => Reply::new().raw(&frame),
            Failure::Problem(problem) => Reply::new().error(&problem),
            _ => return Err(Ending::Quiet),
        };
        self.client.tell(reply.as_bytes()).await?;
        Ok(self.skip(batch))
    }

    /// Room for what a batch may make the session hold.
    pub(super) fn room_for(&self, batch: &Batch) -> Result<(), Problem> {
        let memory = &self.context.worker.common.memory;
        let bytes = batch.bytes_to_keep();
        if self.state.bytes() + bytes > memory.session() {
            return Err(too_much(memory));
        }
        match memory.has_room(bytes) {
            true => Ok(()),
            false => Err(no_room(memory, bytes)),
        }
    }

    /// The session goes on without the batch. Its transaction fails, as it would by the server's own lack
    /// of memory.
    pub(super) async fn refuse_for_room(
        &mut self,
        batch: &mut Batch,
        problem: Problem,
    ) -> Result<(), Ending> {
        let missing = batch.as_refused();
        if let Some(held) = &mut self.held
            && attachment::fail_transaction(held, problem.kind)
                .await
                .is_err()
        {
            // In the middle of a pipeline, or on a lost connection, nothing can be refused alone.
            return Err(Ending::Problem(problem));
        }
        self.refuse(batch, problem.into()).await?;
        self.client.drop_next(missing);
        Ok(())
    }

    /// Relays a batch to the end of its answer, which may have to wait for notifications.
    pub(super) async fn answer(&mut self, batch: &mut Batch) -> Result<(), Ending> {
        self.relay(batch).await?;
        match self.client.owes_ready {
            true => self.hear(TransactionStatus::Idle).await,
            false => Ok(()),
        }
    }

    /// Before an answer of our own the client is told what there is for it.
    pub(super) async fn hear(&mut self, status: TransactionStatus) -> Result<(), Ending> {
        match status {
            TransactionStatus::Idle => {
                let cluster = &self.context.worker.common.cluster;
                let (client, state) = (&mut self.client, &mut self.state);
                self.hearing.tell(client, state, cluster).await
            }
            _ => Ok(()),
        }
    }

    /// The transaction could not be taken to the primary: it is failed, until its client ends it.
    pub(super) async fn transaction_lost(
        &mut self,
        batch: &Batch,
        failure: Failure,
    ) -> Result<(), Ending> {
        self.state.server_lost();
        self.state.aborted = Aborted::Told;
        self.refuse(batch, failure).await
    }

    pub(super) async fn refuse(&mut self, batch: &Batch, failure: Failure) -> Result<(), Ending> {
        let status = self.status();
        let Self {
            client,
            state,
            context,
            ..
        } = self;
        outcome::refuse(client, state, context, batch, failure, status).await
    }
}
