//! One leader at a time, and a record that only it changes: on a file, and on a real etcd that is
//! killed, frozen and restarted under two and three proxies.

// Helpers are test code as well, which clippy cannot know.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod check;
mod etcd;
mod file;
mod processes;
mod secured;
mod witness;

use std::time::{Duration, Instant};

/// More than anything here takes on a busy machine.
const BOUND: Duration = Duration::from_secs(60);

/// Awaits a condition.
async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + BOUND;
    while !condition() {
        assert!(Instant::now() < deadline, "{what} within {BOUND:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
