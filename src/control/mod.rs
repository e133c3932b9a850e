//! The control plane: measuring the nodes and reading the catalogue. It publishes on the cluster.

pub mod catalogs;
pub mod failover;
pub mod leaving;
pub mod logins;
pub mod monitor;
mod pace;
mod probe;
pub mod store;
