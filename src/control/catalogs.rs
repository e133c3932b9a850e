//! Reading the function catalogue of each database in use from the primary.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, Hasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::config::{Live, Node};
use crate::pg;
use crate::shared::cluster::ClusterState;
use crate::sql::{Catalog, FunctionRow, catalog};

/// The catalogue is read again this often, for changes made past the proxy.
const REFRESH: Duration = Duration::from_secs(30);
/// Pause between two readings, however many ask.
const GAP: Duration = Duration::from_millis(200);
/// Bound on one reading.
const BOUND: Duration = Duration::from_secs(10);

/// Keeps the catalogues on the cluster up to date until `shutdown`.
pub async fn run(live: Arc<Live>, cluster: Arc<ClusterState>, shutdown: CancellationToken) {
    let keeper = Keeper {
        live,
        cluster,
        hasher: RandomState::new(),
    };
    tokio::select! {
        () = keeper.keep() => {}
        () = shutdown.cancelled() => {}
    }
}

struct Keeper {
    live: Arc<Live>,
    cluster: Arc<ClusterState>,
    hasher: RandomState,
}

impl Keeper {
    async fn keep(&self) {
        let mut known: HashMap<Arc<str>, u64> = HashMap::new();
        let mut version = 0;
        loop {
            let mut failed = false;
            for database in self.cluster.catalogs.databases() {
                match tokio::time::timeout(BOUND, self.read(&database)).await {
                    Ok(Ok(rows)) => {
                        let hash = self.fingerprint(&rows);
                        if known.insert(Arc::clone(&database), hash) != Some(hash) {
                            version += 1;
                            let catalog = Catalog::from_rows(version, rows);
                            self.cluster.catalogs.of(&database).store(Arc::new(catalog));
                            tracing::debug!(%database, version, "read the function catalogue");
                        }
                    }
                    Ok(Err(error @ ReadError::NoPrimary)) => {
                        failed = true;
                        tracing::debug!(%database, %error, "read the function catalogue");
                    }
                    // Without it every read goes to the primary.
                    Ok(Err(error)) => {
                        failed = true;
                        tracing::warn!(%database, %error, "the function catalogue was not read");
                    }
                    Err(_) => {
                        failed = true;
                        tracing::warn!(%database, "the function catalogue was not read within {BOUND:?}");
                    }
                }
            }
            // Before the first client there is nothing to wait for.
            if !known.is_empty() || failed {
                tokio::time::sleep(GAP).await;
            }
            if !failed {
                let _ = tokio::time::timeout(REFRESH, self.cluster.catalogs.wanted()).await;
            }
        }
    }

    async fn read(&self, database: &str) -> Result<Vec<FunctionRow>, ReadError> {
        let node = self.primary().ok_or(ReadError::NoPrimary)?;
        let monitor = self.live.load().monitor.clone();
        let mut config = pg::monitor(&node, &monitor, "causeway catalog");
        config.dbname(database).connect_timeout(monitor.timeout);
        let (client, connection) = pg::connect(&config).await?;
        let rows = client.query(catalog::LOAD, &[]).await?;
        drop(client);
        let _ = connection.await;
        let decode = |row: &tokio_postgres::Row| {
            let oid: i64 = row.try_get(1)?;
            Ok::<_, ReadError>(FunctionRow {
                name: row.try_get(0)?,
                oid: u32::try_from(oid).map_err(|_| ReadError::Oid)?,
                volatile: row.try_get(2)?,
                compiled: row.try_get(3)?,
                mentions_synchronous_commit: row.try_get(4)?,
            })
        };
        let mut rows: Vec<_> = rows.iter().map(decode).collect::<Result<_, _>>()?;
        rows.sort_by_key(|row| row.oid);
        Ok(rows)
    }

    fn fingerprint(&self, rows: &[FunctionRow]) -> u64 {
        let mut hasher = self.hasher.build_hasher();
        for row in rows {
            (
                &row.name,
                row.oid,
                row.volatile,
                row.compiled,
                row.mentions_synchronous_commit,
            )
                .hash(&mut hasher);
        }
        hasher.finish()
    }

    fn primary(&self) -> Option<Node> {
        let id = self.cluster.topology().primary()?.id;
        self.live.load().nodes.get(usize::from(id.0)).cloned()
    }
}

#[derive(Debug, thiserror::Error)]
enum ReadError {
    #[error("no primary is available")]
    NoPrimary,
    #[error("{}", pg::describe(.0))]
    Postgres(#[from] tokio_postgres::Error),
    #[error("an object identifier is out of range")]
    Oid,
}
