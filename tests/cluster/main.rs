//! Clients and operators before real clusters that stand: protocol, pooling, consistency, the console and
//! what else is shown; and the rig that makes the clusters.

// clippy's allowance for tests does not reach functions that tests call.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../support/mod.rs"]
mod support;

mod catalog;
mod consistency;
mod console;
mod dashboard;
mod drivers;
mod listening;
mod marks;
mod one_history;
mod operations;
mod parity;
mod pooling;
mod protocol;
mod replication;
mod rig;
mod silence;
mod tls;
mod top;
mod verify;

use pgcauseway::rig::Cluster;

/// The cluster of all tests that leave its servers as they are.
fn cluster() -> &'static Cluster {
    support::shared("clients")
}

/// Runs SQL directly on a cluster's primary, as the superuser.
fn on_primary(cluster: &Cluster, sql: &str) {
    support::block_on(cluster.primary().execute(sql)).unwrap();
}

/// One value, read directly on a cluster's primary as the superuser.
fn from_primary<T: tokio_postgres::types::FromSqlOwned>(cluster: &Cluster, sql: &str) -> T {
    support::block_on(cluster.primary().query(sql)).unwrap()
}
