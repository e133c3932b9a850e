//! The clock that leases and claims are measured by: it is never set, and it counts while the machine
//! sleeps. Who wakes up must not believe that no time has passed.

use std::fs;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::time::{ClockId, clock_gettime};

#[cfg(any(target_os = "linux", target_os = "android"))]
const CLOCK: ClockId = ClockId::CLOCK_BOOTTIME;
#[cfg(not(any(target_os = "linux", target_os = "android")))]
const CLOCK: ClockId = ClockId::CLOCK_MONOTONIC;

/// Since the machine started.
pub fn now() -> Duration {
    // Neither fails for a clock that the system has; the end of time ends every lease.
    let Ok(time) = clock_gettime(CLOCK) else {
        return Duration::MAX / 2;
    };
    let seconds = u64::try_from(time.tv_sec()).unwrap_or_default();
    let nanoseconds = u32::try_from(time.tv_nsec()).unwrap_or_default();
    Duration::new(seconds, nanoseconds)
}

/// A name for this run of the machine; none where the system has none.
pub fn boot() -> Option<String> {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(id.trim().to_owned())
}

/// Seconds of the Unix epoch, for people.
pub fn unix_seconds() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

pub fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
