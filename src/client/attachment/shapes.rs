//! Rows never have another shape than was described to the client.
//!
//! A server refuses to run a statement whose columns have changed since it was prepared there. A pooled
//! session's statement may be prepared anew on another connection after the change: that connection
//! would answer in the new shape, which a driver that knows the old one cannot read.

use super::Attachment;
use super::routing::Failure;
use crate::backend::own_query::OwnQueryError;
use crate::backend::server::Server;
use crate::client::connection::OWN_BOUND;
use crate::client::connection::batch::Batch;
use crate::core::exchange::TransactionStatus;
use crate::error::{Kind, Problem};

/// Lets the transaction fail as it would have on the server's own refusal.
pub(super) const FAIL: &str =
    "DO $$ BEGIN RAISE feature_not_supported USING MESSAGE = 'refused by causeway'; END $$";

/// Whether the held connection runs the batch's statements in the shapes that the client expects.
/// Asks the server where it is not known: once for each statement and connection.
pub(in crate::client) async fn check(held: &mut Attachment, batch: &Batch) -> Result<(), Failure> {
    let server = held.server();
    // In the middle of a pipeline nothing can be asked, and a refusal would leave its beginning open.
    if !server.talk.exchange.is_quiet() {
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
    if server.talk.exchange.status() == TransactionStatus::InTransaction {
        fail(server).await?;
    }
    let what = "cached plan must not change result type";
    Err(Problem::error(Kind::FeatureNotSupported, what).into())
}

/// Breaks the open transaction, as an error does.
pub(in crate::client) async fn fail(server: &mut Server) -> Result<(), Failure> {
    match server.run_own(FAIL.as_bytes(), OWN_BOUND).await {
        Ok(()) | Err(OwnQueryError::Refused(_)) => Ok(()),
        Err(OwnQueryError::Io(_)) => Err(Failure::Lost),
    }
}
