//! A session on each node, opened while all is well and kept: what must be done in an emergency needs no
//! login then, which may find every connection taken or wait for a lock.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio_postgres::{Client, Error, Statement};

use super::login::connect;
use crate::config::{Live, Node};
use crate::core::topology::NodeId;

/// Between two looks at a session, and before another is opened.
const PAUSE: Duration = Duration::from_secs(1);
/// Bound on an empty statement.
const LOOK: Duration = Duration::from_secs(2);
/// A login that waits for a lock takes up one of the server's connections: not one for each pause.
const LOGIN: Duration = Duration::from_secs(10);

/// Name of the sessions in which commands are given.
pub(super) const CONTROL: &str = "causeway control";
/// Ends other sessions in which an earlier order may be on its way, those of older versions as well. It names
/// functions alone: the lock that a `VACUUM FULL` held stays on standbys until one of them is promoted.
pub(super) const END_OTHERS: &str = "\
SELECT pg_terminate_backend(a.pid) FROM pg_stat_get_activity(NULL) AS a
 WHERE a.application_name IN ('causeway control', 'causeway rule') AND a.pid <> pg_backend_pid()
   AND a.usesysid = (SELECT usesysid FROM pg_stat_get_activity(pg_backend_pid()))";
/// Waits for its own disk and for no standby: `synchronous_commit` is `local` in these sessions.
pub(super) const HEARTBEAT: &str = "SELECT pg_logical_emit_message(true, 'causeway', 'heartbeat')";

/// With its heartbeat prepared: then that looks nothing up.
#[derive(Debug)]
pub(super) struct ControlSession {
    pub(super) client: Client,
    pub(super) heartbeat: Statement,
}

/// What an order is given in.
#[derive(Debug)]
pub(super) enum OrderSession {
    Kept(Arc<ControlSession>),
    New(Client),
}

impl std::ops::Deref for OrderSession {
    type Target = Client;

    fn deref(&self) -> &Client {
        match self {
            Self::Kept(kept) => &kept.client,
            Self::New(client) => client,
        }
    }
}

/// By node.
#[derive(Debug)]
pub(super) struct ControlSessions(Vec<Mutex<Option<Arc<ControlSession>>>>);

impl ControlSessions {
    pub(super) fn new(nodes: usize) -> Self {
        Self((0..nodes).map(|_| Mutex::default()).collect())
    }

    /// The one that is kept on a node, if one is.
    pub(super) fn of(&self, node: NodeId) -> Option<Arc<ControlSession>> {
        let kept = self.0.get(usize::from(node.0))?.lock().clone();
        kept.filter(|kept| !kept.client.is_closed())
    }

    /// It is of no use any more; another is opened.
    pub(super) fn discard(&self, node: NodeId, session: &Arc<ControlSession>) {
        if let Some(kept) = self.0.get(usize::from(node.0)) {
            let mut kept = kept.lock();
            if kept.as_ref().is_some_and(|kept| Arc::ptr_eq(kept, session)) {
                *kept = None;
            }
        }
    }

    /// Keeps one on a node until it is dropped.
    pub(super) async fn keep(self: Arc<Self>, id: NodeId, node: Node, live: Arc<Live>) {
        let Some(place) = self.0.get(usize::from(id.0)) else {
            return;
        };
        loop {
            let opened = tokio::time::timeout(LOGIN, open(&node, &live)).await;
            if let Ok(Ok(opened)) = opened {
                *place.lock() = Some(Arc::new(opened));
                while let Some(kept) = self.of(id) {
                    tokio::time::sleep(PAUSE).await;
                    let asked = kept.client.batch_execute("");
                    if !matches!(tokio::time::timeout(LOOK, asked).await, Ok(Ok(()))) {
                        self.discard(id, &kept);
                    }
                }
                *place.lock() = None;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

async fn open(node: &Node, live: &Live) -> Result<ControlSession, Error> {
    let monitor = live.load().monitor.clone();
    let client = connect(node, &monitor, CONTROL).await?;
    // An idle one is not to be ended.
    client.batch_execute(NEVER_IDLE).await?;
    let heartbeat = client.prepare(HEARTBEAT).await?;
    Ok(ControlSession { client, heartbeat })
}

/// From PostgreSQL 14 on there is such a setting.
const NEVER_IDLE: &str = "\
SELECT set_config('idle_session_timeout', '0', false)
 WHERE current_setting('idle_session_timeout', true) IS NOT NULL";
