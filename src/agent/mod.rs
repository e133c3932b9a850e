//! `causeway agent`: beside each PostgreSQL server, it knows whether the postmaster lives, stops and
//! starts it, makes it follow another, and fences it by itself when its lease runs out.
//!
//! Decisions about epochs and leases are pure (`fencing_lease`). Requests are served by a runtime
//! (`server`); the lease is enforced by a thread of its own (`enforcer`), which nothing that is
//! asked of the agent can hold up. While nobody renews it, agents prolong it by what they promise each
//! other (`failsafe`, `peers`).

pub mod api;
pub mod client;
mod control_file;
mod enforcer;
mod failsafe;
pub mod fencing_lease;
mod files;
mod inquiry;
mod jobs;
mod operations;
mod owner;
mod peers;
mod postmaster;
mod progress;
mod rejoin;
mod rejoin_error;
mod rejoin_plan;
mod run;
mod server;
mod state;
mod supervise;
mod swap;
mod tablespaces;
mod tools;
mod upstream;
mod vital;

pub use run::{PreparedAgent, StartError, prepare};
