//! Reading each database's catalogue from the primary: what its functions and relations do.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Row};
use tokio_util::sync::CancellationToken;

use crate::config::{Live, Node};
use crate::pg;
use crate::shared::catalogs::LatestCatalog;
use crate::shared::cluster::ClusterState;
use crate::sql::Catalog;
use crate::sql::catalog::{
    ColumnRow, Dependency, DependencyRow, FUNCTIONS, FunctionRow, NUMBERED, OPERATORS, OperatorRow,
    RELATIONS, RelationRow, Rows, dependencies, fingerprint,
};

/// The catalogue is looked at this often, for changes made past the proxy.
const REFRESH: Duration = Duration::from_secs(30);
/// Pause between two looks, however many ask.
const GAP: Duration = Duration::from_millis(200);
/// Bound on one reading.
const BOUND: Duration = Duration::from_secs(10);
/// So long the other databases wait for what is made of one's catalogue.
const PATIENCE: Duration = Duration::from_secs(2);

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
    /// What is being made of the rows that were read last.
    concluding: Option<Concluding>,
}

/// A catalogue in the making: thousands of bodies take a while.
struct Concluding {
    fingerprint: String,
    /// Changes that had been seen when it was read.
    changes: u64,
    catalog: JoinHandle<Catalog>,
    /// The others no longer wait for it.
    is_late: bool,
}

impl Database {
    /// Takes over the catalogue once it is made. One that is late is asked for again after a pause, and its
    /// database goes by the one before, as of then.
    async fn conclude(&mut self, name: &str, entry: &LatestCatalog) {
        let Some(mut making) = self.concluding.take() else {
            return;
        };
        let patience = if making.is_late {
            Duration::ZERO
        } else {
            PATIENCE
        };
        match tokio::time::timeout(patience, &mut making.catalog).await {
            Ok(Ok(catalog)) => {
                // What has changed since then is not known to anybody.
                self.pause = making.is_late.then(|| (GAP, Instant::now()));
                self.fingerprint = Some(making.fingerprint);
                tracing::debug!(database = %name, version = catalog.version(), "read the catalogue");
                entry.store(Arc::new(catalog));
                entry.is_as_of(making.changes);
            }
            Ok(Err(error)) => {
                tracing::warn!(database = %name, %error, "nothing could be made of the catalogue");
                self.failed();
            }
            Err(_) => {
                if !making.is_late {
                    tracing::warn!(database = %name, "the catalogue takes long to be understood: until then its \
                        database goes by the one before");
                }
                making.is_late = true;
                self.concluding = Some(making);
                self.pause = Some((GAP, Instant::now() + GAP));
            }
        }
    }

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
        let entry = self.cluster.catalogs.of(name);
        if known.concluding.is_some() {
            return known.conclude(name, &entry).await;
        }
        let changes = self.cluster.catalogs.changes();
        let fingerprint = known.fingerprint.as_deref();
        let read = read(&self.live, &self.cluster, name, fingerprint);
        let error = match tokio::time::timeout(BOUND, read).await {
            Ok(Ok(None)) => {
                known.pause = None;
                return entry.is_as_of(changes);
            }
            Ok(Ok(Some((fingerprint, rows)))) => {
                known.pause = None;
                self.version += 1;
                let version = self.version;
                let conclude = move || Catalog::from_rows(version, &rows);
                known.concluding = Some(Concluding {
                    fingerprint,
                    changes,
                    catalog: tokio::task::spawn_blocking(conclude),
                    is_late: false,
                });
                return known.conclude(name, &entry).await;
            }
            Ok(Err(error)) if error.tells_of_no_database() => {
                tracing::debug!(database = %name, "the database is gone");
                self.cluster.catalogs.forget(name);
                self.databases.remove(name);
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
    let mut config = pg::monitor(&node, &monitor, "causeway catalog", "");
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
    known: Option<&str>,
) -> Result<Option<(String, Rows)>, ReadError> {
    let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";
    client.batch_execute(begin).await?;
    let row = client.query_one(&fingerprint(), &[]).await?;
    let (now, server): (String, i32) = (row.try_get(0)?, row.try_get(1)?);
    if known == Some(&*now) {
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
        immutable: row.try_get(6)?,
    })
}

fn relation(row: &Row) -> Result<RelationRow, ReadError> {
    let kind: &str = row.try_get(2)?;
    Ok(RelationRow {
        name: row.try_get(0)?,
        oid: oid(row, 1)?,
        kind: kind.chars().next().unwrap_or_default(),
        unlogged: row.try_get(3)?,
        has_rules: row.try_get(4)?,
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

impl ReadError {
    fn tells_of_no_database(&self) -> bool {
        let Self::Postgres(error) = self else {
            return false;
        };
        error.code() == Some(&SqlState::INVALID_CATALOG_NAME)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shared::catalogs::Catalogs;

    fn making(catalog: JoinHandle<Catalog>) -> Database {
        Database {
            concluding: Some(Concluding {
                fingerprint: "now".into(),
                changes: 0,
                catalog,
                is_late: false,
            }),
            ..Database::default()
        }
    }

    #[tokio::test]
    async fn a_catalogue_that_is_late_holds_nobody_up() {
        let entry = Catalogs::default().of("a");
        let (done, wait) = tokio::sync::oneshot::channel();
        let made = async move { wait.await.unwrap() };
        let mut database = making(tokio::spawn(made));
        let start = Instant::now();
        for _ in 0..100 {
            database.conclude("a", &entry).await;
        }
        assert!(start.elapsed() < 2 * PATIENCE, "{:?}", start.elapsed());
        assert!(database.pause.is_some() && database.fingerprint.is_none());
        assert!(!entry.load().is_loaded(), "it goes by the one before");
        done.send(Catalog::from_rows(7, &Rows::default())).unwrap();
        tokio::task::yield_now().await;
        database.conclude("a", &entry).await;
        assert_eq!(entry.load().version(), 7);
        let (_, due) = database.pause.expect("what came since is looked for");
        assert!(due <= Instant::now() && database.concluding.is_none());
    }

    #[tokio::test]
    async fn one_that_cannot_be_made_is_tried_again_later() {
        let entry = Catalogs::default().of("a");
        let mut database = making(tokio::spawn(async { panic!("a body") }));
        database.conclude("a", &entry).await;
        assert!(database.pause.is_some() && database.concluding.is_none());
    }
}
