//! Moving a READ ONLY transaction from a standby to the primary, when a statement in it needs the primary:
//! a lock that others must see, a setting for the session, an unlogged table, a snapshot to be exported.
//! READ ONLY is a property of a transaction, not a place.

use super::Attachment;
use super::attach;
use super::routing::Failure;
use crate::backend::own_query::OwnQueryError;
use crate::client::attachment::context::Context;
use crate::client::connection::batch::Batch;
use crate::client::connection::{Connection, OWN_BOUND};
use crate::client::state::State;
use crate::core::exchange::TransactionStatus;
use crate::core::route::NodeSet;
use crate::core::session::Level;
use crate::core::statement::Access;

/// Whether the batch needs another server than the held one, in the middle of a transaction.
pub(in crate::client) fn is_needed(held: &mut Attachment, batch: &Batch) -> bool {
    batch.access == Access::Write
        && !held.is_primary()
        && held.status() == TransactionStatus::InTransaction
        && held.server().talk.exchange.is_quiet()
}

/// Takes the transaction to the primary; it stays where it is if its snapshot is promised already, and
/// the server says why the statement cannot be run.
pub(in crate::client) async fn to_primary(
    client: &mut Connection,
    state: &mut State,
    context: &mut Context,
    mut held: Attachment,
    batch: &Batch,
) -> Result<Attachment, Failure> {
    let Some(statements) = state.replay(held.unit.has_read) else {
        return Ok(held);
    };
    if held.unit.has_read && held.unit.level != Level::Eventual {
        // What it has seen, the primary must show as well.
        let server = held.server();
        state
            .seen
            .read_on_standby(server.origin.node, server.life());
    }
    match held.server().run_own(b"ROLLBACK", OWN_BOUND).await {
        Ok(()) => held.release(context),
        Err(_) => held.discard(context),
    }
    let mut moved = attach(client, state, context, batch, NodeSet::default()).await?;
    for statement in statements {
        match moved
            .server()
            .run_own(statement.as_bytes(), OWN_BOUND)
            .await
        {
            Ok(()) => {}
            Err(OwnQueryError::Refused(frame)) => {
                moved.discard(context);
                return Err(Failure::Said(frame));
            }
            Err(OwnQueryError::Io(_)) => {
                moved.discard(context);
                return Err(Failure::Lost);
            }
        }
    }
    moved.unit.access = Some(Access::Read);
    Ok(moved)
}
