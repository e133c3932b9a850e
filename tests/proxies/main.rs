//! Several proxies on a real etcd, and random chaos under `durability: quorum`: every server and every
//! proxy is a process on a host of its own, and a history of every write is checked when the dust has
//! settled.

// Helpers are test code as well, which clippy cannot know.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod chaos;
mod deciders;
mod faults;
mod history;
mod orders;
mod world;
mod writers;

use std::time::{Duration, Instant};

/// More than anything here takes on a busy machine.
const BOUND: Duration = Duration::from_secs(90);

/// Awaits a condition.
async fn eventually(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + BOUND;
    while !condition().await {
        assert!(Instant::now() < deadline, "{what} within {BOUND:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
