//! Under `durability: quorum` a rule counts when commits are seen to wait by it, not when a setting shows it.

use std::time::{Duration, Instant};

use pgcauseway::rig::Node;

use super::slow::{CHECKPOINTER, Frozen};
use super::{cluster, leading};
use crate::support::http::status_if_any;
use crate::support::status::settled;
use crate::support::{Proxy, block_on, eventually};

const QUORUM: &str = "durability: quorum\ntimeout: 4s\nlease: 4s";

fn durability(proxy: &Proxy) -> String {
    let status = status_if_any(proxy.http);
    let durability = status["failover"]["durability"].as_str();
    durability.unwrap_or_default().to_owned()
}

/// What a new session shows.
fn shown(node: &Node) -> String {
    block_on(node.query("SELECT current_setting('synchronous_standby_names')")).unwrap()
}

/// For some time: far longer than a changed setting takes to be read by processes that read it.
fn for_a_while(condition: impl Fn() -> bool) -> bool {
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(3) {
        if !condition() {
            return false;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    true
}

#[test]
fn a_rule_that_only_shows_does_not_count() {
    let cluster = cluster("rule-shown");
    let primary = cluster.primary();
    let pid = block_on(primary.query(CHECKPOINTER)).unwrap();
    let checkpointer = Frozen::new(pid);
    let yaml = format!("{}{}", cluster.yaml(), cluster.failover_yaml(QUORUM));
    let proxy = Proxy::with_yaml(&cluster, &yaml);
    eventually("it shows", || shown(primary).contains("pg2"));
    assert!(for_a_while(|| durability(&proxy) == "quorum pending"));
    drop(checkpointer);
    eventually("it holds", || durability(&proxy) == "quorum");
    settled(proxy.http);
    assert_eq!(leading(&cluster, &proxy).name(), primary.name());
}

#[test]
fn a_rule_holds_once_every_wal_sender_goes_by_it() {
    let cluster = cluster("rule-senders");
    let yaml = format!("{}{}", cluster.yaml(), cluster.failover_yaml(QUORUM));
    let proxy = Proxy::with_yaml(&cluster, &yaml);
    settled(proxy.http);
    let primary = cluster.primary();
    let third = &cluster.standbys()[1];
    // It sends WAL that is not taken, and hears nothing: pg3 is waited for no more, and what its sender
    // would acknowledge by the old rule is not known to be over until it is seen to wait.
    assert!(shown(primary).contains("pg3"));
    third.agent().unwrap().kill().unwrap();
    third.freeze().unwrap();
    eventually("pg3 is waited for no more", || {
        let shown = shown(primary);
        shown.contains("pg2") && !shown.contains("pg3")
    });
    // It waits in its loop, and reads the setting before anything that pg3 might say.
    eventually("the rule holds", || durability(&proxy) == "quorum");
    third.thaw().unwrap();
    block_on(third.agent().unwrap().start()).unwrap();
    eventually("both are waited for", || {
        shown(primary).contains("pg3") && durability(&proxy) == "quorum"
    });
}
