//! What is done in each phase of the record.
//!
//! `looking` and `external` find a primary, `steady` serves with one; `failover` and `switchover`
//! replace it, `giving_up` is about candidates that cannot be promoted. What they do for the standbys meanwhile is in `following`, `quarantine`, `rejoin` and
//! `synchronous`; `failsafe` is for the time without a proxy.

pub(super) mod external;
pub(super) mod failover;
mod failsafe;
mod following;
mod giving_up;
pub(super) mod looking;
pub(super) mod orders;
mod quarantine;
mod rejoin;
pub(super) mod steady;
pub(super) mod switchover;
mod synchronous;
