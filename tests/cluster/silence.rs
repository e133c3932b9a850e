//! A node whose monitor has lost it is not dead: what is under way there goes on, and what was measured
//! holds again where the same run of the server is found. A run that is over is none of that.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use pgcauseway::rig::{Cluster, Node};
use tokio::time::{Duration, Instant};

use crate::support::{Proxy, Wire, block_on, eventually, http};

const END_MONITORS: &str = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
    WHERE application_name = 'causeway monitor'";

fn start(name: &str) -> (Cluster, Proxy) {
    let cluster = block_on(Cluster::builder(name).standbys(1).start()).unwrap();
    let proxy = Proxy::start(&cluster, "");
    (cluster, proxy)
}

/// The incarnation of a node that is up.
fn incarnation(proxy: &Proxy, node: &Node) -> Option<u64> {
    let status = http::status(proxy.http);
    let nodes = status["nodes"].as_array().unwrap();
    let found = nodes.iter().find(|known| known["name"] == node.name());
    found.unwrap()["incarnation"].as_u64()
}

fn failures(proxy: &Proxy, node: &Node) -> u64 {
    let name = format!("causeway_probe_failures_total{{node=\"{}\"}} ", node.name());
    let metrics = http::get(proxy.http, "/metrics").unwrap();
    let line = metrics.lines().find_map(|line| line.strip_prefix(&name));
    line.map_or(0, |count| count.parse().unwrap())
}

/// Ends the monitoring connections to a node, and waits until this was noticed and got over.
fn end_monitors(proxy: &Proxy, node: &Node) {
    let before = failures(proxy, node);
    let ended: i64 = block_on(node.query(END_MONITORS)).unwrap();
    assert!(ended > 0);
    eventually("it is noticed", || failures(proxy, node) > before);
    eventually("it answers again", || incarnation(proxy, node).is_some());
}

/// A session in a read-only transaction on a standby.
fn reader(proxy: &Proxy) -> Wire {
    let mut found = None;
    eventually("a transaction is open on the standby", || {
        let mut wire = proxy.wire();
        wire.run("BEGIN READ ONLY");
        wire.run("SELECT count(*) FROM pg_class");
        let route = wire.value("SHOW causeway.last_route");
        found = route.starts_with("standby ").then_some(wire);
        found.is_some()
    });
    found.unwrap()
}

#[test]
fn the_loss_of_the_monitoring_connection_ends_nothing() {
    let (cluster, proxy) = start("silence");
    let nodes = cluster.nodes();
    let before: Vec<_> = nodes.iter().map(|node| incarnation(&proxy, node)).collect();
    let mut writer = proxy.wire();
    writer.run("CREATE TABLE silence (id int)");
    writer.run("BEGIN");
    writer.run("INSERT INTO silence VALUES (1)");
    let process = writer.value("SELECT pg_backend_pid()");
    let mut reader = reader(&proxy);
    // A session that keeps its connection between transactions, and begins one after another.
    let mut pinned = proxy.wire();
    pinned.run("CREATE TEMPORARY TABLE own (id int)");
    let over = Arc::new(AtomicBool::new(false));
    let busy = std::thread::spawn({
        let over = over.clone();
        move || {
            let mut rows = 0;
            while !over.load(Ordering::Relaxed) {
                pinned.run("INSERT INTO own VALUES (1)");
                rows += 1;
            }
            (pinned.value("SELECT count(*) FROM own"), rows)
        }
    });
    // A statement that runs all the time.
    let client = block_on(proxy.connect());
    let running = async move {
        client
            .batch_execute("BEGIN; SELECT pg_sleep(3); COMMIT")
            .await
    };
    let running = crate::support::RUNTIME.spawn(running);
    let begun = Instant::now();
    let mut rounds = 0;
    while begun.elapsed() < Duration::from_secs(2) {
        nodes.iter().for_each(|node| end_monitors(&proxy, node));
        writer.run("INSERT INTO silence VALUES (2)");
        reader.run("SELECT count(*) FROM pg_class");
        rounds += 1;
    }
    println!("{rounds} times");
    over.store(true, Ordering::Relaxed);
    let (kept, rows): (String, u32) = busy.join().unwrap();
    assert_eq!(kept, rows.to_string());
    block_on(running).unwrap().unwrap();
    writer.run("COMMIT");
    reader.run("COMMIT");
    assert_eq!(writer.value("SELECT count(*) > 1 FROM silence"), "t");
    // Nobody logs in anew.
    writer.run("BEGIN");
    assert_eq!(writer.value("SELECT pg_backend_pid()"), process);
    writer.run("COMMIT");
    let after: Vec<_> = nodes.iter().map(|node| incarnation(&proxy, node)).collect();
    assert_eq!(before, after);
    proxy.assert_well();
}

#[test]
fn a_server_that_has_crashed_is_another() {
    let (cluster, proxy) = start("crash-restart");
    for node in cluster.nodes() {
        let before = incarnation(&proxy, node).unwrap();
        // The postmaster lives on, and recovers from disk.
        let sql = "SELECT pid FROM pg_stat_activity WHERE application_name = 'causeway monitor'";
        let process: i32 = block_on(node.query(sql)).unwrap();
        let postmaster = node.pid();
        let killed = std::process::Command::new("kill")
            .args(["-9", &process.to_string()])
            .status();
        assert!(killed.unwrap().success());
        eventually("it lives another life", || {
            incarnation(&proxy, node).is_some_and(|now| now > before)
        });
        assert_eq!(node.pid(), postmaster);
    }
    proxy.assert_well();
}
