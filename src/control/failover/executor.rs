//! The executor: carries out one command of a plan. Each can be repeated, and each has a bound.

use std::sync::Arc;
use std::time::Duration;

use postgres_protocol::escape::escape_literal;
use tokio_postgres::Client;
use tokio_postgres::error::{DbError, Severity};

use super::conninfo::{self, Conninfos};
use super::control_sessions::{CONTROL, ControlSessions, END_OTHERS, HEARTBEAT, OrderSession};
use super::facts::Facts;
use super::login;
use super::readers::{self, READERS};
use super::shell;
use crate::agent::api::{LeaseAnswer, Peer, PeerRule, Role, Source, StopMode};
use crate::agent::client::{AgentClient, AgentError};
use crate::config::{Config, Failover, Node};
use crate::control::leaving;
use crate::core::failover::FailoverPolicy;
use crate::core::failover::command::{Act, Command, Stop};
use crate::core::failover::facts::observation::RejoinJob;
use crate::core::failover::failsafe;
use crate::core::failover::slots;
use crate::core::topology::NodeId;
use crate::pg;
use crate::shared::operator::OperatorState;

/// Bound on one statement or one call; much longer ones are jobs, which are only begun here.
pub(super) const BOUND: Duration = Duration::from_secs(2);
/// Bound on asking for a lease: it counts from when that was begun, or this much later.
pub(super) const LEASE_BOUND: Duration = Duration::from_millis(500);

/// Why a command was not carried out, for people.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub(super) struct CommandError {
    text: String,
    /// The server has refused a statement, in a session that goes on.
    refused: bool,
}

impl CommandError {
    pub(super) fn new(text: String) -> Self {
        Self {
            text,
            refused: false,
        }
    }
}

impl From<tokio_postgres::Error> for CommandError {
    fn from(error: tokio_postgres::Error) -> Self {
        let severity = error.as_db_error().and_then(DbError::parsed_severity);
        Self {
            text: pg::describe(&error),
            refused: severity == Some(Severity::Error),
        }
    }
}

