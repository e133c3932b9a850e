//! The bound that every wait of the rig has.

use std::time::{Duration, Instant};

/// How long to leave a condition alone before looking again.
const PAUSE: Duration = Duration::from_millis(10);

/// A moment after which waiting ends.
#[derive(Clone, Copy, Debug)]
pub(super) struct Deadline {
    at: Instant,
    /// The bound as it was given, for messages.
    pub(super) within: Duration,
}

impl Deadline {
    /// A deadline that much later than now.
    pub(super) fn after(within: Duration) -> Self {
        Self {
            at: Instant::now() + within,
            within,
        }
    }

    /// What is left; zero once it has passed.
    pub(super) fn left(self) -> Duration {
        self.at.saturating_duration_since(Instant::now())
    }

    /// Pauses until the condition is worth another look; false when the time is up.
    pub(super) async fn again(self) -> bool {
        let left = self.left();
        tokio::time::sleep(PAUSE.min(left)).await;
        !left.is_zero()
    }

    /// The same for code that must not await, such as `Drop`.
    pub(super) fn again_blocking(self) -> bool {
        let left = self.left();
        std::thread::sleep(Duration::from_millis(1).min(left));
        !left.is_zero()
    }
}
