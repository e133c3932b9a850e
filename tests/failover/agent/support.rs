//! A cluster with agents, and how the proxy reaches them.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use pgcauseway::agent::api::{Job, JobState, Source, Status};
use pgcauseway::agent::client::AgentClient;
use pgcauseway::config::{Agents, Config};
use pgcauseway::process::{self, Process};
use pgcauseway::rig::{Builder, Cluster, Node};

use crate::support::{BOUND, PROGRAM};

pub fn builder(name: &str) -> Builder {
    Cluster::builder(name).agents(PROGRAM)
}

pub fn config(cluster: &Cluster) -> Config {
    Config::parse("test", &cluster.yaml(), &|_| None).unwrap_or_else(|faults| panic!("{faults}"))
}

pub fn trust(cluster: &Cluster) -> Agents {
    config(cluster).agents.unwrap()
}

/// The client of the node's agent.
pub fn client(cluster: &Cluster, node: &Node) -> AgentClient {
    client_with(cluster, node, &trust(cluster))
}

pub fn client_with(cluster: &Cluster, node: &Node, agents: &Agents) -> AgentClient {
    let config = config(cluster);
    let node = config.nodes.iter().find(|known| known.name == node.name());
    AgentClient::new(node.unwrap().agent.as_ref().unwrap(), agents).unwrap()
}

/// How to follow a node.
pub fn source(cluster: &Cluster, node: &Node) -> Source {
    let login = &cluster.credentials().superuser;
    Source {
        host: "127.0.0.1".to_owned(),
        port: node.port(),
        user: Some(login.user.clone()),
        password: Some(login.password.clone()),
        conninfo: None,
        slot: None,
    }
}

pub async fn status(agent: &AgentClient) -> Status {
    agent.status(BOUND).await.unwrap()
}

/// A `restore_command` that does not end, and never finds anything, until that file is there.
pub fn waiting_archive(cluster: &Cluster) -> (String, PathBuf) {
    let directory = cluster.directory();
    let answers = directory.join("archive-answers");
    let command = format!(
        "while [ -d {} ] && [ ! -e {} ]; do sleep 0.1; done; exit 1",
        directory.display(),
        answers.display()
    );
    (command, answers)
}

/// Waits for the end of a job.
pub async fn job(agent: &AgentClient) -> Job {
    let until = Instant::now() + BOUND * 2;
    loop {
        let job = status(agent).await.job.unwrap();
        if job.state != JobState::Running {
            return job;
        }
        assert!(Instant::now() < until, "it does not end: {job:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Lets a base backup stand still in its midst, as if it were a large one; its processes.
pub async fn freeze_copy(node: &Node) -> Vec<Process> {
    let data = node.data().canonicalize().unwrap();
    let until = Instant::now() + BOUND;
    loop {
        let tools = process::working_in(&data, &["pg_basebackup"]);
        // The second one receives WAL, from where the backup has begun.
        if tools.len() == 2 {
            for tool in &tools {
                tool.signal(Signal::SIGSTOP).unwrap();
            }
            return tools;
        }
        assert!(Instant::now() < until, "it is never copied");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Whether a direct connection can write.
pub async fn takes_writes(node: &Node) -> bool {
    let write = node.execute("insert into t values (0)");
    matches!(
        tokio::time::timeout(Duration::from_secs(1), write).await,
        Ok(Ok(()))
    )
}

pub async fn streams(node: &Node) -> bool {
    let sql = "select count(*) from pg_stat_wal_receiver where status = 'streaming'";
    node.query::<i64>(sql).await.is_ok_and(|count| count == 1)
}
