//! Stopping and starting: from whatever state, and never by a decision that is over.

use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pgcauseway::agent::api::{RefusalCode, Role, StopMode, Stopped};
use pgcauseway::process;

use super::support::{builder, client, source, status};
use crate::support::{BOUND, becomes};

#[tokio::test]
async fn a_server_is_stopped_from_every_state() {
    let cluster = builder("stop").standbys(0).start().await.unwrap();
    let node = cluster.primary();
    let agent = client(&cluster, node);
    node.execute("create table t (id int)").await.unwrap();
    let begin = async |epoch| {
        let ttl = Duration::from_secs(600);
        agent.lease(epoch, "test", ttl, BOUND).await.unwrap();
        let started = agent
            .start(epoch, Role::Primary, None, BOUND)
            .await
            .unwrap();
        assert_eq!(node.pid(), Some(started.pid));
        assert_eq!(node.query::<i32>("select 1").await.unwrap(), 1);
        started
    };

    // Running, at once.
    let answer = agent.stop(1, StopMode::Immediate, BOUND).await.unwrap();
    assert_eq!(answer.stopped, Stopped::Asked);
    assert_eq!(node.pid(), None);
    let told = status(&agent).await;
    assert!(!told.postmaster.running && told.postmaster.since.is_some());
    assert_eq!(told.role, Some(Role::Primary));

    // Stopped already.
    let answer = agent.stop(1, StopMode::Immediate, BOUND).await.unwrap();
    assert_eq!(answer.stopped, Stopped::Already);

    // In good order; started twice is started once.
    let started = begin(2).await;
    assert!(!started.already);
    let again = agent.start(2, Role::Primary, None, BOUND).await.unwrap();
    assert_eq!((again.pid, again.already), (started.pid, true));
    let held = node.admin().await.unwrap();
    let answer = agent.stop(2, StopMode::Fast, BOUND).await.unwrap();
    assert_eq!(answer.stopped, Stopped::Asked);
    assert_eq!(
        status(&agent).await.cluster_state.as_deref(),
        Some("shut down")
    );
    drop(held);

    // Standing still, together with its children: no signal but SIGKILL acts.
    begin(3).await;
    node.freeze().unwrap();
    let error = agent.stop(3, StopMode::Fast, BOUND).await.unwrap_err();
    assert!(error.to_string().contains("stands still"), "{error}");
    let answer = agent.stop(3, StopMode::Immediate, BOUND).await.unwrap();
    assert_eq!(answer.stopped, Stopped::Killed);
    assert_eq!(node.pid(), None);

    // Only a child standing still: the postmaster would wait for it.
    begin(4).await;
    let held = node.admin().await.unwrap();
    let backend: i32 = held
        .query_one("select pg_backend_pid()", &[])
        .await
        .unwrap()
        .get(0);
    kill(Pid::from_raw(backend), Signal::SIGSTOP).unwrap();
    let answer = agent.stop(4, StopMode::Immediate, BOUND).await.unwrap();
    assert_eq!(answer.stopped, Stopped::Killed);
    let left = process::look(backend).is_some_and(process::Process::is_alive);
    assert!(!left, "a backend is left");

    // A backend that outlives its postmaster could still commit: it is stopped as well.
    begin(5).await;
    let held = node.admin().await.unwrap();
    let busy = tokio::spawn(async move {
        let loops = "do $$ begin loop end loop; end $$";
        held.batch_execute(loops).await
    });
    becomes("a backend is busy", async || {
        let busy = "select count(*) from pg_stat_activity where query like 'do $$%'";
        node.query::<i64>(busy).await.unwrap() == 1
    })
    .await;
    node.kill_postmaster().unwrap();
    let answer = agent.stop(5, StopMode::Immediate, BOUND).await.unwrap();
    assert_eq!(answer.stopped, Stopped::Killed);
    assert!(busy.await.unwrap().is_err());
    begin(6).await;
}

