//! `causeway agent`: beside each PostgreSQL server, it knows whether the postmaster lives, stops and
//! starts it, makes it follow another, and fences it by itself when its lease runs out.
//!
//! Decisions about epochs and leases are pure (`lease`). Requests are served by a runtime
//! (`server`); the lease is enforced by a thread of its own (`enforcer`), which nothing that is
//! asked of the agent can hold up.

pub mod api;
mod clock;
mod control_file;
mod enforcer;
mod files;
mod jobs;
pub mod lease;
mod operations;
mod owner;
mod plan;
mod postmaster;
mod rejoin;
mod run;
mod server;
mod source;
mod state;
mod supervise;
mod swap;
mod tools;

pub use run::{AgentError, Prepared, prepare};
