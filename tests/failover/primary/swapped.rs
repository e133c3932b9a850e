//! Addresses of agents that lead to those of other nodes: they are told nothing, and both sides say so.

use super::cluster;
use crate::agent::support::{client, config, status};
use crate::support::status::settled;
use crate::support::{Proxy, block_on, eventually, http};

#[test]
fn an_agent_at_the_address_of_another_is_given_no_orders() {
    let cluster = cluster("swapped");
    let urls = config(&cluster).nodes.into_iter().map(|node| node.agent);
    let urls: Vec<String> = urls.map(|url| url.unwrap().to_string()).collect();
    let swapped = cluster
        .yaml()
        .replace(&urls[0], "FIRST")
        .replace(&urls[1], &urls[0])
        .replace("FIRST", &urls[1]);
    assert_ne!(swapped, cluster.yaml());
    let pids: Vec<_> = cluster.nodes().iter().map(|node| node.pid()).collect();
    let yaml = swapped + &cluster.failover_yaml("");
    let proxy = Proxy::with_yaml(&cluster, &yaml);
    settled(proxy.http);
    eventually("the status says whose agents they are", || {
        let status = http::status_if_any(proxy.http).to_string();
        let says = |meant: &str, found: &str| {
            status.contains(&format!(
                "this is the agent of {found}, and that of {meant} is meant"
            ))
        };
        says("pg1", "pg2") && says("pg2", "pg1")
    });
    for (node, pid) in cluster.nodes().iter().zip(&pids) {
        let told = block_on(async { status(&client(&cluster, node)).await });
        assert_eq!(node.pid(), *pid, "{} was stopped", node.name());
        assert!(node.name() == "pg3" || !told.governed, "{told:?}");
    }
}
