//! What one agent promises another: it is asked properly, promises only what is so, and keeps it.

use std::time::{Duration, Instant};

use pgcauseway::agent::api::{PromiseRequest, RefusalCode, Role};
use pgcauseway::agent::client::AgentClient;
use pgcauseway::rig::{Cluster, Node, StopMode};

use super::support::{builder, client, status, waiting_archive};
use crate::support::{BOUND, becomes};

const LASTS: Duration = Duration::from_secs(4);

/// What pg1's agent would ask pg2's.
async fn question(primary: &AgentClient) -> PromiseRequest {
    let told = status(primary).await;
    PromiseRequest {
        from: "pg1".to_owned(),
        to: "pg2".to_owned(),
        epoch: 4,
        system_identifier: told.system_identifier.unwrap(),
        timeline: told.timeline.unwrap(),
        promise_ms: LASTS.as_millis() as u64,
    }
}

async fn refused(agent: &AgentClient, request: &PromiseRequest) -> RefusalCode {
    let error = agent.promise(request, BOUND).await.unwrap_err();
    error.refusal().unwrap_or_else(|| panic!("{error}"))
}

fn two(cluster: &Cluster) -> (&Node, &Node) {
    (cluster.primary(), &cluster.nodes()[1])
}

#[tokio::test]
async fn a_promise_is_kept_through_a_restart_and_then_over() {
    let cluster = builder("promise").standbys(1).start().await.unwrap();
    let (primary, standby) = two(&cluster);
    let (first, second) = (client(&cluster, primary), client(&cluster, standby));
    let request = question(&first).await;
    becomes("the standby streams", async || {
        let only_asked = PromiseRequest {
            promise_ms: 0,
            ..request.clone()
        };
        second.promise(&only_asked, BOUND).await.is_ok()
    })
    .await;
    assert_eq!(status(&second).await.failsafe.unwrap().promise, None);
    let asked = Instant::now();
    second.promise(&request, BOUND).await.unwrap();
    let told = status(&second).await;
    assert_eq!(told.highest_epoch, 4);
    assert_eq!(told.failsafe.unwrap().promise.unwrap().to, "pg1");

    let ttl = Duration::from_secs(60);
    let process = standby.agent().unwrap();
    for restarted in [false, true] {
        if restarted {
            process.kill().unwrap();
            process.start().await.unwrap();
        }
        for epoch in [4, 9] {
            let error = second.lease(epoch, "a", ttl, BOUND).await.unwrap_err();
            if asked.elapsed() < LASTS {
                assert_eq!(error.refusal(), Some(RefusalCode::Promised), "{error}");
            }
        }
        let start = second.start(9, Role::Primary, None, BOUND).await;
        if asked.elapsed() < LASTS {
            let refusal = start.unwrap_err().refusal();
            assert_eq!(refusal, Some(RefusalCode::Promised));
        }
    }
    // Told of another epoch it promises nothing more, and what it has promised stands.
    assert_eq!(second.announce(5, BOUND).await.unwrap().highest_epoch, 5);
    assert_eq!(refused(&second, &request).await, RefusalCode::StaleEpoch);
    becomes("it is over", async || {
        second.lease(9, "a", ttl, BOUND).await.is_ok()
    })
    .await;
    assert!(asked.elapsed() >= LASTS);
    // Who has a lease of its own promises nothing.
    let later = PromiseRequest {
        epoch: 9,
        ..request
    };
    assert_eq!(refused(&second, &later).await, RefusalCode::NotFollowing);
}

#[tokio::test]
async fn an_agent_whose_standby_is_stopped_promises_and_starts_no_primary() {
    let cluster = builder("promise-stopped")
        .standbys(1)
        .start()
        .await
        .unwrap();
    let (primary, standby) = two(&cluster);
    let (first, second) = (client(&cluster, primary), client(&cluster, standby));
    let request = question(&first).await;
    standby.stop(StopMode::Fast).await.unwrap();
    becomes("it is seen stopped", async || {
        !status(&second).await.postmaster.running
    })
    .await;
    let later = PromiseRequest {
        promise_ms: 60_000,
        ..request.clone()
    };
    second.promise(&later, BOUND).await.unwrap();
    let start = second.start(9, Role::Primary, None, BOUND).await;
    assert_eq!(start.unwrap_err().refusal(), Some(RefusalCode::Promised));
    let lease = second.lease(9, "a", LASTS, BOUND).await;
    assert_eq!(lease.unwrap_err().refusal(), Some(RefusalCode::Promised));
    // As a standby it may run.
    second.start(4, Role::Standby, None, BOUND).await.unwrap();
    standby.stop(StopMode::Fast).await.unwrap();

    let earlier = PromiseRequest {
        timeline: 0,
        ..request.clone()
    };
    assert_eq!(refused(&second, &earlier).await, RefusalCode::NotFollowing);
    // What is no standby promises nothing, stopped or not.
    primary.stop(StopMode::Fast).await.unwrap();
    let to_primary = PromiseRequest {
        from: "pg2".to_owned(),
        to: "pg1".to_owned(),
        ..request
    };
    assert_eq!(
        refused(&first, &to_primary).await,
        RefusalCode::NotFollowing
    );
}

