//! Replication slots: a standby that was away while another one was promoted finds there what it lacks,
//! and what it may hold back meanwhile has a bound.

use pgcauseway::rig::{Cluster, Node, StopMode};

use super::{named, proxy};
use crate::support::http::{order, status_if_any};
use crate::support::status::{leader, list, promotable, settled};
use crate::support::{PROGRAM, block_on, eventually, turn};

/// Fills WAL segments, and lets go of those that nobody holds.
fn fill(node: &Node, segments: usize) {
    for _ in 0..segments {
        let fill = "select pg_logical_emit_message(false, 'fill', 'x')";
        block_on(node.execute(fill)).unwrap();
        block_on(node.execute("select pg_switch_wal()")).unwrap();
    }
    block_on(node.execute("checkpoint")).unwrap();
}

fn has_slot(node: &Node, of: &Node) -> bool {
    let sql = format!(
        "select exists (select from pg_replication_slots where slot_name = 'causeway_{}')",
        of.name()
    );
    block_on(node.query(&sql)).unwrap()
}

#[test]
fn a_standby_that_was_down_during_a_switchover_catches_up_without_a_copy() {
    let _turn = turn();
    let cluster = Cluster::builder("slots").agents(PROGRAM);
    let cluster = cluster
        .setting("wal_keep_size", "0")
        .setting("max_wal_size", "64MB")
        .setting("min_wal_size", "32MB")
        .setting("hot_standby_feedback", "on")
        .setting("wal_receiver_status_interval", "1s");
    let cluster = block_on(cluster.start()).unwrap();
    let [first, second, third] = cluster.nodes() else {
        panic!("three nodes")
    };
    let slots = "durability: async\ntimeout: 4s\nlease: 4s\nslots: true\nmax_slot_bytes: 200MB";
    let proxy = proxy(&cluster, slots);
    let all = || {
        let mut pairs = cluster.nodes().iter().flat_map(|node| {
            let others = cluster
                .nodes()
                .iter()
                .filter(|other| other.name() != node.name());
            others.map(move |other| (node, other))
        });
        pairs.all(|(node, other)| has_slot(node, other))
    };
    eventually("each has one on every other", all);
    let used = "select count(*) = 2 from pg_replication_slots where active";
    eventually("they are in use", || block_on(first.query(used)).unwrap());

    let keeps = |node: &Node, slots: &str| {
        let sql =
            format!("select count(*) from pg_replication_slots where xmin is not null and {slots}");
        block_on(node.query::<i64>(&sql)).unwrap()
    };
    eventually("they keep rows from VACUUM", || keeps(first, "active") == 2);

    // Copied, it would lose this.
    let mark = third.data().join("not-copied");
    block_on(third.stop(StopMode::Fast)).unwrap();
    std::fs::write(&mark, "").unwrap();
    let nobody_reads = || keeps(first, "not active") == 0;
    eventually("none is kept for who is away", nobody_reads);
    assert!(has_slot(first, third));
    block_on(first.execute("create table later as select 1 as id")).unwrap();
    fill(first, 4);
    block_on(second.wait_replayed(block_on(first.written()).unwrap())).unwrap();
    block_on(second.execute("checkpoint")).unwrap();
    promotable(proxy.http, 1);
    let (code, answer) = order(proxy.http, &format!("/api/switchover?to={}", second.name()));
    assert_eq!(code, 200, "{answer}");
    eventually("it leads", || leader(proxy.http) == second.name());
    // What its standbys had said when it led would go up to the next primary.
    eventually("it keeps none as a standby", || {
        block_on(first.query("select pg_is_in_recovery()")).unwrap_or(false) && nobody_reads()
    });
    fill(second, 4);
    fill(named(&cluster, first.name()), 0);

    block_on(third.start()).unwrap();
    let rows = "select count(*) from later";
    eventually("it has caught up", || {
        block_on(third.query::<i64>(rows)).is_ok_and(|count| count == 1)
    });
    block_on(third.wait_replayed(block_on(second.written()).unwrap())).unwrap();
    assert!(mark.exists(), "it was copied");

    // Away for longer it holds back no more than the bound.
    settled(proxy.http);
    block_on(third.stop(StopMode::Fast)).unwrap();
    fill(second, 14);
    eventually("its slots are dropped", || {
        !has_slot(second, third) && !has_slot(first, third)
    });
    assert!(has_slot(second, first));
}

#[test]
fn a_slot_that_cannot_be_made_has_no_others_hold_wal_back() {
    let _turn = turn();
    let cluster = Cluster::builder("slots-full").agents(PROGRAM);
    let cluster = cluster
        .setting("wal_keep_size", "0")
        .setting("max_wal_size", "64MB")
        .setting("min_wal_size", "32MB")
        .setting("max_replication_slots", "4");
    let cluster = block_on(cluster.start()).unwrap();
    let [first, second, third] = cluster.nodes() else {
        panic!("three nodes")
    };
    for number in 0..4 {
        let taken = format!("select pg_create_physical_replication_slot('tool_{number}')");
        block_on(second.execute(&taken)).unwrap();
    }
    let slots = "durability: async\ntimeout: 4s\nlease: 4s\nslots: true\nmax_slot_bytes: 200MB";
    let proxy = proxy(&cluster, slots);
    let said = || {
        let status = status_if_any(proxy.http);
        let mut troubles = list(&status, "troubles").iter();
        let of_slots = troubles.find(|trouble| trouble["kind"] == "slots");
        of_slots.map_or_else(String::new, ToString::to_string)
    };
    eventually("it is said", || {
        said().contains("make causeway_pg") && said().contains(second.name())
    });
    eventually("the others have theirs", || {
        has_slot(third, first) && has_slot(third, second) && has_slot(first, second)
    });
    fill(first, 3);
    let written = block_on(first.written()).unwrap();
    block_on(third.wait_replayed(written)).unwrap();
    block_on(third.execute("checkpoint")).unwrap();
    let behind = "select count(*) from pg_replication_slots, pg_control_checkpoint() \
                  where restart_lsn < redo_lsn";
    eventually("they are moved on", || {
        block_on(third.query::<i64>(behind)).unwrap() == 0
    });

    for number in 0..4 {
        let drop = format!("select pg_drop_replication_slot('tool_{number}')");
        block_on(second.execute(&drop)).unwrap();
    }
    eventually("it has its own as well", || {
        has_slot(second, first) && has_slot(second, third) && said().is_empty()
    });
}
