//! Turns for tests that keep two cores busy. All others mostly wait, and many of them run at once.

use parking_lot::{Condvar, Mutex};

/// So many at a time.
const TURNS: usize = 2;

static TAKEN: Mutex<usize> = Mutex::new(0);
static GIVEN_BACK: Condvar = Condvar::new();

/// A turn, until it is dropped.
pub struct Turn(());

/// Waits for a turn. A test takes it first of all, and once.
pub fn turn() -> Turn {
    let mut taken = TAKEN.lock();
    GIVEN_BACK.wait_while(&mut taken, |taken| *taken >= TURNS);
    *taken += 1;
    Turn(())
}

impl Drop for Turn {
    fn drop(&mut self) {
        *TAKEN.lock() -= 1;
        GIVEN_BACK.notify_one();
    }
}
