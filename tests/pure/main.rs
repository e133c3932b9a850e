//! What needs no server: the house rules, properties of the core, and the printed plan.

// clippy's allowance for tests does not reach functions that tests call.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod core_properties;
mod failover_plan;
mod model;
mod tidy;
