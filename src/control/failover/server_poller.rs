//! Asking one server for failover: a question at a steady pace, each with a deadline, on a
//! connection of its own, so that a slow answer to anything else is not taken for a failure.
//!
//! The question names functions alone and is prepared once, so that it waits for no lock on a catalogue as
//! long as the session remembers what it has looked up. It may have to look again all the same, and so
//! must a login; so a late answer proves nothing while the server takes connections.

use std::collections::BTreeSet;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_postgres::types::PgLsn;
use tokio_postgres::{Client, Row, Statement};

use super::early_poller::Whose;
use super::facts::{Facts, OpenTransactions};
use super::hosts::Hosts;
use super::life::takes_connections;
use super::login::{READS, login};
use super::sync_names;
use super::wal_flow::WalFlow;
use super::wal_senders::WalSenders;
use crate::config::{Live, Node};
use crate::core::failover::FailoverPolicy;
use crate::core::failover::facts::observation::{
    Attempt, EarlyCommits, LifeSign, PrimaryFacts, Receiver, ReplicationRole, ServerAnswer,
    StandbyFacts, Upstream,
};
use crate::core::failover::policy::Durability;
use crate::core::lsn::{Lsn, Timeline};
use crate::core::timeline::TimelineHistory;
use crate::core::topology::NodeId;
use crate::pg;
use crate::pg::conninfo::{self, Address};
use crate::pg::queries::{self, checkpoint_timeline, primary_timeline, upstream_address};
use crate::shared::operator::OperatorState;

/// Between questions.
const PACE: Duration = Duration::from_millis(50);
/// How long a session of a server that lives may owe an answer before another takes its place: each login
/// that waits for a lock takes up one of the server's connections.
const PATIENCE: Duration = Duration::from_secs(10);

/// A standby that does not stream at present has at least WAL files of the timeline that it streamed
/// before.
const QUESTION: &str = concat!(
    "SELECT pg_is_in_recovery() AS standby,
       (SELECT system_identifier FROM pg_control_system()) AS system,
       current_setting('synchronous_standby_names') AS names,
       ",
    upstream_address!(),
    " AS upstream,
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
       -- It has found no more in any place, and rests before it looks again.
       EXISTS (SELECT FROM pg_stat_get_activity(NULL)
                WHERE backend_type = 'startup' AND wait_event = 'RecoveryRetrieveRetryInterval') AS looks_for_more,
       r.status, r.received_tli, r.latest_end_lsn, r.sender_host, r.sender_port,
       -- A clean stop waits for these, and for what is on their disk, or written where they tell no more.
       ARRAY(SELECT concat_ws(' ', pid, COALESCE(s.flush_lsn, s.write_lsn, '0/0'), a.application_name)
               FROM pg_stat_get_wal_senders() AS s JOIN pg_stat_get_activity(NULL) AS a USING (pid)
              WHERE s.state IN ('catchup', 'streaming')) AS attached,
       current_setting('synchronous_commit') AS commits
  FROM (VALUES (current_setting('primary_conninfo'))) AS told (conninfo)
       LEFT JOIN pg_stat_get_wal_receiver() AS r ON r.pid IS NOT NULL"
);

/// For how long each transaction of a client has been open, in microseconds. It need not have come
/// through this proxy.
const OPEN: &str = "\
SELECT (extract(epoch FROM clock_timestamp() - xact_start) * 1000000)::bigint
  FROM pg_stat_get_activity(NULL)
 WHERE backend_type = 'client backend' AND xact_start IS NOT NULL
   AND usesysid <> (SELECT usesysid FROM pg_stat_get_activity(pg_backend_pid()))
 LIMIT 10000";

pub(super) struct ServerPoller {
    pub(super) id: NodeId,
    pub(super) nodes: Vec<Node>,
    pub(super) live: Arc<Live>,
    pub(super) policy: Arc<FailoverPolicy>,
    pub(super) facts: Arc<Facts>,
    pub(super) operator: Arc<OperatorState>,
    pub(super) hosts: Arc<Hosts>,
    /// For whom commits are early, as far as is known.
    pub(super) whose: Arc<Whose>,
}

