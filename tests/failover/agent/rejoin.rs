//! An old primary comes back as a standby: rewound, or copied anew, or in spite of a kill half-way.

use std::sync::Arc;
use std::time::Duration;

use pgcauseway::agent::api::{JobState, RefusalCode, Role};
use pgcauseway::rig::{Cluster, Node};

use super::support::{builder, client, job, source, status};
use crate::support::{BOUND, becomes};

/// Kills the primary with a write that its standby lacks, and promotes the standby.
async fn fail_over(cluster: &Cluster) -> (Arc<Node>, Arc<Node>) {
    let [old, new, ..] = cluster.nodes() else {
        panic!("two nodes")
    };
    old.execute("create table t as select generate_series(1, 1000) as id")
        .await
        .unwrap();
    cluster.wait_caught_up().await.unwrap();
    // The standby hears no more of what the old primary writes from here on.
    new.execute("alter system set primary_conninfo = ''")
        .await
        .unwrap();
    new.reload().await.unwrap();
    becomes("the standby has let go", async || {
        new.query::<i64>("select count(*) from pg_stat_wal_receiver")
            .await
            .unwrap()
            == 0
    })
    .await;
    old.execute("insert into t select generate_series(5000, 6000)")
        .await
        .unwrap();
    for ahead in &cluster.nodes()[2..] {
        let all = "select max(id) = 6000 from t";
        ahead.wait_for("replay what is lost", all).await.unwrap();
    }
    old.kill().unwrap();
    new.promote().await.unwrap();
    new.execute("insert into t values (-1)").await.unwrap();
    (Arc::clone(old), Arc::clone(new))
}

async fn assert_follows(old: &Node, new: &Node) {
    new.execute("insert into t values (-2)").await.unwrap();
    old.wait_replayed(new.written().await.unwrap())
        .await
        .unwrap();
    assert!(old.is_standby().await.unwrap());
    let (ours, theirs): (i64, i64) = (
        old.query("select sum(id) from t").await.unwrap(),
        new.query("select sum(id) from t").await.unwrap(),
    );
    assert_eq!(ours, theirs);
    let port: String = old.query("show port").await.unwrap();
    assert_eq!(port, old.port().to_string());
    let name: String = old.query("show cluster_name").await.unwrap();
    assert_eq!(name, old.name());
}

#[tokio::test]
async fn a_killed_primary_is_rewound() {
    let cluster = builder("rewind").standbys(1).start().await.unwrap();
    let (old, new) = fail_over(&cluster).await;
    let agent = client(&cluster, &old);
    let source = source(&cluster, &new);
    let begun = agent.rejoin(2, source.clone(), false, BOUND).await.unwrap();
    assert_eq!(begun.state, JobState::Running);
    // Asked again it is the same job; started meanwhile it is not.
    agent.rejoin(2, source, false, BOUND).await.unwrap();
    let busy = agent
        .start(2, Role::Standby, None, BOUND)
        .await
        .unwrap_err();
    assert_eq!(busy.refusal(), Some(RefusalCode::Busy));
    let job = job(&agent).await;
    println!("{job:?}");
    assert_eq!(job.state, JobState::Done, "{}", job.detail);
    assert!(job.detail.starts_with("rewound"), "{}", job.detail);
    assert_follows(&old, &new).await;
    let told = status(&agent).await;
    assert_eq!((told.role, told.timeline), (Some(Role::Standby), Some(2)));
    assert!(!told.unfinished_rejoin && told.highest_epoch == 2);
}

#[tokio::test]
async fn what_cannot_be_rewound_is_copied_anew() {
    let builder = builder("copy").standbys(1).setting("wal_log_hints", "off");
    let cluster = builder.start().await.unwrap();
    let (old, new) = fail_over(&cluster).await;
    let agent = client(&cluster, &old);
    agent
        .rejoin(2, source(&cluster, &new), false, BOUND)
        .await
        .unwrap();
    let job = job(&agent).await;
    println!("{job:?}");
    assert_eq!(job.state, JobState::Done, "{}", job.detail);
    assert!(job.detail.starts_with("copied"), "{}", job.detail);
    assert_follows(&old, &new).await;
}

