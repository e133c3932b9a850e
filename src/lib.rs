//! Causeway: a PostgreSQL-protocol replication proxy.
//!
//! Writes go to the primary, reads go to streaming standbys, and no session sees its own writes
//! missing or time run backwards. ARCHITECTURE.md is the map.

#![forbid(unsafe_code)]

// The decisions.
pub mod core;

// The protocol and the language.
pub mod sql;
mod wire;

// The data plane.
mod backend;
mod client;

// Between the planes.
mod shared;

// The control plane.
mod admin;
pub mod agent;
pub mod control;

// For all.
mod clock;
pub mod config;
mod descriptors;
mod error;
mod file;
mod http;
pub mod logging;
pub mod metrics;
mod pg;
pub mod process;
mod strangers;
mod tls;

// Wiring and commands.
pub mod app;
pub mod cli;

// Tools beside the proxy.
#[cfg(any(test, fuzzing))]
pub mod fuzz;
pub mod rig;
mod top;
pub mod verify;
