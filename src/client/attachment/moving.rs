//! Moving a READ ONLY transaction from a standby to the primary, when a statement in it needs the primary:
//! a lock that others must see, a setting for the session, an unlogged table, a snapshot to be exported.
//! READ ONLY is a property of a transaction, not a place.

use super::routing::Failure;
use super::{Attachment, Unit, attach, channels, fail_transaction};
use crate::backend::own_query::OwnQueryError;
use crate::client::attachment::context::Context;
use crate::client::connection::batch::Batch;
use crate::client::connection::{Connection, OWN_BOUND};
use crate::client::state::State;
use crate::core::exchange::TransactionStatus;
use crate::core::mutant::{Rule, holds};
use crate::core::session::Level;
use crate::core::statement::{Access, Effect, WriteReason};
use crate::core::topology::NodeSet;
use crate::error::{Kind, Problem};

/// Whether the batch needs another server than the held one, in the middle of a transaction.
pub(in crate::client) fn is_needed(held: &mut Attachment, batch: &Batch) -> bool {
    holds(Rule::ReadOnlyMoves)
        && batch.access == Access::Write
        && !held.is_primary()
        && match held.status() {
            TransactionStatus::Idle => false,
            TransactionStatus::InTransaction => true,
            TransactionStatus::Failed => batch.begins_with_end(),
        }
        && held.server().talk.exchange.is_quiet()
}

/// What a standby would do by itself, though it is meant for the primary, is refused where the transaction
/// cannot be moved.
pub(in crate::client) async fn refuse_stuck(
    held: &mut Attachment,
    state: &State,
    batch: &Batch,
) -> Result<(), Failure> {
    let meant = |effect: &Effect| match effect {
        Effect::PrimaryOnly => true,
        Effect::AsksChannels => state.channels.hears(),
        _ => false,
    };
    if held.is_primary() || batch.has_no_effects() || !batch.effects().any(meant) {
        return Ok(());
    }
    // A standby refuses these by itself, in the words that a READ ONLY transaction is refused in anywhere.
    if matches!(
        batch.write_reason,
        Some(
            WriteReason::Command
                | WriteReason::Locks
                | WriteReason::ModifyingCte
                | WriteReason::SelectInto
        )
    ) {
        return Ok(());
    }
    let server = held.server();
    if !server.talk.exchange.is_quiet()
        || server.talk.exchange.status() != TransactionStatus::InTransaction
    {
        return Ok(());
    }
    fail_transaction(held, Kind::FeatureNotSupported).await?;
    let what = "cannot use advisory locks, sequences or channels during recovery";
    Err(Problem::error(Kind::FeatureNotSupported, what)
        .with_hint(
            "The READ ONLY transaction keeps a snapshot or a cursor on a standby; do this first in it, or \
             begin it READ WRITE.",
        )
        .into())
}

/// Takes the transaction to the primary; it stays where it is if its snapshot is promised already or a
/// cursor is open, and the server says why the statement cannot be run. Where the batch ends it first,
/// neither matters.
pub(in crate::client) async fn to_primary(
    client: &mut Connection,
    state: &mut State,
    context: &mut Context,
    mut held: Attachment,
    batch: &Batch,
) -> Result<Attachment, Failure> {
    let Unit {
        has_read,
        has_portals,
        ..
    } = held.unit;
    let ends = batch.begins_with_end();
    let failed = held.status() == TransactionStatus::Failed;
    let statements = state.replay(has_read && !ends);
    let Some(statements) = statements.filter(|_| ends || !has_portals) else {
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
    if let Err(lost) = channels::expose_all(&mut moved, state).await {
        moved.discard(context);
        return Err(lost);
    }
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
    if failed && let Err(lost) = fail_transaction(&mut moved, Kind::FeatureNotSupported).await {
        moved.discard(context);
        return Err(lost);
    }
    moved.unit.access = Some(Access::Read);
    Ok(moved)
}
