//! The clock that leases and claims are measured by.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// Runs on while the machine is suspended: whoever wakes up must not believe that no time has passed.
#[cfg(any(target_os = "linux", target_os = "android"))]
const CLOCK: ClockId = ClockId::CLOCK_BOOTTIME;
#[cfg(not(any(target_os = "linux", target_os = "android")))]
const CLOCK: ClockId = ClockId::CLOCK_MONOTONIC;

/// Time since the machine started; none without a clock, which no kernel in use lacks.
pub(crate) fn since_boot() -> Option<Duration> {
    clock_gettime(CLOCK).ok().map(Duration::from)
}
