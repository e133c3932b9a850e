//! The primary's postmaster stands still, and its processes go on: who has a connection works, who needs a new one
//! is told so in time, and it is no failure that another primary would be needed for.

use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::cluster;
use crate::support::http::status_if_any;
use crate::support::status::{events, leader, promotable, settled};
use crate::support::{Proxy, Wire, block_on, eventually, summary, throughout};

/// Many times the timeout and the lease.
const LONG: Duration = Duration::from_secs(8);
/// A session for every connection that there is, and one more.
const CONNECTIONS: usize = 3;
const WRITE: &str = "INSERT INTO halted VALUES (1)";

#[test]
fn a_postmaster_that_stands_still_is_no_failure_of_what_runs() {
    let cluster = cluster("halted");
    let more = "pool: { size: 8, connect_timeout: 1s }\n";
    let failover = cluster.failover_yaml("durability: async\nhold_timeout: 3s");
    let proxy = Proxy::with_yaml(&cluster, &format!("{}{failover}{more}", cluster.yaml()));
    settled(proxy.http);
    promotable(proxy.http, 2);
    let mut sessions: Vec<Wire> = (0..CONNECTIONS).map(|_| proxy.wire()).collect();
    sessions[0].run("CREATE TABLE halted (id int)");
    for session in &mut sessions {
        session.run("BEGIN");
        session.run(WRITE);
    }

    let postmaster = Pid::from_raw(cluster.primary().pid().unwrap());
    kill(postmaster, Signal::SIGSTOP).unwrap();
    let mut newcomer = proxy.wire();
    let begun = Instant::now();
    newcomer.send(&crate::support::frames::query(WRITE));
    let told = summary(&newcomer.until(b'Z'));
    println!("{told} after {:?}", begun.elapsed());
    assert!(told.starts_with("E["), "{told}");
    throughout(LONG, || {
        for session in &mut sessions {
            session.run(WRITE);
        }
        assert_eq!(leader(proxy.http), "pg1");
    });
    assert!(events(proxy.http, "primary_failed").is_empty());
    println!("{}", status_if_any(proxy.http)["failover"]["why"]);
    for session in &mut sessions {
        session.run("COMMIT");
        session.run(WRITE);
    }

    kill(postmaster, Signal::SIGCONT).unwrap();
    eventually("new connections are made", || {
        newcomer.ask(WRITE).starts_with("C[INSERT")
    });
    assert!(!block_on(cluster.primary().is_standby()).unwrap());
    assert!(events(proxy.http, "primary_failed").is_empty());
}
