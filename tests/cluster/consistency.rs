//! Read your writes and monotonic reads, through the proxy, against real servers.
//!
//! `CAUSEWAY_TEST_SECONDS=60` makes every check as long as that.

use std::future::pending;
use std::time::{Duration, Instant};

use crate::support::check::{autocommit_share, seconds};
use crate::support::{BOUND, Proxy, turn};
use pgcauseway::rig::Cluster;
use pgcauseway::verify::{self, Blocks, Guarantee, Options, Report};
use tokio_postgres::SimpleQueryMessage;

async fn check(options: Options) -> Report {
    let report = verify::run(options, pending()).await.unwrap();
    println!("{report}");
    report
}

fn assert_kept(report: &Report) {
    assert_eq!(report.violations(), 0, "{report}");
    assert_eq!(report.error_count(), 0, "{report}");
    assert_eq!(report.lost_writes, Some(0), "{report}");
    for guarantee in [Guarantee::ReadYourWrites, Guarantee::MonotonicReads] {
        assert!(report.rate(guarantee).checks > 1000, "{report}");
    }
}

/// One standby applies 200 ms late: sessions find what they have seen all the same, mostly on
/// standbys; without the marks they do not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_standby_shows_nobody_the_past() {
    let _turn = turn();
    let cluster = Cluster::builder("late")
        .replay_delay(2, Duration::from_millis(200))
        .start()
        .await
        .unwrap();
    let proxy = Proxy::start(&cluster, "");

    let report = check(Options {
        blocks: Blocks::Never,
        ..proxy.check_reads("autocommit", 8000)
    })
    .await;
    assert_kept(&report);
    assert!(report.replica_share >= 0.6, "{report}");

    let report = check(proxy.check_reads("mixed", 8000)).await;
    assert_kept(&report);
    assert!(autocommit_share(&report) >= 0.6, "{report}");
    // Both ways, or nothing was put to the test.
    assert!(report.moves.replica_to_primary > 20, "{report}");
    assert!(report.moves.primary_to_replica > 20, "{report}");

    let report = check(Options {
        consistency: Some("eventual".to_owned()),
        ..proxy.check_reads("eventual", 10_000)
    })
    .await;
    assert!(
        report.rate(Guarantee::ReadYourWrites).per_10000 > 1000.0,
        "the same check must find violations where they are: {report}"
    );
    assert!(
        report.rate(Guarantee::MonotonicReads).violations > 0,
        "{report}"
    );
}

/// Nine reads for each write and standbys that keep up: nearly every read is theirs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn standbys_that_keep_up_serve_nearly_every_read() {
    let _turn = turn();
    let cluster = Cluster::builder("keepup").start().await.unwrap();
    let proxy = Proxy::start(&cluster, "");
    let report = check(Options {
        reads_per_write: 9,
        blocks: Blocks::Never,
        ..proxy.check_reads("ninety", 15_000)
    })
    .await;
    assert_kept(&report);
    // Less on a machine that is busy with other tests, where catching up takes longer.
    assert!(report.replica_share >= 0.85, "{report}");
}

/// With `remote_apply` the standbys show a commit long before the primary does: a session that has
/// seen it there must not miss it on the primary. The pairs are back to back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_primary_shows_what_a_standby_has_shown() {
    let _turn = turn();
    let cluster = Cluster::builder("apply")
        .setting("synchronous_standby_names", "ANY 2 (pg2, pg3)")
        .setting("synchronous_commit", "remote_apply")
        .start()
        .await
        .unwrap();
    let proxy = Proxy::start(&cluster, "");
    proxy
        .connect()
        .await
        .batch_execute("CREATE TABLE counter (n int8); INSERT INTO counter VALUES (0)")
        .await
        .unwrap();
    cluster.wait_caught_up().await.unwrap();

    let stop = tokio_util::sync::CancellationToken::new();
    let mut writers = tokio::task::JoinSet::new();
    for _ in 0..3 {
        let (writer, stop) = (proxy.connect().await, stop.clone());
        writers.spawn(async move {
            while !stop.is_cancelled() {
                let increase = "UPDATE counter SET n = n + 1";
                writer.batch_execute(increase).await.unwrap();
            }
        });
    }
    let pairs = seconds(4) * 250;
    // On a busy machine the moment is rare.
    let mut unproven = 0;
    let patience = Instant::now() + BOUND;
    while unproven == 0 && Instant::now() < patience {
        unproven = behind(&proxy, "eventual", pairs).await;
    }
    let proven = behind(&proxy, "session", pairs).await;
    stop.cancel();
    while let Some(ended) = writers.join_next().await {
        ended.unwrap();
    }
    println!("of {pairs} pairs behind: {unproven} at eventual, {proven} at session");
    assert!(unproven > 0, "the primary was never seen to be behind");
    assert_eq!(proven, 0);
}

