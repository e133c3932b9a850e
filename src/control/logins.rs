//! Watching what a login finds on one node: roles, databases, and the settings that belong to them.
//!
//! They can be changed past the proxy, and reach a standby with the WAL. What is seen on a node concerns
//! the connections to that node. The watch has a connection of its own: whoever locks these catalogues
//! holds up logins, and no probe.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;

use crate::config::{Live, Node};
use crate::core::topology::NodeId;
use crate::pg;
use crate::shared::cluster::ClusterState;
use crate::shared::logins::Changed;

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(150);
/// A pause is at least so many times as long as the look before it took.
const REST: u32 = 5;
/// Pause before a lost node is looked at again.
const RETRY: Duration = Duration::from_secs(1);
/// Bound on one look.
const BOUND: Duration = Duration::from_secs(10);

/// Tells whether anything below may have changed: `text`. What was taken back and set again between two looks
/// is the work of another transaction (`xmin`).
const FINGERPRINT: &str = "\
SELECT pg_catalog.concat_ws(' ', pg_catalog.count(*), pg_catalog.sum(pg_catalog.hashtextextended(k, 0)))
  FROM (SELECT r::text AS k FROM pg_catalog.pg_roles r
        UNION ALL SELECT pg_catalog.concat_ws(' ', xmin, oid, datname, datallowconn) FROM pg_catalog.pg_database
        UNION ALL SELECT pg_catalog.concat_ws(' ', s.xmin, s) FROM pg_catalog.pg_db_role_setting s) f";

/// What a login finds, by database and role, where it depends on them: `text`, `text`, `int8`.
const LOGINS: &str = "\
SELECT NULL::text, rolname::text, pg_catalog.hashtextextended(r::text, 0) FROM pg_catalog.pg_roles r
UNION ALL
SELECT datname::text, NULL, pg_catalog.hashtextextended(pg_catalog.concat_ws(' ', xmin, oid, datallowconn), 0)
  FROM pg_catalog.pg_database
UNION ALL
SELECT d.datname::text, r.rolname::text, pg_catalog.hashtextextended(pg_catalog.concat_ws(' ', s.xmin, s), 0)
  FROM pg_catalog.pg_db_role_setting s
  LEFT JOIN pg_catalog.pg_database d ON d.oid = s.setdatabase
  LEFT JOIN pg_catalog.pg_roles r ON r.oid = s.setrole";

type Whose = (Option<Box<str>>, Option<Box<str>>);

/// What was found, by database and role; several hashes are one sum.
type Found = HashMap<Whose, i64>;

/// The watch over one node.
#[derive(Debug)]
pub struct LoginWatch {
    id: NodeId,
    node: Node,
    live: Arc<Live>,
    cluster: Arc<ClusterState>,
    fingerprint: String,
    found: Option<Found>,
}

impl LoginWatch {
    pub fn new(id: NodeId, node: Node, live: Arc<Live>, cluster: Arc<ClusterState>) -> Self {
        Self {
            id,
            node,
            live,
            cluster,
            fingerprint: String::new(),
            found: None,
        }
    }

    /// Watches until `shutdown`.
    pub async fn run(mut self, shutdown: CancellationToken) {
        tokio::select! {
            () = self.keep() => {}
            () = shutdown.cancelled() => {}
        }
    }

    async fn keep(&mut self) {
        loop {
            self.is_up().await;
            if let Err(error) = self.watch().await {
                // That the node is down is told by its monitor.
                tracing::debug!(node = self.node.name, %error, "watch what logins find");
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    /// Waits until the monitor has an answer of the node.
    async fn is_up(&self) {
        loop {
            let changed = self.cluster.turned();
            let topology = self.cluster.topology();
            if topology
                .node(self.id)
                .is_some_and(|node| node.life.is_some())
            {
                return;
            }
            drop(topology);
            changed.await;
        }
    }

    /// Looks again and again on one connection.
    async fn watch(&mut self) -> Result<(), WatchError> {
        let monitor = self.live.load().monitor.clone();
        let mut config = pg::monitor(&self.node, &monitor, "causeway logins", "");
        config.connect_timeout(monitor.timeout);
        let opened = tokio::time::timeout(BOUND, pg::connect(&config)).await;
        let (client, _) = opened.map_err(|_| WatchError::Late)??;
        loop {
            let began = Instant::now();
            let look = tokio::time::timeout(BOUND, self.look(&client)).await;
            look.map_err(|_| WatchError::Late)??;
            tokio::time::sleep(PAUSE.max(began.elapsed() * REST)).await;
        }
    }

    async fn look(&mut self, client: &Client) -> Result<(), WatchError> {
        let row = client.query_one(FINGERPRINT, &[]).await?;
        let fingerprint: String = row.try_get(0)?;
        if fingerprint == self.fingerprint {
            return Ok(());
        }
        let mut found = Found::new();
        for row in client.query(LOGINS, &[]).await? {
            let name = |at| Ok::<_, WatchError>(row.try_get::<_, Option<&str>>(at)?.map(Box::from));
            let hash: i64 = row.try_get(2)?;
            let sum = found.entry((name(0)?, name(1)?)).or_default();
            *sum = sum.wrapping_add(hash);
        }
        let changed = match &self.found {
            Some(before) => changes(before, &found),
            None => Vec::new(),
        };
        for (database, role) in &changed {
            let node = &self.node.name;
            tracing::info!(
                node,
                database,
                role,
                "what a login finds has changed: connections are renewed"
            );
        }
        let node = self.id;
        let told = changed.into_iter().map(|(database, role)| Changed {
            node,
            database,
            role,
        });
        self.cluster.logins.tell(told);
        self.found = Some(found);
        self.fingerprint = fingerprint;
        Ok(())
    }
}

/// Whose logins find something else.
fn changes(before: &Found, now: &Found) -> Vec<Whose> {
    let differs = |(whose, hash): &(&Whose, &i64)| before.get(*whose) != Some(*hash);
    let new = now.iter().filter(differs).map(|(whose, _)| whose);
    let gone = before.keys().filter(|whose| !now.contains_key(*whose));
    new.chain(gone).cloned().collect()
}

#[derive(Debug, thiserror::Error)]
enum WatchError {
    #[error("{}", pg::describe(.0))]
    Postgres(#[from] tokio_postgres::Error),
    #[error("it took longer than {BOUND:?}")]
    Late,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_new_changed_or_gone_is_told() {
        let whose = |role: &str| (None, Some(Box::from(role)));
        let before = Found::from([(whose("a"), 1), (whose("b"), 2), (whose("c"), 3)]);
        let now = Found::from([(whose("a"), 1), (whose("b"), 7), (whose("d"), 3)]);
        let mut changed = changes(&before, &now);
        changed.sort();
        assert_eq!(changed, [whose("b"), whose("c"), whose("d")]);
        assert_eq!(changes(&now, &now), []);
    }
}