#[tokio::test]
async fn a_decision_that_is_over_moves_nothing_also_after_a_restart() {
    let cluster = builder("epochs").standbys(1).start().await.unwrap();
    let (primary, standby) = (cluster.primary(), &cluster.standbys()[0]);
    let agent = client(&cluster, primary);
    let ttl = Duration::from_secs(600);
    agent.lease(7, "a", ttl, BOUND).await.unwrap();
    let error = agent.lease(7, "b", ttl, BOUND).await.unwrap_err();
    assert_eq!(error.refusal(), Some(RefusalCode::OtherHolder));
    for _ in 0..2 {
        let refused = [
            agent.lease(6, "a", ttl, BOUND).await.unwrap_err(),
            agent.stop(6, StopMode::Immediate, BOUND).await.unwrap_err(),
            agent
                .start(6, Role::Primary, None, BOUND)
                .await
                .unwrap_err(),
            agent
                .rejoin(6, source(&cluster, standby), false, BOUND)
                .await
                .unwrap_err(),
        ];
        for error in refused {
            assert_eq!(error.refusal(), Some(RefusalCode::StaleEpoch), "{error}");
        }
        assert!(primary.pid().is_some());
        primary.agent().unwrap().kill().unwrap();
        primary.agent().unwrap().start().await.unwrap();
        let told = status(&agent).await;
        assert_eq!(told.highest_epoch, 7);
        assert_eq!(
            told.lease.unwrap().holder,
            "a",
            "the lease outlives the agent"
        );
    }

    // A fence stands until a lease of its epoch, also after a restart.
    agent.stop(8, StopMode::Immediate, BOUND).await.unwrap();
    let error = agent
        .start(8, Role::Primary, None, BOUND)
        .await
        .unwrap_err();
    assert_eq!(error.refusal(), Some(RefusalCode::LeaseRequired));
    primary.agent().unwrap().kill().unwrap();
    primary.agent().unwrap().start().await.unwrap();
    let error = agent
        .start(8, Role::Primary, None, BOUND)
        .await
        .unwrap_err();
    assert_eq!(error.refusal(), Some(RefusalCode::LeaseRequired));
    agent.lease(8, "a", ttl, BOUND).await.unwrap();
    agent.start(8, Role::Primary, None, BOUND).await.unwrap();

    // As the other role it must be stopped first.
    let error = agent
        .start(8, Role::Standby, Some(source(&cluster, standby)), BOUND)
        .await
        .unwrap_err();
    assert_eq!(error.refusal(), Some(RefusalCode::OtherRole));
}

#[tokio::test]
async fn a_stopped_standby_starts_as_a_standby_of_whom_it_is_told() {
    let cluster = builder("standby").standbys(2).start().await.unwrap();
    let [primary, middle, node] = cluster.nodes() else {
        panic!("three nodes")
    };
    let agent = client(&cluster, node);
    agent.stop(1, StopMode::Fast, BOUND).await.unwrap();
    let told = status(&agent).await;
    assert_eq!(told.role, Some(Role::Standby));
    let source = source(&cluster, middle);
    agent
        .start(1, Role::Standby, Some(source.clone()), BOUND)
        .await
        .unwrap();
    node.wait_streaming().await.unwrap();
    let sender: i32 = node
        .query("select sender_port from pg_stat_wal_receiver")
        .await
        .unwrap();
    assert_eq!(sender, i32::from(middle.port()));
    // A standby that was once fenced is no primary: it is left alone without a lease.
    primary.execute("create table t (id int)").await.unwrap();
    primary.execute("insert into t values (1)").await.unwrap();
    node.wait_replayed(primary.written().await.unwrap())
        .await
        .unwrap();
    assert!(status(&agent).await.postmaster.running);
    let again = agent
        .start(1, Role::Standby, Some(source), BOUND)
        .await
        .unwrap();
    assert!(again.already);
}
