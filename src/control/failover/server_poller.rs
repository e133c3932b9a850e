//! Asking one server for failover: a question at a steady pace, each with a deadline, on a
//! connection of its own, so that a slow answer to anything else is not taken for a failure.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio_postgres::types::PgLsn;
use tokio_postgres::{Client, Row, Statement};

use super::facts::{Facts, OpenTransactions};
use super::sync_names;
use super::wal_flow::WalFlow;
use crate::config::{self, Live, Node};
use crate::core::failover::FailoverPolicy;
use crate::core::failover::facts::observation::{
    Attached, Attempt, PrimaryFacts, Receiver, ReplicationRole, ServerAnswer, StandbyFacts,
    Upstream,
};
use crate::core::lsn::{Lsn, Timeline};
use crate::core::timeline::TimelineHistory;
use crate::core::topology::NodeId;
use crate::pg::queries::{self, checkpoint_timeline, primary_timeline};
use crate::pg::{self, conninfo};
use crate::shared::operator::OperatorState;

/// Between questions.
const PACE: Duration = Duration::from_millis(50);

/// A standby that does not stream at present has at least WAL files of the timeline that it streamed
/// before.
const QUESTION: &str = concat!(
    "SELECT pg_is_in_recovery() AS standby,
       (SELECT system_identifier FROM pg_control_system()) AS system,
       current_setting('synchronous_standby_names') AS names,
       current_setting('primary_conninfo') AS conninfo,
       CASE WHEN pg_is_in_recovery()
            THEN COALESCE(NULLIF(r.received_tli, 0),
                          (SELECT max(('x' || substr(name, 1, 8))::bit(32)::int4)
                             FROM pg_ls_waldir() WHERE name ~ '^[0-9A-F]{24}$'),
                          ",
    checkpoint_timeline!(),
    ")
            ELSE ",
    primary_timeline!(),
    "
       END AS timeline,
       CASE WHEN NOT pg_is_in_recovery() THEN pg_current_wal_flush_lsn() END AS flush,
       CASE WHEN pg_is_in_recovery() THEN pg_last_wal_receive_lsn() END AS received,
       CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() END AS replayed,
       CASE WHEN pg_is_in_recovery() THEN pg_is_wal_replay_paused() END AS paused,
       r.status, r.received_tli, r.latest_end_lsn, r.sender_host, r.sender_port,
       ARRAY(SELECT concat_ws(' ', state, COALESCE(flush_lsn, '0/0'), application_name)
               FROM pg_stat_replication) AS attached
  FROM (VALUES (1)) AS one LEFT JOIN pg_stat_wal_receiver AS r ON true"
);

/// For how long each transaction of a client has been open, in microseconds. It need not have come
/// through this proxy.
const OPEN: &str = "\
SELECT (extract(epoch FROM clock_timestamp() - xact_start) * 1000000)::bigint
  FROM pg_stat_activity
 WHERE backend_type = 'client backend' AND xact_start IS NOT NULL AND usename <> current_user
 LIMIT 10000";

pub(super) struct ServerPoller {
    pub(super) id: NodeId,
    pub(super) nodes: Vec<Node>,
    pub(super) live: Arc<Live>,
    pub(super) policy: Arc<FailoverPolicy>,
    pub(super) facts: Arc<Facts>,
    pub(super) operator: Arc<OperatorState>,
}

/// A connection, and what was asked once on it.
struct PollerSession {
    client: Client,
    question: Statement,
    history: Option<(Timeline, TimelineHistory)>,
    flow: WalFlow,
}

impl ServerPoller {
    /// Asks until it is dropped.
    pub(super) async fn run(self) {
        let mut session: Option<PollerSession> = None;
        loop {
            let sent_us = self.facts.now_us();
            let asked =
                tokio::time::timeout(self.deadline(), self.ask(&mut session, sent_us)).await;
            match asked {
                Ok(Ok(answer)) => self.facts.answered(self.id, answer),
                Ok(Err(error)) => {
                    self.forget(&mut session);
                    self.facts.attempted(self.id, attempt(&error));
                }
                Err(_) => {
                    self.forget(&mut session);
                    self.facts.attempted(self.id, Attempt::TimedOut);
                }
            }
            let took = self.facts.now_us().saturating_sub(sent_us);
            tokio::time::sleep(PACE.saturating_sub(Duration::from_micros(took))).await;
        }
    }

    /// Nothing is known of a node that does not answer but that.
    fn forget(&self, session: &mut Option<PollerSession>) {
        *session = None;
        WalFlow::forget(&self.operator, &self.nodes[usize::from(self.id.0)].name);
    }

    /// Several attempts fit into the time after which a silent node counts as hung.
    fn deadline(&self) -> Duration {
        let config = self.live.load();
        let failover = config.failover.as_ref();
        let timeout = failover.map_or(Duration::MAX, |failover| failover.timeout);
        (timeout / 3).min(config.monitor.timeout)
    }

    async fn ask(
        &self,
        session: &mut Option<PollerSession>,
        sent_us: u64,
    ) -> Result<ServerAnswer, tokio_postgres::Error> {
        let session = match session {
            Some(session) => session,
            None => session.insert(self.open().await?),
        };
        let row = session.client.query_one(&session.question, &[]).await?;
        let received_us = self.facts.now_us();
        let timeline = Timeline(row.try_get::<_, Option<i32>>("timeline")?.unwrap_or(0) as u32);
        let history = session.history(timeline).await;
        let answer = self.read(&row, timeline, history, (sent_us, received_us))?;
        let name = &self.nodes[usize::from(self.id.0)].name;
        let paused = row.try_get::<_, Option<bool>>("paused")?.unwrap_or(false);
        session
            .flow
            .see(&self.operator, name, &answer, paused, received_us);
        if answer.primary().is_some() && self.facts.wants_open() {
            self.ask_open(&session.client).await?;
        }
        Ok(answer)
    }

    async fn ask_open(&self, client: &Client) -> Result<(), tokio_postgres::Error> {
        let at_us = self.facts.now_us();
        let rows = client.query(OPEN, &[]).await?;
        let begun = rows.iter().map(|row| {
            let age_us: i64 = row.try_get(0)?;
            Ok(at_us.saturating_sub(u64::try_from(age_us).unwrap_or(0)))
        });
        let begun_us = begun.collect::<Result<_, tokio_postgres::Error>>()?;
        self.facts
            .opened(self.id, OpenTransactions { at_us, begun_us });
        Ok(())
    }

    async fn open(&self) -> Result<PollerSession, tokio_postgres::Error> {
        let node = &self.nodes[usize::from(self.id.0)];
        let monitor = self.live.load().monitor.clone();
        let client = connect(node, &monitor, "causeway failover").await?;
        let question = client.prepare(QUESTION).await?;
        Ok(PollerSession {
            client,
            question,
            history: None,
            flow: WalFlow::default(),
        })
    }

    fn read(
        &self,
        row: &Row,
        timeline: Timeline,
        history: Option<TimelineHistory>,
        (sent_us, received_us): (u64, u64),
    ) -> Result<ServerAnswer, tokio_postgres::Error> {
        let before = self.facts.last_answer(self.id);
        let rule = sync_names::parse(row.try_get("names")?, &self.policy);
        let rule_since_us = match &before {
            Some(before) if before.rule == rule => before.rule_since_us,
            _ => received_us,
        };
        let role = if row.try_get("standby")? {
            let before = before.as_ref().and_then(ServerAnswer::standby);
            ReplicationRole::Standby(self.standby(row, before, received_us)?)
        } else {
            ReplicationRole::Primary(PrimaryFacts {
                flush: lsn(row, "flush")?.unwrap_or_default(),
                attached: self.attached(&row.try_get::<_, Vec<String>>("attached")?),
            })
        };
        Ok(ServerAnswer {
            at_us: sent_us,
            system: row.try_get::<_, i64>("system")? as u64,
            timeline,
            history,
            rule,
            rule_since_us,
            role,
        })
    }

    fn standby(
        &self,
        row: &Row,
        before: Option<&StandbyFacts>,
        received_us: u64,
    ) -> Result<StandbyFacts, tokio_postgres::Error> {
        let received = lsn(row, "received")?;
        let conninfo: &str = row.try_get("conninfo")?;
        let upstream = match conninfo::address(conninfo) {
            None if conninfo.trim().is_empty() => Upstream::Nowhere,
            None => Upstream::Elsewhere,
            Some((host, port)) => self
                .node_at(&host, port)
                .map_or(Upstream::Elsewhere, Upstream::Node),
        };
        let status: Option<&str> = row.try_get("status")?;
        let receiver = match status {
            None => None,
            Some(status) => {
                let host: Option<&str> = row.try_get("sender_host")?;
                let port: Option<i32> = row.try_get("sender_port")?;
                let from = host
                    .zip(port.and_then(|port| u16::try_from(port).ok()))
                    .and_then(|(host, port)| self.node_at(host, port));
                let last = before.and_then(|before| before.receiver.as_ref());
                let moved = before.is_none_or(|before| before.received != received);
                let fresh_us = match last {
                    Some(last) if !moved => last.fresh_us,
                    // Just connected: that the sender answered is news as well.
                    _ => received_us,
                };
                Some(Receiver {
                    from,
                    streaming: status == "streaming",
                    timeline: Timeline(
                        row.try_get::<_, Option<i32>>("received_tli")?.unwrap_or(0) as u32
                    ),
                    fresh_us,
                    sender_at: lsn(row, "latest_end_lsn")?.unwrap_or_default(),
                })
            }
        };
        let detached = upstream == Upstream::Nowhere && receiver.is_none();
        let detached_since_us = detached.then(|| {
            let known = before.and_then(|before| before.detached_since_us);
            known.unwrap_or(received_us)
        });
        Ok(StandbyFacts {
            received,
            replayed: lsn(row, "replayed")?.unwrap_or_default(),
            upstream,
            receiver,
            detached_since_us,
        })
    }

    fn attached(&self, rows: &[String]) -> Vec<Attached> {
        let parsed = rows.iter().filter_map(|row| {
            let mut fields = row.splitn(3, ' ');
            let (state, flush, name) = (fields.next()?, fields.next()?, fields.next()?);
            let node = self.policy.ids().find(|id| self.policy.name(*id) == name)?;
            Some(Attached {
                node,
                streaming: state == "streaming",
                flush: flush.parse().ok()?,
            })
        });
        parsed.collect()
    }

    fn node_at(&self, host: &str, port: u16) -> Option<NodeId> {
        let here = |node: &Node| node.port == port && node.host.eq_ignore_ascii_case(host);
        let index = self.nodes.iter().position(here)?;
        u16::try_from(index).ok().map(NodeId)
    }
}

impl PollerSession {
    /// Read once for each timeline; a standby may get the file later than it gets the timeline.
    async fn history(&mut self, timeline: Timeline) -> Option<TimelineHistory> {
        if timeline <= Timeline(1) {
            return Some(TimelineHistory::default());
        }
        if let Some((known, history)) = &self.history
            && *known == timeline
        {
            return Some(history.clone());
        }
        let read = queries::history_file(&self.client, timeline, true).await;
        let history = TimelineHistory::parse(&read.ok()??)?;
        self.history = Some((timeline, history.clone()));
        Some(history)
    }
}

/// Logs in as the monitoring role.
pub(super) async fn connect(
    node: &Node,
    monitor: &config::Monitor,
    name: &str,
) -> Result<Client, tokio_postgres::Error> {
    let mut config = pg::monitor(node, monitor, name);
    config
        .connect_timeout(monitor.timeout)
        .options("-c statement_timeout=0 -c jit=off -c synchronous_commit=local");
    let (client, _) = pg::connect(&config).await?;
    Ok(client)
}

/// Whether nothing listens there, or something listens and does not answer as it should.
fn attempt(error: &tokio_postgres::Error) -> Attempt {
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        if let Some(io) = cause.downcast_ref::<io::Error>() {
            return match io.kind() {
                io::ErrorKind::TimedOut => Attempt::TimedOut,
                _ => Attempt::Refused,
            };
        }
        source = cause.source();
    }
    if error.is_closed() {
        Attempt::Refused
    } else {
        Attempt::TimedOut
    }
}

fn lsn(row: &Row, name: &str) -> Result<Option<Lsn>, tokio_postgres::Error> {
    let value: Option<PgLsn> = row.try_get(name)?;
    Ok(value.map(|lsn| Lsn(lsn.into())))
}
