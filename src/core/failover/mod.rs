//! Replacing a failed primary, decided: frozen facts in, the next phase and ordered commands out.
//!
//! `plan` is the door. What it reads is in `facts`, `policy` and `record`; what it says is in
//! `command`. A plan is made in steps (`step`), by the rules of the phase that the record is in
//! (`phases`). Phases share four judgements: `fence` (is the old primary harmless), `failsafe` (can its
//! lease still be prolonged), `quorum` (who may hold acknowledged writes) and `candidate` (who takes over). docs/failover-plan.md is printed from
//! them.

pub mod candidate;
pub mod command;
pub mod consent;
mod describe;
pub mod facts;
pub mod failsafe;
mod fence;
mod phases;
pub mod plan;
pub mod policy;
pub mod quorum;
pub mod record;
pub mod slots;
mod step;

#[cfg(test)]
mod tests;

pub use command::{Act, Command, Event};
pub use facts::{Observation, View};
pub use plan::{Plan, plan, renewal};
pub use policy::FailoverPolicy;
pub use record::{Phase, Record};
