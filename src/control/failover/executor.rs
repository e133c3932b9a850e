//! The executor: carries out one command of a plan. Each can be repeated, and each has a bound.

use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use postgres_protocol::escape::escape_literal;
use tokio_postgres::Client;

use super::conninfo;
use super::facts::Facts;
use super::server_poller;
use crate::agent::api::{LeaseAnswer, Peer, PeerRule, Role, Source, StopMode};
use crate::agent::client::{AgentClient, AgentError};
use crate::config::{Config, Failover, Node};
use crate::control::leaving;
use crate::core::failover::FailoverPolicy;
use crate::core::failover::command::{Act, Command, Stop};
use crate::core::failover::facts::observation::RejoinJob;
use crate::core::failover::failsafe;
use crate::core::topology::NodeId;
use crate::pg;

/// Bound on one statement or one call; much longer ones are jobs, which are only begun here.
pub(super) const BOUND: Duration = Duration::from_secs(2);
/// Bound on asking for a lease: it counts from when that was begun, or this much later.
pub(super) const LEASE_BOUND: Duration = Duration::from_millis(500);

/// Why a command was not carried out, for people.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct CommandError(String);

impl CommandError {
    pub(super) fn new(text: String) -> Self {
        Self(text)
    }
}

impl From<tokio_postgres::Error> for CommandError {
    fn from(error: tokio_postgres::Error) -> Self {
        Self(pg::describe(&error))
    }
}

/// What commands are carried out with.
pub(super) struct Executor {
    pub(super) config: Arc<Config>,
    pub(super) failover: Failover,
    pub(super) policy: Arc<FailoverPolicy>,
    pub(super) facts: Arc<Facts>,
    pub(super) agents: Vec<Option<Arc<AgentClient>>>,
    /// This proxy's name among those that share the cluster.
    pub(super) name: String,
}

impl Executor {
    /// Carries out a command that speaks to a server or an agent. The others are the controller's.
    pub(super) async fn carry_out(&self, command: &Command) -> Result<(), CommandError> {
        let epoch = command.epoch;
        match &command.act {
            // What clients may do follows from the record, and what people are told is the
            // controller's business.
            Act::Hold | Act::Release | Act::CloseBackends(_) | Act::Report(_) => Ok(()),
            Act::Detach(standby) => self.follow(*standby, None).await,
            Act::Follow { standby, primary } => self.follow(*standby, Some(*primary)).await,
            Act::SetSync { node, rule } => self.set_rule(command, *node, rule).await,
            Act::ResetSync(node) => self.reset_rule(*node).await,
            Act::ProveSync { node, rule } => self.prove_rule(command, *node, rule).await,
            Act::Promote(node) => self.promote(*node, epoch).await,
            Act::Heartbeat(node) => {
                self.facts.heartbeat();
                self.run(*node, &[HEARTBEAT]).await
            }
            Act::Checkpoint(node) => {
                let ended = self.checkpoint(*node).await;
                self.facts.checkpoint_ended(*node, epoch);
                ended
            }
            Act::Fence(node) => self.fence(*node, epoch).await,
            Act::Stop { node, how } => {
                let (mode, bound) = match how {
                    Stop::Immediate => (StopMode::Immediate, BOUND),
                    Stop::Fast => (StopMode::Fast, self.patience()),
                };
                let agent = self.agent(*node)?;
                let stopped = asked(agent.stop(epoch, mode, bound)).await;
                self.facts.want_agent(*node);
                stopped
            }
            Act::StartAsPrimary(node) => {
                let agent = self.agent(*node)?;
                asked(agent.start(epoch, Role::Primary, None, self.patience())).await
            }
            Act::StartAsStandby { node, primary } => {
                self.facts.starting(*node);
                let source = primary.map(|primary| self.source(primary)).transpose()?;
                let agent = self.agent(*node)?;
                asked(agent.start(epoch, Role::Standby, source, self.patience())).await
            }
            Act::Rejoin {
                node,
                primary,
                copy,
            } => self.rejoin(*node, *primary, *copy, epoch).await,
            Act::ReleaseLease(node) => self.release_unless_renewed(*node).await,
            Act::RenewLease { node, failsafe } => {
                let agent = self.agent(*node)?;
                let rule = failsafe.as_ref().map(|rule| self.failsafe_rule(rule));
                asked(self.lease(*node, agent, epoch, rule)).await
            }
            Act::Announce(node) => {
                let agent = self.agent(*node)?;
                let announced = asked(agent.announce(epoch, BOUND)).await;
                self.facts.want_agent(*node);
                announced
            }
        }
    }

