//! The data plane towards clients, in rooms of which each knows only those before it: what a session is
//! (`state`), what its client sends (`connection`), how answers are passed on (`relay`), the server
//! connection that it has for the moment (`attachment`), what becomes of what cannot be answered
//! (`outcome`), the session's course through all of these (`session`), and how clients become sessions
//! (`accept`). Beside them, what all sessions of a worker or of the proxy share, down to the connections
//! that listen for them (`listening`).

pub mod accept;
mod attachment;
pub mod cancels;
mod connection;
mod database;
mod definitions;
pub mod listening;
mod outcome;
mod relay;
pub mod rules;
mod session;
mod state;
pub mod worker;

#[cfg(any(test, fuzzing))]
pub(crate) use relay::any_bytes::gather_any;