/// When to cut: at once, and at moments that differ from run to run and are printed.
fn cuts() -> Vec<u64> {
    let mut cuts = vec![0];
    cuts.extend((0..5).map(|_| rand::random_range(20..1_000)));
    cuts
}

#[tokio::test]
async fn a_rejoin_that_is_cut_short_anywhere_is_finished_by_the_next() {
    let cluster = builder("cut").standbys(1).start().await.unwrap();
    let (old, new) = fail_over(&cluster).await;
    let agent = client(&cluster, &old);
    let process = old.agent().unwrap();
    let source = source(&cluster, &new);
    for wait_ms in cuts() {
        agent.rejoin(2, source.clone(), false, BOUND).await.unwrap();
        tokio::time::sleep(Duration::from_millis(wait_ms)).await;
        let cut = status(&agent).await;
        process.kill().unwrap();
        process.start().await.unwrap();
        println!(
            "cut after {wait_ms} ms at {:?}",
            cut.job.map(|job| job.detail)
        );
        let told = status(&agent).await;
        if told.unfinished_rejoin {
            let error = agent
                .start(2, Role::Standby, None, BOUND)
                .await
                .unwrap_err();
            assert_eq!(error.refusal(), Some(RefusalCode::UnfinishedRejoin));
        }
    }
    agent.rejoin(2, source, false, BOUND).await.unwrap();
    let job = job(&agent).await;
    println!("{job:?}");
    assert_eq!(job.state, JobState::Done, "{}", job.detail);
    assert_follows(&old, &new).await;
}

/// A standby that was killed must not recover by itself: it would write on its primary's timeline.
#[tokio::test]
async fn killed_standbys_follow_again_also_from_beyond_the_fork() {
    let cluster = builder("standbys").standbys(2).start().await.unwrap();
    let [old, new, ahead] = cluster.nodes() else {
        panic!("three nodes")
    };
    // It has received and shown what the new primary lacks.
    fail_over(&cluster).await;
    let agent = client(&cluster, ahead);
    ahead.kill().unwrap();
    agent
        .rejoin(2, source(&cluster, new), false, BOUND)
        .await
        .unwrap();
    let back = job(&agent).await;
    println!("{back:?}");
    assert_eq!(back.state, JobState::Done, "{}", back.detail);
    assert_follows(ahead, new).await;

    ahead.kill().unwrap();
    agent
        .rejoin(3, source(&cluster, new), false, BOUND)
        .await
        .unwrap();
    let back = job(&agent).await;
    println!("{back:?}");
    assert!(
        back.detail.starts_with("streams as it was"),
        "{}",
        back.detail
    );
    assert_follows(ahead, new).await;
    assert!(old.pid().is_none());
}

#[tokio::test]
async fn neither_another_cluster_nor_a_dead_source_costs_any_data() {
    let cluster = builder("mine").standbys(0).start().await.unwrap();
    let other = Cluster::builder("other").standbys(0).start().await.unwrap();
    let node = cluster.primary();
    let agent = client(&cluster, node);
    node.execute("create table t as select 1 as id")
        .await
        .unwrap();
    let pid = node.pid();
    agent
        .rejoin(1, source(&cluster, other.primary()), false, BOUND)
        .await
        .unwrap();
    let refused = job(&agent).await;
    assert_eq!(node.pid(), pid, "nothing was stopped");
    assert_eq!(refused.state, JobState::Failed);
    assert!(
        refused.detail.contains("another cluster"),
        "{}",
        refused.detail
    );
    assert!(!status(&agent).await.unfinished_rejoin);

    // A primary under a lease is not made a standby by mistake.
    agent
        .lease(2, "a", Duration::from_secs(600), BOUND)
        .await
        .unwrap();
    agent.start(2, Role::Primary, None, BOUND).await.unwrap();
    let error = agent
        .rejoin(2, source(&cluster, other.primary()), false, BOUND)
        .await
        .unwrap_err();
    assert_eq!(error.refusal(), Some(RefusalCode::OtherRole));
    assert_eq!(
        node.query::<i64>("select count(*) from t").await.unwrap(),
        1
    );
}
