//! Reading each database's catalogue from the primary: what its functions and relations do.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_postgres::{Client, Row};
use tokio_util::sync::CancellationToken;

use crate::config::{Live, Node};
use crate::pg;
use crate::shared::cluster::ClusterState;
use crate::sql::Catalog;
use crate::sql::catalog::{
    ColumnRow, Dependency, DependencyRow, FINGERPRINT, FUNCTIONS, FunctionRow, NUMBERED, OPERATORS,
    OperatorRow, RELATIONS, RelationRow, Rows, dependencies,
};

/// The catalogue is looked at this often, for changes made past the proxy.
const REFRESH: Duration = Duration::from_secs(30);
/// Pause between two looks, however many ask.
const GAP: Duration = Duration::from_millis(200);
/// Bound on one reading.
const BOUND: Duration = Duration::from_secs(10);

/// Keeps the catalogues on the cluster up to date until `shutdown`.
pub async fn run(live: Arc<Live>, cluster: Arc<ClusterState>, shutdown: CancellationToken) {
    let mut keeper = Keeper {
        live,
        cluster,
        databases: HashMap::new(),
        version: 0,
    };
    tokio::select! {
        () = keeper.keep() => {}
        () = shutdown.cancelled() => {}
    }
}

struct Keeper {
    live: Arc<Live>,
    cluster: Arc<ClusterState>,
    databases: HashMap<Arc<str>, Database>,
    version: u64,
}

/// How it stands with one database.
#[derive(Default)]
struct Database {
    /// Of what was read last.
    fingerprint: Option<String>,
    /// Since it could not be read: the pause before the next attempt, and when that is due.
    pause: Option<(Duration, Instant)>,
}

impl Database {
    fn failed(&mut self) {
        let pause = self.pause.map_or(GAP, |(pause, _)| REFRESH.min(pause * 2));
        self.pause = Some((pause, Instant::now() + pause));
    }
}

impl Keeper {
    async fn keep(&mut self) {
        loop {
            for name in self.cluster.catalogs.databases() {
                let due = self.databases.get(&name).and_then(|known| known.pause);
                if due.is_none_or(|(_, due)| due <= Instant::now()) {
                    self.look(&name).await;
                }
            }
            // Before the first client there is nothing to wait for.
            if !self.databases.is_empty() {
                tokio::time::sleep(GAP).await;
            }
            let pauses = self.databases.values().filter_map(|known| known.pause);
            let next = pauses.map(|(_, due)| due).min();
            let next = next.map_or(REFRESH, |due| due.saturating_duration_since(Instant::now()));
            let _ = tokio::time::timeout(next.min(REFRESH), self.cluster.catalogs.wanted()).await;
        }
    }

    async fn look(&mut self, name: &Arc<str>) {
        let known = self.databases.entry(Arc::clone(name)).or_default();
        let fingerprint = known.fingerprint.as_deref();
        let read = read(&self.live, &self.cluster, name, fingerprint);
        let error = match tokio::time::timeout(BOUND, read).await {
            Ok(Ok(found)) => {
                known.pause = None;
                if let Some((fingerprint, rows)) = found {
                    self.version += 1;
                    let version = self.version;
                    // Thousands of bodies take a while.
                    let conclude = move || Catalog::from_rows(version, &rows);
                    let Ok(catalog) = tokio::task::spawn_blocking(conclude).await else {
                        return;
                    };
                    known.fingerprint = Some(fingerprint);
                    self.cluster.catalogs.of(name).store(Arc::new(catalog));
                    tracing::debug!(database = %name, version, "read the catalogue");
                }
                return;
            }
            Ok(Err(error)) => error,
            Err(_) => ReadError::Late,
        };
        // Without it every read goes to the primary.
        match known.pause {
            None if !matches!(error, ReadError::NoPrimary) => {
                tracing::warn!(database = %name, %error, "the catalogue was not read");
            }
            _ => tracing::debug!(database = %name, %error, "the catalogue was not read"),
        }
        match error {
            // That nobody is asked costs nobody anything.
            ReadError::NoPrimary => known.pause = Some((GAP, Instant::now() + GAP)),
            _ => known.failed(),
        }
    }
}

