//! Asking a server what is left on a connection, when that cannot be told from what ran.

use std::borrow::Cow;

use super::Attachment;
use crate::backend::own_query::OwnQueryError;
use crate::backend::server::UNSURE;
use crate::client::connection::OWN_BOUND;
use crate::client::state::State;
use crate::core::residue::Residue;
use crate::core::tag::field;
use crate::wire::reply::error_field;

/// query_canceled.
const CANCELED: &[u8] = b"57014";

/// insufficient_privilege.
const WITHHELD: &[u8] = b"42501";

/// A question that was cancelled is put again, so many times in all.
const ATTEMPTS: usize = 5;

/// What was asked for could not be found out: the connection is not to be used any more.
#[derive(Debug)]
pub(in crate::client) struct Unanswered;

/// Asks, if there is a question, on a connection on which nothing is open.
pub(in crate::client) async fn ask(
    attachment: &mut Attachment,
    state: &mut State,
) -> Result<(), Unanswered> {
    let Some(question) = state.question() else {
        return Ok(());
    };
    let server = attachment.server();
    // A role or a search_path of the session must not decide what is found: names are qualified, and
    // these views show everybody their own.
    for attempt in 0..ATTEMPTS {
        let sql = match attempt {
            0 => Cow::Borrowed(&question),
            _ => Cow::Owned(Residue::unhurried(&question)),
        };
        match server.rows_own(sql.as_bytes(), OWN_BOUND).await {
            Ok(rows) => {
                let residue = Residue::read(&rows);
                state.answered(&residue);
                server.applied = Some(state.applied());
                let known = server.talk.statements();
                if residue.statements.is_some_and(|found| found != known) {
                    recount(attachment, state).await?;
                }
                return Ok(());
            }
            // A cancel request that came late for the client's own statement, or the session's own
            // `statement_timeout`, which is meant for the client's.
            Err(OwnQueryError::Refused(frame))
                if error_field(&frame, field::SQLSTATE) == Some(CANCELED) => {}
            // An administrator has taken from everybody what everybody may look at by default.
            Err(OwnQueryError::Refused(frame))
                if error_field(&frame, field::SQLSTATE) == Some(WITHHELD) =>
            {
                state.may_not_look();
                return Ok(());
            }
            Err(OwnQueryError::Refused(_) | OwnQueryError::Io(_)) => break,
        }
    }
    Err(Unanswered)
}

/// What ran has dropped prepared statements of its own accord: those of the session are gone for it, and
/// those of others are prepared anew when they are needed.
async fn recount(attachment: &mut Attachment, state: &mut State) -> Result<(), Unanswered> {
    let server = attachment.server();
    let exposed = server.talk.exposed.iter();
    let sure = exposed.filter(|(_, id)| **id != UNSURE);
    let before: Vec<_> = sure.map(|(name, _)| name.clone()).collect();
    if server.recount(OWN_BOUND).await.is_err() {
        return Err(Unanswered);
    }
    for name in before {
        if !server.talk.exposed.contains_key(&name) {
            state.names.close(&name);
        }
    }
    Ok(())
}
