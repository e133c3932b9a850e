//! A standby serves what is part of the primary's history, and goes on being so: one that stands still, one
//! that was left behind on another timeline and one of another cluster serve nobody, by themselves and
//! without a failover controller.

use pgcauseway::rig::{Cluster, Node};

use crate::support::{Proxy, Wire, block_on, eventually, http, status, turn};

/// Reads of sessions that have seen nothing, at the session's level and at `eventual`: what they find, and
/// whether standbys gave it.
fn fresh(proxy: &Proxy, sql: &str) -> Vec<(String, bool)> {
    let levels = ["session", "eventual"].repeat(4);
    let read = |level: &str| {
        let options = format!("-c causeway.consistency={level}");
        let mut wire = proxy.wire_with(&[("options", &options)]);
        let value = wire.value(sql);
        (value, is_on_standby(&mut wire))
    };
    levels.into_iter().map(read).collect()
}

fn is_on_standby(wire: &mut Wire) -> bool {
    let route = wire.value("SHOW causeway.last_route");
    route.starts_with("standby ")
}

/// Why a node serves no reads, as the status says it.
fn unfit(proxy: &Proxy, node: &Node) -> Option<String> {
    let status = http::status(proxy.http);
    let mut troubles = status::list(&status, "troubles").iter();
    let found = troubles.find(|t| t["node"] == node.name() && t["kind"] == "unfit");
    found.map(|trouble| trouble["text"].as_str().unwrap().to_owned())
}

fn start(name: &str, standbys: usize) -> Cluster {
    let builder = Cluster::builder(name).standbys(standbys);
    // One of these clusters must be told from another.
    let cluster = block_on(builder.own_history(true).start()).unwrap();
    let sql = "CREATE TABLE history (id int); INSERT INTO history VALUES (1)";
    let setup = Proxy::start(&cluster, "");
    setup.wire().run(sql);
    block_on(cluster.wait_caught_up()).unwrap();
    cluster
}

#[test]
fn a_standby_that_stands_still_leaves_service_by_itself() {
    let _turn = turn();
    let cluster = start("stands-still", 2);
    let proxy = Proxy::start(&cluster, "");
    let [paused, cut] = cluster.standbys() else {
        panic!("two standbys")
    };
    // One replays nothing, and one receives nothing.
    block_on(paused.pause_replay()).unwrap();
    block_on(cut.set("primary_conninfo", "")).unwrap();
    let receivers = "SELECT count(*) FROM pg_stat_wal_receiver";
    eventually("nothing is received", || {
        block_on(cut.query::<i64>(receivers)).unwrap() == 0
    });
    let mut writer = proxy.wire();
    writer.run("INSERT INTO history VALUES (2)");
    assert_eq!(writer.value("SELECT count(*) FROM history"), "2");
    for node in [paused, cut] {
        eventually("it is out of service", || unfit(&proxy, node).is_some());
        assert_eq!(unfit(&proxy, node).unwrap(), "it replays nothing");
    }
    let expected = ("2".to_owned(), false);
    for found in fresh(&proxy, "SELECT count(*) FROM history") {
        assert_eq!(found, expected);
    }
    block_on(paused.resume_replay()).unwrap();
    eventually("it serves again", || unfit(&proxy, paused).is_none());
    let expected = ("2".to_owned(), true);
    for found in fresh(&proxy, "SELECT count(*) FROM history") {
        assert_eq!(found, expected);
    }
    assert!(unfit(&proxy, cut).is_some());
}

/// Nobody here decides about failover; another tool promotes, and leaves one standby behind that has more.
#[test]
fn a_standby_on_an_abandoned_timeline_serves_nobody() {
    let _turn = turn();
    let cluster = start("abandoned", 2);
    let proxy = Proxy::start(&cluster, "");
    let [next, ahead] = cluster.standbys() else {
        panic!("two standbys")
    };
    block_on(next.set("primary_conninfo", "")).unwrap();
    eventually("nothing is received", || {
        let receivers = "SELECT count(*) FROM pg_stat_wal_receiver";
        block_on(next.query::<i64>(receivers)).unwrap() == 0
    });
    proxy.wire().run("INSERT INTO history VALUES (2)");
    let written = block_on(cluster.primary().written()).unwrap();
    block_on(ahead.wait_replayed(written)).unwrap();
    cluster.primary().kill().unwrap();
    block_on(next.promote()).unwrap();
    eventually("the new primary leads", || {
        http::status(proxy.http)["primary"] == next.name()
    });
    eventually("it is out of service", || unfit(&proxy, ahead).is_some());
    let told = unfit(&proxy, ahead).unwrap();
    assert!(told.contains("it has gone beyond"), "{told}");
    let expected = ("1".to_owned(), false);
    for found in fresh(&proxy, "SELECT count(*) FROM history") {
        assert_eq!(found, expected);
    }
}

#[test]
fn a_node_of_another_cluster_serves_nobody() {
    let _turn = turn();
    let (own, other) = (start("own-system", 1), start("other-system", 1));
    block_on(other.primary().execute("SELECT pg_switch_wal()")).unwrap();
    let stranger = &other.standbys()[0];
    let node = serde_json::json!({
        "name": "stranger", "host": stranger.address(), "port": stranger.port(),
    });
    let yaml = own.yaml();
    let with_stranger = yaml.replacen("nodes:\n", &format!("nodes:\n- {node}\n"), 1);
    let proxy = Proxy::with_yaml(&own, &with_stranger);
    let mut writer = proxy.wire();
    writer.run("INSERT INTO history VALUES (2)");
    block_on(own.wait_caught_up()).unwrap();
    let expected = ("2".to_owned(), true);
    for found in fresh(&proxy, "SELECT count(*) FROM history") {
        assert_eq!(found, expected);
    }
    let status = http::status(proxy.http);
    let troubles = status::list(&status, "troubles");
    let told = troubles.iter().any(|t| {
        t["node"] == "stranger" && t["text"].as_str().unwrap().contains("another cluster")
    });
    assert!(told, "{troubles:?}");
}
