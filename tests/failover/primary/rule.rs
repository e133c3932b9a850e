//! Under `durability: quorum` a rule counts when commits are seen to wait by it, not when a setting shows it.

use std::fs;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use pgcauseway::rig::{Cluster, Node, StopMode};

use super::slow::{CHECKPOINTER, Frozen};
use super::{cluster, leading, proxy};
use crate::support::frames::query;
use crate::support::http::status_if_any;
use crate::support::need::beside_servers;
use crate::support::status::settled;
use crate::support::{PROGRAM, Proxy, Wire, block_on, eventually};

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

#[test]
fn a_logical_receiver_that_lags_holds_up_no_rule() {
    let cluster = Cluster::builder("rule-logical").agents(PROGRAM);
    let cluster = cluster
        .setting("wal_level", "logical")
        .setting("wal_sender_timeout", "0");
    let cluster = block_on(cluster.start()).unwrap();
    let proxy = proxy(&cluster, QUORUM);
    eventually("it holds", || durability(&proxy) == "quorum");
    let (primary, third) = (cluster.primary(), &cluster.standbys()[1]);
    let slot = "SELECT pg_create_logical_replication_slot('changes', 'test_decoding')";
    block_on(primary.execute(slot)).unwrap();
    let superuser = &cluster.credentials().superuser;
    let mut receiver = Wire::login(primary.port(), superuser, &[("replication", "database")]);
    receiver.send(&query("START_REPLICATION SLOT changes LOGICAL 0/0"));
    let fill = "SELECT pg_logical_emit_message(true, 'fill', repeat('x', 1000)) \
                FROM generate_series(1, 30000)";
    block_on(primary.execute(fill)).unwrap();
    eventually("nobody takes what it sends", || {
        let sql =
            "SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event = 'WalSenderWriteData'";
        block_on(primary.query::<bool>(sql)).unwrap()
    });

    third.agent().unwrap().kill().unwrap();
    block_on(third.stop(StopMode::Fast)).unwrap();
    eventually("pg3 is waited for no more", || {
        !shown(primary).contains("pg3")
    });
    eventually("the rule holds", || durability(&proxy) == "quorum");
    drop(receiver);
}

#[test]
fn commits_that_wait_for_no_standby_are_told_of() {
    let cluster = cluster("rule-early");
    let proxy = proxy(&cluster, QUORUM);
    eventually("it holds", || durability(&proxy) == "quorum");
    let primary = cluster.primary();
    let role = "ALTER ROLE demo SET synchronous_commit = off";
    let server = "ALTER SYSTEM SET synchronous_commit = 'local'";
    let back = [
        "ALTER ROLE demo RESET synchronous_commit",
        "ALTER SYSTEM RESET synchronous_commit",
    ];
    for (set, reset) in [role, server].into_iter().zip(back) {
        for (statement, expected) in [(set, "quorum pending"), (reset, "quorum")] {
            block_on(primary.execute(statement)).unwrap();
            block_on(primary.execute("SELECT pg_reload_conf()")).unwrap();
            eventually(statement, || durability(&proxy) == expected);
            let status = status_if_any(proxy.http).to_string();
            let told = status.contains("such commits wait for no standby");
            assert_eq!(told, expected != "quorum", "{status}");
        }
    }
}

/// A receiver of WAL that confirms what it receives by another's name; killed when dropped.
struct Impostor(Child);

impl Impostor {
    fn of(cluster: &Cluster, name: &str) -> Self {
        let directory = cluster.directory().join("impostor");
        fs::create_dir_all(&directory).unwrap();
        let (login, port) = (&cluster.credentials().replication, cluster.primary().port());
        let user = &login.user;
        let child = Command::new(beside_servers("pg_receivewal"))
            .args(["--synchronous", "--no-loop", "--directory"])
            .arg(directory)
            .arg("--dbname")
            .arg(format!(
                "host=127.0.0.1 port={port} user={user} application_name={name}"
            ))
            .env("PGPASSWORD", &login.password)
            .spawn();
        Self(child.unwrap())
    }
}

impl Drop for Impostor {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn no_rule_counts_while_two_receive_by_one_name() {
    let cluster = cluster("rule-doubled");
    let proxy = proxy(&cluster, QUORUM);
    eventually("it holds", || durability(&proxy) == "quorum");
    let told = || {
        let status = status_if_any(proxy.http).to_string();
        status.contains("two receivers are called pg3")
    };
    assert!(!told());
    // PostgreSQL compares names without case.
    let impostor = Impostor::of(&cluster, "PG3");
    eventually("it is told of", || {
        told() && durability(&proxy) == "quorum pending"
    });
    assert!(for_a_while(|| durability(&proxy) == "quorum pending"));
    drop(impostor);
    eventually("it holds again", || {
        !told() && durability(&proxy) == "quorum"
    });
    // A standby that comes again is no second one.
    let sender = "SELECT pid FROM pg_stat_replication WHERE application_name = 'pg3'";
    let sender = Frozen::new(block_on(cluster.primary().query(sender)).unwrap());
    block_on(cluster.standbys()[1].restart(StopMode::Immediate)).unwrap();
    let senders = "SELECT count(*) FROM pg_stat_replication WHERE application_name = 'pg3'";
    eventually("its former sender is there still", || {
        block_on(cluster.primary().query::<i64>(senders)).unwrap() == 2
    });
    assert!(for_a_while(|| !told()));
    drop(sender);
}

#[test]
fn a_restarted_standby_may_hold_more_than_it_has_replayed() {
    let cluster = cluster("rule-replaying");
    let proxy = proxy(&cluster, QUORUM);
    eventually("it holds", || durability(&proxy) == "quorum");
    let (primary, second) = (cluster.primary(), &cluster.standbys()[0]);
    let mut wire = proxy.wire();
    wire.run("CREATE TABLE acknowledged (n int)");
    let late = "ALTER SYSTEM SET recovery_min_apply_delay = '10min'";
    block_on(second.execute(late)).unwrap();
    block_on(second.execute("SELECT pg_reload_conf()")).unwrap();
    eventually("it replays late", || {
        let sql = "SHOW recovery_min_apply_delay";
        block_on(second.query::<String>(sql)).unwrap() == "10min"
    });
    // pg2 holds more than it has replayed, and pg3 as much.
    wire.run("INSERT INTO acknowledged VALUES (0)");
    eventually("pg3 has that", || {
        let sql = "SELECT count(*) = 1 FROM pg_stat_replication \
                   WHERE application_name = 'pg3' AND flush_lsn >= pg_current_wal_flush_lsn()";
        block_on(primary.query::<bool>(sql)).unwrap()
    });
    // pg3 receives nothing more: pg2 alone holds what is acknowledged from now on.
    let sender = "SELECT pid FROM pg_stat_replication WHERE application_name = 'pg3'";
    let sender = Frozen::new(block_on(primary.query(sender)).unwrap());
    wire.run("INSERT INTO acknowledged VALUES (1)");
    block_on(second.restart(StopMode::Fast)).unwrap();
    eventually("pg2 answers, and has not asked for more", || {
        let sql = "SELECT pg_last_wal_receive_lsn() IS NULL";
        block_on(second.query::<bool>(sql)).unwrap_or(false)
    });
    primary.kill().unwrap();
    drop(sender);
    // Whoever leads then has it.
    let mut wire = proxy.wire();
    let count = "INSERT INTO acknowledged VALUES (2) RETURNING (SELECT count(*) FROM acknowledged)";
    assert_eq!(wire.value(count), "2");
}
