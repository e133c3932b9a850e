//! A cluster with agents, a proxy that replaces its primary, another that only looks on and keeps its
//! record on etcd, load, and Prometheus.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pgcauseway::rig::{Cluster, Etcd, Node, Proxy};

use super::load::Load;
use super::prometheus::Prometheus;
use crate::support::status::{leader, settled};
use crate::support::{PROGRAM, block_on, connect, eventually};

/// Connections of a pool.
pub(crate) const POOL: usize = 6;

/// All of it. Dropped from the top.
pub(crate) struct World {
    pub(crate) prometheus: Prometheus,
    pub(crate) load: Load,
    /// Replaces the primary.
    pub(crate) proxy: Proxy,
    /// Looks on.
    pub(crate) other: Proxy,
    pub(crate) etcd: Etcd,
    pub(crate) cluster: Cluster,
    began: Instant,
}

impl World {
    /// Brings everything up.
    pub(crate) fn start() -> Self {
        let began = Instant::now();
        let program = Path::new(PROGRAM);
        let builder = Cluster::builder("monitoring").agents(program);
        let etcd = Etcd::start("monitoring-etcd", 1);
        let (cluster, etcd) = block_on(async { tokio::join!(builder.start(), etcd) });
        let (cluster, etcd) = (cluster.unwrap(), etcd.unwrap());
        // A busy machine is not a failed node. The lease lasts for as long as nobody ends the wait.
        let nodes = cluster.yaml();
        let nodes = nodes.replacen("monitor:\n", "monitor:\n  timeout: 3s\n", 1);
        let decides = "durability: async\nmax_lost_bytes: unlimited\ntimeout: 2s\nlease: 5m";
        let decides = format!(
            "{nodes}pool: {{ size: {POOL}, wait_timeout: 1s }}\n{}",
            cluster.failover_yaml(decides)
        );
        let looks_on = format!(
            "{nodes}failover:\n  mode: observe\n  coordination: etcd\n  \
             etcd: {{ endpoints: {:?}, ttl: 1s }}\n",
            etcd.endpoints()
        );
        let start = |name: &str, yaml: &str| {
            let proxy = Proxy::new(&cluster, name, None, program, yaml).unwrap();
            block_on(proxy.start()).unwrap();
            proxy
        };
        let (proxy, other) = (start("proxy1", &decides), start("proxy2", &looks_on));
        for http in [proxy.http(), other.http()] {
            settled(http);
        }
        let url = proxy.url(cluster.application());
        let table = "CREATE TABLE load (session int, at timestamptz)";
        block_on(async { connect(&url).await.batch_execute(table).await }).unwrap();
        let load = Load::start(&url);
        load.wait(50);
        let directory = cluster.directory().join("prometheus");
        fs::create_dir(&directory).unwrap();
        let prometheus = Prometheus::start(&directory, &[proxy.http(), other.http()]);
        Self {
            prometheus,
            load,
            proxy,
            other,
            etcd,
            cluster,
            began,
        }
    }

    /// Waits until an alert with these labels fires.
    pub(crate) fn fires(&self, alert: &str, labels: &[(&str, &str)]) {
        eventually(&format!("{alert} fires"), || {
            self.prometheus.fires(alert, labels)
        });
        let after = self.began.elapsed().as_secs_f64();
        println!("{after:5.1} s: {alert} fires for {labels:?}");
    }

    /// Waits until no alert with these labels fires any more.
    pub(crate) fn clears(&self, alert: &str, labels: &[(&str, &str)]) {
        eventually(&format!("{alert} clears"), || {
            !self.prometheus.fires(alert, labels)
        });
        let after = self.began.elapsed().as_secs_f64();
        println!("{after:5.1} s: {alert} clears");
    }

    /// The node that leads.
    pub(crate) fn leading(&self) -> &Arc<Node> {
        let leader = leader(self.proxy.http());
        self.named(&leader)
    }

    pub(crate) fn named(&self, name: &str) -> &Arc<Node> {
        let mut nodes = self.cluster.nodes().iter();
        nodes.find(|node| node.name() == name).unwrap()
    }

    /// The nodes that do not lead.
    pub(crate) fn standing_by(&self) -> Vec<&Arc<Node>> {
        let leader = leader(self.proxy.http());
        let nodes = self.cluster.nodes().iter();
        nodes.filter(|node| node.name() != leader).collect()
    }

    /// Waits until somebody leads and every other node stands by.
    pub(crate) fn settled(&self) {
        settled(self.proxy.http());
    }
}

/// Stops a primary's WAL senders where they stand: it goes on, and nobody receives anything. Returns
/// once the proxy's failover watch has seen what was written since.
pub(crate) fn write_what_nobody_receives(primary: &Node) {
    let sql = "SELECT COALESCE(string_agg(pid::text, ' '), '') FROM pg_stat_replication";
    let senders: String = block_on(primary.query(sql)).unwrap();
    for sender in senders.split_whitespace() {
        kill(Pid::from_raw(sender.parse().unwrap()), Signal::SIGSTOP).unwrap();
    }
    let write = "SELECT pg_logical_emit_message(true, 'test', repeat('lost', 1000))";
    block_on(primary.execute(write)).unwrap();
    // The first answer after it is digested before the second is asked for.
    for _ in 0..2 {
        let now: String = block_on(primary.query("SELECT clock_timestamp()::text")).unwrap();
        let sql = format!(
            "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE state = 'idle' \
             AND application_name = 'causeway failover' AND query_start > '{now}')"
        );
        block_on(primary.wait_for("be watched", &sql)).unwrap();
    }
}
