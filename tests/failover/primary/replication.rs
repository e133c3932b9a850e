//! Replication connections at a switchover: those to the primary end, and find the next one when they
//! come again; those to a node that they have named stay.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use pgcauseway::rig::Cluster;

use super::{leading, named};
use crate::support::frames::query;
use crate::support::http::order;
use crate::support::need::beside_servers;
use crate::support::status::{leader, promotable, settled};
use crate::support::{PROGRAM, Proxy, Wire, block_on, eventually, summary, turn};

/// The timeline and the position of the node at the other end.
fn identify(wire: &mut Wire) -> (String, String) {
    let frames = wire.exchange_frames(&[query("IDENTIFY_SYSTEM")], 1);
    let row = frames.iter().find(|frame| frame.tag == b'D');
    let row = row.unwrap_or_else(|| panic!("{frames:?}")).columns();
    (row[1].clone(), row[2].clone())
}

fn streaming(proxy: &Proxy, name: &str, node: &str) -> Wire {
    let mut parameters = vec![("replication", "true"), ("application_name", name)];
    if !node.is_empty() {
        parameters.push(("causeway.node", node));
    }
    let mut wire = proxy.wire_with(&parameters);
    let (timeline, position) = identify(&mut wire);
    let start = format!("START_REPLICATION PHYSICAL {position} TIMELINE {timeline}");
    wire.send(&query(&start));
    assert_eq!(summary(&wire.until(b'W')), "W");
    wire
}

/// Ended with the test.
struct Receiver(Child);

impl Drop for Receiver {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_switchover_sends_them_to_the_next_primary() {
    let _turn = turn();
    let cluster = Cluster::builder("replication-switchover").agents(PROGRAM);
    let cluster = block_on(cluster.setting("log_statement", "all").start()).unwrap();
    // Another way to write where the primary is changes nothing.
    let third = &cluster.nodes()[2];
    let conninfo = format!(
        "host=localhost port={} user=replicator password=replicator application_name={}",
        cluster.primary().port(),
        third.name(),
    );
    let set = format!("ALTER SYSTEM SET primary_conninfo = '{conninfo}'");
    block_on(third.execute(&set)).unwrap();
    block_on(third.reload()).unwrap();
    block_on(cluster.wait_caught_up()).unwrap();
    let failover = cluster.failover_yaml("durability: async\ntimeout: 4s\nlease: 4s");
    let keys = "password: replicator\n    conninfo: keepalives_idle=77";
    let failover = failover.replace("password: replicator", keys);
    let proxy = Proxy::with_yaml(&cluster, &(cluster.yaml() + &failover));
    settled(proxy.http);
    let grant = "ALTER ROLE demo REPLICATION";
    block_on(cluster.primary().execute(grant)).unwrap();
    promotable(proxy.http, 2);
    let old = leading(&cluster, &proxy);
    let told: String = block_on(third.query("SHOW primary_conninfo")).unwrap();
    assert_eq!(told, conninfo);
    let mut standbys = cluster.nodes().iter().filter(|n| n.name() != old.name());
    let (next, third) = (standbys.next().unwrap(), standbys.next().unwrap());
    block_on(cluster.wait_caught_up()).unwrap();

    let mut to_primary = streaming(&proxy, "to-primary", "");
    let mut to_third = proxy.wire_with(&[("replication", "true"), ("causeway.node", third.name())]);
    let (before, _) = identify(&mut to_third);
    let target = cluster.directory().join("received");
    std::fs::create_dir(&target).unwrap();
    let conninfo = format!(
        "host=127.0.0.1 port={} user=demo password=demo application_name=receives",
        proxy.port
    );
    let log = std::fs::File::create(cluster.directory().join("receives.log")).unwrap();
    let receives = Command::new(beside_servers("pg_receivewal"))
        .args(["-d", &conninfo, "--synchronous", "-D"])
        .arg(&target)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn();
    let _receives = Receiver(receives.unwrap());
    let present = |node: &str| -> bool {
        let sql = "SELECT exists (SELECT FROM pg_stat_replication \
                   WHERE application_name = 'receives' AND state = 'streaming')";
        block_on(named(&cluster, node).query(sql)).unwrap_or(false)
    };
    eventually("WAL is received", || present(old.name()));

    // When the stream ends, as seen by its client.
    let ended = std::thread::spawn(move || {
        let last = to_primary.until_closed().pop();
        (Instant::now(), last)
    });
    let began = Instant::now();
    let (code, answer) = order(proxy.http, &format!("/api/switchover?to={}", next.name()));
    assert_eq!(code, 200, "{answer}");
    let (at, last) = ended.join().unwrap();
    println!(
        "the switchover took {:?}, its stall {} ms; the stream ended after {:?}: {last:?}",
        began.elapsed(),
        answer["stall_ms"],
        at - began,
    );
    assert!(at - began < Duration::from_secs(20));
    let last = last.expect("the client is told why").to_string();
    assert!(["E[08006]", "E[57P01]"].contains(&last.as_str()), "{last}");
    eventually("the next one leads", || leader(proxy.http) == next.name());

    let mut again = proxy.wire_with(&[("replication", "true")]);
    assert_eq!(again.value("SHOW cluster_name"), next.name());
    let (after, _) = identify(&mut again);
    assert_ne!(before, after, "a promotion begins a timeline");
    eventually("WAL is received from it", || present(next.name()));
    // The third node follows the new primary, and its connection has stayed.
    settled(proxy.http);
    assert_eq!(to_third.value("SHOW cluster_name"), third.name());
    assert_eq!(identify(&mut to_third).0, after);
    // It was told so without a password, and with the keys that are configured for it.
    let told: String = block_on(third.query("SHOW primary_conninfo")).unwrap();
    assert!(
        told.contains("passfile=") && !told.contains("password"),
        "{told}"
    );
    assert!(told.contains("keepalives_idle=77"), "{told}");
    let log = std::fs::read_to_string(third.log()).unwrap();
    let mut said = log
        .lines()
        .filter(|line| line.contains("causeway@") && line.contains("SET primary_conninfo"));
    assert!(said.clone().count() > 0, "{log}");
    assert!(said.all(|line| !line.contains("password")), "{log}");

    // Nor is it told one while its agent stands still: what that has said before is true of every primary.
    third.agent().unwrap().freeze().unwrap();
    promotable(proxy.http, 1);
    let (code, answer) = order(proxy.http, &format!("/api/switchover?to={}", old.name()));
    assert_eq!(code, 200, "{answer}");
    let towards_old = format!("port='{}'", old.port());
    eventually("it is told of the old one", || {
        let told: String = block_on(third.query("SHOW primary_conninfo")).unwrap();
        assert!(!told.contains("password"), "{told}");
        told.contains(&towards_old) && told.contains("passfile=")
    });
    third.agent().unwrap().thaw().unwrap();
    settled(proxy.http);

    // Nothing more comes from a named node that is gone, and the primary is not the one to go to.
    let mut to_third = streaming(&proxy, "to-third", third.name());
    third.agent().unwrap().kill().unwrap();
    third.freeze().unwrap();
    let last = to_third.until_closed().pop().map(|frame| frame.to_string());
    assert_eq!(last.as_deref(), Some("E[08006]"));
    third.thaw().unwrap();
    block_on(third.agent().unwrap().start()).unwrap();
}
