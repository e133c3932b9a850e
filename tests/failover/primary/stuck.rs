//! A candidate that answers and cannot be promoted is given up for another that holds as much, after a bound, and
//! is stopped first: the order to lead that it has may be followed late.

use pgcauseway::rig::{Cluster, Node, StopMode};
use tokio_postgres::Client;

use super::{assert_whole, proxy, writers};
use crate::support::http::order;
use crate::support::status::{another_leads, events, leader, settled};
use crate::support::{PROGRAM, Proxy, block_on, eventually, http};

fn cluster(name: &str) -> Cluster {
    let builder = Cluster::builder(name).agents(PROGRAM);
    // Readers may hold up replay for ever.
    let builder = builder.setting("max_standby_streaming_delay", "-1");
    block_on(builder.start()).unwrap()
}

/// Superusers read on every standby, whom no monitoring role may end, and the startup processes wait for them.
fn obstruct(cluster: &Cluster) -> Vec<Client> {
    let primary = cluster.primary();
    block_on(primary.execute("CREATE TABLE report (a int)")).unwrap();
    let written = block_on(primary.written()).unwrap();
    let mut readers = Vec::new();
    for standby in cluster.standbys() {
        block_on(standby.wait_replayed(written)).unwrap();
        let reader = block_on(standby.admin()).unwrap();
        block_on(reader.batch_execute("BEGIN; SELECT * FROM report")).unwrap();
        readers.push(reader);
    }
    block_on(primary.execute("ALTER TABLE report ADD COLUMN b int")).unwrap();
    for standby in cluster.standbys() {
        let stands = "SELECT EXISTS (SELECT FROM pg_stat_activity \
                      WHERE backend_type = 'startup' AND wait_event = 'relation')";
        block_on(standby.wait_for("stand in its replay", stands)).unwrap();
    }
    readers
}

/// The primary is shut down: every standby holds all of it.
fn ends(cluster: &Cluster) {
    block_on(cluster.primary().stop(StopMode::Fast)).unwrap();
}

/// Which of the standbys is being promoted, in vain.
fn candidate(cluster: &Cluster, proxy: &Proxy) -> usize {
    let mut found = None;
    eventually("one is being promoted", || {
        let status = http::status(proxy.http);
        let why = status["failover"]["why"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        let promoting = status["failover"]["phase"] == "promoting";
        let mut standbys = cluster.standbys().iter();
        found = standbys.position(|node| promoting && why.contains(node.name()));
        found.is_some()
    });
    found.unwrap()
}

/// It came back as a standby, and no two have led.
fn came_back(cluster: &Cluster, proxy: &Proxy, given_up: &Node) {
    settled(proxy.http);
    assert!(block_on(given_up.is_standby()).unwrap());
    let said = events(proxy.http, "primary_failed");
    let said = said
        .iter()
        .filter(|text| text.contains("could not be promoted"));
    assert_eq!(said.count(), 1);
    assert_eq!(events(proxy.http, "promoted").len(), 1);
    let timelines: Vec<i32> = cluster
        .nodes()
        .iter()
        .map(|node| {
            let sql = "SELECT received_tli FROM pg_stat_wal_receiver UNION ALL \
                       SELECT timeline_id FROM pg_control_checkpoint() WHERE NOT pg_is_in_recovery()";
            block_on(node.query(sql)).unwrap()
        })
        .collect();
    assert_eq!(timelines, [2, 2, 2]);
}

#[test]
fn one_that_a_superuser_keeps_from_leading_is_given_up_for_another() {
    for durability in ["async", "quorum"] {
        let cluster = cluster(&format!("stuck-{durability}"));
        let proxy = proxy(
            &cluster,
            &format!("durability: {durability}\nhold_timeout: 60s"),
        );
        let writers = writers(&proxy.url(), 2);
        writers.wait_acknowledged(20);
        let mut readers = obstruct(&cluster);
        ends(&cluster);
        let stuck = candidate(&cluster, &proxy);
        let other = 1 - stuck;
        // The other is as far once its reader leaves.
        drop(readers.remove(other));
        another_leads(proxy.http, "pg1");
        assert_eq!(leader(proxy.http), cluster.standbys()[other].name());
        writers.wait_acknowledged(20);
        came_back(&cluster, &proxy, &cluster.standbys()[stuck]);
        assert_whole(&writers.stop(), &proxy.url());
    }
}

#[test]
fn an_operator_may_name_another_while_one_is_being_promoted() {
    let cluster = cluster("stuck-ordered");
    let proxy = proxy(&cluster, "durability: async\nhold_timeout: 60s");
    let mut readers = obstruct(&cluster);
    ends(&cluster);
    let stuck = candidate(&cluster, &proxy);
    let other = 1 - stuck;
    drop(readers.remove(other));
    let to = cluster.standbys()[other].name();
    let (code, answer) = order(proxy.http, &format!("/api/failover?to={to}"));
    assert_eq!(code, 200, "{answer}");
    eventually("it leads", || leader(proxy.http) == to);
    came_back(&cluster, &proxy, &cluster.standbys()[stuck]);
}

#[test]
fn a_switchover_whose_target_cannot_be_promoted_goes_back() {
    let cluster = cluster("stuck-switchover");
    let proxy = proxy(&cluster, "durability: async\nhold_timeout: 60s");
    let writers = writers(&proxy.url(), 2);
    writers.wait_acknowledged(20);
    let readers = obstruct(&cluster);
    let stuck = 0;
    let to = cluster.standbys()[stuck].name();
    let (code, answer) = order(proxy.http, &format!("/api/switchover?to={to}"));
    assert_eq!(code, 409, "{answer}");
    let said = answer.to_string();
    assert!(said.contains("could not be promoted"), "{said}");
    let leads = || events(proxy.http, "promoted").len() == 1 && leader(proxy.http) == "pg1";
    eventually("pg1 leads again", leads);
    writers.wait_acknowledged(20);
    drop(readers);
    came_back(&cluster, &proxy, &cluster.standbys()[stuck]);
    assert_whole(&writers.stop(), &proxy.url());
}
