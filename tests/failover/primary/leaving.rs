//! Who leaves hands leases back: no agent stops a healthy primary because its proxy was stopped in good
//! order, or is to decide nothing any more.

use std::path::Path;
use std::time::Duration;

use pgcauseway::rig::{Cluster, Proxy, StopMode};

use super::cluster;
use crate::agent::support::{client, takes_writes};
use crate::support::http::{order, status};
use crate::support::status::{another_leads, leader, settled};
use crate::support::{BOUND, PROGRAM, block_on, eventually, throughout};

/// Twice the lease, and the time in which an agent would stop its server.
const LONG: Duration = Duration::from_secs(7);

fn process(cluster: &Cluster, name: &str, yaml: &str) -> Proxy {
    let yaml = cluster.yaml() + yaml;
    let proxy = Proxy::new(cluster, name, None, Path::new(PROGRAM), &yaml).unwrap();
    block_on(proxy.start()).unwrap();
    proxy
}

fn governed(cluster: &Cluster) -> bool {
    let agent = client(cluster, cluster.primary());
    block_on(agent.status(BOUND)).unwrap().governed
}

/// Nobody renews anything, and the primary goes on.
fn goes_on(cluster: &Cluster, postmaster: Option<i32>) {
    eventually("its agent lets it be", || !governed(cluster));
    throughout(LONG, || {
        assert_eq!(cluster.primary().pid(), postmaster);
        assert!(block_on(takes_writes(cluster.primary())));
    });
}

#[test]
fn a_proxy_that_is_stopped_leaves_its_primary_running() {
    let cluster = cluster("leaving");
    let node = cluster.primary();
    block_on(node.execute("CREATE TABLE t (id int)")).unwrap();
    let proxy = process(&cluster, "first", &cluster.failover_yaml(""));
    settled(proxy.http());
    eventually("its agent waits for leases", || governed(&cluster));
    eventually("status tells of it", || {
        status(proxy.http())["failover"]["governed"] == serde_json::json!(["pg1"])
    });
    let postmaster = node.pid();
    let terminated = std::process::Command::new("kill")
        .arg(proxy.pid().unwrap().to_string())
        .status();
    assert!(terminated.unwrap().success());
    eventually("it has ended", || proxy.pid().is_none());
    goes_on(&cluster, postmaster);

    // The next one takes it up again.
    block_on(proxy.start()).unwrap();
    settled(proxy.http());
    eventually("its agent waits for leases again", || governed(&cluster));
    assert_eq!(node.pid(), postmaster);
}

#[test]
fn while_failover_is_paused_a_primary_may_be_restarted() {
    let cluster = cluster("paused");
    let node = cluster.primary();
    block_on(node.execute("CREATE TABLE t (id int)")).unwrap();
    let proxy = super::proxy(&cluster, "");
    let (code, answer) = order(proxy.http, "/api/failover/pause");
    assert_eq!(code, 200, "{answer}");
    eventually("status tells of it", || {
        status(proxy.http)["failover"]["paused"] == true
    });
    block_on(node.stop(StopMode::Fast)).unwrap();
    throughout(LONG, || {
        let leads = leader(proxy.http);
        assert!(["pg1", "nobody"].contains(&leads.as_str()), "{leads}");
    });
    block_on(node.start()).unwrap();
    let postmaster = node.pid();
    assert!(postmaster.is_some());
    throughout(LONG, || {
        assert_eq!(node.pid(), postmaster);
        assert!(block_on(takes_writes(node)));
    });
    assert_eq!(proxy.wire().value("SELECT pg_is_in_recovery()"), "f");
    let (code, answer) = order(proxy.http, "/api/failover/resume");
    assert_eq!(code, 200, "{answer}");
    node.kill().unwrap();
    another_leads(proxy.http, "pg1");
}

/// A proxy is killed, and the next one decides nothing.
fn turned_off(name: &str, off: impl FnOnce(&Cluster) -> String) {
    let cluster = cluster(name);
    let node = cluster.primary();
    block_on(node.execute("CREATE TABLE t (id int)")).unwrap();
    // Long enough for the next one to start.
    let proxy = process(&cluster, "first", &cluster.failover_yaml("lease: 30s"));
    settled(proxy.http());
    eventually("its agent waits for leases", || governed(&cluster));
    let postmaster = node.pid();
    proxy.kill().unwrap();
    let _next = process(&cluster, "next", &off(&cluster));
    goes_on(&cluster, postmaster);
}

#[test]
fn mode_observe_ends_the_rule_of_leases() {
    turned_off("to-observe", |cluster| {
        let yaml = cluster.failover_yaml("lease: 30s");
        yaml.replace("mode: automatic", "mode: observe")
    });
}

#[test]
fn no_failover_at_all_ends_the_rule_of_leases() {
    turned_off("to-off", |_| String::new());
}