/// The session, as long as it is not known to be lost.
#[derive(Default)]
struct Session {
    login: Option<(Pin<Box<Login>>, Instant)>,
    open: Option<PollerSession>,
}

type Login = dyn Future<Output = Result<PollerSession, tokio_postgres::Error>> + Send;

/// A connection, and what was asked once on it.
struct PollerSession {
    client: Client,
    question: Statement,
    open: Statement,
    /// Since when it has owed an answer.
    owes: Option<Instant>,
    history: Option<(Timeline, TimelineHistory)>,
    flow: WalFlow,
    /// The server, which this connection is to, has been seen to have replayed all that it held.
    replayed_all: bool,
    senders: WalSenders,
}

impl ServerPoller {
    /// Asks until it is dropped.
    pub(super) async fn run(self) {
        let mut session = Session::default();
        loop {
            let sent_us = self.facts.now_us();
            let deadline = self.deadline();
            let asked = tokio::time::timeout(deadline, self.ask(&mut session, sent_us)).await;
            match asked {
                Ok(Ok(answer)) => self.facts.answered(self.id, answer),
                Ok(Err(error)) => {
                    session = Session::default();
                    self.forget();
                    let attempt = attempt(&error);
                    self.facts.attempted(self.id, attempt);
                    self.hear(&error, attempt, sent_us, deadline).await;
                }
                Err(_) => {
                    self.forget();
                    self.facts.attempted(self.id, Attempt::TimedOut);
                    let lives = self.look_for_life(deadline).await;
                    if !lives || session.owes_for_long() {
                        session = Session::default();
                    }
                }
            }
            let took = self.facts.now_us().saturating_sub(sent_us);
            tokio::time::sleep(PACE.saturating_sub(Duration::from_micros(took))).await;
        }
    }

    /// Nothing is known of a node that does not answer but that.
    fn forget(&self) {
        let name = &self.nodes[usize::from(self.id.0)].name;
        self.operator
            .problems
            .report(name, "synchronous_commit", None);
        self.tell_of_doubled(None);
        WalFlow::forget(&self.operator, &self.nodes[usize::from(self.id.0)].name);
    }

    /// What an error says of the server's life.
    async fn hear(
        &self,
        error: &tokio_postgres::Error,
        attempt: Attempt,
        at_us: u64,
        bound: Duration,
    ) {
        match error.as_db_error() {
            Some(db) => {
                let sign = LifeSign::of_error(db.code().code(), &pg::describe(error));
                if let Some(sign) = sign {
                    self.facts.lives(self.id, at_us, sign);
                }
            }
            // It is this side that cannot go on, as without the password that it is asked for.
            None if attempt == Attempt::TimedOut => {
                self.look_for_life(bound).await;
            }
            None => {}
        }
    }

