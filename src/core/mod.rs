//! The decisions, pure: no socket, no clock, no tokio, no randomness, no logging.
//!
//! Time is a number of microseconds that the caller passes in; what is random is passed in too.

pub mod commit;
pub mod duration;
pub mod exchange;
pub mod failover;
pub mod fanout;
pub mod fitness;
pub mod flushes;
pub mod gauge;
pub mod leader_lease;
pub mod lsn;
pub mod mutant;
pub mod plans;
pub mod replication;
pub mod residue;
pub mod route;
pub mod session;
pub mod statement;
pub mod tag;
pub mod timeline;
pub mod topology;
pub mod traces;
pub mod transaction;
pub mod visibility;

#[cfg(test)]
mod tests;
