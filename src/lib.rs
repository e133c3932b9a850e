//! Causeway: a PostgreSQL-protocol replication proxy.
//!
//! Writes go to the primary, reads go to streaming standbys, and no session sees its own writes
//! missing or time run backwards. ARCHITECTURE.md is the map.

#![forbid(unsafe_code)]

pub mod admin;
pub mod agent;
pub mod app;
pub mod backend;
pub mod cli;
pub mod client;
pub mod clock;
pub mod config;
pub mod control;
pub mod core;
pub mod error;
mod file;
mod http;
pub mod logging;
pub mod metrics;
mod pg;
pub mod process;
pub mod rig;
pub mod shared;
pub mod sql;
pub mod top;
pub mod verify;
pub mod wire;
