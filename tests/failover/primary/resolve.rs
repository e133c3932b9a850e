//! `failover.resolve_commits`: a COMMIT whose answer is lost is answered all the same, once the primary
//! that is there then has told what became of it.

use std::sync::mpsc;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pgcauseway::rig::{Cluster, Node};

use super::{cluster, leading, proxy};
use crate::support::status::{another_leads, settled};
use crate::support::{Proxy, block_on};

const SETTINGS: &str = "durability: quorum\nresolve_commits: true";

/// A COMMIT on its way, and what the client is told in the end: nothing, or an SQLSTATE.
struct Commit(mpsc::Receiver<Option<String>>);

impl Commit {
    /// Inserts `what` in a transaction, has its COMMIT wait for standbys as `level` says, and returns
    /// once it does.
    fn send(proxy: &Proxy, primary: &Node, what: &str, level: &str) -> Self {
        let client = block_on(proxy.connect());
        let begin = format!(
            "BEGIN; SET LOCAL synchronous_commit = '{level}'; INSERT INTO resolved VALUES ('{what}')"
        );
        block_on(client.batch_execute(&begin)).unwrap();
        let (told, answer) = mpsc::channel();
        std::thread::spawn(move || {
            let done = block_on(client.execute("COMMIT", &[]));
            let said = done.err().map(|error| match error.code() {
                Some(code) => code.code().to_owned(),
                None => error.to_string(),
            });
            // The session goes on, whatever became of the transaction.
            let alive = block_on(client.query_one("SELECT 1", &[]));
            assert!(alive.is_ok(), "{alive:?}");
            told.send(said)
        });
        let sql = "SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND query = 'COMMIT'";
        block_on(primary.wait_for("the commit waits for standbys", sql)).unwrap();
        Self(answer)
    }

    fn answer(self) -> Option<String> {
        self.0.recv_timeout(crate::support::BOUND).unwrap()
    }
}

fn others<'a>(cluster: &'a Cluster, primary: &Node) -> impl Iterator<Item = &'a Node> {
    let name = primary.name().to_owned();
    let nodes = cluster.nodes().iter().map(|node| &**node);
    nodes.filter(move |node| node.name() != name)
}

fn rows(proxy: &Proxy, what: &str) -> i64 {
    let client = block_on(proxy.connect());
    // Another session, and standbys whose replay is paused.
    let sql = "/* causeway: consistency=primary */ SELECT count(*) FROM resolved WHERE what = $1";
    block_on(client.query_one(sql, &[&what])).unwrap().get(0)
}

#[test]
fn a_commit_whose_answer_is_lost_is_answered_by_the_next_primary() {
    let cluster = cluster("resolve");
    let proxy = proxy(&cluster, SETTINGS);
    let client = block_on(proxy.connect());
    block_on(client.batch_execute("CREATE TABLE resolved (what text)")).unwrap();

    // Received by both standbys, which do not replay it: the answer is never sent.
    let old = leading(&cluster, &proxy);
    for standby in others(&cluster, old) {
        block_on(standby.pause_replay()).unwrap();
    }
    let commit = Commit::send(&proxy, old, "received", "remote_apply");
    let received = "SELECT count(*) = 2 FROM pg_stat_replication WHERE flush_lsn >= pg_current_wal_flush_lsn()";
    block_on(old.wait_for("the standbys have received it", received)).unwrap();
    old.kill().unwrap();
    another_leads(proxy.http, old.name());
    assert_eq!(commit.answer(), None, "it is committed");
    assert_eq!(rows(&proxy, "received"), 1);
    for node in others(&cluster, old) {
        if block_on(node.is_standby()).unwrap() {
            block_on(node.resume_replay()).unwrap();
        }
    }
    settled(proxy.http);

    // Received by nobody.
    let old = leading(&cluster, &proxy);
    let senders: String =
        block_on(old.query("SELECT string_agg(pid::text, ' ') FROM pg_stat_replication")).unwrap();
    for sender in senders.split(' ') {
        kill(Pid::from_raw(sender.parse().unwrap()), Signal::SIGSTOP).unwrap();
    }
    let commit = Commit::send(&proxy, old, "not received", "on");
    old.kill().unwrap();
    another_leads(proxy.http, old.name());
    assert_eq!(
        commit.answer().as_deref(),
        Some("40001"),
        "it is rolled back"
    );
    assert_eq!(rows(&proxy, "not received"), 0);
    settled(proxy.http);
}

#[test]
fn a_commit_whose_connection_is_lost_is_answered_by_the_same_primary() {
    let cluster = cluster("resolve-same");
    let proxy = proxy(&cluster, SETTINGS);
    let client = block_on(proxy.connect());
    block_on(client.batch_execute("CREATE TABLE resolved (what text)")).unwrap();
    let primary = leading(&cluster, &proxy);
    for standby in others(&cluster, primary) {
        block_on(standby.pause_replay()).unwrap();
    }
    let commit = Commit::send(&proxy, primary, "kept", "remote_apply");
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
    assert!(block_on(primary.query::<bool>(end)).unwrap());
    assert_eq!(commit.answer(), None, "it is committed");
    for standby in others(&cluster, primary) {
        block_on(standby.resume_replay()).unwrap();
    }
    assert_eq!(rows(&proxy, "kept"), 1);
}
