//! How `/api/status` is read.

use std::net::SocketAddr;

use serde_json::Value;

use super::{eventually, http};

/// The members of a list; none where there is no list.
pub fn list<'a>(status: &'a Value, key: &str) -> &'a [Value] {
    status[key].as_array().map_or(&[], Vec::as_slice)
}

/// What is said of a node; null if it is not there.
pub fn node<'a>(status: &'a Value, name: &str) -> &'a Value {
    let mut nodes = list(status, "nodes").iter();
    nodes
        .find(|node| node["name"] == name)
        .unwrap_or(&Value::Null)
}

/// The names of the nodes of a role or in a state.
pub fn names(status: &Value, key: &str, value: &str) -> Vec<String> {
    let nodes = list(status, "nodes").iter();
    let names = nodes.filter(|node| node[key] == value);
    names
        .map(|node| node["name"].as_str().unwrap_or_default().to_owned())
        .collect()
}

/// Whether somebody leads and every other node stands by on the same timeline, with nothing left to do.
pub fn is_settled(status: &Value) -> bool {
    let (nodes, failover) = (list(status, "nodes"), &status["failover"]);
    let Some(primary) = nodes.iter().find(|node| node["role"] == "primary") else {
        return false;
    };
    names(status, "role", "standby").len() == nodes.len() - 1
        && nodes.iter().all(|node| node["state"] == "up")
        && nodes.iter().all(|n| n["timeline"] == primary["timeline"])
        && failover["phase"] == "steady"
        && failover["durability"] != "quorum pending"
        && failover["quarantine"].as_array().is_some_and(Vec::is_empty)
}

/// The last that was seen of a cluster, which is told when a test has waited in vain.
struct Seen(Value);

impl Drop for Seen {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{:#}", self.0);
        }
    }
}

/// Waits for that.
pub fn settled(http: SocketAddr) {
    let mut seen = Seen(Value::Null);
    eventually("every node serves", || {
        seen.0 = http::status_if_any(http);
        is_settled(&seen.0)
    });
}

/// The name of the node that leads, or `nobody`.
pub fn leader(http: SocketAddr) -> String {
    let status = http::status_if_any(http);
    status["primary"].as_str().unwrap_or("nobody").to_owned()
}

/// Waits until another node than this one leads.
pub fn another_leads(http: SocketAddr, old: &str) {
    eventually("another leads", || {
        ![old, "nobody"].contains(&leader(http).as_str())
    });
}

/// The texts of the events of one kind, oldest first.
pub fn events(http: SocketAddr, kind: &str) -> Vec<String> {
    let status = http::status_if_any(http);
    let events = list(&status, "events").iter();
    let texts = events.filter(|event| event["kind"] == kind);
    texts
        .map(|event| event["text"].as_str().unwrap_or_default().to_owned())
        .collect()
}

/// Waits until the planner could let so many standbys lead: it has heard of each all that it wants to know.
pub fn promotable(http: SocketAddr, standbys: usize) {
    let line = format!("\ncauseway_failover_promotable_standbys {standbys}\n");
    eventually(&format!("{standbys} standbys could lead"), || {
        http::get(http, "/metrics").is_ok_and(|metrics| metrics.contains(&line))
    });
}
