//! A transaction whose server connection is lost: nothing of it counts, and the session is in a failed
//! transaction, as after any other error in one, until it ends it.
//!
//! Without this a COMMIT that follows an error which the application never saw, such as one in answer
//! to a driver's Close, would run by itself and be answered as if it had committed something.

use super::batch::Batch;
use super::place::Failure;
use super::session::{Ending, Session};
use crate::config::PoolMode;
use crate::core::exchange::TransactionStatus;
use crate::core::session::Cover;
use crate::core::statement::Effect;
use crate::error::{Kind, Problem};
use crate::wire::reply::Reply;

/// Whether the session stands in a transaction that no server knows any more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Aborted {
    /// It does not.
    #[default]
    No,
    /// It does, and has not been told: its client said nothing since.
    Untold,
    /// It does, and was told.
    Told,
}

impl Session {
    /// Answers a batch in such a transaction. False when it is to be run after all.
    pub(super) async fn answer_aborted(&mut self, batch: &Batch) -> Result<bool, Ending> {
        let has = |wanted: Effect| batch.effects.contains(&wanted);
        if has(Effect::Rollback { chain: false }) {
            self.aborted = Aborted::No;
            return Ok(false);
        }
        if batch.is_bare_sync() {
            self.client.consume(batch.length);
            let ready = Reply::new().ready(TransactionStatus::Failed);
            self.tell(ready.as_bytes()).await?;
            return Ok(true);
        }
        let problem = if has(Effect::End { chain: false }) {
            self.aborted = Aborted::No;
            rolled_back()
        } else if self.aborted == Aborted::Untold {
            // A driver may close a statement by itself and pass the answer on to nobody.
            if !batch.runs_nothing() {
                self.aborted = Aborted::Told;
            }
            rolled_back()
        } else {
            Problem::error(
                Kind::InFailedTransaction,
                "current transaction is aborted, commands ignored until end of transaction block",
            )
        };
        self.refuse(batch, Failure::Problem(problem)).await?;
        Ok(true)
    }

    /// Whether the loss of the held server connection costs the session no more than its open
    /// transaction, which it can be told at its next statement.
    pub(super) fn may_outlive_server(&mut self) -> bool {
        let pooled_for_session = self.worker.common.config.pool.mode == PoolMode::Session;
        let whole = self.track.pinned.is_none() && !pooled_for_session;
        self.held.as_mut().is_some_and(|lease| {
            let exchange = &lease.server().exchange;
            whole && exchange.is_quiet() && exchange.status() != TransactionStatus::Idle
        })
    }

    /// The server connection was lost between two statements of a transaction.
    pub(super) fn transaction_lost(&mut self) {
        let primary = self.last_route.is_some_and(|last| last.route.primary);
        self.slot.detach();
        let Some(mut lease) = self.held.take() else {
            return;
        };
        let server = lease.server();
        self.aborted = match server.exchange.status() {
            TransactionStatus::Failed => Aborted::Told,
            _ => Aborted::Untold,
        };
        if primary {
            let node = server.origin.node;
            self.seen
                .ended_on_primary(node, server.life(), Cover::Unknown);
        }
        lease.discard();
        self.unit.access = None;
        self.track
            .batch_ended(&[], true, true, TransactionStatus::Idle);
    }
}

fn rolled_back() -> Problem {
    Problem::error(
        Kind::SerializationFailure,
        "the server connection was lost; the transaction was rolled back",
    )
    .with_hint("It is safe to run the transaction again.")
}