    async fn lease(
        &self,
        node: NodeId,
        agent: &AgentClient,
        epoch: u64,
        failsafe: Option<PeerRule>,
    ) -> Result<LeaseAnswer, AgentError> {
        // Noted before it leaves: from now on it may have reached the agent.
        self.facts.renewing(node);
        let lease = Duration::from_micros(self.policy.lease_us);
        let granted = agent
            .lease_with(epoch, &self.name, lease, failsafe, LEASE_BOUND)
            .await;
        if granted.is_ok() {
            self.facts.granted(node);
        }
        granted
    }

    /// From now on its agent lets the server of a node alone.
    pub(super) async fn release(&self, node: NodeId, epoch: u64) -> Result<(), CommandError> {
        let agent = self.agent(node)?;
        self.facts.releasing(node);
        asked(agent.release(epoch, BOUND)).await
    }

    /// The same, but not where another proxy, of whom this one's record knows nothing, renews the lease, and
    /// in the epoch of whoever decided last: a higher one would shut that one out.
    async fn release_unless_renewed(&self, node: NodeId) -> Result<(), CommandError> {
        let agent = self.agent(node)?;
        let failed = |error: AgentError| CommandError(error.to_string());
        if leaving::is_renewed(agent).await.map_err(failed)? {
            return Ok(());
        }
        let status = agent.status(BOUND).await.map_err(failed)?;
        self.release(node, status.highest_epoch).await
    }

    /// The rule as an agent reads it: with the others' addresses.
    fn failsafe_rule(&self, rule: &failsafe::FailsafeRule) -> PeerRule {
        let peers = rule.members.iter().filter_map(|member| {
            let node = self.config.nodes.get(usize::from(member.0))?;
            let url = node.agent.as_ref()?;
            Some(Peer {
                node: node.name.clone(),
                host: url.host.clone(),
                port: url.port,
            })
        });
        PeerRule {
            version: rule.version,
            needed: rule.needed,
            peers: peers.collect(),
        }
    }

    /// How long a stop or a start may take.
    fn patience(&self) -> Duration {
        Duration::from_micros(self.policy.stop_us)
    }

    async fn follow(&self, standby: NodeId, primary: Option<NodeId>) -> Result<(), CommandError> {
        let conninfo = match primary {
            Some(primary) => conninfo::towards(
                self.node(primary)?,
                self.failover.replication.as_ref(),
                &self.policy.name(standby),
            ),
            None => String::new(),
        };
        let set = alter("primary_conninfo", &conninfo);
        // Another's command of an earlier epoch may be on its way in such a session.
        self.run(standby, &[END_OTHERS, &set, RELOAD]).await
    }

    async fn promote(&self, node: NodeId, epoch: u64) -> Result<(), CommandError> {
        if let Ok(agent) = self.agent(node) {
            // Its agent stops a primary without a lease, so it is given one first. One that cannot be
            // reached is not waited for: clients do.
            let granted = self.lease(node, agent, epoch, None).await;
            if let Err(error @ AgentError::Refused { .. }) = granted {
                return Err(CommandError(error.to_string()));
            }
        }
        let client = self.connect(node, CONTROL).await?;
        let promote = "SELECT NOT pg_is_in_recovery() OR pg_promote(false)";
        bounded(async { Ok(client.batch_execute(promote).await?) }).await
    }

    async fn checkpoint(&self, node: NodeId) -> Result<(), CommandError> {
        let client = self.connect(node, CONTROL).await?;
        let bound = Duration::from_micros(self.policy.checkpoint_us);
        let work = client.batch_execute("CHECKPOINT");
        match tokio::time::timeout(bound, work).await {
            Ok(ended) => Ok(ended?),
            Err(_) => Err(CommandError(format!("not done in {bound:?}"))),
        }
    }

    async fn fence(&self, node: NodeId, epoch: u64) -> Result<(), CommandError> {
        let command = self.failover.fence_command.as_ref();
        let command =
            command.ok_or_else(|| CommandError("no fence_command is configured".to_owned()))?;
        self.shell(command, node, None).await?;
        self.facts.fenced_by_command(node, epoch);
        Ok(())
    }

    async fn rejoin(
        &self,
        node: NodeId,
        primary: NodeId,
        copy: bool,
        epoch: u64,
    ) -> Result<(), CommandError> {
        if let Ok(agent) = self.agent(node) {
            let source = self.source(primary)?;
            return asked(agent.rejoin(epoch, source, copy, BOUND)).await;
        }
        let command = self.failover.rejoin_command.as_ref();
        let command =
            command.ok_or_else(|| CommandError("neither agent nor rejoin_command".to_owned()))?;
        self.facts.job(node, RejoinJob::Running);
        let ended = self.shell(command, node, Some(primary)).await;
        let job = match &ended {
            Ok(()) => RejoinJob::Done {
                at_us: self.facts.now_us(),
            },
            Err(CommandError(detail)) => RejoinJob::Failed {
                at_us: self.facts.now_us(),
                detail: detail.clone(),
            },
        };
        self.facts.job(node, job);
        ended
    }

