//! The record is lost, or is read under another durability; and orders that cannot be carried out are
//! refused before anything is stopped.

use std::time::Duration;

use super::{CALM, cluster, leading, proxy};
use crate::support::http::{order, status_if_any};
use crate::support::status::{leader, promotable, settled};
use crate::support::{Proxy, block_on, eventually, throughout};

#[test]
fn a_lost_record_begins_again_beyond_what_the_agents_know() {
    let cluster = cluster("record");
    {
        let proxy = proxy(&cluster, "durability: quorum");
        for _ in 0..2 {
            promotable(proxy.http, 2);
            let (code, answer) = order(proxy.http, "/api/switchover");
            assert_eq!(code, 200, "{answer}");
            settled(proxy.http);
        }
        let names: String =
            block_on(leading(&cluster, &proxy).query("SHOW synchronous_standby_names")).unwrap();
        assert!(names.starts_with("ANY 1"), "{names}");
    }
    // Under another durability, with the record: nobody is waited for any more.
    {
        let proxy = proxy(&cluster, "durability: async");
        let primary = leading(&cluster, &proxy);
        eventually("nobody is waited for", || {
            let sql = "SHOW synchronous_standby_names";
            block_on(primary.query::<String>(sql)).unwrap().is_empty()
        });
    }
    std::fs::remove_file(cluster.directory().join("causeway.state")).unwrap();
    let proxy = proxy(&cluster, "durability: async");
    promotable(proxy.http, 2);
    let before = leader(proxy.http);
    let mut wire = proxy.wire();
    wire.run("CREATE TABLE again (n int)");
    let (code, answer) = order(proxy.http, "/api/switchover");
    assert_eq!(code, 200, "the agents obey: {answer}");
    settled(proxy.http);
    assert_ne!(leader(proxy.http), before);
    wire.run("INSERT INTO again VALUES (1)");
}

#[test]
fn a_primary_that_crashed_before_the_record_began_comes_back() {
    let cluster = cluster("record-forgotten");
    let (first, second) = (cluster.primary(), &cluster.standbys()[0]);
    block_on(cluster.wait_caught_up()).unwrap();
    first.kill().unwrap();
    block_on(second.promote()).unwrap();
    let yaml = format!("{}{}", cluster.yaml(), cluster.failover_yaml(CALM));
    let proxy = Proxy::with_yaml(&cluster, &yaml);
    eventually("it follows the one that leads", || {
        let sql = "SELECT count(*) FROM pg_stat_wal_receiver WHERE status = 'streaming'";
        block_on(first.query::<i64>(sql)).is_ok_and(|count| count == 1)
    });
    settled(proxy.http);
    promotable(proxy.http, 2);
    assert_eq!(leading(&cluster, &proxy).name(), second.name());
}

#[test]
fn a_failover_to_nobody_is_refused_before_anything_is_stopped() {
    let cluster = cluster("refused");
    let proxy = proxy(&cluster, "durability: async\ntimeout: 1s");
    let primary = leading(&cluster, &proxy);
    for standby in cluster.standbys() {
        standby.agent().unwrap().kill().unwrap();
        standby.kill().unwrap();
    }
    promotable(proxy.http, 0);
    let (code, answer) = order(proxy.http, "/api/failover");
    println!("{answer}");
    assert_eq!(code, 409, "{answer}");
    assert_eq!(leader(proxy.http), primary.name());
    assert!(primary.pid().is_some());
    let mut wire = proxy.wire();
    wire.run("CREATE TABLE served (n int)");
}

/// What the proxy says that it waits for.
fn why(proxy: &Proxy) -> String {
    let status = status_if_any(proxy.http);
    let why = status["failover"]["why"].as_str();
    why.unwrap_or_default().to_owned()
}

#[test]
fn a_record_that_cannot_be_stored_stops_no_primary() {
    let cluster = cluster("unstorable");
    let proxy = proxy(&cluster, "durability: async\ntimeout: 1s\nlease: 2s");
    promotable(proxy.http, 2);
    let primary = leading(&cluster, &proxy);
    let standby = &cluster.standbys()[1];
    // Where the next one would be written there is something else.
    let draft = cluster.directory().join("causeway.state.new");
    std::fs::create_dir_all(draft.join("in the way")).unwrap();
    standby.agent().unwrap().kill().unwrap();
    standby.kill().unwrap();
    eventually("it is said", || {
        why(&proxy).starts_with("cannot store the failover record")
    });
    throughout(Duration::from_secs(5), || {
        assert!(primary.pid().is_some(), "{}", why(&proxy));
    });
    // Nor does an order hang that cannot be begun.
    let (code, answer) = order(proxy.http, "/api/failover/pause");
    assert_eq!(code, 409, "{answer}");
    let text = answer["text"].as_str().unwrap();
    assert!(text.contains("withdrawn"), "{text}");
    std::fs::remove_dir_all(&draft).unwrap();
    eventually("it is stored", || why(&proxy).contains("leads on timeline"));
    assert_eq!(leader(proxy.http), primary.name());
    let paused = status_if_any(proxy.http)["failover"]["paused"].clone();
    assert_eq!(paused, false, "what was withdrawn is not carried out");
}

#[test]
fn a_record_of_long_ago_is_not_gone_by() {
    let cluster = cluster("old-record");
    let state = cluster.directory().join("causeway.state");
    let (old, leads) = {
        let proxy = proxy(&cluster, "durability: async");
        promotable(proxy.http, 2);
        let old = std::fs::read(&state).unwrap();
        let (code, answer) = order(proxy.http, "/api/switchover");
        assert_eq!(code, 200, "{answer}");
        settled(proxy.http);
        (old, leader(proxy.http))
    };
    std::fs::write(&state, old).unwrap();
    let proxy = proxy(&cluster, "durability: async");
    promotable(proxy.http, 2);
    assert_eq!(leader(proxy.http), leads);
    let (code, answer) = order(proxy.http, "/api/switchover");
    assert_eq!(code, 200, "the agents obey: {answer}");
}