#[tokio::test]
async fn a_standby_that_starts_or_has_lost_its_receiver_promises() {
    let cluster = builder("promise-starting").standbys(1);
    let cluster = cluster.start().await.unwrap();
    let (primary, standby) = two(&cluster);
    let (first, second) = (client(&cluster, primary), client(&cluster, standby));
    let request = question(&first).await;
    becomes("the standby streams", async || {
        second.promise(&request, BOUND).await.is_ok()
    })
    .await;
    let earlier = PromiseRequest {
        timeline: 0,
        ..request.clone()
    };
    let nobody = "ALTER SYSTEM SET primary_conninfo = 'host=127.0.0.1 port=1 user=nobody'";
    standby.execute(nobody).await.unwrap();
    standby.execute("SELECT pg_reload_conf()").await.unwrap();
    let receivers = "select count(*) from pg_stat_wal_receiver where status = 'streaming'";
    becomes("it streams from nobody", async || {
        standby.query::<i64>(receivers).await.unwrap() == 0
    })
    .await;
    second.promise(&request, BOUND).await.unwrap();
    assert_eq!(refused(&second, &earlier).await, RefusalCode::NotFollowing);

    let (command, answers) = waiting_archive(&cluster);
    standby.set("restore_command", &command).await.unwrap();
    standby.kill().unwrap();
    becomes("it is seen stopped", async || {
        !status(&second).await.postmaster.running
    })
    .await;
    let within = Duration::from_secs(1);
    let started = second.start(4, Role::Standby, None, within).await;
    println!("{started:?}");
    becomes("it recovers", async || {
        let told = status(&second).await.postmaster;
        told.running && !told.ready
    })
    .await;
    second.promise(&request, BOUND).await.unwrap();
    assert_eq!(refused(&second, &earlier).await, RefusalCode::NotFollowing);
    let lease = second.lease(9, "a", LASTS, BOUND).await;
    assert_eq!(lease.unwrap_err().refusal(), Some(RefusalCode::Promised));
    std::fs::write(answers, "").unwrap();
}

#[tokio::test]
async fn nothing_is_promised_to_whom_it_does_not_follow() {
    let cluster = builder("promises-nothing")
        .standbys(1)
        .start()
        .await
        .unwrap();
    let (primary, standby) = two(&cluster);
    let (first, second) = (client(&cluster, primary), client(&cluster, standby));
    let request = question(&first).await;
    becomes("the standby streams", async || {
        second.promise(&request, BOUND).await.is_ok()
    })
    .await;
    let changed = |change: fn(&mut PromiseRequest)| {
        let mut changed = request.clone();
        change(&mut changed);
        changed
    };
    let other_node = changed(|request| request.to = "pg3".to_owned());
    assert_eq!(refused(&second, &other_node).await, RefusalCode::BadRequest);
    let other_cluster = changed(|request| request.system_identifier = "7".to_owned());
    let other_timeline = changed(|request| request.timeline += 1);
    for request in [other_cluster, other_timeline] {
        assert_eq!(refused(&second, &request).await, RefusalCode::NotFollowing);
    }
    // A primary follows nobody.
    let to_primary = PromiseRequest {
        from: "pg2".to_owned(),
        to: "pg1".to_owned(),
        ..request.clone()
    };
    assert_eq!(
        refused(&first, &to_primary).await,
        RefusalCode::NotFollowing
    );

    standby
        .execute("ALTER SYSTEM SET primary_conninfo = ''")
        .await
        .unwrap();
    standby.execute("SELECT pg_reload_conf()").await.unwrap();
    becomes("it streams from nobody", async || {
        let answer = second.promise(&request, BOUND).await;
        answer.is_err_and(|error| error.refusal() == Some(RefusalCode::NotFollowing))
    })
    .await;
}
