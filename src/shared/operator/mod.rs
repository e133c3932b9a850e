//! Between operators and the failover controller: what is asked of it, how it stands, what happened, and
//! what is wrong with each node.

pub mod commands;
pub mod events;
pub mod problems;
pub mod status;

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
