//! The record is lost, or is read under another durability; and orders that cannot be carried out are
//! refused before anything is stopped.

use super::{cluster, leading, proxy};
use crate::support::http::order;
use crate::support::status::{leader, promotable, settled};
use crate::support::{block_on, eventually};

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
