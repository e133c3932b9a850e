//! Asking a primary for whom `synchronous_commit` is set below `on`. That is in catalogues alone, whose locks
//! a question may wait for: it has a session of its own, and its lateness says nothing of the server. What
//! was known before stands meanwhile.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio_postgres::{Client, Error};

use super::facts::Facts;
use super::login::{READS, login};
use crate::config::{Live, Node};
use crate::core::failover::FailoverPolicy;
use crate::core::failover::policy::Durability;
use crate::core::topology::NodeId;
use crate::pg::queries::early_commits;

const PACE: Duration = Duration::from_millis(200);
/// A question that is given up may go on waiting, on a connection that the server has to spare.
const PATIENCE: Duration = Duration::from_secs(20);

const QUESTION: &str = concat!("SELECT ", early_commits!());

/// For whom, in words, as it was last told.
#[derive(Debug, Default)]
pub(super) struct Whose(Mutex<Vec<String>>);

impl Whose {
    pub(super) fn known(&self) -> Vec<String> {
        self.0.lock().clone()
    }
}

pub(super) struct EarlyPoller {
    pub(super) id: NodeId,
    pub(super) node: Node,
    pub(super) live: Arc<Live>,
    pub(super) policy: Arc<FailoverPolicy>,
    pub(super) facts: Arc<Facts>,
    pub(super) whose: Arc<Whose>,
}

impl EarlyPoller {
    /// Asks until it is dropped, where it matters.
    pub(super) async fn run(self) {
        if !matches!(self.policy.durability, Durability::Quorum { .. }) {
            return;
        }
        let mut session: Option<Client> = None;
        loop {
            let answer = self.facts.last_answer(self.id);
            if answer.is_some_and(|answer| answer.primary().is_some()) {
                match tokio::time::timeout(PATIENCE, self.ask(&mut session)).await {
                    Ok(Ok(whose)) => *self.whose.0.lock() = whose,
                    Ok(Err(_)) | Err(_) => session = None,
                }
            } else {
                session = None;
                self.whose.0.lock().clear();
            }
            tokio::time::sleep(PACE).await;
        }
    }

    async fn ask(&self, session: &mut Option<Client>) -> Result<Vec<String>, Error> {
        let client = match session {
            Some(client) => client,
            None => {
                let monitor = self.live.load().monitor.clone();
                let opened = login(&self.node, &monitor, "causeway catalogs", READS).await?;
                session.insert(opened)
            }
        };
        client.query_one(QUESTION, &[]).await?.try_get(0)
    }
}
