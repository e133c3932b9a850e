//! Killed: the postmaster, the whole node, the node with its agent, a standby before its primary.

use std::time::{Duration, Instant};

use pgcauseway::rig::StopMode;

use super::{assert_whole, cluster, leading, named, proxy, rounds, writers};
use crate::support::history::Fate;
use crate::support::http::status_if_any;
use crate::support::status::{another_leads, events, leader, node, promotable, settled};
use crate::support::{block_on, eventually, http};

#[test]
fn a_killed_postmaster_is_replaced_and_comes_back_as_a_standby() {
    let cluster = cluster("killed");
    let proxy = proxy(&cluster, "durability: quorum");
    let mut idle = Vec::new();
    for _ in 0..5 {
        let client = block_on(proxy.connect());
        let statement = block_on(client.prepare("SELECT 40 + $1::int4")).unwrap();
        idle.push((client, statement));
    }
    let writers = writers(&proxy.url(), 6);
    let mut gaps = Vec::new();
    for round in 1..=rounds(2) {
        let old = leading(&cluster, &proxy);
        writers.wait_acknowledged(50);
        let before = Instant::now();
        old.kill_postmaster().unwrap();
        another_leads(proxy.http, old.name());
        // Server processes may outlive their postmaster for a moment, and acknowledge.
        writers.wait_acknowledged(10);
        let gap = writers.longest_gap_since(before);
        println!("round {round}: {} killed; a gap of {gap:?}", old.name());
        gaps.push(gap);
        settled(proxy.http);
        assert!(block_on(old.is_standby()).unwrap());
    }
    gaps.sort();
    println!("median gap {:?} of {}", gaps[gaps.len() / 2], gaps.len());
    for (client, statement) in &idle {
        let row = block_on(client.query_one(statement, &[&2i32])).unwrap();
        assert_eq!(row.get::<_, i32>(0), 42);
    }
    assert_whole(&writers.stop(), &proxy.url());
}

#[test]
fn a_killed_node_is_replaced_with_and_without_its_agent() {
    let cluster = cluster("node-killed");
    let proxy = proxy(&cluster, "durability: quorum");
    let writers = writers(&proxy.url(), 6);
    for with_agent in [false, true] {
        let old = leading(&cluster, &proxy);
        writers.wait_acknowledged(50);
        let before = Instant::now();
        if with_agent {
            old.agent().unwrap().kill().unwrap();
        }
        old.kill().unwrap();
        another_leads(proxy.http, old.name());
        writers.wait_acknowledged(10);
        let gap = writers.longest_gap_since(before);
        println!("node killed, its agent as well: {with_agent}; a gap of {gap:?}");
        if with_agent {
            let proof = events(proxy.http, "fenced").pop().unwrap();
            assert!(proof.contains("too few standbys"), "{proof}");
            block_on(old.agent().unwrap().start()).unwrap();
        }
        settled(proxy.http);
    }
    assert_whole(&writers.stop(), &proxy.url());
}

#[test]
fn without_quorum_a_lost_node_is_replaced_when_its_lease_has_run_out() {
    let cluster = cluster("lease");
    let proxy = proxy(&cluster, "durability: async\ntimeout: 1s\nlease: 1s");
    let writers = writers(&proxy.url(), 6);
    writers.wait_acknowledged(50);
    let old = leading(&cluster, &proxy);
    let before = Instant::now();
    old.agent().unwrap().kill().unwrap();
    old.kill().unwrap();
    another_leads(proxy.http, old.name());
    writers.wait_acknowledged(10);
    let gap = writers.longest_gap_since(before);
    println!("node and agent killed, async: a gap of {gap:?}");
    let proof = events(proxy.http, "fenced").pop().unwrap();
    assert!(proof.contains("lease"), "{proof}");
    assert!(
        gap >= Duration::from_secs(1),
        "the lease must run out first"
    );
    block_on(old.agent().unwrap().start()).unwrap();
    settled(proxy.http);
    let history = writers.stop();
    let found = history.check(&proxy.url());
    println!("{found}");
    assert_eq!(found.untold, 0, "{found}");
    assert_eq!(found.came_true.len(), 0, "{found}");
    assert_eq!(history.count(Fate::Disconnected), 0, "{found}");
}

