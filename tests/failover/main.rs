//! Servers, agents, proxies and etcd are killed, frozen and cut off: what is promised holds all the same.

// clippy's allowance for tests does not reach functions that tests call.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../support/mod.rs"]
mod support;

mod agent;
mod chaos;
mod coordination;
mod faults;
mod network;
mod primary;
mod proxies;
