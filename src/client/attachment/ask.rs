//! Asking a server what is left on a connection, when that cannot be told from what ran.

use tokio::time::Instant;

use super::Attachment;
use crate::backend::own_query::OwnQueryError;
use crate::backend::server::{Server, UNSURE};
use crate::client::connection::OWN_BOUND;
use crate::client::state::State;
use crate::core::residue::Residue;
use crate::core::tag::field;
use crate::wire::reply::{error_field, error_text};

/// query_canceled.
const CANCELED: &[u8] = b"57014";

/// insufficient_privilege.
const WITHHELD: &[u8] = b"42501";

/// untranslatable_character, character_not_in_repertoire.
const WITHOUT_LETTERS: [&[u8]; 2] = [b"22P05", b"22021"];

/// A question that was cancelled is put again, so many times in all.
const ATTEMPTS: usize = 5;

/// What was asked for could not be found out.
#[derive(Debug)]
pub(in crate::client) enum Unanswered {
    /// The connection is not to be used any more.
    Lost,
    /// The server has refused to answer: what is left is still there.
    Refused,
}

impl From<OwnQueryError> for Unanswered {
    fn from(error: OwnQueryError) -> Self {
        match error {
            OwnQueryError::Io(_) => Self::Lost,
            OwnQueryError::Refused(frame) => {
                tracing::debug!(reason = %error_text(&frame), "a server does not say what is left on it");
                Self::Refused
            }
        }
    }
}

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
    let (until, mut attempts, mut raw) = (Instant::now() + OWN_BOUND / 2, 1, false);
    let refusal = loop {
        let sql = Residue::put(&question, raw);
        let frame = match server.rows_own(sql.as_bytes(), OWN_BOUND).await {
            Ok(rows) => return answered(server, state, &Residue::read(&rows)).await,
            Err(OwnQueryError::Refused(frame)) => frame,
            Err(lost) => break lost,
        };
        let code = error_field(&frame, field::SQLSTATE);
        match code {
            // A cancel request that came late for the client's own statement, or the session's own
            // `statement_timeout`, which is meant for the client's.
            Some(CANCELED) if attempts < ATTEMPTS && Instant::now() < until => attempts += 1,
            // The client's encoding cannot say it.
            Some(code) if WITHOUT_LETTERS.contains(&code) && !raw => raw = true,
            // An administrator has taken from everybody what everybody may look at by default.
            Some(WITHHELD) => {
                state.may_not_look();
                return Ok(());
            }
            _ => break OwnQueryError::Refused(frame),
        }
    };
    Err(refusal.into())
}

async fn answered(
    server: &mut Server,
    state: &mut State,
    residue: &Residue,
) -> Result<(), Unanswered> {
    let known = server.talk.statements();
    let gone = match residue.statements {
        Some(found) if found != known => recount(server).await?,
        _ => Vec::new(),
    };
    state.answered(residue);
    server.applied = Some(state.applied());
    for name in &gone {
        state.names.close(name);
    }
    Ok(())
}

/// What ran has dropped prepared statements of its own accord: those of the session, whose names this gives, are
/// gone for it, and those of others are prepared anew when they are needed.
async fn recount(server: &mut Server) -> Result<Vec<Box<[u8]>>, Unanswered> {
    let exposed = server.talk.exposed.iter();
    let sure = exposed.filter(|(_, id)| **id != UNSURE);
    let mut gone: Vec<_> = sure.map(|(name, _)| name.clone()).collect();
    server.recount(OWN_BOUND).await?;
    gone.retain(|name| !server.talk.exposed.contains_key(name));
    Ok(gone)
}
