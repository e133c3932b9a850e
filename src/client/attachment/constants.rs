//! Constants in prepared statements are read by the settings of their Parse (`DateStyle`, `TimeZone` and
//! their kin), wherever and whenever a server connection parses the statement.

use super::Attachment;
use super::routing::Failure;
use crate::backend::locally::Locally;
use crate::backend::own_query::OwnQueryError;
use crate::backend::prepared::Prepared;
use crate::backend::server::Server;
use crate::backend::settings::Settings;
use crate::client::connection::OWN_BOUND;
use crate::client::connection::batch::Batch;
use crate::client::state::State;
use crate::core::exchange::TransactionStatus;

/// Parses what the batch uses, was parsed under other settings and is not there yet. What is set for that
/// is taken back by the end of a transaction, or of a part of the one that is open.
pub(in crate::client) async fn parse_as_of_then(
    held: &mut Attachment,
    state: &State,
    batch: &Batch,
) -> Result<(), Failure> {
    let old = batch.messages.iter().filter(|message| message.as_parsed);
    let old: Vec<_> = old
        .filter_map(|message| message.prepared.as_deref())
        .collect();
    if old.is_empty() {
        return Ok(());
    }
    let server = held.server();
    let status = server.talk.exchange.status();
    let quiet = server.talk.exchange.is_quiet();
    let open = !server.talk.exposing && server.talk.exchange.awaits_more();
    if status == TransactionStatus::Failed || !quiet && !open {
        return Ok(());
    }
    let now = state.in_force();
    for prepared in old {
        if server.talk.held.touch(prepared.id()) {
            continue;
        }
        let then = prepared.reading_of(&now);
        if !quiet {
            let settings = Locally::constants(&then, &now);
            let described = server.describe_within(prepared, &settings, OWN_BOUND);
            described.await?;
            continue;
        }
        if let Err(OwnQueryError::Io(_)) = parse(server, prepared, &now, &then, status).await {
            return Err(Failure::Lost);
        }
    }
    Ok(())
}

/// What the server refuses here, it will refuse when the client's message comes to it.
async fn parse(
    server: &mut Server,
    prepared: &Prepared,
    now: &Settings,
    then: &Settings,
    status: TransactionStatus,
) -> Result<(), OwnQueryError> {
    let settings = then.sync(Some(now));
    let (begin, end): (&[u8], &[u8]) = match status {
        TransactionStatus::Idle if settings.is_empty() => {
            return server.describe_own(prepared, OWN_BOUND).await.map(drop);
        }
        TransactionStatus::Idle => (b"BEGIN READ ONLY", b"ROLLBACK"),
        _ => (
            b"SAVEPOINT causeway",
            b"ROLLBACK TO causeway; RELEASE causeway",
        ),
    };
    server.run_own(begin, OWN_BOUND).await?;
    let parsed = parse_under(server, prepared, settings).await;
    if let Err(OwnQueryError::Io(error)) = parsed {
        return Err(error.into());
    }
    server.run_own(end, OWN_BOUND).await
}

async fn parse_under(
    server: &mut Server,
    prepared: &Prepared,
    settings: Vec<Vec<u8>>,
) -> Result<(), OwnQueryError> {
    for sql in settings {
        server.run_own(&sql, OWN_BOUND).await?;
    }
    server.describe_own(prepared, OWN_BOUND).await.map(drop)
}
