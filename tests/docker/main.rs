//! What is shipped beside the program: the rig of containers, and the rules and dashboard for Prometheus.

// clippy's allowance for tests does not reach functions that tests call.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../support/mod.rs"]
mod support;

mod containers;
mod monitoring;