/// Of so many pairs of reads, first on a standby and then on the primary, those that went back.
async fn behind(proxy: &Proxy, level: &str, pairs: u64) -> u64 {
    let mut readers = tokio::task::JoinSet::new();
    const READERS: u64 = 4;
    for _ in 0..READERS {
        let reader = proxy.connect().await;
        let set = format!("SET causeway.consistency = {level}");
        readers.spawn(async move {
            reader.batch_execute(&set).await.unwrap();
            let mut behind = 0;
            for _ in 0..pairs / READERS {
                // Both are sent at once: the second is on its way the moment that the first is answered.
                let (first, second) = tokio::join!(number(&reader, PLAIN), number(&reader, LOCKED));
                assert!(!second.1, "FOR KEY SHARE runs on the primary");
                behind += u64::from(first.1 && second.0 < first.0);
            }
            behind
        });
    }
    let mut total = 0;
    while let Some(behind) = readers.join_next().await {
        total += behind.unwrap();
    }
    total
}

const PLAIN: &str = "SELECT n, current_setting('in_hot_standby') = 'on' FROM counter";
/// Locks belong on the primary.
const LOCKED: &str =
    "SELECT n, current_setting('in_hot_standby') = 'on' FROM counter FOR KEY SHARE";

/// A number, and whether a standby gave it; by the simple protocol, in one message.
async fn number(client: &tokio_postgres::Client, sql: &str) -> (i64, bool) {
    let messages = client.simple_query(sql).await.unwrap();
    let row = messages.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    let row = row.unwrap();
    (
        row.get(0).unwrap().parse().unwrap(),
        row.get(1) == Some("t"),
    )
}

/// An asynchronous commit is visible on the primary before any standby can have it: whoever has
/// read it there must find it again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_yet_flushed_is_not_forgotten() {
    let _turn = turn();
    let cluster = Cluster::builder("async")
        // Long enough that a commit certainly stays unflushed while it is looked for.
        .setting("wal_writer_delay", "1s")
        .start()
        .await
        .unwrap();
    let proxy = Proxy::start(&cluster, "");
    let (writer, reader) = (proxy.connect().await, proxy.connect().await);
    writer
        .batch_execute("CREATE TABLE t (n int8); INSERT INTO t VALUES (0)")
        .await
        .unwrap();
    cluster.wait_caught_up().await.unwrap();
    writer
        .batch_execute("SET synchronous_commit = off")
        .await
        .unwrap();
    let select = "SELECT n, current_setting('in_hot_standby') = 'on' FROM t";
    for n in 1..=20_i64 {
        writer
            .batch_execute(&format!("UPDATE t SET n = {n}"))
            .await
            .unwrap();
        // In a block, so that it is read on the primary.
        reader.batch_execute("BEGIN").await.unwrap();
        let seen = number(&reader, select).await;
        reader.batch_execute("COMMIT").await.unwrap();
        assert_eq!(seen, (n, false));
        for client in [&reader, &writer] {
            let again = number(client, select).await;
            assert!(again.0 >= n, "it saw {n} and then {again:?}");
        }
    }
    // Standbys are used again once it is flushed.
    let used = async {
        while !number(&reader, select).await.1 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), used)
        .await
        .unwrap();
}