    /// Whether it takes connections, although it does not answer.
    async fn look_for_life(&self, bound: Duration) -> bool {
        let at_us = self.facts.now_us();
        let looked = takes_connections(&self.nodes[usize::from(self.id.0)]);
        let lives = tokio::time::timeout(bound, looked).await.unwrap_or(false);
        if lives {
            self.facts.lives(self.id, at_us, LifeSign::TakesConnections);
        }
        lives
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
        session: &mut Session,
        sent_us: u64,
    ) -> Result<ServerAnswer, tokio_postgres::Error> {
        let session = self.session(session).await?;
        session.owes.get_or_insert_with(Instant::now);
        let row = session.client.query_one(&session.question, &[]).await?;
        let received_us = self.facts.now_us();
        let timeline = Timeline(row.try_get::<_, Option<i32>>("timeline")?.unwrap_or(0) as u32);
        let history = session.history(timeline).await;
        let places = self.places(&row).await?;
        session.replayed_all |= row.try_get::<_, bool>("looks_for_more")?;
        let replayed_all = session.replayed_all;
        let mut answer = self.read(&row, timeline, history, places, (sent_us, received_us))?;
        match &mut answer.role {
            ReplicationRole::Standby(standby) => standby.replayed_all = replayed_all,
            ReplicationRole::Primary(primary) => {
                let rows: Vec<String> = row.try_get("attached")?;
                let written = (primary.flush, sent_us);
                let node_of = |name: &str| self.node_of(name);
                primary.attached = session.senders.see(&rows, written, node_of);
                primary.doubled = session.senders.doubled();
                primary.early = self.early(&row)?;
            }
        }
        self.tell_of_doubled(answer.primary().map(|facts| &facts.doubled));
        let name = &self.nodes[usize::from(self.id.0)].name;
        let paused = row.try_get::<_, Option<bool>>("paused")?.unwrap_or(false);
        session
            .flow
            .see(&self.operator, name, &answer, paused, received_us);
        if answer.primary().is_some() && self.facts.wants_open() {
            self.ask_open(session).await?;
        }
        session.owes = None;
        Ok(answer)
    }

