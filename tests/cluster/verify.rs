//! The checker itself is checked: it finds nothing on a lone primary, and thousands of violations in
//! 10,000 reads where an application splits reads and writes over standbys, one of which is late.

use std::future::pending;
use std::time::Duration;

use pgcauseway::verify::{self, Blocks, Endpoint, Guarantee, Options, VerifyError};

use pgcauseway::rig::Cluster;
use tokio_util::sync::CancellationToken;

use crate::support::{becomes, turn};

fn options(target: &str, schema: &str) -> Options {
    Options {
        duration: Some(Duration::from_secs(3)),
        schema: schema.to_owned(),
        seed: 7,
        ..Options::new(target.parse::<Endpoint>().unwrap())
    }
}

/// Where a node listens; the checker makes its schema as the superuser.
fn url(cluster: &Cluster, node: usize) -> String {
    cluster.nodes()[node].url(&cluster.credentials().superuser)
}

/// How many schemas there are beside PostgreSQL's own.
async fn schemas(cluster: &Cluster) -> i64 {
    let sql = "SELECT count(*) FROM pg_namespace WHERE nspname !~ '^pg_' \
         AND nspname NOT IN ('public', 'information_schema')";
    cluster.primary().query(sql).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_checker_tells_fresh_from_stale() {
    let _turn = turn();
    let builder = Cluster::builder("verify").replay_delay(2, Duration::from_millis(200));
    let cluster = builder.start().await.unwrap();
    a_lone_primary_keeps_every_promise(&cluster).await;
    a_read_limit_and_a_stop_signal_end_a_check(&cluster).await;
    a_foreign_schema_is_left_alone(&cluster).await;
    splitting_breaks_promises(&cluster).await;
    one_late_standby_breaks_only_what_it_must(&cluster).await;
    a_lost_connection_is_replaced(&cluster).await;
    a_write_that_vanishes_is_missed(&cluster).await;
}

async fn a_lone_primary_keeps_every_promise(cluster: &Cluster) {
    let mut options = options(&url(cluster, 0), "fresh");
    options.recency = true;
    options.consistency = Some("session".to_owned());
    options.session_key = true;
    options.history = true;
    let report = verify::run(options, pending()).await.unwrap();
    println!("{report}");
    assert_eq!(report.violations(), 0, "{report}");
    assert_eq!(report.error_count(), 0, "{report}");
    assert_eq!(report.replica_reads, 0);
    assert_eq!(report.lost_writes, Some(0));
    assert!(report.sought_writes > 100, "{report}");
    assert_eq!(report.forms.len(), 6);
    // A promise that was never put to the test would hold trivially.
    for guarantee in Guarantee::ALL {
        assert!(report.rate(guarantee).checks > 100, "{report}");
    }
    assert_eq!(schemas(cluster).await, 0, "the schema must be gone");
}

async fn a_read_limit_and_a_stop_signal_end_a_check(cluster: &Cluster) {
    let mut limited = options(&url(cluster, 0), "limited");
    limited.duration = None;
    limited.reads = Some(500);
    limited.blocks = Blocks::Never;
    let report = verify::run(limited, pending()).await.unwrap();
    // Every session may finish the statement that it is in.
    assert!((500..530).contains(&report.reads), "{report}");
    assert_eq!(report.forms.len(), 3);

    let mut stopped = options(&url(cluster, 0), "stopped");
    stopped.duration = Some(Duration::from_secs(600));
    let stop = CancellationToken::new();
    let check = tokio::spawn(verify::run(stopped, stop.clone().cancelled_owned()));
    written(cluster, "stopped", 100).await;
    stop.cancel();
    let report = check.await.unwrap().unwrap();
    assert!(report.reads > 0);
}

/// Ends once a check has written so much to its schema.
async fn written(cluster: &Cluster, schema: &str, much: i64) {
    let sql = format!("SELECT coalesce(sum(value), 0)::int8 FROM {schema}.cells WHERE id >= 100");
    becomes("it has written", async || {
        let sum = cluster.primary().query::<i64>(&sql).await;
        sum.is_ok_and(|sum| sum > much)
    })
    .await;
}

async fn a_foreign_schema_is_left_alone(cluster: &Cluster) {
    let primary = cluster.primary();
    primary.execute("CREATE SCHEMA precious").await.unwrap();
    let error = verify::run(options(&url(cluster, 0), "precious"), pending())
        .await
        .unwrap_err();
    assert!(matches!(error, VerifyError::Usage(_)), "{error}");
    primary.execute("DROP SCHEMA precious").await.unwrap();
}

async fn splitting_breaks_promises(cluster: &Cluster) {
    let mut options = options(&url(cluster, 0), "split");
    options.read_targets = [1, 2]
        .map(|node| url(cluster, node).parse().unwrap())
        .to_vec();
    let report = verify::run(options, pending()).await.unwrap();
    println!("{report}");
    assert!(report.replica_share > 0.8, "{report}");
    assert!(report.moves.replica_to_replica > 100, "{report}");
    for guarantee in [Guarantee::ReadYourWrites, Guarantee::MonotonicReads] {
        assert!(report.rate(guarantee).per_10000 > 2000.0, "{report}");
    }
    assert!(report.rate(Guarantee::ConsistentPrefix).violations > 0);
    // What the primary says is never at fault, nor are answers crossed.
    assert_eq!(report.rate(Guarantee::WritesFollowReads).violations, 0);
    assert_eq!(report.rate(Guarantee::Provenance).violations, 0);
    assert_eq!(report.lost_writes, Some(0));
    assert!(!report.examples.is_empty());
}

async fn one_late_standby_breaks_only_what_it_must(cluster: &Cluster) {
    let mut options = options(&url(cluster, 0), "late");
    options.read_targets = vec![url(cluster, 2).parse().unwrap()];
    // Nobody reads on both the primary and the standby, so that time cannot run backwards.
    options.mixed = 0;
    options.blocks = Blocks::Never;
    let report = verify::run(options, pending()).await.unwrap();
    assert!(
        report.rate(Guarantee::ReadYourWrites).per_10000 > 5000.0,
        "{report}"
    );
    assert_eq!(report.rate(Guarantee::MonotonicReads).violations, 0);
    assert_eq!(report.rate(Guarantee::ConsistentPrefix).violations, 0);
}

async fn a_lost_connection_is_replaced(cluster: &Cluster) {
    let check = tokio::spawn(verify::run(options(&url(cluster, 0), "lost"), pending()));
    written(cluster, "lost", 300).await;
    let terminate = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
         WHERE application_name = 'causeway verify'";
    cluster.primary().execute(terminate).await.unwrap();
    let report = check.await.unwrap().unwrap();
    println!("{report}");
    assert!(report.reconnects > 10, "{report}");
    assert!(report.error_count() > 10, "{report}");
    assert_eq!(report.violations(), 0, "{report}");
}

/// As after a failover that lost something: the row that is written next hides it, the history does not.
async fn a_write_that_vanishes_is_missed(cluster: &Cluster) {
    let primary = cluster.primary();
    for history in [true, false] {
        let mut options = options(&url(cluster, 0), "vanished");
        options.duration = Some(Duration::from_secs(600));
        options.history = history;
        let stop = CancellationToken::new();
        let check = verify::run(options, stop.clone().cancelled_owned());
        let check = tokio::spawn(check);
        let take = "WITH taken AS (DELETE FROM vanished.history WHERE value <= 3 RETURNING 1) \
             SELECT count(*) FROM taken";
        written(cluster, "vanished", 1000).await;
        let taken = primary.query::<i64>(take).await.unwrap_or(0);
        stop.cancel();
        let report = check.await.unwrap().unwrap();
        assert_eq!(taken > 0, history);
        assert_eq!(report.lost_writes, Some(taken.cast_unsigned()), "{report}");
        assert_eq!(report.violations(), taken.cast_unsigned(), "{report}");
    }
}

#[tokio::test]
async fn an_endpoint_that_is_not_there_is_unavailable() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let target = format!("postgres://app:hunter2@127.0.0.1:{port}/db");
    let error = verify::run(options(&target, "absent"), pending())
        .await
        .unwrap_err();
    assert_eq!(error.exit_code(), 69);
    assert!(!format!("{error} {error:?}").contains("hunter2"));
}
