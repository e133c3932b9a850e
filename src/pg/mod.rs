//! One door to PostgreSQL for whoever asks a server something: monitoring, failover, the agent, the
//! commands and the rig. Clients' traffic is relayed elsewhere, in `backend`.

mod connect;
pub(crate) mod conninfo;
mod errors;
pub(crate) mod queries;

pub(crate) use connect::{OPTIONS, connect, monitor};
pub(crate) use errors::{describe, with_causes};
