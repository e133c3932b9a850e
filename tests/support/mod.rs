//! What the tests by promise share: a cluster, the proxy in front of it, and a client that speaks
//! in raw messages.

// Each test binary uses its own part of this.
#![allow(dead_code, unused_imports, unreachable_pub)]
// clippy's allowance for tests does not reach functions that tests call.
#![allow(clippy::unwrap_used, clippy::expect_used)]

pub mod check;
pub mod console;
pub mod frames;
pub mod http;
pub mod load;
pub mod panics;
pub mod proxy;
pub mod wire;

use std::sync::LazyLock;
use std::time::{Duration, Instant};

use pgcauseway::rig::Cluster;
use tokio::runtime::Runtime;

pub use frames::{Frame, summary};
pub use proxy::{ConfigFile, Proxy};
pub use wire::Wire;

/// Whatever is awaited in a test has happened by then.
pub const PATIENCE: Duration = Duration::from_secs(20);

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

/// The cluster of this test binary: a primary and two standbys. Its watchdog removes it when the
/// process ends.
pub fn cluster() -> &'static Cluster {
    static CLUSTER: LazyLock<Cluster> =
        LazyLock::new(|| block_on(Cluster::builder(env!("CARGO_CRATE_NAME")).start()).unwrap());
    &CLUSTER
}

/// Runs SQL directly on the primary, as the superuser.
pub fn on_primary(sql: &str) {
    block_on(cluster().primary().execute(sql)).unwrap();
}

/// One value, read directly on the primary as the superuser.
pub fn from_primary<T: tokio_postgres::types::FromSqlOwned>(sql: &str) -> T {
    block_on(cluster().primary().query(sql)).unwrap()
}

/// Looks until a condition holds; fails after `PATIENCE`.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < until, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
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
