//! A failed primary is replaced, and clients stay connected: real servers, real agents, real clients,
//! and a history of every write that is checked when the dust has settled.

#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../support/mod.rs"]
mod support;

mod clients;
mod history;
mod hung;
mod killed;
mod lost;
mod observe;
mod record;
mod resolve;
mod resume;
mod switchover;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use history::{Fate, History};
use pgcauseway::rig::{Cluster, Node};
use serde_json::Value;
use support::{Proxy, block_on, eventually, http};

/// Between the writes of one session.
const PACE: Duration = Duration::from_millis(5);

/// A cluster with an agent beside each server.
fn cluster(name: &str) -> Cluster {
    let builder = Cluster::builder(name).agents(env!("CARGO_BIN_EXE_causeway"));
    block_on(builder.start()).unwrap()
}

/// A proxy that replaces the primary, with more keys of its section.
fn proxy(cluster: &Cluster, more: &str) -> Proxy {
    let yaml = format!("{}{}", cluster.yaml(), cluster.failover_yaml(more));
    let proxy = Proxy::with_yaml(cluster, &yaml);
    settled(&proxy);
    proxy
}

/// Waits until somebody leads and every other node stands by on the same timeline.
fn settled(proxy: &Proxy) {
    settled_at(proxy.http);
}

fn settled_at(http: SocketAddr) {
    eventually("every node serves", || {
        let Some(status) = status(http) else {
            return false;
        };
        let nodes = status["nodes"].as_array().unwrap();
        let primary = nodes.iter().find(|node| node["role"] == "primary");
        let standbys = nodes.iter().filter(|node| node["role"] == "standby");
        let Some(primary) = primary else { return false };
        let up = nodes.iter().all(|node| node["state"] == "up");
        let together = nodes.iter().all(|n| n["timeline"] == primary["timeline"]);
        let failover = &status["failover"];
        let settled = failover["phase"] == "steady" && failover["durability"] != "quorum pending";
        let whole = failover["quarantine"].as_array().unwrap().is_empty();
        up && together && settled && whole && standbys.count() == nodes.len() - 1
    });
}

/// `/api/status`, if it is served.
fn status(http: SocketAddr) -> Option<Value> {
    let text = http::get(http, "/api/status").ok()?;
    serde_json::from_str(&text).ok()
}

fn leader(proxy: &Proxy) -> String {
    leader_at(proxy.http)
}

fn leader_at(http: SocketAddr) -> String {
    let status = status(http).unwrap_or_default();
    status["primary"].as_str().unwrap_or("nobody").to_owned()
}

/// The node that leads.
fn leading<'a>(cluster: &'a Cluster, proxy: &Proxy) -> &'a Arc<Node> {
    let leader = leader(proxy);
    named(cluster, &leader)
}

fn named<'a>(cluster: &'a Cluster, name: &str) -> &'a Arc<Node> {
    let mut nodes = cluster.nodes().iter();
    nodes.find(|node| node.name() == name).unwrap()
}

/// Waits until another node than this one leads.
fn another_leads(http: SocketAddr, old: &str) {
    eventually("another leads", || {
        ![old, "nobody"].contains(&leader_at(http).as_str())
    });
}

/// The texts of the events of one kind, oldest first.
fn events(http: SocketAddr, kind: &str) -> Vec<String> {
    let status = status(http).unwrap_or_default();
    let events = status["events"].as_array().cloned().unwrap_or_default();
    let texts = events.iter().filter(|event| event["kind"] == kind);
    texts
        .map(|event| event["text"].as_str().unwrap().to_owned())
        .collect()
}

/// Nothing acknowledged is lost, what was refused did not happen, and every session lived on.
fn assert_whole(history: &History, url: &str) {
    let found = history.check(url);
    println!("{found}");
    assert_eq!(found.lost, 0, "{found}");
    assert_eq!(found.came_true, 0, "{found}");
    assert_eq!(history.count(Fate::Disconnected), 0, "{found}");
    assert_eq!(history.count(Fate::Other), 0, "{found}");
}

/// Gives an order over HTTP: the status code, and the answer.
fn order(http: SocketAddr, path: &str) -> (u16, Value) {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(http).unwrap();
    stream
        .set_read_timeout(Some(2 * support::PATIENCE))
        .unwrap();
    let request = format!("POST {path} HTTP/1.1\r\nHost: {http}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut text = String::new();
    // A proxy may be killed while it works on an order.
    if stream.read_to_string(&mut text).is_err() || text.is_empty() {
        return (0, Value::Null);
    }
    let code = text.split(' ').nth(1).unwrap().parse().unwrap();
    let body = text.split_once("\r\n\r\n").unwrap().1;
    (code, serde_json::from_str(body).unwrap())
}

/// How many rounds of something are run: a few, or what `CAUSEWAY_TEST_ROUNDS` says.
fn rounds(few: usize) -> usize {
    let many = std::env::var("CAUSEWAY_TEST_ROUNDS").ok();
    many.and_then(|text| text.parse().ok()).unwrap_or(few)
}
