//! What Causeway has ordered itself may take longer than a lease, and is not cut short for that.

use std::process::Command;
use std::time::{Duration, Instant};

use pgcauseway::rig::{Cluster, Node};

use super::{cluster, proxy, writers};
use crate::support::http::{order, status};
use crate::support::status::{another_leads, events, promotable};
use crate::support::{PROGRAM, Proxy, block_on, eventually, throughout};

/// Twice the lease, and the time in which an agent would stop its server.
const LONG: Duration = Duration::from_secs(7);

fn signal(pid: i32, signal: &str) {
    let sent = Command::new("kill")
        .args([signal, &pid.to_string()])
        .status();
    assert!(sent.unwrap().success());
}

/// A process of a server, frozen until this is dropped.
pub(super) struct Frozen(i32);

impl Frozen {
    pub(super) fn new(pid: i32) -> Self {
        signal(pid, "-STOP");
        Self(pid)
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        let _ = Command::new("kill")
            .args(["-CONT", &self.0.to_string()])
            .status();
    }
}

pub(super) const CHECKPOINTER: &str =
    "SELECT pid FROM pg_stat_activity WHERE backend_type = 'checkpointer'";

pub(super) fn pid(node: &Node, sql: &str) -> i32 {
    block_on(node.query(sql)).unwrap()
}

