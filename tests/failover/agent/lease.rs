//! Without a lease no primary, by the agent's own hand and whatever it is busy with.

use std::time::{Duration, Instant};

use pgcauseway::agent::api::{FENCE_WITHIN_MS, RefusalCode, Role};
use tokio::net::TcpStream;

use super::support::{builder, client, config, status, takes_writes};
use crate::support::{BOUND, becomes, goes_on_for};

const TTL: Duration = Duration::from_millis(1_500);

#[tokio::test]
async fn a_primary_whose_lease_runs_out_takes_no_more_writes() {
    let cluster = builder("lease").standbys(0).start().await.unwrap();
    let node = cluster.primary();
    let agent = client(&cluster, node);
    node.execute("create table t (id int)").await.unwrap();
    assert!(
        takes_writes(node).await,
        "without a lease ever it is left alone"
    );

    // Renewed, it lasts for longer than one period.
    goes_on_for(TTL * 2, async || {
        agent.lease(1, "a", TTL, BOUND).await.unwrap();
        assert!(takes_writes(node).await);
    })
    .await;
    // A crowd of callers that say nothing does not keep the lease alive.
    let url = config(&cluster).nodes[0].agent.clone().unwrap();
    let mut crowd = Vec::new();
    for _ in 0..100 {
        crowd.push(
            TcpStream::connect((url.host.as_str(), url.port))
                .await
                .unwrap(),
        );
    }
    let granted = Instant::now();
    let writer = node.admin().await.unwrap();
    let mut last = granted;
    while writer
        .batch_execute("insert into t values (1)")
        .await
        .is_ok()
    {
        last = Instant::now();
        assert!(granted.elapsed() < BOUND, "it is never fenced");
    }
    let lasted = last.duration_since(granted);
    println!("the last write was acknowledged {lasted:?} after the last renewal's answer");
    // Twice the promise, for a machine that is shared.
    assert!(lasted < TTL + Duration::from_millis(2 * FENCE_WITHIN_MS));
    drop(crowd);
    becomes("the agent sees it", async || {
        !status(&agent).await.postmaster.running
    })
    .await;
    assert!(!takes_writes(node).await);
    assert_eq!(status(&agent).await.lease, None);

    // Whoever starts it by hand gains nothing.
    let _ = node.start().await;
    becomes("it is stopped again", async || node.pid().is_none()).await;

    // A new lease, and it may run.
    agent
        .lease(1, "a", Duration::from_secs(600), BOUND)
        .await
        .unwrap();
    agent.start(1, Role::Primary, None, BOUND).await.unwrap();
    assert!(takes_writes(node).await);
}

#[tokio::test]
async fn frozen_and_thawed_it_is_stopped_before_it_is_granted_anything() {
    let cluster = builder("thawed").standbys(0).start().await.unwrap();
    let node = cluster.primary();
    let agent = client(&cluster, node);
    node.execute("create table t (id int)").await.unwrap();
    agent.lease(1, "a", TTL, BOUND).await.unwrap();
    let process = node.agent().unwrap();
    process.freeze().unwrap();
    node.freeze().unwrap();
    // A renewal that waits in the frozen agent's socket must not revive the lease.
    let waiting = {
        let agent = agent.clone();
        tokio::spawn(async move { agent.lease(1, "a", TTL, BOUND).await })
    };
    tokio::time::sleep(TTL + Duration::from_millis(200)).await;
    process.thaw().unwrap();
    let renewed = waiting.await.unwrap().unwrap_err();
    let why = renewed.refusal();
    assert!(
        matches!(why, Some(RefusalCode::Expired | RefusalCode::Late)),
        "{renewed}"
    );
    // The postmaster still stood still, and is gone.
    becomes("it is killed", async || node.pid().is_none()).await;
    assert!(!takes_writes(node).await);
}

#[tokio::test]
async fn an_agent_that_is_started_again_gives_its_server_no_more_time() {
    let cluster = builder("away").standbys(0).start().await.unwrap();
    let node = cluster.primary();
    let agent = client(&cluster, node);
    node.execute("create table t (id int)").await.unwrap();
    agent
        .lease(3, "a", Duration::from_secs(600), BOUND)
        .await
        .unwrap();
    let process = node.agent().unwrap();
    process.kill().unwrap();
    process.start().await.unwrap();
    // Away for a moment: the lease is in force, and is renewed.
    let told = status(&agent).await;
    assert!(told.highest_epoch == 3 && told.lease.is_some());
    agent.lease(4, "a", TTL, BOUND).await.unwrap();
    assert!(takes_writes(node).await);

    process.kill().unwrap();
    tokio::time::sleep(TTL).await;
    assert!(takes_writes(node).await, "nobody is there to fence it");
    let pid = node.pid();
    process.start().await.unwrap();
    // Another may lead by now: it stands still for a moment, in which the holder can renew.
    let told = status(&agent).await;
    assert!(told.governed && told.lease.is_none(), "{told:?}");
    let late = agent.lease(4, "a", TTL, BOUND).await;
    if let Err(error) = late {
        assert_eq!(error.refusal(), Some(RefusalCode::Expired));
    }
    becomes("it is fenced", async || node.pid() != pid).await;
    assert!(!takes_writes(node).await);
}

#[tokio::test]
async fn an_agent_that_stood_still_keeps_what_a_fresh_lease_is_asked_for() {
    let cluster = builder("stood-still").standbys(0).start().await.unwrap();
    let node = cluster.primary();
    let agent = client(&cluster, node);
    node.execute("create table t (id int)").await.unwrap();
    let ttl = Duration::from_secs(2);
    agent.lease(1, "a", ttl, BOUND).await.unwrap();
    let (process, postmaster) = (node.agent().unwrap(), node.pid());
    let writer = node.admin().await.unwrap();
    writer
        .batch_execute("begin; insert into t values (1)")
        .await
        .unwrap();
    for renewed in [true, false] {
        process.freeze().unwrap();
        tokio::time::sleep(ttl).await;
        assert!(takes_writes(node).await, "nobody is there to fence it");
        process.thaw().unwrap();
        if renewed {
            becomes("what was asked later counts", async || {
                agent.lease(1, "a", ttl, BOUND).await.is_ok()
            })
            .await;
            writer.batch_execute("commit").await.unwrap();
            // Its processes are let go one by one, the postmaster last.
            becomes("all of it runs on", async || {
                agent.lease(1, "a", ttl, BOUND).await.is_ok() && takes_writes(node).await
            })
            .await;
            assert_eq!(node.pid(), postmaster);
        }
    }
    becomes("nobody renews it", async || node.pid().is_none()).await;
}
