//! What scripts run on: a cluster, pairs of databases that are alike, and a proxy in front.

use std::sync::LazyLock;
use std::thread::JoinHandle;

use pgcauseway::app::{self, Listeners};
use pgcauseway::config::Config;
use pgcauseway::rig::{Cluster, Login, Node};
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

use crate::hold::{POOL, Pins};
use crate::run::Pair;
use crate::side::{Side, until};
use crate::statements::SCHEMA;
use crate::wire::Wire;

/// Scripts that run at the same time, each on a pair of databases of its own.
pub const PAIRS: usize = 4;
/// The pair whose second database is not like the first.
pub const UNLIKE: usize = PAIRS;

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(1).enable_all().build().unwrap()
});

/// A primary and a standby with every database that is needed; its watchdog removes it when the
/// process ends.
pub fn cluster() -> &'static Cluster {
    static CLUSTER: LazyLock<Cluster> = LazyLock::new(|| {
        let cluster = RUNTIME.block_on(
            Cluster::builder("fuzzer")
                .standbys(1)
                // A table that is cleaned at some moment is nothing that two runs have in common.
                .setting("autovacuum", "off")
                .application(login("fuzz"))
                .start(),
        );
        let cluster = cluster.unwrap();
        let mut admin = superuser(cluster.primary(), &cluster, "postgres");
        admin.rows("CREATE ROLE fuzz_a; CREATE ROLE fuzz_b; GRANT fuzz_a, fuzz_b TO fuzz");
        let template = login("fuzz");
        let mut owner = Wire::login(cluster.primary().port(), &template, &[]).unwrap();
        owner.rows(SCHEMA);
        let pid = owner.pid;
        owner.terminate();
        let gone = format!("SELECT count(*) FROM pg_stat_activity WHERE pid = {pid}");
        until(|| admin.rows(&gone)[0][0].as_deref() == Some("0"));
        for number in 0..=UNLIKE {
            for kind in ["direct", "proxied"] {
                let name = database(kind, number);
                admin.rows(&format!("CREATE DATABASE {name} TEMPLATE fuzz OWNER fuzz"));
                // A name that PostgreSQL has not heard of is unknown, and empty after it has: on a
                // connection that is shared, one session hears it for all of them (see the README).
                for setting in ["app.tenant", "app.region"] {
                    admin.rows(&format!("ALTER DATABASE {name} SET {setting} = ''"));
                }
            }
        }
        let unlike = database("proxied", UNLIKE);
        admin.rows(&format!("ALTER DATABASE {unlike} SET work_mem = '9MB'"));
        RUNTIME.block_on(cluster.wait_caught_up()).unwrap();
        cluster
    });
    &CLUSTER
}

fn database(kind: &str, number: usize) -> String {
    format!("fuzz_{kind}_{number}")
}

fn login(database: &str) -> Login {
    Login::new("fuzz", "fuzz", database)
}

pub fn superuser(node: &Node, cluster: &Cluster, database: &str) -> Wire {
    let mut login = cluster.credentials().superuser.clone();
    login.database = database.to_owned();
    Wire::login(node.port(), &login, &[]).unwrap()
}

fn side(port: u16, database: &str) -> Side {
    let cluster = cluster();
    let admin = superuser(cluster.primary(), cluster, database);
    Side::new(port, login(database), admin)
}

/// Both sides directly at the primary.
pub fn direct_pair(number: usize) -> Pair {
    let port = cluster().primary().port();
    // What the proxy is compared with keeps connections; here that is compared with none kept.
    let direct = side(port, &database("direct", number)).keeping();
    let other = side(port, &database("proxied", number));
    Pair::new(direct, other, None, Pins::End)
}

/// One side through a proxy.
pub fn proxied_pair(proxy: &Proxy, number: usize, pins: Pins) -> Pair {
    let cluster = cluster();
    let proxied = database("proxied", number);
    proxy.await_ready(&proxied);
    let standby = superuser(&cluster.standbys()[0], cluster, &proxied);
    let direct = side(cluster.primary().port(), &database("direct", number)).keeping();
    let proxied = side(proxy.port, &proxied);
    Pair::new(direct, proxied, Some(standby), pins)
}

/// The proxy, in this process.
pub struct Proxy {
    port: u16,
    shutdown: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl Proxy {
    pub fn start() -> Self {
        let yaml = format!(
            "listen: 127.0.0.1:0\nworkers: 2\npool: {{ size: {POOL}, wait_timeout: 8s }}\n{}",
            // A busy machine is not a failed node; and who waits for a probe waits a little longer here, since
            // probes would take more of the machine than all sessions.
            cluster()
                .yaml()
                .replacen(
                    "monitor:\n",
                    "monitor:\n  timeout: 10s\n  busy_interval: 2ms\n",
                    1
                )
                // Logins have tests of their own.
                .replacen("auth:\n", "auth:\n  method: trust\n", 1)
        );
        let config = Config::parse("fuzzer", &yaml, &|_| None);
        let config = config.unwrap_or_else(|faults| panic!("{faults}"));
        let shutdown = CancellationToken::new();
        let token = shutdown.clone();
        let (send, port) = std::sync::mpsc::channel();
        let serve = move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let listeners = Listeners::bind(&config).await.unwrap();
                let address = listeners.clients.local_addr().unwrap();
                send.send(address.port()).unwrap();
                app::run(config, listeners, token).await.unwrap();
            });
        };
        let thread = std::thread::spawn(serve);
        Self {
            port: port.recv().unwrap(),
            shutdown,
            thread: Some(thread),
        }
    }

    /// Waits until both nodes are known and so are the functions of a database.
    fn await_ready(&self, database: &str) {
        until(|| {
            let Ok(mut wire) = Wire::login(self.port, &login(database), &[]) else {
                return false;
            };
            wire.rows("SELECT abs(1)");
            let route = wire.rows("SHOW causeway.last_route");
            let route = route[0][0].clone().unwrap_or_default();
            !route.contains("has not been read yet")
        });
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shutdown.cancel();
        let _ = self.thread.take().map(JoinHandle::join);
    }
}