    /// The session, once it is open. A login that is given up here goes on with the next attempt.
    async fn session<'s>(
        &self,
        session: &'s mut Session,
    ) -> Result<&'s mut PollerSession, tokio_postgres::Error> {
        let open = match session.open.take() {
            Some(open) => open,
            None => {
                let begin = || (Box::pin(self.open()) as Pin<Box<Login>>, Instant::now());
                let (login, _) = session.login.get_or_insert_with(begin);
                let opened = login.await;
                session.login = None;
                opened?
            }
        };
        Ok(session.open.insert(open))
    }

    async fn ask_open(&self, session: &PollerSession) -> Result<(), tokio_postgres::Error> {
        let at_us = self.facts.now_us();
        let rows = session.client.query(&session.open, &[]).await?;
        let begun = rows.iter().map(|row| {
            let age_us: i64 = row.try_get(0)?;
            Ok(at_us.saturating_sub(u64::try_from(age_us).unwrap_or(0)))
        });
        let begun_us = begun.collect::<Result<_, tokio_postgres::Error>>()?;
        self.facts
            .opened(self.id, OpenTransactions { at_us, begun_us });
        Ok(())
    }

    fn open(&self) -> impl Future<Output = Result<PollerSession, tokio_postgres::Error>> + use<> {
        let node = self.nodes[usize::from(self.id.0)].clone();
        let monitor = self.live.load().monitor.clone();
        async move {
            // It commits nothing, and is to see how others do.
            let client = login(&node, &monitor, "causeway failover", READS).await?;
            Ok(PollerSession {
                question: client.prepare(QUESTION).await?,
                open: client.prepare(OPEN).await?,
                client,
                owes: None,
                history: None,
                flow: WalFlow::default(),
                replayed_all: false,
                senders: WalSenders::default(),
            })
        }
    }

    fn read(
        &self,
        row: &Row,
        timeline: Timeline,
        history: Option<TimelineHistory>,
        places: Places,
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
            ReplicationRole::Standby(standby(row, before, places, received_us)?)
        } else {
            ReplicationRole::Primary(PrimaryFacts {
                flush: lsn(row, "flush")?.unwrap_or_default(),
                // The session knows.
                ..PrimaryFacts::default()
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

    /// As which node a receiver of this name counts for commits: PostgreSQL compares names without case.
    fn node_of(&self, name: &str) -> Option<NodeId> {
        let is_called = |id: &NodeId| self.policy.name(*id).eq_ignore_ascii_case(name);
        self.policy.ids().find(is_called)
    }

    /// By whose names more than one receives: either may acknowledge a commit for both.
    fn tell_of_doubled(&self, doubled: Option<&BTreeSet<NodeId>>) {
        let quorum = matches!(self.policy.durability, Durability::Quorum { .. });
        let doubled = doubled.filter(|doubled| quorum && !doubled.is_empty());
        let text = doubled.map(|doubled| {
            let names = self.policy.names(doubled.iter().copied());
            format!(
                "quorum pending: two receivers are called {names}, and either acknowledges commits in that name \
                 (pg_stat_replication); a failed primary is replaced by an operator's word only"
            )
        });
        let name = &self.nodes[usize::from(self.id.0)].name;
        let told = text.clone();
        if self.operator.problems.report(name, "receivers", text)
            && let Some(text) = told
        {
            tracing::warn!(node = name, "{text}");
        }
    }

    /// Whose commits wait for no standby's disk; people hear of it where they should.
    fn early(&self, row: &Row) -> Result<EarlyCommits, tokio_postgres::Error> {
        if !matches!(self.policy.durability, Durability::Quorum { .. }) {
            return Ok(EarlyCommits::default());
        }
        let commits: &str = row.try_get("commits")?;
        let mut whose = self.whose.known();
        let server = !matches!(commits, "on" | "remote_apply");
        if server {
            whose.insert(0, format!("synchronous_commit is {commits}"));
        }
        let text = (!whose.is_empty()).then(|| {
            let whose = whose.join(", ");
            format!(
                "{whose}: such commits wait for no standby's disk, and a failover may lose them"
            )
        });
        let name = &self.nodes[usize::from(self.id.0)].name;
        self.operator
            .problems
            .report(name, "synchronous_commit", text);
        Ok(EarlyCommits { server, whose })
    }

    /// Which nodes a standby's words mean.
    async fn places(&self, row: &Row) -> Result<Places, tokio_postgres::Error> {
        let upstream = match row.try_get::<_, Option<&str>>("upstream")? {
            None => Upstream::Nowhere,
            Some(text) => match conninfo::address(text) {
                None => Upstream::Elsewhere,
                Some(address) => {
                    let found = self.hosts.node_at(&self.nodes, self.id, &address).await;
                    found.map_or(Upstream::Elsewhere, Upstream::Node)
                }
            },
        };
        let host: Option<String> = row.try_get("sender_host")?;
        let port: Option<i32> = row.try_get("sender_port")?;
        let sender = match host.zip(port.and_then(|port| u16::try_from(port).ok())) {
            None => None,
            Some((host, port)) => {
                let hosts = vec![host];
                let address = Address { hosts, port };
                self.hosts.node_at(&self.nodes, self.id, &address).await
            }
        };
        Ok(Places { upstream, sender })
    }
}

/// Which nodes a standby names.
#[derive(Clone, Copy)]
struct Places {
    upstream: Upstream,
    sender: Option<NodeId>,
}

impl Session {
    /// Even if the server lives, nothing need come here any more.
    fn owes_for_long(&self) -> bool {
        let login = self.login.as_ref().map(|(_, since)| since);
        let since = self.open.as_ref().and_then(|open| open.owes.as_ref());
        let since = since.or(login);
        since.is_some_and(|since| since.elapsed() >= PATIENCE)
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

fn standby(
    row: &Row,
    before: Option<&StandbyFacts>,
    Places { upstream, sender }: Places,
    received_us: u64,
) -> Result<StandbyFacts, tokio_postgres::Error> {
    let received = lsn(row, "received")?;
    let status: Option<&str> = row.try_get("status")?;
    let receiver = match status {
        None => None,
        Some(status) => {
            let last = before.and_then(|before| before.receiver.as_ref());
            let moved = before.is_none_or(|before| before.received != received);
            let fresh_us = match last {
                Some(last) if !moved => last.fresh_us,
                // Just connected: that the sender answered is news as well.
                _ => received_us,
            };
            Some(Receiver {
                from: sender,
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
        // The session knows.
        replayed_all: false,
        replayed: lsn(row, "replayed")?.unwrap_or_default(),
        upstream,
        receiver,
        detached_since_us,
    })
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
