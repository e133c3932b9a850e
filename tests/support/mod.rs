//! What the tests share: what they need, how they wait, a proxy in front of a cluster, clients that
//! speak in raw messages, writers whose history is checked, and what the status says.
//!
//! A module of each test binary and no crate of its own: there are three binaries that use it, and
//! `CARGO_BIN_EXE_causeway` is known to them alone.

// Each test binary uses its own part of this.
#![allow(dead_code, unused_imports)]

pub mod check;
pub mod console;
pub mod frames;
pub mod history;
pub mod http;
pub mod load;
pub mod need;
pub mod panics;
pub mod pgbench;
pub mod proxy;
pub mod status;
pub mod tls;
pub mod turn;
pub mod wait;
pub mod wire;

use std::collections::BTreeMap;
use std::sync::{LazyLock, OnceLock};

use parking_lot::Mutex;
use pgcauseway::rig::Cluster;
use tokio::runtime::Runtime;

pub use frames::{Frame, summary};
pub use need::{in_namespaces, need};
pub use proxy::{ConfigFile, Proxy};
pub use turn::{Turn, turn};
pub use wait::{BOUND, becomes, eventually, goes_on_for, throughout};
pub use wire::Wire;

/// The program under test.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_causeway");

/// Drives everything asynchronous in the tests themselves; the proxy has a runtime of its own.
pub static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
});

/// Runs a future to its end.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    RUNTIME.block_on(future)
}

/// A primary and two standbys that all tests who say this name share. Its watchdog removes it when the
/// process ends.
pub fn shared(name: &'static str) -> &'static Cluster {
    type Slot = &'static OnceLock<Cluster>;
    static CLUSTERS: Mutex<BTreeMap<&str, Slot>> = Mutex::new(BTreeMap::new());
    let new = || &*Box::leak(Box::default());
    let slot: Slot = CLUSTERS.lock().entry(name).or_insert_with(new);
    slot.get_or_init(|| block_on(Cluster::builder(name).start()).unwrap())
}

/// Connects tokio-postgres; the connection lives in a task of its own.
pub async fn connect(config: &str) -> tokio_postgres::Client {
    let (client, connection) = tokio_postgres::connect(config, tokio_postgres::NoTls)
        .await
        .unwrap_or_else(|error| panic!("connect to {config}: {error:?}"));
    tokio::spawn(connection);
    client
}

/// The SQLSTATE of a driver's error.
pub fn sqlstate(error: &tokio_postgres::Error) -> &str {
    error.code().map_or("none", |code| code.code())
}

/// The full name of a test of this file, as `--exact` wants it.
#[allow(unused_macros)]
macro_rules! this_test {
    ($name:literal) => {
        concat!(module_path!(), "::", $name)
            .split_once("::")
            .unwrap()
            .1
    };
}
#[allow(unused_imports)]
pub(crate) use this_test;
