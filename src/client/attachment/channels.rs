//! What a session listens to by the connection that it shares with others, brought to the server
//! connection in use: there LISTEN and UNLISTEN, in whatever transaction and function, and questions about
//! them mean what they would mean without the proxy.

use super::Attachment;
use super::routing::Failure;
use crate::backend::own_query::OwnQueryError;
use crate::client::connection::OWN_BOUND;
use crate::client::connection::batch::Batch;
use crate::client::listening::words::statements;
use crate::client::state::State;
use crate::core::mutant::{Rule, holds};

/// Before a batch that may look at what the session listens to, or change it.
pub(in crate::client) async fn expose(
    held: &mut Attachment,
    state: &State,
    batch: &Batch,
) -> Result<(), Failure> {
    match state.channels.hears() && batch.concerns_channels() {
        true => expose_all(held, state).await,
        false => Ok(()),
    }
}

/// Before whatever may follow in a transaction that has not begun.
pub(in crate::client) async fn expose_all(
    held: &mut Attachment,
    state: &State,
) -> Result<(), Failure> {
    let channels = state.channels.heard();
    if channels.is_empty()
        || held.exposes_channels
        || !held.is_primary()
        || !held.server().is_free()
        || !holds(Rule::ChannelsFollow)
    {
        return Ok(());
    }
    let mut sql = Vec::new();
    statements(&mut sql, b"LISTEN ", channels);
    held.exposes_channels = true;
    let server = held.server();
    let before = std::mem::replace(&mut server.talk.listens, true);
    match server.run_own(&sql, OWN_BOUND).await {
        Ok(()) => Ok(()),
        // Such as by a cancel request, which means the client's own statement.
        Err(OwnQueryError::Refused(frame)) => {
            server.talk.listens = before;
            held.exposes_channels = false;
            Err(Failure::Said(frame))
        }
        Err(OwnQueryError::Io(_)) => Err(Failure::Lost),
    }
}
