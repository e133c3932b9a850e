//! From `config.yaml` and `agent.yaml` to a checked [`Config`] and [`AgentConfig`], with every fault reported at
//! once.
//!
//! Text becomes a tree with lines (`raw`), the tree is read key by key (`section`, `values`), and
//! each section says what it knows and what must hold (`sections`). Whatever is read carries its own
//! proof: there is no way to a [`Config`] around the checks.

mod document;
mod faults;
mod live;
mod pem;
mod raw;
mod reload;
mod secret;
mod section;
mod sections;
#[cfg(test)]
mod tests;
mod units;
mod values;

pub use faults::{Fault, Faults};
pub use live::Live;
pub use pem::{Certificates, Identity};
pub use reload::{Reload, reload};
pub use secret::Secret;
pub use sections::{
    Admin, AgentConfig, AgentLogin, AgentUrl, Agents, Auth, AuthMethod, ClientCert, ClientTls,
    ClientTlsMode, Config, Coordination, Durability, Etcd, Failover, FailoverMode, Fencing, Log,
    LogFormat, Monitor, Node, OnLostWrites, Pool, PoolMode, Replication, Routing, Tls, User,
};
pub use units::{Bytes, InvalidQuantity, Span};
