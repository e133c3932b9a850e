//! A lock on a catalogue that is waited for, as by the nightly `vacuumdb --full`, is no failure of a server.

use std::path::Path;
use std::time::Duration;

use pgcauseway::rig::{Cluster, Proxy};

use super::cluster;
use crate::support::http::status_if_any;
use crate::support::status::{events, promotable, settled};
use crate::support::{PROGRAM, RUNTIME, block_on, eventually, throughout};

/// Many times the timeout.
const LONG: Duration = Duration::from_secs(7);

/// A process, so that it can be killed.
pub(super) fn process(cluster: &Cluster, more: &str) -> Proxy {
    let yaml = cluster.yaml() + &cluster.failover_yaml(more);
    let proxy = Proxy::new(cluster, "proxy", None, Path::new(PROGRAM), &yaml).unwrap();
    block_on(proxy.start()).unwrap();
    settled(proxy.http());
    proxy
}

/// What the status says is being done.
pub(super) fn why(proxy: &Proxy) -> String {
    let status = status_if_any(proxy.http());
    let why = status["failover"]["why"].as_str();
    why.unwrap_or_default().to_owned()
}

#[test]
fn a_primary_whose_catalogues_are_locked_is_not_replaced() {
    let cluster = cluster("locked");
    let proxy = process(&cluster, "");
    promotable(proxy.http(), 2);
    let (primary, second) = (cluster.primary(), &cluster.standbys()[0]);
    let postmaster = primary.pid();
    // Nobody can log in to the primary meanwhile.
    let [reader, vacuum, watch] = [(); 3].map(|()| block_on(primary.admin()).unwrap());
    let standby = block_on(second.admin()).unwrap();
    let reads = "BEGIN; SELECT count(*) FROM pg_stat_activity";
    block_on(reader.batch_execute(reads)).unwrap();
    let vacuum = RUNTIME.spawn(async move { vacuum.batch_execute("VACUUM FULL pg_authid").await });
    eventually("it waits for the reader", || {
        let sql = "SELECT count(*) FROM pg_locks WHERE relation = 1260 AND NOT granted \
                   AND mode = 'AccessExclusiveLock'";
        let row = block_on(watch.query_one(sql, &[])).unwrap();
        row.get::<_, i64>(0) == 1
    });

    // The primary answers what it is asked, and its standbys hear of it.
    let (mut last, mut heartbeats) = (String::new(), 0);
    eventually("heartbeats go on", || {
        assert_eq!(primary.pid(), postmaster);
        let sql = "SELECT pg_last_wal_receive_lsn()::text";
        let received = block_on(standby.query_one(sql, &[])).unwrap().get(0);
        heartbeats += u32::from(received != last);
        last = received;
        heartbeats > 12
    });
    assert_eq!(why(&proxy), "pg1 leads on timeline 1");

    // Whoever must log in hears only that it takes connections.
    proxy.kill().unwrap();
    block_on(proxy.start()).unwrap();
    eventually("it is seen to live", || {
        assert_eq!(primary.pid(), postmaster);
        why(&proxy).contains("it takes connections")
    });
    throughout(LONG, || assert_eq!(primary.pid(), postmaster));
    assert!(why(&proxy).contains("it takes connections"));

    block_on(reader.batch_execute("ROLLBACK")).unwrap();
    block_on(vacuum).unwrap().unwrap();
    settled(proxy.http());
    assert_eq!(primary.pid(), postmaster);
    assert!(events(proxy.http(), "primary_failed").is_empty());
}