#[test]
fn a_crashed_standby_is_started_again_and_one_that_was_shut_down_is_not() {
    let cluster = cluster("crashed");
    let proxy = proxy(&cluster, "durability: async\ntimeout: 1s");
    let [first, second] = cluster.standbys() else {
        panic!("two standbys")
    };
    block_on(second.stop(StopMode::Fast)).unwrap();
    first.kill().unwrap();
    eventually("it has been started again", || {
        events(proxy.http, "rejoined")
            .iter()
            .any(|text| text.contains(first.name()))
    });
    assert!(block_on(first.is_standby()).unwrap());
    assert!(second.pid().is_none(), "its stop was somebody's will");
    let why = events(proxy.http, "quarantined");
    assert_eq!(why.len(), 1, "{why:?}");
    block_on(second.start()).unwrap();
    settled(proxy.http);
}

#[test]
fn a_standby_is_killed_first() {
    let cluster = cluster("standby-first");
    let proxy = proxy(&cluster, "durability: quorum\ntimeout: 1s");
    let writers = writers(&proxy.url(), 6);
    writers.wait_acknowledged(50);
    let old = leading(&cluster, &proxy);
    let standby = cluster.standbys().iter().find(|n| n.name() != old.name());
    let standby = standby.unwrap();
    // Its agent would start it again.
    standby.agent().unwrap().kill().unwrap();
    standby.kill().unwrap();
    eventually("nobody waits for it", || {
        let rule: String = block_on(old.query("SHOW synchronous_standby_names")).unwrap();
        let settled = http::status(proxy.http)["failover"]["durability"] == "quorum";
        settled && !rule.contains(standby.name())
    });
    writers.wait_acknowledged(50);
    let before = Instant::now();
    old.kill().unwrap();
    another_leads(proxy.http, old.name());
    // It acknowledges once the old primary has been rejoined.
    writers.wait_acknowledged(10);
    let gap = writers.longest_gap_since(before);
    println!("a standby killed, then the primary: a gap of {gap:?}");
    block_on(standby.agent().unwrap().start()).unwrap();
    if standby.pid().is_none() {
        block_on(standby.start()).unwrap();
    }
    settled(proxy.http);
    assert_ne!(leader(proxy.http), old.name());
    assert!(named(&cluster, &leader(proxy.http)).pid().is_some());
    assert_whole(&writers.stop(), &proxy.url());
}

/// The directory of a server's data, in which it may write no new file until this is dropped.
struct Closed(std::path::PathBuf);

impl Closed {
    fn new(node: &pgcauseway::rig::Node) -> Self {
        let closed = Self(node.data());
        closed.set(0o500);
        closed
    }

    fn set(&self, mode: u32) {
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(&self.0, std::fs::Permissions::from_mode(mode)).unwrap();
    }
}

impl Drop for Closed {
    fn drop(&mut self) {
        self.set(0o700);
    }
}

#[test]
fn a_standby_that_refuses_every_order_holds_up_nobody() {
    let cluster = cluster("refusing");
    let proxy = proxy(&cluster, "durability: async");
    promotable(proxy.http, 2);
    let third = &cluster.standbys()[1];
    // ALTER SYSTEM fails there, so that it is neither detached nor sent after another primary.
    let closed = Closed::new(third);
    cluster.primary().kill().unwrap();
    another_leads(proxy.http, "pg1");
    assert_eq!(leader(proxy.http), "pg2");
    let fenced = events(proxy.http, "fenced");
    assert!(fenced[0].contains("its agent found"), "{fenced:?}");
    let back = |name| {
        let status = status_if_any(proxy.http);
        let quarantined = &status["failover"]["quarantine"];
        let out = quarantined.as_array().is_none_or(|out| !out.is_empty());
        !out && node(&status, name)["role"] == "standby"
    };
    eventually("pg1 is in service again", || back("pg1"));
    drop(closed);
    settled(proxy.http);
}
