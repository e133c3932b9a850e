//! All connections of a server are taken by clients that come to it directly.

use std::time::Duration;

use pgcauseway::rig::{Cluster, Login, Node};
use tokio_postgres::{Client, NoTls};

use super::locked::{process, why};
use crate::support::status::{another_leads, events, promotable, settled};
use crate::support::{PROGRAM, RUNTIME, block_on, eventually, throughout};

/// Many times the timeout.
const LONG: Duration = Duration::from_secs(7);

fn small(name: &str, standbys: usize) -> Cluster {
    let builder = Cluster::builder(name).agents(PROGRAM).standbys(standbys);
    block_on(builder.setting("max_connections", "100").start()).unwrap()
}

/// Takes every connection that can be had; what the server says then.
fn fill(crowd: &mut Vec<Client>, node: &Node, login: &Login) -> String {
    let config = node.connection(login);
    block_on(async {
        loop {
            match config.connect(NoTls).await {
                Ok((client, connection)) => {
                    RUNTIME.spawn(connection);
                    crowd.push(client);
                }
                Err(error) => return error.code().map_or("", |code| code.code()).to_owned(),
            }
        }
    })
}

/// The session that orders are given in.
const KEPT: &str = "FROM pg_stat_activity WHERE application_name = 'causeway control'";

/// Waits until it is there.
fn kept(watch: &Client) {
    let sql = format!("SELECT count(*) {KEPT}");
    eventually("a session is kept for orders", || {
        let row = block_on(watch.query_one(&sql, &[])).unwrap();
        row.get::<_, i64>(0) > 0
    });
}

#[test]
fn a_primary_that_lets_nobody_in_is_not_replaced() {
    let cluster = small("crowded-primary", 2);
    let proxy = process(&cluster, "");
    promotable(proxy.http(), 2);
    let primary = cluster.primary();
    let postmaster = primary.pid();
    let watch = block_on(primary.admin()).unwrap();
    let mut crowd = Vec::new();
    proxy.kill().unwrap();
    // Whoever is on its way out is shown no more, and gives its place back late: all places are to be seen taken.
    let taken = "SELECT count(*) = current_setting('max_connections')::int8 \
                 - current_setting('superuser_reserved_connections')::int8 \
                 AND count(*) FILTER (WHERE usename = 'causeway') = 0 \
                 FROM pg_stat_activity WHERE backend_type = 'client backend'";
    eventually("the proxy's connections are the crowd's", || {
        let code = fill(&mut crowd, primary, cluster.application());
        code == "53300" && block_on(watch.query_one(taken, &[])).unwrap().get(0)
    });
    block_on(proxy.start()).unwrap();
    // Whatever place somebody else gives back meanwhile is the crowd's as well.
    eventually("it is told why", || {
        assert_eq!(primary.pid(), postmaster);
        fill(&mut crowd, primary, cluster.application());
        let why = why(&proxy);
        why.contains("it refuses the monitoring role") && why.contains("SQLSTATE 53300")
    });
    throughout(LONG, || {
        assert_eq!(primary.pid(), postmaster);
        fill(&mut crowd, primary, cluster.application());
        // An application goes on.
        block_on(crowd[0].batch_execute("SELECT 1")).unwrap();
    });
    drop(crowd);
    settled(proxy.http());
    assert_eq!(primary.pid(), postmaster);
    assert!(events(proxy.http(), "primary_failed").is_empty());
}

#[test]
fn a_standby_that_lets_nobody_in_is_promoted() {
    let cluster = small("crowded-standby", 1);
    let proxy = process(&cluster, "");
    promotable(proxy.http(), 1);
    let (primary, standby) = (cluster.primary(), &cluster.standbys()[0]);
    let watch = block_on(standby.admin()).unwrap();
    kept(&watch);
    let mut crowd = Vec::new();
    assert_eq!(fill(&mut crowd, standby, cluster.application()), "53300");
    primary.agent().unwrap().kill().unwrap();
    primary.kill().unwrap();
    eventually("it is promoted", || {
        fill(&mut crowd, standby, cluster.application());
        !events(proxy.http(), "promoted").is_empty()
    });
    assert!(!crowd.iter().any(Client::is_closed));
    drop(crowd);
    another_leads(proxy.http(), "pg1");
}

#[test]
fn an_order_that_cannot_be_given_is_named() {
    let cluster = small("crowded-orders", 1);
    let proxy = process(&cluster, "");
    promotable(proxy.http(), 1);
    let (primary, standby) = (cluster.primary(), &cluster.standbys()[0]);
    let watch = block_on(standby.admin()).unwrap();
    kept(&watch);
    let mut crowd = Vec::new();
    let end = format!("SELECT pg_terminate_backend(pid) {KEPT}");
    eventually("nobody can give orders", || {
        assert_eq!(fill(&mut crowd, standby, cluster.application()), "53300");
        block_on(watch.query(&end, &[])).unwrap().is_empty()
    });
    primary.agent().unwrap().kill().unwrap();
    primary.kill().unwrap();
    eventually("it is said what fails", || {
        let why = why(&proxy);
        why.contains("failed: detach pg2: ") && why.contains("SQLSTATE 53300")
    });
    eventually("it is not said that nobody answers", || {
        let why = why(&proxy);
        why.contains("pg2 must be detached first") && !why.contains("no standby answers")
    });
    drop(crowd);
    another_leads(proxy.http(), "pg1");
}