/// What commands are carried out with.
pub(super) struct Executor {
    pub(super) config: Arc<Config>,
    pub(super) failover: Failover,
    pub(super) policy: Arc<FailoverPolicy>,
    pub(super) facts: Arc<Facts>,
    pub(super) agents: Vec<Option<Arc<AgentClient>>>,
    pub(super) operator: Arc<OperatorState>,
    pub(super) sessions: Arc<ControlSessions>,
    pub(super) conninfos: Arc<Conninfos>,
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
            Act::Detach(standby) => self.detach(*standby).await,
            Act::Follow { standby, primary } => self.follow(*standby, *primary, epoch).await,
            Act::SetSync { node, rule } => self.set_rule(command, *node, rule).await,
            Act::ResetSync(node) => self.reset_rule(*node).await,
            Act::ProveSync { node, rule } => self.prove_rule(command, *node, rule).await,
            Act::Promote(node) => self.promote(*node, epoch).await,
            Act::EndReaders(node) => self.end_readers(*node).await,
            Act::Heartbeat(node) => {
                self.facts.heartbeat();
                self.heartbeat(*node).await
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
                let source = match primary {
                    Some(primary) => Some(self.source_for(*node, *primary).await?),
                    None => None,
                };
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
        let name = self.policy.name(node);
        let problems = &self.operator.problems;
        match &granted {
            Ok(_) => {
                self.facts.granted(node);
                problems.report(&name, "lease", None);
            }
            Err(error @ AgentError::Refused { .. }) => {
                let text = format!("its lease is not renewed: {error}");
                if problems.report(&name, "lease", Some(text)) {
                    tracing::warn!(node = name, %error, "its lease is not renewed");
                }
            }
            Err(_) => {}
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
        let failed = |error: AgentError| CommandError::new(error.to_string());
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

    async fn detach(&self, standby: NodeId) -> Result<(), CommandError> {
        let set = alter("primary_conninfo", "");
        // Another's command of an earlier epoch may be on its way in such a session.
        self.run(standby, &[END_OTHERS, &set, RELOAD]).await
    }

    async fn follow(
        &self,
        standby: NodeId,
        primary: NodeId,
        epoch: u64,
    ) -> Result<(), CommandError> {
        // It may be told to use a slot already, and would find nothing without.
        self.ensure_slot(primary, standby).await;
        let server = self.node(primary)?;
        let login = self.failover.replication.as_ref();
        let name = self.policy.name(standby);
        let Ok(agent) = self.agent(standby) else {
            let set = alter("primary_conninfo", &conninfo::towards(server, login, &name));
            // There may be a password in it: in a session that is not used for anything else.
            let session = OrderSession::New(self.connect(standby, CONTROL).await?);
            let statements = [END_OTHERS, UNTOLD, &set, RELOAD];
            return self.run_in(standby, &session, &statements).await;
        };
        let source = self.source(primary)?;
        let told = match agent.upstream(epoch, source, LEASE_BOUND).await {
            Ok(answer) => Some(answer.conninfo),
            Err(error @ AgentError::Refused { .. }) => {
                return Err(CommandError::new(error.to_string()));
            }
            Err(error) => {
                tracing::warn!(node = %name, %error, "primary_conninfo is written without its agent");
                None
            }
        };
        let unheard = || conninfo::without_password(server, login, &name);
        let conninfo = self.conninfos.of(standby, told, server, unheard);
        let set = alter("primary_conninfo", &conninfo);
        self.run(standby, &[END_OTHERS, &set, RELOAD]).await
    }

    async fn promote(&self, node: NodeId, epoch: u64) -> Result<(), CommandError> {
        if let Ok(agent) = self.agent(node) {
            // Its agent stops a primary without a lease, so it is given one first. One that cannot be
            // reached is not waited for: clients do.
            let granted = self.lease(node, agent, epoch, None).await;
            if let Err(error @ AgentError::Refused { .. }) = granted {
                return Err(CommandError::new(error.to_string()));
            }
        }
        let promote = "SELECT NOT pg_is_in_recovery() OR pg_promote(false)";
        self.run(node, &[promote]).await
    }

    async fn heartbeat(&self, node: NodeId) -> Result<(), CommandError> {
        let Some(kept) = self.sessions.of(node) else {
            return self.run(node, &[HEARTBEAT]).await;
        };
        let beat = bounded(async {
            kept.client.execute(&kept.heartbeat, &[]).await?;
            Ok(())
        });
        let beaten = beat.await;
        self.after(node, &OrderSession::Kept(kept), beaten)
    }

    async fn end_readers(&self, node: NodeId) -> Result<(), CommandError> {
        let client = self.connect(node, READERS).await?;
        let found = bounded(async { Ok(readers::end(&client).await?) }).await?;
        if found.ended > 0 {
            let (node, sessions) = (self.policy.name(node), found.ended);
            tracing::warn!(node, sessions, "sessions that held up its replay are ended");
        }
        match found.left {
            0 => Ok(()),
            left => Err(CommandError::new(format!(
                "sessions of superusers hold up its replay: {left}"
            ))),
        }
    }

    async fn checkpoint(&self, node: NodeId) -> Result<(), CommandError> {
        let client = self.connect(node, CHECKPOINTS).await?;
        let bound = Duration::from_micros(self.policy.checkpoint_us);
        let work = client.batch_execute("CHECKPOINT");
        match tokio::time::timeout(bound, work).await {
            Ok(ended) => Ok(ended?),
            Err(_) => Err(CommandError::new(format!("not done in {bound:?}"))),
        }
    }

    async fn fence(&self, node: NodeId, epoch: u64) -> Result<(), CommandError> {
        let command = self.failover.fence_command.as_ref();
        let command = command
            .ok_or_else(|| CommandError::new("no fence_command is configured".to_owned()))?;
        self.facts.fence_command_begins(node, epoch);
        let ended = self.shell(command, node, None).await;
        self.facts.fence_command_ended(node, epoch, ended.is_ok());
        ended
    }

    async fn rejoin(
        &self,
        node: NodeId,
        primary: NodeId,
        copy: bool,
        epoch: u64,
    ) -> Result<(), CommandError> {
        if let Ok(agent) = self.agent(node) {
            let source = self.source_for(node, primary).await?;
            return asked(agent.rejoin(epoch, source, copy, BOUND)).await;
        }
        let command = self.failover.rejoin_command.as_ref();
        let command = command
            .ok_or_else(|| CommandError::new("neither agent nor rejoin_command".to_owned()))?;
        self.facts.job(node, RejoinJob::Running);
        let ended = self.shell(command, node, Some(primary)).await;
        let job = match &ended {
            Ok(()) => RejoinJob::Done {
                at_us: self.facts.now_us(),
            },
            Err(error) => RejoinJob::Failed {
                at_us: self.facts.now_us(),
                detail: error.to_string(),
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
        let server = self.node(node)?;
        let mut variables = vec![
            ("CAUSEWAY_NODE", server.name.clone()),
            ("CAUSEWAY_HOST", server.host.clone()),
            ("CAUSEWAY_PORT", server.port.to_string()),
        ];
        if let Some(primary) = primary {
            let primary = self.node(primary)?;
            variables.extend([
                ("CAUSEWAY_PRIMARY", primary.name.clone()),
                ("CAUSEWAY_PRIMARY_HOST", primary.host.clone()),
                ("CAUSEWAY_PRIMARY_PORT", primary.port.to_string()),
            ]);
        }
        let ended = shell::run(command, &variables, self.patience()).await;
        ended.map_err(CommandError::new)
    }

    async fn run(&self, node: NodeId, statements: &[&str]) -> Result<(), CommandError> {
        let session = self.session(node).await?;
        self.run_in(node, &session, statements).await
    }

    async fn run_in(
        &self,
        node: NodeId,
        session: &OrderSession,
        statements: &[&str],
    ) -> Result<(), CommandError> {
        let ran = bounded(async {
            for statement in statements {
                // One by one: ALTER SYSTEM cannot run in a block.
                session.batch_execute(statement).await?;
            }
            Ok(())
        });
        let ran = ran.await;
        self.after(node, session, ran)
    }

    /// The session for an order: the one that is kept, or else a new one.
    pub(super) async fn session(&self, node: NodeId) -> Result<OrderSession, CommandError> {
        match self.sessions.of(node) {
            Some(kept) => Ok(OrderSession::Kept(kept)),
            None => Ok(OrderSession::New(self.connect(node, CONTROL).await?)),
        }
    }

    /// How an order has ended. No other is to wait behind one that is not known to have.
    pub(super) fn after(
        &self,
        node: NodeId,
        session: &OrderSession,
        ended: Result<(), CommandError>,
    ) -> Result<(), CommandError> {
        if let (Err(error), OrderSession::Kept(kept)) = (&ended, session)
            && !error.refused
        {
            self.sessions.discard(node, kept);
        }
        ended
    }

    pub(super) async fn connect(&self, node: NodeId, name: &str) -> Result<Client, CommandError> {
        let server = self.node(node)?;
        let login = login::connect(server, &self.config.monitor, name);
        bounded(async { Ok(login.await?) }).await
    }

    fn node(&self, node: NodeId) -> Result<&Node, CommandError> {
        let found = self.config.nodes.get(usize::from(node.0));
        found.ok_or_else(|| CommandError::new(format!("node {} is not configured", node.0)))
    }

    fn agent(&self, node: NodeId) -> Result<&AgentClient, CommandError> {
        let found = self
            .agents
            .get(usize::from(node.0))
            .and_then(Option::as_ref);
        found
            .map(|agent| &**agent)
            .ok_or_else(|| CommandError::new(format!("{} has no agent", self.policy.name(node))))
    }

    /// Makes a node's slot on the primary if there is none; its name, if there are to be slots and it is
    /// there.
    async fn ensure_slot(&self, primary: NodeId, node: NodeId) -> Option<String> {
        self.failover.slots?;
        let name = slots::name(&self.policy.name(node));
        let made = async {
            let client = self.connect(primary, SLOTS).await?;
            bounded(async { Ok(client.execute(CREATE_SLOT, &[&name]).await?) }).await
        };
        match made.await {
            Ok(_) => Some(name),
            Err(error) => {
                let node = self.policy.name(primary);
                tracing::warn!(%node, slot = name, %error, "could not make a replication slot");
                None
            }
        }
    }

    /// A node that is told to follow the primary finds its slot there.
    async fn source_for(&self, node: NodeId, primary: NodeId) -> Result<Source, CommandError> {
        Ok(Source {
            slot: self.ensure_slot(primary, node).await,
            ..self.source(primary)?
        })
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
            conninfo: login
                .map(|login| login.conninfo.clone())
                .filter(|conninfo| !conninfo.is_empty()),
            slot: None,
        })
    }
}

/// Name of the sessions that make checkpoints, which no other order ends.
const CHECKPOINTS: &str = "causeway checkpoint";
/// Name of the sessions that make replication slots and look at them.
pub(super) const SLOTS: &str = "causeway slots";
pub(super) const CREATE_SLOT: &str = "\
SELECT pg_create_physical_replication_slot($1::text::name, true)
 WHERE NOT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = $1::text::name)";
pub(super) const RELOAD: &str = "SELECT pg_reload_conf()";

/// As far as it may, keeps what follows in the session out of the log, the statistics and the list of
/// sessions; what must not be set by it is left.
const UNTOLD: &str = "\
DO $$ DECLARE setting text[];
BEGIN
  FOREACH setting SLICE 1 IN ARRAY
    '{{log_statement,none},{log_min_duration_statement,-1},{log_min_duration_sample,-1},
      {log_transaction_sample_rate,0},{log_min_error_statement,panic},{track_activities,off},
      {pg_stat_statements.track_utility,off},{pgaudit.log,none}}'::text[]
  LOOP
    BEGIN
      PERFORM set_config(setting[1], setting[2], false);
    EXCEPTION WHEN OTHERS THEN NULL;
    END;
  END LOOP;
END $$";

pub(super) fn alter(setting: &str, value: &str) -> String {
    format!("ALTER SYSTEM SET {setting} = {}", escape_literal(value))
}

pub(super) async fn bounded<T>(
    work: impl Future<Output = Result<T, CommandError>>,
) -> Result<T, CommandError> {
    tokio::time::timeout(BOUND, work)
        .await
        .unwrap_or_else(|_| Err(CommandError::new(format!("no answer within {BOUND:?}"))))
}

/// What an agent was asked; every call of its client has a bound.
async fn asked<T, E: std::fmt::Display>(
    work: impl Future<Output = Result<T, E>>,
) -> Result<(), CommandError> {
    match work.await {
        Ok(_) => Ok(()),
        Err(error) => Err(CommandError::new(error.to_string())),
    }
}
