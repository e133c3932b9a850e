//! One monitoring connection: what it asks a node, and how the answers are read.

use std::sync::Arc;
use std::time::Duration;

use tokio_postgres::types::PgLsn;
use tokio_postgres::{Client, Row, Statement};

use crate::config;
use crate::core::gauge::Position;
use crate::core::lsn::{Lsn, Timeline, WalGeometry};
use crate::core::timeline::TimelineHistory;
use crate::core::topology::{Life, Role, ServerRun};
use crate::core::visibility::{FinishedIds, Snapshot, end_of_commits, parse_snapshot};
use crate::pg;
use crate::pg::queries::{self, checkpoint_timeline, primary_timeline, received_timeline};

/// Everything that is asked once, when a life begins.
const BEGIN: &str = "\
SELECT pg_is_in_recovery() AS standby,
       pg_size_bytes(current_setting('wal_segment_size')) AS segment_bytes,
       current_setting('wal_block_size')::int8 AS block_bytes,
       (SELECT source IN ('user', 'database', 'database user', 'client')
          FROM pg_settings WHERE name = 'synchronous_commit') AS overridden";

const PRIMARY_TIMELINE: &str = concat!("SELECT ", primary_timeline!(), " AS timeline");

const STANDBY_TIMELINE: &str = concat!(
    "SELECT GREATEST(COALESCE(",
    received_timeline!(),
    ", 0), ",
    checkpoint_timeline!(),
    ", (SELECT min_recovery_end_timeline FROM pg_control_recovery())) AS timeline"
);

const PRIMARY: &str = "\
SELECT pg_is_in_recovery() AS standby,
       pg_current_wal_flush_lsn() AS flush,
       pg_current_wal_insert_lsn() AS insert,
       current_setting('synchronous_commit') = 'off' AS asynchronous,
       pg_current_snapshot()::text AS snapshot";

/// Which processes are still there; their statements are nobody's business.
const ALIVE: &str = "SELECT pid FROM pg_stat_get_activity(NULL) WHERE pid = ANY($1::int4[])";

/// `$1` holds transactions that the primary has running. One beyond the standby's snapshot must
/// not be asked about: it would be an error, and it is certainly not finished here.
///
/// The WAL receiver changes to a new timeline before replay goes beyond the fork, so that a replay
/// position on the new timeline is never taken for one on the old.
const STANDBY: &str = concat!(
    "SELECT pg_is_in_recovery() AS standby,
       pg_last_wal_replay_lsn() AS replay,
       pg_last_wal_receive_lsn() AS received, ",
    received_timeline!(),
    " AS timeline,
       pg_current_snapshot()::text AS snapshot,
       ARRAY(SELECT id FROM unnest($1::text[]) AS id
              WHERE CASE WHEN id::xid8 < pg_snapshot_xmax(pg_current_snapshot())
                         THEN pg_xact_status(id::xid8) = 'in progress' END) AS running"
);

/// One run of the server.
const RUN: &str = "\
SELECT (SELECT system_identifier FROM pg_control_system()) AS system,
       pg_postmaster_start_time()::text AS postmaster,
       (SELECT pid || ' ' || backend_start FROM pg_stat_get_activity(NULL)
         WHERE backend_type = 'checkpointer') AS checkpointer";

/// At most this many running transactions are asked about in one probe: more than servers have connections.
/// While there are more, nothing proves that the primary shows what a standby does.
const MAX_ASKED: usize = 10_000;

