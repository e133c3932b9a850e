//! Causeway: a PostgreSQL-protocol replication proxy.
//!
//! Writes go to the primary, reads go to streaming standbys, and no session sees its own writes
//! missing or time run backwards. ARCHITECTURE.md is the map.

#![forbid(unsafe_code)]

// The decisions.
pub mod core;

// The protocol and the language.
pub mod sql;
pub mod wire;

// The data plane.
pub mod backend;
pub mod client;

// Between the planes.
pub mod shared;

// The control plane.
pub mod admin;
pub mod agent;
pub mod control;

// For all.
pub mod clock;
pub mod config;
pub mod error;
mod file;
mod http;
pub mod logging;
pub mod metrics;
mod pg;
pub mod process;
pub mod tls;

// Wiring and commands.
pub mod app;
pub mod cli;

// Tools beside the proxy.
#[cfg(any(test, fuzzing))]
pub mod fuzz;
pub mod rig;
pub mod top;
pub mod verify;
