//! A failed primary is replaced, and clients stay connected: real servers, real agents, real clients,
//! and a history of every write that is checked when the dust has settled.

#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../support/mod.rs"]
mod support;

mod history;

use std::time::Duration;

use history::{Fate, Writers};
use pgcauseway::rig::Cluster;
use support::{Proxy, block_on, eventually, http};

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
    eventually("every node serves", || {
        let status = http::status(proxy.http);
        let nodes = status["nodes"].as_array().unwrap();
        let primary = nodes.iter().find(|node| node["role"] == "primary");
        let standbys = nodes.iter().filter(|node| node["role"] == "standby");
        let Some(primary) = primary else { return false };
        let up = nodes.iter().all(|node| node["state"] == "up");
        let together = nodes.iter().all(|n| n["timeline"] == primary["timeline"]);
        let settled = status["failover"]["phase"] == "steady"
            && status["failover"]["durability"] != "quorum pending"
            && status["failover"]["quarantine"]
                .as_array()
                .unwrap()
                .is_empty();
        up && together && settled && standbys.count() == nodes.len() - 1
    });
}

fn leader(proxy: &Proxy) -> String {
    let status = http::status(proxy.http);
    status["primary"].as_str().unwrap_or("nobody").to_owned()
}

#[test]
fn a_killed_primary_is_replaced_and_comes_back_as_a_standby() {
    let cluster = cluster("killed");
    let proxy = proxy(&cluster, "durability: quorum");
    let mut idle: Vec<_> = (0..5).map(|_| block_on(proxy.connect())).collect();
    let writers = Writers::start(&proxy, 6, Duration::from_millis(5));
    for round in 1..=2 {
        let old = leader(&proxy);
        let node = cluster
            .nodes()
            .iter()
            .find(|node| node.name() == old)
            .unwrap();
        writers.wait_acknowledged(50);
        let before = writers.mark();
        node.kill_postmaster().unwrap();
        eventually("another leads", || {
            ![old.as_str(), "nobody"].contains(&leader(&proxy).as_str())
        });
        // Server processes may outlive their postmaster for a moment, and acknowledge.
        writers.wait_acknowledged(10);
        let gap = writers.longest_gap_since(before);
        println!("round {round}: {old} killed; no write was acknowledged for {gap:?}");
        settled(&proxy);
    }
    for client in &mut idle {
        let one: i32 = block_on(client.query_one("SELECT 1", &[])).unwrap().get(0);
        assert_eq!(one, 1);
    }
    let history = writers.stop();
    let found = history.check(&proxy);
    println!("{found}");
    assert_eq!(found.lost, 0, "{found}");
    assert_eq!(
        found.came_true, 0,
        "what was refused must not be there: {found}"
    );
    assert_eq!(history.count(Fate::Disconnected), 0, "{found}");
    assert_eq!(history.count(Fate::Other), 0, "{found}");
}
