//! Supervised, as in a container: the server starts and stops with its agent, and is started again; a
//! former primary waits for the proxies.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pgcauseway::agent::api::{Role, StopMode};
use pgcauseway::process;
use pgcauseway::rig::{Node, StopMode as Stop};

use super::support::{builder, client, source, status};
use crate::support::{BOUND, becomes};

/// An agent in the place of the rig's, with settings of its own; killed when dropped.
pub(super) struct Agent {
    child: Child,
    log: PathBuf,
}

impl Agent {
    fn start(node: &Node) -> Self {
        Self::with(node, "supervise: true")
    }

    /// With a line in its section `postgres`.
    pub(super) fn with(node: &Node, line: &str) -> Self {
        let rig = node.agent().unwrap();
        rig.kill().unwrap();
        let text = fs::read_to_string(rig.config()).unwrap();
        let config = rig.config().with_extension("supervise.yaml");
        let supervised = text.replace("postgres:\n", &format!("postgres:\n  {line}\n"));
        assert_ne!(text, supervised);
        fs::write(&config, supervised).unwrap();
        let log = rig.log().with_extension("supervise.log");
        let child = Command::new(crate::support::PROGRAM)
            .args(["agent", "--config"])
            .arg(config)
            .stderr(File::create(&log).unwrap())
            .spawn()
            .unwrap();
        Self { child, log }
    }

    pub(super) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Asks it to end, and waits until it has.
    async fn end(mut self) -> ExitStatus {
        let pid = Pid::from_raw(self.child.id().try_into().unwrap());
        kill(pid, Signal::SIGTERM).unwrap();
        let mut ended = None;
        becomes("the agent ends", || {
            ended = self.child.try_wait().unwrap();
            std::future::ready(ended.is_some())
        })
        .await;
        ended.unwrap()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn runs(node: &Arc<Node>) -> i32 {
    becomes("the server answers", async || {
        node.query::<i32>("select 1").await.is_ok()
    })
    .await;
    node.pid().unwrap()
}

#[tokio::test]
async fn the_server_starts_and_stops_with_its_agent() {
    let cluster = builder("supervise").standbys(1).start().await.unwrap();
    let (primary, standby) = (cluster.primary(), &cluster.standbys()[0]);
    for node in [standby, primary] {
        node.agent().unwrap().kill().unwrap();
        node.stop(Stop::Fast).await.unwrap();
    }

    // Nobody has governed them: each becomes again what it was.
    let leading = Agent::start(primary);
    let first = runs(primary).await;
    let following = Agent::start(standby);
    let second = runs(standby).await;
    standby.wait_streaming().await.unwrap();

    // What ends by itself is started again.
    standby.kill_postmaster().unwrap();
    becomes("the standby is started again", async || {
        standby.pid().is_some_and(|pid| pid != second)
    })
    .await;
    runs(standby).await;

    // In good order, and both agents end well.
    assert!(following.end().await.success());
    assert_eq!(standby.pid(), None);
    let agent = client(&cluster, primary);
    let ttl = Duration::from_secs(600);
    agent.lease(1, "test", ttl, BOUND).await.unwrap();
    assert!(leading.end().await.success());
    assert_eq!(primary.pid(), None);
    assert!(!process::look(first).is_some_and(process::Process::is_alive));

    // Governed since, the primary waits; and it stopped in good order.
    let waiting = Agent::start(primary);
    becomes("the agent says why", async || {
        waiting.log().contains("for the proxies to say")
    })
    .await;
    let told = status(&agent).await;
    assert!(!told.postmaster.running, "{told:?}");
    assert_eq!(told.cluster_state.as_deref(), Some("shut down"));
    agent.lease(2, "test", ttl, BOUND).await.unwrap();
    agent.start(2, Role::Primary, None, BOUND).await.unwrap();
    runs(primary).await;
}

#[tokio::test]
async fn a_standby_that_wakes_from_a_freeze_goes_on() {
    let cluster = builder("woken").standbys(1).start().await.unwrap();
    let standby = &cluster.standbys()[0];
    let (agent, process) = (client(&cluster, standby), standby.agent().unwrap());
    // Governed: as a primary it would have to be stopped.
    agent.stop(1, StopMode::Immediate, BOUND).await.unwrap();
    let follows = Some(source(&cluster, cluster.primary()));
    let started = agent.start(1, Role::Standby, follows, BOUND).await.unwrap();
    standby.wait_streaming().await.unwrap();
    for _ in 0..3 {
        process.freeze().unwrap();
        standby.freeze().unwrap();
        // Longer than a look at the server is worth something.
        tokio::time::sleep(Duration::from_millis(2_500)).await;
        process.thaw().unwrap();
        // Both threads have had their turn once a new look is told.
        becomes("the agent has looked again", async || {
            status(&agent).await.postmaster.frozen
        })
        .await;
        standby.thaw().unwrap();
        becomes("the server answers", async || status(&agent).await.answers).await;
        assert_eq!(standby.pid(), Some(started.pid));
    }
}
