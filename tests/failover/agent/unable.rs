//! A standby whose server does not come up: what is in its way is ended, waited for, told of, or replaced,
//! whichever helps.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::MetadataExt;

use nix::sys::signal::Signal;
use pgcauseway::agent::api::{JobState, Role};
use pgcauseway::process;
use pgcauseway::rig::Node;

use super::supervise::Agent;
use super::support::{builder, client, job, source, status, streams, waiting_archive};
use crate::support::{BOUND, becomes};

/// Another directory in its place has another one.
fn inode(node: &Node) -> u64 {
    fs::metadata(node.data()).unwrap().ino()
}

#[tokio::test]
async fn what_a_dead_postmaster_has_left_keeps_no_server_from_starting() {
    let cluster = builder("orphan").standbys(1).start().await.unwrap();
    let (primary, standby) = (cluster.primary(), &cluster.standbys()[0]);
    let agent = client(&cluster, standby);
    let session = standby.admin().await.unwrap();
    let backend = session.query_one("select pg_backend_pid()", &[]).await;
    let orphan = process::look(backend.unwrap().get(0)).unwrap();
    // It notices nothing, as one in a long computation would not.
    orphan.signal(Signal::SIGSTOP).unwrap();
    let postmaster = process::look(standby.pid().unwrap()).unwrap();
    postmaster.signal(Signal::SIGKILL).unwrap();
    becomes("its agent sees it gone", async || {
        !status(&agent).await.postmaster.running
    })
    .await;
    assert!(orphan.is_alive());
    let source = Some(source(&cluster, primary));
    let started = agent.start(1, Role::Standby, source, BOUND).await;
    started.unwrap();
    assert!(!orphan.is_alive());
    becomes("it streams", async || streams(standby).await).await;
}

#[tokio::test]
async fn a_standby_whose_control_file_is_damaged_is_copied() {
    let cluster = builder("damaged").standbys(1).start().await.unwrap();
    let (primary, standby) = (cluster.primary(), &cluster.standbys()[0]);
    let agent = client(&cluster, standby);
    standby.kill().unwrap();
    let path = standby.data().join("global/pg_control");
    let mut bytes = fs::read(&path).unwrap();
    // None of the fields that an agent reads.
    bytes[100] ^= 1;
    fs::write(&path, bytes).unwrap();
    let source = source(&cluster, primary);
    agent.rejoin(1, source, false, BOUND).await.unwrap();
    let job = job(&agent).await;
    println!("{job:?}");
    assert_eq!(job.state, JobState::Done, "{}", job.detail);
    assert!(job.detail.starts_with("copied"), "{}", job.detail);
}

#[tokio::test]
async fn a_standby_that_its_settings_keep_from_starting_is_not_copied() {
    let cluster = builder("mistyped").standbys(1).start().await.unwrap();
    let (primary, standby) = (cluster.primary(), &cluster.standbys()[0]);
    let agent = client(&cluster, standby);
    standby.kill().unwrap();
    let before = inode(standby);
    let settings = standby.data().join("postgresql.auto.conf");
    let right = fs::read(&settings).unwrap();
    let mut file = OpenOptions::new().append(true).open(&settings).unwrap();
    file.write_all(b"work_memm = '4MB'\n").unwrap();
    let source = source(&cluster, primary);
    agent.rejoin(1, source.clone(), false, BOUND).await.unwrap();
    let failed = job(&agent).await;
    println!("{failed:?}");
    assert_eq!(failed.state, JobState::Failed, "{}", failed.detail);
    assert!(failed.detail.contains("work_memm"), "{}", failed.detail);
    assert!(failed.detail.ends_with("a copy would start no better"));
    assert_eq!(inode(standby), before);

    fs::write(&settings, right).unwrap();
    agent.rejoin(1, source, false, BOUND).await.unwrap();
    let back = job(&agent).await;
    assert!(back.detail.starts_with("streams as it was"), "{back:?}");
    assert_eq!(inode(standby), before);
}

#[tokio::test]
async fn an_archive_that_does_not_answer_costs_no_data() {
    let cluster = builder("archive-hangs").standbys(1).start().await.unwrap();
    let (primary, standby) = (cluster.primary(), &cluster.standbys()[0]);
    let (command, answers) = waiting_archive(&cluster);
    standby.set("restore_command", &command).await.unwrap();
    let process = Agent::with(standby, "start_timeout: 3s");
    let agent = client(&cluster, standby);
    becomes("the agent answers", async || {
        agent.status(BOUND).await.is_ok()
    })
    .await;
    standby.kill().unwrap();
    let before = inode(standby);
    let source = source(&cluster, primary);
    agent.rejoin(1, source, false, BOUND).await.unwrap();
    let failed = job(&agent).await;
    println!("{failed:?}\n{}", process.log());
    assert_eq!(failed.state, JobState::Failed, "{}", failed.detail);
    assert!(
        failed.detail.starts_with("its restore_command"),
        "{}",
        failed.detail
    );
    assert!(status(&agent).await.postmaster.running);
    fs::write(answers, "").unwrap();
    becomes("it streams", async || streams(standby).await).await;
    assert_eq!(inode(standby), before);
}

#[tokio::test]
async fn what_a_primary_wrote_is_known_before_its_first_checkpoint() {
    let cluster = builder("wrote").standbys(1).start().await.unwrap();
    let standby = &cluster.standbys()[0];
    let agent = client(&cluster, standby);
    cluster.wait_caught_up().await.unwrap();
    let sql = "select pid from pg_stat_activity where backend_type = 'checkpointer'";
    let checkpointer = process::look(standby.query(sql).await.unwrap()).unwrap();
    checkpointer.signal(Signal::SIGSTOP).unwrap();
    standby.promote().await.unwrap();
    standby.kill().unwrap();
    becomes("its agent sees it gone", async || {
        !status(&agent).await.postmaster.running
    })
    .await;
    let told = status(&agent).await;
    assert_eq!((told.role, told.timeline), (Some(Role::Primary), Some(2)));
}