/// Why a probe failed: the node's life, as far as its monitor can tell, is over.
#[derive(Debug, thiserror::Error)]
pub(super) enum ProbeError {
    /// The connection, or the statement, failed.
    #[error("{}", pg::describe(.0))]
    Postgres(#[from] tokio_postgres::Error),
    /// No answer in time.
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
    /// The node is no longer what it was.
    #[error("{0}")]
    Changed(&'static str),
    /// An answer that makes no sense.
    #[error("an unexpected answer: {0}")]
    Unexpected(&'static str),
}

/// A monitoring connection to a node in one of its lives.
pub(super) struct Probe {
    client: Client,
    statement: Statement,
    timeline: Timeline,
    history: Option<Arc<TimelineHistory>>,
    standby: bool,
    /// Of the server; none when it cannot be told from others.
    run: Option<ServerRun>,
    wal: WalGeometry,
    /// The position that the latest answer gave.
    replayed: Lsn,
    /// What a primary's latest answer showed, and the end of its commits.
    shown: Option<(Snapshot, Lsn)>,
    /// The role or the database has a `synchronous_commit` of its own, which hides the server's default.
    overridden: bool,
}

/// What one probe found.
pub(super) struct Answer {
    pub(super) position: Position,
    /// Commits are asynchronous by default, or may be.
    pub(super) asynchronous: bool,
    pub(super) role: Role,
}

impl Probe {
    /// Connects and asks what is asked once.
    pub(super) async fn open(
        node: &config::Node,
        monitor: &config::Monitor,
    ) -> Result<Self, ProbeError> {
        let timeout = monitor.timeout;
        tokio::time::timeout(timeout, Self::login(node, monitor))
            .await
            .unwrap_or(Err(ProbeError::TimedOut(timeout)))
    }

    async fn login(node: &config::Node, monitor: &config::Monitor) -> Result<Self, ProbeError> {
        // It tells the server's own `synchronous_commit`, and waits for nothing by that, as it writes nothing.
        let config = pg::monitor(node, monitor, "causeway monitor", "");
        let (client, _) = pg::connect(&config).await?;

        let begin = client.query_one(BEGIN, &[]).await?;
        let standby: bool = begin.try_get("standby")?;
        let size = |name| -> Result<u64, ProbeError> {
            let bytes: i64 = begin.try_get(name)?;
            u64::try_from(bytes)
                .ok()
                .filter(|b| *b > 0)
                .ok_or(ProbeError::Unexpected("a WAL size"))
        };
        let wal = WalGeometry {
            segment_bytes: size("segment_bytes")?,
            block_bytes: size("block_bytes")?,
        };
        let overridden: Option<bool> = begin.try_get("overridden")?;
        let overridden = !standby && overridden.unwrap_or(true);
        if overridden {
            tracing::warn!(
                node = node.name,
                user = monitor.user,
                "synchronous_commit is set for the monitoring role or its database, and what it is for others \
                 cannot be told: every commit is taken for an asynchronous one"
            );
        }
        let statement = client
            .prepare(if standby { STANDBY } else { PRIMARY })
            .await?;
        let asked = if standby {
            STANDBY_TIMELINE
        } else {
            PRIMARY_TIMELINE
        };
        let timeline = timeline(&client.query_one(asked, &[]).await?)?;
        let history = if standby {
            None
        } else {
            history(&client, &node.name, timeline).await
        };
        let run = run(&client).await?;
        let replayed = Lsn::default();
        Ok(Self {
            client,
            statement,
            timeline,
            history,
            standby,
            run,
            wal,
            replayed,
            shown: None,
            overridden,
        })
    }

    /// Whether it asks the very run of the server that a life was measured in, in the same part: what was
    /// measured then goes on to hold.
    pub(super) fn continues(&mut self, run: Option<&ServerRun>, life: &Life) -> bool {
        let same_part = match life.role {
            Role::Primary(_) => !self.standby && self.timeline == life.timeline,
            Role::Standby(_) => self.standby,
        };
        let same = same_part && run.is_some() && run == self.run.as_ref();
        if same {
            // A standby that has followed a timeline does not go back while it runs.
            self.timeline = self.timeline.max(life.timeline);
        }
        same
    }

    pub(super) fn run(&self) -> Option<&ServerRun> {
        self.run.as_ref()
    }

    /// A primary's history.
    pub(super) fn history(&self) -> Option<Arc<TimelineHistory>> {
        self.history.clone()
    }

    /// The timeline that the node follows.
    pub(super) fn timeline(&self) -> Timeline {
        self.timeline
    }

    /// Asks for the position. On a standby also which of `running` it holds to be running still.
    pub(super) async fn ask(
        &mut self,
        running: &[u64],
        timeout: Duration,
    ) -> Result<Answer, ProbeError> {
        let row = tokio::time::timeout(timeout, async {
            if self.standby {
                let running: Vec<String> =
                    running.iter().take(MAX_ASKED).map(u64::to_string).collect();
                self.client.query_one(&self.statement, &[&running]).await
            } else {
                self.client.query_one(&self.statement, &[]).await
            }
        })
        .await
        .map_err(|_| ProbeError::TimedOut(timeout))??;
        if row.try_get::<_, bool>("standby")? != self.standby {
            return Err(ProbeError::Changed(if self.standby {
                "it was promoted"
            } else {
                "it is now a standby"
            }));
        }
        if self.standby {
            self.standby_answer(&row)
        } else {
            self.primary_answer(&row)
        }
    }

    /// Which of these processes of the server are still there.
    pub(super) async fn alive(
        &self,
        processes: &[i32],
        timeout: Duration,
    ) -> Result<Vec<i32>, ProbeError> {
        let rows = tokio::time::timeout(timeout, self.client.query(ALIVE, &[&processes]))
            .await
            .map_err(|_| ProbeError::TimedOut(timeout))??;
        let processes = rows.iter().map(|row| row.try_get(0));
        Ok(processes.collect::<Result<_, _>>()?)
    }

    fn primary_answer(&mut self, row: &Row) -> Result<Answer, ProbeError> {
        let snapshot = parse_snapshot(row.try_get("snapshot")?)
            .ok_or(ProbeError::Unexpected("pg_current_snapshot()"))?;
        let lsn = |name| Ok::<_, ProbeError>(Lsn(row.try_get::<_, PgLsn>(name)?.into()));
        let insert = lsn("insert")?.without_page_header(self.wal);
        let before = self.shown.as_ref().map(|(shown, end)| (shown, *end));
        let commits = end_of_commits(before, &snapshot, insert);
        self.shown = Some((snapshot.clone(), commits));
        let position = Position {
            flush: lsn("flush")?,
            insert,
            commits,
        };
        let asynchronous: bool = row.try_get("asynchronous")?;
        Ok(Answer {
            position,
            asynchronous: asynchronous || self.overridden,
            role: Role::Primary(snapshot),
        })
    }

    fn standby_answer(&mut self, row: &Row) -> Result<Answer, ProbeError> {
        let snapshot = parse_snapshot(row.try_get("snapshot")?)
            .ok_or(ProbeError::Unexpected("pg_current_snapshot()"))?;
        let replay: Option<PgLsn> = row.try_get("replay")?;
        let replay = Lsn(replay.map_or(0, u64::from));
        let running: Vec<String> = row.try_get("running")?;
        let still_running: Option<Vec<u64>> = running.iter().map(|id| id.parse().ok()).collect();
        let mut still_running = still_running.ok_or(ProbeError::Unexpected("a transaction id"))?;
        still_running.sort_unstable();
        let finished = FinishedIds {
            xmax: snapshot.xmax,
            still_running: Arc::from(still_running),
            // The snapshot is older than the position in the same answer.
            at_least: self.replayed,
        };
        self.replayed = replay;
        let received: Option<i32> = row.try_get("timeline")?;
        let received = Timeline(received.map_or(0, i32::unsigned_abs));
        self.timeline = self.timeline.max(received);
        let held: Option<PgLsn> = row.try_get("received")?;
        let held = Lsn(held.map_or(0, u64::from));
        Ok(Answer {
            position: Position {
                insert: held.max(replay),
                ..Position::replayed(replay)
            },
            asynchronous: false,
            role: Role::Standby(finished),
        })
    }
}

async fn run(client: &Client) -> Result<Option<ServerRun>, ProbeError> {
    let row = client.query_one(RUN, &[]).await?;
    let system: Option<i64> = row.try_get("system")?;
    let checkpointer: Option<String> = row.try_get("checkpointer")?;
    let postmaster = row.try_get("postmaster")?;
    Ok(system
        .zip(checkpointer)
        .map(|(system, checkpointer)| ServerRun {
            system,
            postmaster,
            checkpointer,
        }))
}

fn timeline(row: &Row) -> Result<Timeline, ProbeError> {
    let timeline: i32 = row.try_get("timeline")?;
    u32::try_from(timeline)
        .map(Timeline)
        .map_err(|_| ProbeError::Unexpected("a timeline"))
}

/// The history of a primary's timeline, if the monitoring role may read it.
async fn history(client: &Client, node: &str, timeline: Timeline) -> Option<Arc<TimelineHistory>> {
    if timeline <= Timeline(1) {
        return Some(Arc::default());
    }
    let read = queries::history_file(client, timeline, false).await;
    match read.map(|text| text.and_then(|text| TimelineHistory::parse(&text))) {
        Ok(Some(history)) => Some(Arc::new(history)),
        Ok(None) => {
            tracing::warn!(node, %timeline, "the timeline history file makes no sense");
            None
        }
        Err(error) => {
            tracing::warn!(
                node, %timeline, reason = pg::describe(&error),
                "cannot read the timeline history: sessions from before the promotion will be told that they may have lost writes"
            );
            None
        }
    }
}
