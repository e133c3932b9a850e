//! Rows never have another shape than was described to the client.
//!
//! A server refuses to run a statement whose columns have changed since it was prepared there. A pooled
//! session's statement may be prepared anew on another connection after the change: that connection
//! would answer in the new shape, which a driver that knows the old one cannot read.

use super::routing::Failure;
use super::{Attachment, fail_transaction, raising};
use crate::backend::locally::Locally;
use crate::backend::own_query::OwnQueryError;
use crate::client::connection::OWN_BOUND;
use crate::client::connection::batch::Batch;
use crate::core::exchange::TransactionStatus;
use crate::error::{Kind, Problem};

/// Whether the held connection runs the batch's statements in the shapes that the client expects.
/// Asks the server where it is not known: once for each statement and connection.
pub(in crate::client) async fn check(held: &mut Attachment, batch: &Batch) -> Result<(), Failure> {
    let server = held.server();
    let quiet = server.talk.exchange.is_quiet();
    if !quiet && (server.talk.exposing || !server.talk.exchange.awaits_more()) {
        return Ok(());
    }
    let mut changed = false;
    for message in &batch.messages {
        let (Some(prepared), Some(expected)) = (&message.prepared, message.shape) else {
            continue;
        };
        let known = server.talk.held.shape(prepared.id());
        let found = match known {
            Some(shape) => shape,
            None if server.talk.exchange.status() == TransactionStatus::Failed => continue,
            None if !quiet => {
                let as_now = Locally::default();
                server.describe_within(prepared, &as_now, OWN_BOUND).await?
            }
            None => match server.describe_own(prepared, OWN_BOUND).await {
                Ok(shape) => shape,
                // The batch will meet the same error, unless this one has broken its transaction.
                Err(OwnQueryError::Refused(_))
                    if server.talk.exchange.status() == TransactionStatus::Idle =>
                {
                    continue;
                }
                Err(OwnQueryError::Refused(frame)) => return Err(Failure::Said(frame)),
                Err(OwnQueryError::Io(_)) => return Err(Failure::Lost),
            },
        };
        changed |= found != expected;
    }
    if !changed {
        return Ok(());
    }
    let what = "cached plan must not change result type";
    let problem = Problem::error(Kind::FeatureNotSupported, what);
    // The transaction fails as it would have on the server's own refusal.
    if quiet {
        fail_transaction(held, problem.kind).await?;
    } else {
        let sql = raising(problem.kind);
        let failed = held.server().run_within(sql.as_bytes(), OWN_BOUND).await;
        if let Err(OwnQueryError::Io(_)) = failed {
            return Err(Failure::Lost);
        }
    }
    Err(problem.into())
}
