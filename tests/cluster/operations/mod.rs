//! What operators do to a running proxy: reload, pause, drain. Clients work meanwhile and notice nothing.

mod drain;
mod kept;
mod mode;
mod pause;
mod reload;
mod signal;

use std::process::{Command, Output};

use crate::support::console::{Row, rows};
use crate::support::{Proxy, block_on, connect, http, status};
use parking_lot::{Mutex, MutexGuard};
use pgcauseway::rig::Cluster;
use serde_json::Value;

/// Their own: they count connections on its servers.
fn cluster() -> &'static Cluster {
    crate::support::shared("operations")
}

/// What clients do all the time: reads, writes, a transaction.
const WORK: [&str; 5] = [
    "SELECT count(*) FROM operations_work",
    "UPDATE operations_work SET n = n + 1 WHERE id = pg_backend_pid() % 8",
    "SELECT n FROM operations_work WHERE id = 1",
    "BEGIN; SELECT n FROM operations_work WHERE id = 2; UPDATE operations_work SET n = 0 WHERE id = 2; COMMIT",
    "SELECT 1",
];

/// Held by each test: they count connections on the servers that they share.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock()
}

/// Makes the table that `WORK` speaks of, once.
fn prepare() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let login = cluster().application();
        let sql = "CREATE TABLE operations_work AS SELECT id, 0 AS n FROM generate_series(0, 7) id";
        let client = block_on(cluster().primary().connect(login)).unwrap();
        block_on(client.batch_execute(sql)).unwrap();
    });
}

/// The section that lets the application's user onto the console.
fn admin() -> String {
    let user = &cluster().application().user;
    format!("\nadmin: {{ http: 127.0.0.1:0, users: [{user}] }}\n")
}

/// The cluster's sections, console included.
fn yaml(more: &str) -> String {
    format!("{}{}{more}", cluster().yaml(), admin())
}

/// A session on the console.
struct Console(tokio_postgres::Client);

impl Console {
    fn open(proxy: &Proxy) -> Self {
        let url = proxy.url();
        let (front, _) = url.rsplit_once('/').unwrap();
        Self(block_on(connect(&format!("{front}/causeway"))))
    }

    /// The rows of a command, each by column; NULL is left out.
    fn rows(&self, command: &str) -> Result<Vec<Row>, tokio_postgres::Error> {
        rows(&self.0, command)
    }

    /// The rows of a command that must succeed.
    fn shown(&self, command: &str) -> Vec<Row> {
        self.rows(command)
            .unwrap_or_else(|error| panic!("{command}: {error:?}"))
    }

    /// The value of a key in `SHOW CONFIG`.
    fn config(&self, key: &str) -> String {
        let rows = self.shown("SHOW CONFIG");
        let row = rows.iter().find(|row| row["key"] == key);
        row.unwrap_or_else(|| panic!("{key}: {rows:?}"))["value"].clone()
    }
}

/// The status and the body of the answer to a POST.
fn post(proxy: &Proxy, path: &str, headers: &str) -> (u16, Value) {
    let (status, body) = http::ask(proxy.http, "POST", path, headers).unwrap();
    (status, serde_json::from_str(&body).unwrap_or_default())
}

/// Runs `causeway` against a proxy.
fn causeway(proxy: &Proxy, arguments: &[&str]) -> Output {
    Command::new(crate::support::PROGRAM)
        .args(arguments)
        .args(["--http", &proxy.http.to_string()])
        .env_remove("CAUSEWAY_ADMIN_SECRET")
        .output()
        .unwrap()
}

/// What `/api/status` says of a node.
fn node(proxy: &Proxy, name: &str) -> Value {
    status::node(&http::status(proxy.http), name).clone()
}

/// The names of the standbys.
fn standbys(proxy: &Proxy) -> Vec<String> {
    status::names(&http::status(proxy.http), "role", "standby")
}
