//! Times as the agent uses them: since the machine started, which start that was, and the hour.

use std::fs;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::clock;

/// Time since the machine started; without a clock the end of time, which ends every lease.
pub(super) fn now() -> Duration {
    clock::since_boot().unwrap_or(Duration::MAX / 2)
}

/// A name for this run of the machine; none where the system has none.
pub(super) fn boot() -> Option<String> {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(id.trim().to_owned())
}

/// Seconds of the Unix epoch, for people.
pub(super) fn unix_seconds() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

pub(super) fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
