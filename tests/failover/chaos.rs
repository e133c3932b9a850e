//! The same promises while standbys are killed, restarted, paused and frozen. Reads never fail.
//!
//! `CAUSEWAY_TEST_SECONDS=60` makes every run as long as that.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use crate::support::check::{autocommit_share, seconds};
use crate::support::{Proxy, turn};
use pgcauseway::rig::{Cluster, Node};
use pgcauseway::verify::{self, Blocks, Options, Report};

/// Runs a check, and trouble beside it until the check is over; at least `rounds` times.
async fn under<T: Future<Output = ()> + Send>(
    options: Options,
    rounds: usize,
    mut trouble: impl FnMut(usize) -> T + Send,
) -> Report {
    // Sessions that never think take both cores for as long as they are let, and see no more trouble.
    let think_time = Duration::from_millis(30);
    let options = Options {
        think_time,
        ..options
    };
    let check = tokio::spawn(verify::run(options, std::future::pending()));
    let mut done = 0;
    while !check.is_finished() {
        trouble(done).await;
        done += 1;
    }
    let report = check.await.unwrap().unwrap();
    println!("{report}\n{done} rounds of trouble");
    assert!(done >= rounds, "only {done} rounds of trouble");
    assert_eq!(report.violations(), 0, "{report}");
    assert_eq!(report.lost_writes, Some(0), "{report}");
    assert_eq!(report.error_count(), 0, "{report}");
    assert_eq!(report.reconnects, 0, "{report}");
    report
}

/// A part of a round that is meant to last.
async fn lasts(milliseconds: u64) {
    tokio::time::sleep(Duration::from_millis(milliseconds)).await;
}

async fn kill_and_restart(standby: Arc<Node>) {
    lasts(300).await;
    standby.kill().unwrap();
    lasts(100).await;
    standby.start().await.unwrap();
    standby.wait_streaming().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_killed_again_and_again_fails_no_read() {
    let _turn = turn();
    let cluster = Cluster::builder("killed").start().await.unwrap();
    let proxy = Proxy::start(&cluster, "");
    let standbys = cluster.standbys();
    let report = under(proxy.check("killed", seconds(8)), 3, |round| {
        kill_and_restart(Arc::clone(&standbys[round % 2]))
    })
    .await;
    assert!(autocommit_share(&report) > 0.5, "{report}");
    // Both came back into use.
    for standby in standbys {
        let count = report.nodes.get(&standby.port().to_string());
        assert!(count.is_some_and(|c| c.reads_as_replica > 100), "{report}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn paused_replay_shows_nobody_the_past() {
    let _turn = turn();
    let cluster = Cluster::builder("paused").start().await.unwrap();
    let proxy = Proxy::start(&cluster, "");
    let standbys = cluster.standbys();
    let options = Options {
        blocks: Blocks::Never,
        ..proxy.check("paused", seconds(8))
    };
    let report = under(options, 3, |round| {
        let standby = Arc::clone(&standbys[round % 2]);
        async move {
            standby.pause_replay().await.unwrap();
            lasts(400).await;
            standby.resume_replay().await.unwrap();
            lasts(200).await;
        }
    })
    .await;
    assert!(autocommit_share(&report) > 0.5, "{report}");
}

/// Everything at once: one standby late and killed, the other paused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_faults_at_once_are_no_excuse() {
    let _turn = turn();
    let cluster = Cluster::builder("both")
        .replay_delay(2, Duration::from_millis(200))
        .start()
        .await
        .unwrap();
    let proxy = Proxy::start(&cluster, "");
    let [paused, killed] = cluster.standbys() else {
        panic!("two standbys");
    };
    under(proxy.check("both", seconds(8)), 2, |_| async {
        paused.pause_replay().await.unwrap();
        kill_and_restart(Arc::clone(killed)).await;
        paused.resume_replay().await.unwrap();
        lasts(200).await;
    })
    .await;
}
