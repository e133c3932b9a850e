//! `causeway agent` beside real servers: who may ask it, what it does, and that it fences.

// clippy's allowance for tests does not reach functions that tests call.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod access;
mod lease;
mod rejoin;
mod stop;
mod supervise;
mod support;
