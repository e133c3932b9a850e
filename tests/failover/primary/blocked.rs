//! A reader on a standby keeps it from replaying what it has received, and the primary dies: nobody waits for
//! the reader.

use pgcauseway::rig::{Cluster, Node};
use tokio_postgres::Client;

use super::{assert_whole, proxy, writers};
use crate::support::status::{another_leads, events, leader, settled};
use crate::support::{PROGRAM, block_on, sqlstate};

/// Readers may hold up replay for ever.
fn cluster(name: &str) -> Cluster {
    let builder = Cluster::builder(name).agents(PROGRAM);
    let builder = builder.setting("max_standby_streaming_delay", "-1");
    block_on(builder.start()).unwrap()
}

/// A transaction that reads on this standby and stays open.
fn reads(cluster: &Cluster, node: &Node, sql: &str) -> Client {
    let client = block_on(node.connect(cluster.application())).unwrap();
    block_on(client.batch_execute(sql)).unwrap();
    client
}

fn run(cluster: &Cluster, sql: &str) {
    let primary = cluster.primary();
    block_on(async {
        let client = primary.connect(cluster.application()).await.unwrap();
        for statement in sql.split(';') {
            client.batch_execute(statement).await.unwrap();
        }
    });
    let written = block_on(primary.written()).unwrap();
    for standby in cluster.standbys() {
        let received = format!("SELECT pg_last_wal_receive_lsn() >= '{written}'::pg_lsn");
        block_on(standby.wait_for("receive it", &received)).unwrap();
    }
}

/// Waits until its startup process waits for a reader, by this wait event.
fn stands(node: &Node, event: &str) {
    let sql = format!(
        "SELECT EXISTS (SELECT FROM pg_stat_activity \
         WHERE backend_type = 'startup' AND wait_event = '{event}')"
    );
    block_on(node.wait_for("stand in its replay", &sql)).unwrap();
}

fn lives(client: &Client) -> Result<(), String> {
    let lives = block_on(client.batch_execute("SELECT 1"));
    lives.map_err(|error| sqlstate(&error).to_owned())
}

#[test]
fn one_that_has_replayed_what_it_received_goes_before_one_whose_reader_holds_it_up() {
    // A heartbeat may have come to one of them alone; that one leads, rightly.
    let held_the_same = (0..4).any(|_| goes_first_where_both_hold_the_same());
    assert!(held_the_same, "the one that is held up has led each time");
}

/// False if the standbys did not hold the same.
fn goes_first_where_both_hold_the_same() -> bool {
    let cluster = cluster("blocked-one");
    let proxy = proxy(&cluster, "durability: async");
    run(&cluster, "CREATE TABLE report (a int)");
    let [first, second] = cluster.standbys() else {
        panic!("two standbys")
    };
    let written = block_on(cluster.primary().written()).unwrap();
    block_on(first.wait_replayed(written)).unwrap();
    let reader = reads(&cluster, first, "BEGIN; SELECT * FROM report");
    run(&cluster, "ALTER TABLE report ADD COLUMN b int");
    stands(first, "relation");
    let written = block_on(cluster.primary().written()).unwrap();
    block_on(second.wait_replayed(written)).unwrap();
    cluster.primary().kill().unwrap();
    another_leads(proxy.http, "pg1");
    let chosen = events(proxy.http, "candidate_chosen").pop().unwrap();
    let said = format!("{} holds as much, and has replayed it only", first.name());
    if !chosen.contains(&said) {
        return false;
    }
    assert_eq!(leader(proxy.http), second.name());
    lives(&reader).unwrap();
    drop(reader);
    settled(proxy.http);
    true
}

#[test]
fn readers_that_hold_up_whoever_is_to_lead_are_ended_and_no_others() {
    // By a lock; by a snapshot that sees what VACUUM has removed.
    for (name, begin, change, event) in [
        (
            "blocked-lock",
            "BEGIN; SELECT * FROM report",
            "ALTER TABLE report ADD COLUMN b int",
            "relation",
        ),
        (
            "blocked-snapshot",
            "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT * FROM report",
            "DELETE FROM report; VACUUM report",
            "RecoveryConflictSnapshot",
        ),
    ] {
        let cluster = cluster(name);
        let proxy = proxy(&cluster, "durability: quorum");
        let writers = writers(&proxy.url(), 2);
        writers.wait_acknowledged(20);
        let table = "CREATE TABLE report AS SELECT g AS a FROM generate_series(1, 1000) AS g";
        run(&cluster, table);
        let written = block_on(cluster.primary().written()).unwrap();
        let mut readers = Vec::new();
        for standby in cluster.standbys() {
            block_on(standby.wait_replayed(written)).unwrap();
            let idle = reads(&cluster, standby, "SELECT 1");
            readers.push((standby.name(), reads(&cluster, standby, begin), idle));
        }
        run(&cluster, change);
        for standby in cluster.standbys() {
            stands(standby, event);
        }
        cluster.primary().kill().unwrap();
        another_leads(proxy.http, "pg1");
        let new = leader(proxy.http);
        for (node, reader, idle) in readers {
            let ended = lives(&reader).is_err();
            assert_eq!(ended, node == new, "{node}, {new} leads");
            lives(&idle).unwrap();
        }
        writers.wait_acknowledged(20);
        settled(proxy.http);
        assert_whole(&writers.stop(), &proxy.url());
    }
}
