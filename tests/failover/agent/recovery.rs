//! A recovery that takes long, and gets on, is nothing to stop a server for.

use std::sync::Arc;

use nix::sys::signal::Signal;
use pgcauseway::agent::api::{Job, JobState, StopMode};
use pgcauseway::agent::client::AgentClient;
use pgcauseway::rig::{Cluster, Node};

use super::supervise::Agent;
use super::support::{builder, client, freeze_copy, job, source, status, streams};
use crate::support::{BOUND, becomes};

/// Half a second for each segment of WAL that it is asked for in vain.
const SLOW_ARCHIVE: &str = "alter system set restore_command = 'sleep 0.5; exit 1'";

/// A primary, a standby with a slow archive from its next start on, and an agent that lets nothing stand
/// still for long: a recovery of ten segments takes longer than that as a whole.
async fn slow(name: &str) -> (Cluster, Agent, AgentClient) {
    let wal = builder(name).setting("wal_keep_size", "1GB");
    let cluster = wal.standbys(1).start().await.unwrap();
    let standby = &cluster.standbys()[0];
    standby.execute(SLOW_ARCHIVE).await.unwrap();
    let process = Agent::with(standby, "start_timeout: 3s");
    let agent = client(&cluster, standby);
    becomes("the agent answers", async || {
        agent.status(BOUND).await.is_ok()
    })
    .await;
    (cluster, process, agent)
}

async fn next_segment(primary: &Node) {
    let message = "select pg_logical_emit_message(false, 'a', 'b')";
    primary.execute(message).await.unwrap();
    primary.execute("select pg_switch_wal()").await.unwrap();
}

/// Nothing had to be rewound, or copied.
fn assert_as_it_was(job: &Job) {
    let (state, detail) = (job.state, &job.detail);
    assert_eq!(state, JobState::Done, "{detail}");
    assert!(detail.starts_with("streams as it was"), "{detail}");
}

#[tokio::test]
async fn a_crashed_standby_that_is_long_in_recovering_is_let_recover() {
    let (cluster, process, agent) = slow("long").await;
    let (primary, standby) = (cluster.primary(), &cluster.standbys()[0]);
    for _ in 0..12 {
        next_segment(primary).await;
    }
    // Replayed, this takes the place from which on the standby is consistent to its end.
    for sql in ["create table gone as select 1", "drop table gone"] {
        primary.execute(sql).await.unwrap();
    }
    cluster.wait_caught_up().await.unwrap();
    standby.kill().unwrap();
    let source = source(&cluster, primary);
    agent.rejoin(1, source, false, BOUND).await.unwrap();
    let job = job(&agent).await;
    println!("{job:?}\n{}", process.log());
    assert_as_it_was(&job);
    assert!(streams(standby).await);
}

#[tokio::test]
async fn a_copy_that_is_long_in_becoming_consistent_is_made_once() {
    let (cluster, process, agent) = slow("copied-once").await;
    let (primary, standby) = (cluster.primary(), Arc::clone(&cluster.standbys()[0]));
    standby.kill().unwrap();
    let from = source(&cluster, primary);
    agent.rejoin(1, from.clone(), true, BOUND).await.unwrap();
    // What is written while it is copied must all be replayed before it is consistent.
    let tools = freeze_copy(&standby).await;
    for _ in 0..12 {
        next_segment(primary).await;
    }
    for tool in tools {
        tool.signal(Signal::SIGCONT).unwrap();
    }
    becomes("it is copied", async || {
        let detail = status(&agent).await.job.unwrap().detail;
        detail.starts_with("start as a standby after a base backup")
    })
    .await;
    let pid = async || status(&agent).await.postmaster.pid;
    becomes("it is started", async || pid().await.is_some()).await;
    let first = pid().await;

    // The agent is killed, and another finds the copy in the midst of its recovery, and lets it go on.
    drop(process);
    let process = Agent::with(&standby, "start_timeout: 3s");
    becomes("the agent answers", async || {
        agent.status(BOUND).await.is_ok()
    })
    .await;
    let recovering = !status(&agent).await.postmaster.ready;
    agent.rejoin(1, from, true, BOUND).await.unwrap();
    let job = job(&agent).await;
    println!("{job:?}\n{}", process.log());
    assert_as_it_was(&job);
    assert!(!recovering || pid().await == first, "it was not stopped");
    assert!(streams(&standby).await);
    assert!(!status(&agent).await.unfinished_rejoin);
}

#[tokio::test]
async fn a_recovery_gives_way_at_once() {
    let cluster = builder("gives-way-at-once").standbys(1);
    let cluster = cluster.start().await.unwrap();
    let (primary, standby) = (cluster.primary(), &cluster.standbys()[0]);
    let agent = client(&cluster, standby);
    // Its recovery waits for the archive.
    let never = "alter system set restore_command = 'sleep 50'";
    standby.execute(never).await.unwrap();
    standby.kill().unwrap();
    let source = source(&cluster, primary);
    agent.rejoin(1, source.clone(), false, BOUND).await.unwrap();
    becomes("it is started", async || {
        let told = status(&agent).await;
        told.postmaster.running && !told.postmaster.ready
    })
    .await;
    agent.announce(2, BOUND).await.unwrap();
    let given_up = job(&agent).await;
    println!("{given_up:?}");
    assert_eq!(given_up.state, JobState::Failed);
    assert!(given_up.detail.contains("epoch"), "{}", given_up.detail);
    let pid = status(&agent).await.postmaster.pid;
    assert!(pid.is_some(), "and stops nothing");
    agent.stop(3, StopMode::Immediate, BOUND).await.unwrap();
    assert_eq!(status(&agent).await.postmaster.pid, None);
}