    /// Runs an operator's command for a node, which is named in its environment.
    async fn shell(
        &self,
        command: &str,
        node: NodeId,
        primary: Option<NodeId>,
    ) -> Result<(), CommandError> {
        let mut shell = tokio::process::Command::new("/bin/sh");
        shell
            .arg("-c")
            .arg(command)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .kill_on_drop(true);
        let server = self.node(node)?;
        shell
            .env("CAUSEWAY_NODE", &server.name)
            .env("CAUSEWAY_HOST", &server.host)
            .env("CAUSEWAY_PORT", server.port.to_string());
        if let Some(primary) = primary {
            let primary = self.node(primary)?;
            shell
                .env("CAUSEWAY_PRIMARY", &primary.name)
                .env("CAUSEWAY_PRIMARY_HOST", &primary.host)
                .env("CAUSEWAY_PRIMARY_PORT", primary.port.to_string());
        }
        let status = tokio::time::timeout(self.patience(), shell.status())
            .await
            .map_err(|_| CommandError(format!("not done in {:?}", self.patience())))?
            .map_err(|error| CommandError(format!("run /bin/sh: {error}")))?;
        if status.success() {
            Ok(())
        } else {
            Err(CommandError(format!("it ended with {status}")))
        }
    }

    async fn run(&self, node: NodeId, statements: &[&str]) -> Result<(), CommandError> {
        let client = self.connect(node, CONTROL).await?;
        bounded(async {
            for statement in statements {
                // One by one: ALTER SYSTEM cannot run in a block.
                client.batch_execute(statement).await?;
            }
            Ok(())
        })
        .await
    }

    pub(super) async fn connect(&self, node: NodeId, name: &str) -> Result<Client, CommandError> {
        let server = self.node(node)?;
        let login = server_poller::connect(server, &self.config.monitor, name);
        bounded(async { Ok(login.await?) }).await
    }

    fn node(&self, node: NodeId) -> Result<&Node, CommandError> {
        let found = self.config.nodes.get(usize::from(node.0));
        found.ok_or_else(|| CommandError(format!("node {} is not configured", node.0)))
    }

    fn agent(&self, node: NodeId) -> Result<&AgentClient, CommandError> {
        let found = self
            .agents
            .get(usize::from(node.0))
            .and_then(Option::as_ref);
        found
            .map(|agent| &**agent)
            .ok_or_else(|| CommandError(format!("{} has no agent", self.policy.name(node))))
    }

    fn source(&self, primary: NodeId) -> Result<Source, CommandError> {
        let node = self.node(primary)?;
        let login = self.failover.replication.as_ref();
        let password = login.and_then(|login| login.password.as_ref());
        Ok(Source {
            host: node.host.clone(),
            port: node.port,
            user: login.map(|login| login.user.clone()),
            password: password.map(|password| password.reveal().to_owned()),
        })
    }
}

/// Name of the sessions in which commands are given.
const CONTROL: &str = "causeway control";
pub(super) const RELOAD: &str = "SELECT pg_reload_conf()";
/// Waits for its own disk and for no standby: `synchronous_commit` is `local` in these sessions.
const HEARTBEAT: &str = "SELECT pg_logical_emit_message(true, 'causeway', 'heartbeat')";
const END_OTHERS: &str = "\
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
 WHERE application_name = 'causeway control' AND usename = current_user AND pid <> pg_backend_pid()";

pub(super) fn alter(setting: &str, value: &str) -> String {
    format!("ALTER SYSTEM SET {setting} = {}", escape_literal(value))
}

pub(super) async fn bounded<T>(
    work: impl Future<Output = Result<T, CommandError>>,
) -> Result<T, CommandError> {
    tokio::time::timeout(BOUND, work)
        .await
        .unwrap_or_else(|_| Err(CommandError(format!("no answer within {BOUND:?}"))))
}

/// What an agent was asked; every call of its client has a bound.
async fn asked<T, E: std::fmt::Display>(
    work: impl Future<Output = Result<T, E>>,
) -> Result<(), CommandError> {
    match work.await {
        Ok(_) => Ok(()),
        Err(error) => Err(CommandError(error.to_string())),
    }
}
