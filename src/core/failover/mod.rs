//! Replacing a failed primary, decided: frozen facts in, the next phase and ordered commands out.
//!
//! `plan` is the door. What it reads is in `observation`, `policy` and `record`; what it says is in
//! `command`. The rules are a file each: `detect` (is it dead), `fence` (is it harmless),
//! `quorum` (who may hold acknowledged writes), `candidate` (who takes over), and the phases in
//! `promote`, `switchover`, `duties` and `observe`. docs/failover-plan.md is printed from them.

pub mod candidate;
pub mod command;
mod describe;
pub mod detect;
mod duties;
pub mod fence;
mod lineage;
pub mod observation;
mod observe;
pub mod plan;
pub mod policy;
mod promote;
pub mod quorum;
pub mod record;
mod rejoin;
mod switchover;
mod synchronous;

#[cfg(test)]
mod tests;

pub use command::{Act, Command, Event};
pub use observation::Observation;
pub use plan::{Plan, plan};
pub use policy::Policy;
pub use record::{Phase, Record};
