//! A real local cluster, one primary and its streaming standbys, from installed PostgreSQL binaries.
//!
//! `causeway demo` shows it to users and the tests break it. Only `initdb` and `postgres` are
//! needed. Servers listen on 127.0.0.1 alone, ask for SCRAM-SHA-256, and leave no trace once the
//! [`Cluster`] is dropped or its process is killed.

mod account;
mod agent;
mod authority;
mod binaries;
mod builder;
mod cluster;
mod credentials;
mod daemon;
mod data;
mod deadline;
mod demo;
mod error;
mod etcd;
mod home;
mod net;
mod node;
mod node_sql;
mod ports;
mod proxy;
mod settings;
mod shared;
mod watchdog;
mod yaml;

pub use agent::Agent;
pub use binaries::{Binaries, find_binaries};
pub use builder::Builder;
pub use cluster::Cluster;
pub use credentials::{Credentials, Login};
pub use demo::{DemoCluster, demo_cluster};
pub use error::RigError;
pub use etcd::{Etcd, EtcdMember, EtcdTls, find_etcd};
pub use net::{Host, Net, Private, private};
pub use node::{Node, StopMode};
pub use proxy::Proxy;
