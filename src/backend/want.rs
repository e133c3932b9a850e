//! What a session wants of a pool, and why it does not get it.

use std::sync::Arc;
use std::time::Duration;

use super::connect::ConnectError;
use super::server::{Server, StartupSettings};
use crate::core::mutant::{Rule, holds};

/// Why no server connection was to be had.
#[derive(Debug, thiserror::Error)]
pub enum AcquireError {
    /// All were in use for as long as a client may wait.
    #[error("no server connection to node {node} came free within {waited:?}")]
    Exhausted {
        node: Arc<str>,
        /// How long was waited.
        waited: Duration,
    },
    /// The node has no present life.
    #[error("node {node} is not available")]
    Gone { node: Arc<str> },
    /// Operators have paused the database.
    #[error("database \"{database}\" is paused")]
    Paused { database: Arc<str> },
    /// A new one could not be opened.
    #[error(transparent)]
    Connect(#[from] ConnectError),
}

/// Which of a pool's connections a session can use.
#[derive(Clone, Copy, Debug)]
pub struct Want<'a> {
    /// The connection's startup packet must have asked for these.
    pub startup: &'a StartupSettings,
    /// Alive while the session is; to it belong the connections whose sequence numbers are its own.
    pub session: &'a Arc<()>,
}

impl Want<'_> {
    pub(super) fn fits(&self, server: &Server) -> bool {
        Arc::ptr_eq(&server.startup, self.startup)
            || server.startup == *self.startup
            || !holds(Rule::StartupIsTheDefault)
    }

    /// The best of the idle connections: the one whose sequence numbers are the session's own, then one
    /// whose numbers nobody may ask for; the last given back first.
    #[expect(clippy::vec_box, reason = "moving a server connection moves a pointer")]
    pub(super) fn take(
        &self,
        idle: &mut Vec<Box<Server>>,
        is_last_resort: bool,
    ) -> Option<Box<Server>> {
        let own = |server: &Server| server.numbers_of.as_ptr() == Arc::as_ptr(self.session);
        let rank = |server: &Server| match server.numbers_of.strong_count() {
            0 => 1,
            _ if own(server) => 2,
            _ => 0,
        };
        if let Some(last) = idle.last()
            && rank(last) > 0
            && self.fits(last)
            && (rank(last) == 2 || !idle.iter().any(|server| own(server)))
        {
            return idle.pop();
        }
        let fitting = idle
            .iter()
            .enumerate()
            .filter(|(_, server)| self.fits(server));
        let (at, best) = fitting.max_by_key(|(_, server)| rank(server))?;
        (rank(best) > 0 || is_last_resort).then(|| idle.remove(at))
    }
}