async fn read(
    live: &Live,
    cluster: &ClusterState,
    database: &str,
    fingerprint: Option<&str>,
) -> Result<Option<(String, Rows)>, ReadError> {
    let node = primary(live, cluster).ok_or(ReadError::NoPrimary)?;
    let monitor = live.load().monitor.clone();
    let mut config = pg::monitor(&node, &monitor, "causeway catalog");
    config.dbname(database).connect_timeout(monitor.timeout);
    let (client, connection) = pg::connect(&config).await?;
    let found = changes(&client, fingerprint).await;
    drop(client);
    let _ = connection.await;
    found
}

fn primary(live: &Live, cluster: &ClusterState) -> Option<Node> {
    let id = cluster.topology().primary()?.id;
    live.load().nodes.get(usize::from(id.0)).cloned()
}

/// What has changed since the catalogue had this fingerprint, if anything has, and its fingerprint now.
///
/// # Errors
///
/// When the server refuses, or answers with something else.
pub async fn changes(
    client: &Client,
    fingerprint: Option<&str>,
) -> Result<Option<(String, Rows)>, ReadError> {
    let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";
    client.batch_execute(begin).await?;
    let row = client.query_one(FINGERPRINT, &[]).await?;
    let (now, server): (String, i32) = (row.try_get(0)?, row.try_get(1)?);
    if fingerprint == Some(&*now) {
        return Ok(None);
    }
    let functions = client.query(FUNCTIONS, &[]).await?;
    let relations = client.query(RELATIONS, &[]).await?;
    let numbered = client.query(NUMBERED, &[]).await?;
    let operators = client.query(OPERATORS, &[]).await?;
    let edges = client.query(&dependencies(server), &[]).await?;
    let rows = Rows {
        functions: functions.iter().map(function).collect::<Result<_, _>>()?,
        relations: relations.iter().map(relation).collect::<Result<_, _>>()?,
        numbered: numbered.iter().map(column).collect::<Result<_, _>>()?,
        operators: operators.iter().map(operator).collect::<Result<_, _>>()?,
        dependencies: edges.iter().map(dependency).collect::<Result<_, _>>()?,
    };
    Ok(Some((now, rows)))
}

fn function(row: &Row) -> Result<FunctionRow, ReadError> {
    Ok(FunctionRow {
        name: row.try_get(0)?,
        oid: oid(row, 1)?,
        volatile: row.try_get(2)?,
        language: row.try_get(3)?,
        mentions_synchronous_commit: row.try_get(4)?,
        source: row.try_get(5)?,
    })
}

fn relation(row: &Row) -> Result<RelationRow, ReadError> {
    let kind: &str = row.try_get(2)?;
    Ok(RelationRow {
        name: row.try_get(0)?,
        oid: oid(row, 1)?,
        kind: kind.chars().next().unwrap_or_default(),
        unlogged: row.try_get(3)?,
    })
}

fn column(row: &Row) -> Result<ColumnRow, ReadError> {
    Ok(ColumnRow {
        relation: oid(row, 0)?,
        column: row.try_get(1)?,
    })
}

fn operator(row: &Row) -> Result<OperatorRow, ReadError> {
    Ok(OperatorRow {
        name: row.try_get(0)?,
        function: oid(row, 1)?,
    })
}

fn dependency(row: &Row) -> Result<DependencyRow, ReadError> {
    let kind: &str = row.try_get(0)?;
    Ok(DependencyRow {
        kind: Dependency::named(kind).ok_or(ReadError::Unexpected)?,
        of: oid(row, 1)?,
        on_function: row.try_get(2)?,
        on: oid(row, 3)?,
    })
}

fn oid(row: &Row, at: usize) -> Result<u32, ReadError> {
    let oid: i64 = row.try_get(at)?;
    u32::try_from(oid).map_err(|_| ReadError::Unexpected)
}

/// Why a catalogue was not read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("no primary is available")]
    NoPrimary,
    #[error("{}", pg::describe(.0))]
    Postgres(#[from] tokio_postgres::Error),
    #[error("it took longer than {BOUND:?}")]
    Late,
    #[error("an answer is not what it should be")]
    Unexpected,
}