fn phase(proxy: &Proxy) -> String {
    status(proxy.http)["failover"]["phase"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

fn assert_untouched(cluster: &Cluster, proxy: &Proxy) {
    for node in cluster.nodes() {
        let log = std::fs::read_to_string(node.agent().unwrap().log()).unwrap();
        assert!(!log.contains("no lease is in force"), "{log}");
    }
    assert!(events(proxy.http, "primary_failed").is_empty());
}

#[test]
fn a_clean_stop_may_outlast_the_lease() {
    let cluster = cluster("slow-stop");
    let proxy = proxy(&cluster, "");
    let writers = writers(&proxy.url(), 2);
    writers.wait_acknowledged(10);
    promotable(proxy.http, 2);
    let mut open = proxy.wire();
    open.run("BEGIN");
    open.run("CREATE TABLE opened (n int)");
    let http = proxy.http;
    let ordered = std::thread::spawn(move || order(http, "/api/switchover?to=pg2"));
    eventually("it lets transactions end", || phase(&proxy) == "draining");
    // A primary that stops waits for every standby that is attached.
    let third = &cluster.standbys()[1];
    let receiver = Frozen::new(pid(third, "SELECT pid FROM pg_stat_wal_receiver"));
    open.run("COMMIT");
    eventually("it is stopping", || phase(&proxy) == "stopping");
    throughout(LONG, || assert_eq!(phase(&proxy), "stopping"));
    drop(receiver);
    let (code, answer) = ordered.join().unwrap();
    assert_eq!(code, 200, "{answer}");
    another_leads(proxy.http, "pg1");
    writers.wait_acknowledged(10);
    assert_untouched(&cluster, &proxy);
    super::assert_whole(&writers.stop(), &proxy.url());
}

#[test]
fn a_switchover_does_not_begin_while_a_standby_confirms_nothing() {
    let cluster = cluster("silent-standby");
    let proxy = proxy(&cluster, "");
    let writers = writers(&proxy.url(), 2);
    writers.wait_acknowledged(10);
    promotable(proxy.http, 2);
    let third = &cluster.standbys()[1];
    let receiver = Frozen::new(pid(third, "SELECT pid FROM pg_stat_wal_receiver"));
    let (code, answer) = order(proxy.http, "/api/switchover?to=pg2");
    assert_eq!(code, 409, "{answer}");
    let text = answer["text"].as_str().unwrap();
    assert!(text.starts_with("pg3 receives from pg1"), "{text}");
    writers.wait_acknowledged(10);
    assert_untouched(&cluster, &proxy);
    drop(receiver);
    promotable(proxy.http, 2);
    let mut answer = order(proxy.http, "/api/switchover?to=pg2");
    eventually("it confirms again", || {
        if answer.0 != 200 {
            answer = order(proxy.http, "/api/switchover?to=pg2");
        }
        answer.0 == 200
    });
    another_leads(proxy.http, "pg1");
    super::assert_whole(&writers.stop(), &proxy.url());
}

#[test]
fn a_switchover_begins_with_a_checkpoint_that_nobody_waits_for() {
    let cluster = cluster("slow-checkpoint");
    let proxy = proxy(&cluster, "");
    let writers = writers(&proxy.url(), 2);
    writers.wait_acknowledged(10);
    promotable(proxy.http, 2);
    let checkpointer = Frozen::new(pid(cluster.primary(), CHECKPOINTER));
    let http = proxy.http;
    let ordered = std::thread::spawn(move || order(http, "/api/switchover?to=pg2"));
    eventually("it begins", || phase(&proxy) == "checkpointing");
    throughout(LONG, || {
        writers.wait_acknowledged(10);
        assert_eq!(phase(&proxy), "checkpointing");
    });
    drop(checkpointer);
    let (code, answer) = ordered.join().unwrap();
    assert_eq!(code, 200, "{answer}");
    another_leads(proxy.http, "pg1");
    writers.wait_acknowledged(10);
    assert_untouched(&cluster, &proxy);
    super::assert_whole(&writers.stop(), &proxy.url());
}

/// The startup process of a server that recovers.
fn startup(node: &Node) -> Option<i32> {
    let postmaster = node.pid()?;
    let children = format!("/proc/{postmaster}/task/{postmaster}/children");
    let children = std::fs::read_to_string(children).ok()?;
    let found = children.split_whitespace().find(|child| {
        let title = std::fs::read_to_string(format!("/proc/{child}/cmdline"));
        title.is_ok_and(|title| title.contains("startup"))
    });
    found?.parse().ok()
}

#[test]
fn a_recovery_may_outlast_the_lease() {
    let builder = Cluster::builder("slow-recovery")
        .agents(PROGRAM)
        .standbys(0);
    let cluster = block_on(builder.setting("max_wal_size", "4GB").start()).unwrap();
    let proxy = proxy(&cluster, "");
    let node = cluster.primary();
    // Enough to be replayed that the recovery can be caught.
    let sql = "CREATE TABLE wide AS SELECT repeat('x', 1000) FROM generate_series(1, 300000)";
    block_on(node.execute(sql)).unwrap();
    node.kill().unwrap();
    let mut recovering = None;
    eventually("it recovers", || {
        recovering = startup(node).map(Frozen::new);
        recovering.is_some()
    });
    let postmaster = node.pid();
    assert!(postmaster.is_some());
    throughout(LONG, || assert_eq!(node.pid(), postmaster));
    drop(recovering);
    eventually("it serves again", || phase(&proxy) == "steady");
    assert_eq!(node.pid(), postmaster);
    assert_eq!(
        proxy
            .wire()
            .value("SELECT count(*) FROM pg_class WHERE relname = 'pg_class'"),
        "1"
    );
    let log = std::fs::read_to_string(node.agent().unwrap().log()).unwrap();
    assert!(!log.contains("no lease is in force"), "{log}");
}

#[test]
fn a_fence_command_that_hangs_holds_up_nothing() {
    let cluster = cluster("slow-fence");
    let proxy = proxy(&cluster, "fence_command: exec sleep 60");
    let writers = writers(&proxy.url(), 2);
    writers.wait_acknowledged(10);
    promotable(proxy.http, 2);
    let old = cluster.primary();
    // Nobody can be asked about it: its lease must run out.
    old.agent().unwrap().kill().unwrap();
    let begun = Instant::now();
    old.kill().unwrap();
    another_leads(proxy.http, old.name());
    let gap = begun.elapsed();
    println!("another led after {gap:?}");
    // It was 30 s and more.
    assert!(gap < Duration::from_secs(20), "{gap:?}");
    writers.wait_acknowledged(10);
}

#[test]
fn a_fence_command_that_has_succeeded_is_gone_by() {
    let cluster = block_on(Cluster::builder("fenced").start()).unwrap();
    let proxy = proxy(
        &cluster,
        "durability: async\ntimeout: 2s\nfence_command: sleep 4",
    );
    promotable(proxy.http, 2);
    let old = cluster.primary();
    old.freeze().unwrap();
    eventually("it is being fenced", || phase(&proxy) == "fencing");
    // It answers before the command has ended, and the command need not have had its effect by then.
    old.thaw().unwrap();
    another_leads(proxy.http, old.name());
    assert!(events(proxy.http, "called_off").is_empty());
}
