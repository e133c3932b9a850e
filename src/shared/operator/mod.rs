//! Between operators and the failover controller: what is asked of it, how it stands, what happened, and
//! what is wrong with each node.

pub mod commands;
pub mod events;
pub mod problems;
pub mod status;

use std::time::SystemTime;

use commands::Commands;
use events::Events;
use problems::Problems;
use status::Status;

#[derive(Debug, Default)]
pub struct OperatorState {
    pub commands: Commands,
    pub events: Events,
    pub status: Status,
    pub problems: Problems,
}

/// Milliseconds of the Unix epoch.
fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| since.as_millis() as u64)
}
