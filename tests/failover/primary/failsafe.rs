//! With every proxy gone a healthy primary goes on by what the agents promise each other, and one that is
//! cut off from them too does not; a promotion waits for what was promised.

use std::path::Path;
use std::time::{Duration, Instant};

use pgcauseway::agent::api::{PromiseRequest, Status};
use pgcauseway::rig::{Cluster, Proxy};

use super::cluster;
use crate::agent::support::{client, takes_writes};
use crate::support::http::status;
use crate::support::status::{another_leads, leader, settled};
use crate::support::{BOUND, PROGRAM, block_on, eventually, throughout};

/// Several leases, and the time in which an agent would stop its server.
const LONG: Duration = Duration::from_secs(9);

fn process(cluster: &Cluster, yaml: &str) -> Proxy {
    let yaml = cluster.yaml() + &cluster.failover_yaml(yaml);
    let proxy = Proxy::new(cluster, "only", None, Path::new(PROGRAM), &yaml).unwrap();
    block_on(proxy.start()).unwrap();
    settled(proxy.http());
    proxy
}

fn agent(cluster: &Cluster, node: usize) -> Status {
    let agent = client(cluster, &cluster.nodes()[node]);
    block_on(agent.status(BOUND)).unwrap()
}

/// The primary's agent knows whom to ask, and how many must promise.
fn knows(cluster: &Cluster, needed: usize, peers: usize) {
    eventually("the primary's agent knows whom to ask", || {
        let told = agent(cluster, 0).failsafe.unwrap();
        let rule = told.rule;
        rule.is_some_and(|rule| rule.needed == needed && rule.peers.len() == peers)
    });
}

fn is_prolonged(cluster: &Cluster) -> bool {
    agent(cluster, 0).lease.is_some_and(|lease| lease.prolonged)
}

/// It runs, and takes writes of whoever connects to it, for long.
fn goes_on(cluster: &Cluster, postmaster: Option<i32>) {
    throughout(LONG, || {
        assert_eq!(cluster.primary().pid(), postmaster);
        assert!(block_on(takes_writes(cluster.primary())));
    });
    assert!(is_prolonged(cluster));
}

#[test]
fn all_proxies_killed_the_primary_goes_on_and_the_next_one_takes_over() {
    let cluster = cluster("failsafe");
    let node = cluster.primary();
    block_on(node.execute("CREATE TABLE t (id int)")).unwrap();
    let proxy = process(&cluster, "");
    knows(&cluster, 2, 2);
    eventually("status tells of it", || {
        status(proxy.http())["failover"]["failsafe"] == "pg2, pg3"
    });
    let postmaster = node.pid();
    let epoch = agent(&cluster, 0).highest_epoch;
    proxy.kill().unwrap();
    goes_on(&cluster, postmaster);
    assert_eq!(agent(&cluster, 0).highest_epoch, epoch);

    // The agents are restarted as well, one after the other: nothing is forgotten.
    for node in [1, 0] {
        let process = cluster.nodes()[node].agent().unwrap();
        process.kill().unwrap();
        block_on(process.start()).unwrap();
    }
    goes_on(&cluster, postmaster);

    // The primary's agent stands still for longer than the lease lasts, and asks before it stops anything.
    let process = node.agent().unwrap();
    process.freeze().unwrap();
    std::thread::sleep(LONG / 2);
    process.thaw().unwrap();
    eventually("the others promise again", || is_prolonged(&cluster));
    assert!(node.pid() == postmaster && block_on(takes_writes(node)));

    block_on(proxy.start()).unwrap();
    settled(proxy.http());
    eventually("the proxy renews", || !is_prolonged(&cluster));
    assert_eq!(node.pid(), postmaster);
    assert_eq!(leader(proxy.http()), "pg1");
    assert_eq!(agent(&cluster, 0).timeline, Some(1));
    // And replaces it, when it dies.
    node.kill_postmaster().unwrap();
    another_leads(proxy.http(), "pg1");
}

#[test]
fn cut_off_from_the_other_agents_too_it_stops_itself_and_says_why() {
    let cluster = cluster("failsafe-cut");
    let node = cluster.primary();
    block_on(node.execute("CREATE TABLE t (id int)")).unwrap();
    let proxy = process(&cluster, "");
    knows(&cluster, 2, 2);
    proxy.kill().unwrap();
    eventually("its lease is prolonged", || is_prolonged(&cluster));
    // One of those that could be promoted is enough.
    cluster.nodes()[2].agent().unwrap().kill().unwrap();
    eventually("its agent stops it", || node.pid().is_none());
    assert!(!block_on(takes_writes(node)));
    eventually("its log says why", || {
        let log = std::fs::read_to_string(node.agent().unwrap().log()).unwrap();
        let mut lines = log.lines();
        let stopped = lines.find(|line| line.contains("the primary was stopped"));
        stopped.is_some_and(|line| line.contains("pg3: "))
    });
}

#[test]
fn with_a_quorum_as_many_as_a_commit_needs_are_enough() {
    let cluster = cluster("failsafe-quorum");
    let node = cluster.primary();
    block_on(node.execute("CREATE TABLE t (id int)")).unwrap();
    let proxy = process(&cluster, "durability: quorum");
    knows(&cluster, 1, 2);
    let postmaster = node.pid();
    proxy.kill().unwrap();
    cluster.nodes()[2].agent().unwrap().kill().unwrap();
    goes_on(&cluster, postmaster);
    cluster.nodes()[1].agent().unwrap().kill().unwrap();
    eventually("its agent stops it", || node.pid().is_none());
}

#[test]
fn switched_off_the_lease_ends_without_a_proxy() {
    let cluster = cluster("failsafe-off");
    let node = cluster.primary();
    let proxy = process(&cluster, "failsafe: false");
    eventually("status says why", || {
        let told = status(proxy.http())["failover"]["failsafe"].clone();
        told == "not available: failover.failsafe is false"
    });
    // Without one it would stop nothing.
    eventually("it has a lease", || agent(&cluster, 0).lease.is_some());
    proxy.kill().unwrap();
    eventually("its agent stops it", || node.pid().is_none());
}

#[test]
fn a_promotion_waits_for_what_was_promised() {
    let cluster = cluster("failsafe-waits");
    let proxy = process(&cluster, "timeout: 4s");
    let promised = Duration::from_secs(6);
    let told = agent(&cluster, 0);
    let begun = Instant::now();
    for node in [1, 2] {
        let request = PromiseRequest {
            from: "pg1".to_owned(),
            to: cluster.nodes()[node].name().to_owned(),
            epoch: told.highest_epoch,
            system_identifier: told.system_identifier.clone().unwrap(),
            timeline: told.timeline.unwrap(),
            promise_ms: promised.as_millis() as u64,
        };
        let agent = client(&cluster, &cluster.nodes()[node]);
        block_on(agent.promise(&request, BOUND)).unwrap();
    }
    cluster.primary().kill_postmaster().unwrap();
    eventually("status says what it waits for", || {
        let why = status(proxy.http())["failover"]["why"].to_string();
        why.contains("has promised pg1 not to")
    });
    another_leads(proxy.http(), "pg1");
    assert!(begun.elapsed() >= promised);
}
