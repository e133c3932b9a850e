//! What each section may say: beside its struct stand its keys, their defaults and bounds, and what must
//! hold between them.

mod admin;
mod agent;
mod agents;
mod auth;
mod failover;
mod log;
mod memory;
mod monitor;
mod nodes;
mod pool;
mod proxy;
mod routing;
mod tls;

pub use admin::Admin;
pub use agent::{AgentConfig, AgentLogin};
pub use agents::{AgentUrl, Agents};
pub use auth::{Auth, AuthMethod, User};
pub use failover::{
    Coordination, Durability, Etcd, Failover, FailoverMode, Fencing, OnLostWrites, Replication,
};
pub use log::{Log, LogFormat};
pub(super) use memory::Memory;
pub use monitor::Monitor;
pub use nodes::Node;
pub use pool::{Pool, PoolMode};
pub use proxy::Config;
pub use routing::Routing;
pub use tls::{ClientCert, ClientTls, ClientTlsMode, Tls};
