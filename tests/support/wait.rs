//! Waiting for a condition, with a bound that only a failure reaches.

use std::time::{Duration, Instant};

/// More than anything takes on a busy machine.
pub const BOUND: Duration = Duration::from_secs(120);

/// Looks until a condition holds; fails after `BOUND`.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let mut looks = Looks::new(what);
    while !condition() {
        std::thread::sleep(looks.next());
    }
}

/// The same for a condition that is asked for asynchronously.
pub async fn becomes(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let mut looks = Looks::new(what);
    while !condition().await {
        tokio::time::sleep(looks.next()).await;
    }
}

/// Between looks at what is to stay as it is: it is looked at, and not worn out.
const PACE: Duration = Duration::from_millis(50);

/// Looks again and again, for so long; the look asserts.
pub fn throughout(time: Duration, mut look: impl FnMut()) {
    let begun = Instant::now();
    while begun.elapsed() < time {
        look();
        std::thread::sleep(PACE);
    }
}

/// The same for what is asked for asynchronously.
pub async fn goes_on_for(time: Duration, mut look: impl AsyncFnMut()) {
    let begun = Instant::now();
    while begun.elapsed() < time {
        look().await;
        tokio::time::sleep(PACE).await;
    }
}

/// The pauses between looks: what has lasted for long is looked at less often, since many looks are
/// requests or processes.
struct Looks<'a> {
    what: &'a str,
    until: Instant,
    pause: Duration,
}

impl<'a> Looks<'a> {
    fn new(what: &'a str) -> Self {
        Self {
            what,
            until: Instant::now() + BOUND,
            pause: Duration::from_millis(5),
        }
    }

    fn next(&mut self) -> Duration {
        let what = self.what;
        assert!(Instant::now() < self.until, "waited in vain until {what}");
        self.pause = (self.pause * 5 / 4).min(Duration::from_millis(200));
        self.pause
    }
}
