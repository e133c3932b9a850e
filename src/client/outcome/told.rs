//! What clients are told goes wrong, told to operators as well: counted by SQLSTATE, and a log line
//! whose level the kind of trouble gives.

use tracing::Level;

use crate::client::worker::Common;
use crate::error::Problem;
use crate::wire::socket::Socket;

/// What a problem comes to for a client.
#[derive(Clone, Copy, Debug)]
pub(in crate::client) enum Consequence {
    /// It is not let in.
    Refused,
    /// Its statement is not run, or has failed; the session goes on.
    StatementRefused,
    /// The session ends.
    Closed,
}

/// A client is told of a problem.
pub(in crate::client) fn told(
    common: &Common,
    consequence: Consequence,
    problem: &Problem,
    client: &Socket,
) {
    let sqlstate = problem.kind.sqlstate();
    common
        .metrics
        .clients
        .errors
        .with_label_values(&[sqlstate])
        .inc();
    let reason = &problem.message;
    let client = client.peer().ok().map(tracing::field::display);
    // Level and text are part of the place in the source, by which lines are told apart.
    macro_rules! say {
        ($text:literal) => {
            match problem.kind.level() {
                Level::ERROR => tracing::error!(sqlstate, reason, client, $text),
                Level::WARN => tracing::warn!(sqlstate, reason, client, $text),
                Level::INFO => tracing::info!(sqlstate, reason, client, $text),
                _ => tracing::debug!(sqlstate, reason, client, $text),
            }
        };
    }
    match consequence {
        Consequence::Refused => say!("refuse a client"),
        Consequence::StatementRefused => say!("refuse a statement"),
        Consequence::Closed => say!("close a client connection"),
    }
}
