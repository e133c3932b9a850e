//! The data plane towards clients. A connection is accepted and logged in (`accept`), and becomes a
//! session (`session`), which gathers what its client sends (`connection`), takes a server connection for
//! it (`attachment`), passes the answer on (`relay`), and says what becomes of what cannot be answered
//! (`outcome`).

pub mod accept;
mod attachment;
mod connection;
mod outcome;
mod relay;
pub mod rules;
mod session;
pub mod worker;

#[cfg(any(test, fuzzing))]
pub(crate) use connection::any_bytes::gather_any;
