//! A transaction whose server connection is lost: nothing of it counts, and the session is in a failed
//! transaction, as after any other error in one, until it ends it.
//!
//! Without this a COMMIT that follows an error which the application never saw, such as one in answer
//! to a driver's Close, would run by itself and be answered as if it had committed something.

use super::refuse;
use crate::client::attachment::Attachment;
use crate::client::attachment::context::Context;
use crate::client::attachment::routing::Failure;
use crate::client::connection::batch::Batch;
use crate::client::connection::{Connection, Ending};
use crate::client::state::State;
use crate::client::state::lost::Aborted;
use crate::core::exchange::TransactionStatus;
use crate::core::session::Cover;
use crate::core::statement::Effect;
use crate::error::{Kind, Problem};
use crate::wire::reply::Reply;

/// Answers a batch in such a transaction. False when it is to be run after all.
pub(in crate::client) async fn answer(
    client: &mut Connection,
    state: &mut State,
    context: &Context,
    batch: &Batch,
) -> Result<bool, Ending> {
    let ends = |effect: &Effect| matches!(effect, Effect::End { .. });
    if batch.begins_with_rollback() {
        state.aborted = Aborted::No;
        if !batch.is_simple() || batch.statements > 1 {
            return Ok(false);
        }
        client.consume(batch.length);
        let reply = Reply::new()
            .complete("ROLLBACK")
            .ready(TransactionStatus::Idle);
        client.tell(reply.as_bytes()).await?;
        return Ok(true);
    }
    if batch.is_bare_sync() {
        client.consume(batch.length);
        let ready = Reply::new().ready(TransactionStatus::Failed);
        client.tell(ready.as_bytes()).await?;
        return Ok(true);
    }
    let problem = if batch.effects().any(ends) {
        state.aborted = Aborted::No;
        rolled_back()
    } else if state.aborted == Aborted::Untold {
        // A driver may close a statement by itself and pass the answer on to nobody.
        if !batch.runs_nothing() {
            state.aborted = Aborted::Told;
        }
        rolled_back()
    } else {
        Problem::error(
            Kind::InFailedTransaction,
            "current transaction is aborted, commands ignored until end of transaction block",
        )
    };
    let status = state.aborted.status();
    refuse(
        client,
        state,
        context,
        batch,
        Failure::Problem(problem),
        status,
    )
    .await?;
    Ok(true)
}

/// Whether the loss of the held server connection costs the session no more than its open
/// transaction, which it can be told at its next statement.
pub(in crate::client) fn may_outlive(
    held: &mut Attachment,
    state: &State,
    context: &Context,
) -> bool {
    state.pins().is_empty() && !context.is_session_pooled() && is_open(held)
}

/// The server connection was lost between two statements of a transaction.
pub(in crate::client) fn transaction_lost(
    mut held: Attachment,
    state: &mut State,
    context: &Context,
) {
    state.aborted = match held.status() {
        TransactionStatus::Failed => Aborted::Told,
        _ => Aborted::Untold,
    };
    if held.is_primary() {
        let server = held.server();
        let node = server.origin.node;
        state
            .seen
            .ended_on_primary(node, server.life(), Cover::Unknown);
    }
    held.discard(context);
    state.server_lost();
}

/// Whether a transaction is open between two statements, of which nothing is left when its connection is lost.
pub(in crate::client) fn is_open(held: &mut Attachment) -> bool {
    let exchange = &held.server().talk.exchange;
    exchange.is_quiet() && exchange.status() != TransactionStatus::Idle
}

/// What a client is told of it.
pub(in crate::client) fn rolled_back() -> Problem {
    Problem::error(
        Kind::SerializationFailure,
        "the server connection was lost; the transaction was rolled back",
    )
    .with_hint("It is safe to run the transaction again.")
}
