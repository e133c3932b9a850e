//! Listening for sessions: one connection for each database, user and client encoding at the primary,
//! outside of the pools. Who hears what is decided in `core/fanout.rs`; here are the connections (`feed`)
//! and the sessions' ends of them (`ear`).

pub(super) mod ear;
pub mod feed;
pub(super) mod inbox;
pub(super) mod words;

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use self::ear::Ear;
use self::feed::{Audience, Feed, Means};
use crate::config::Secret;
use crate::shared::memory::MemoryBudget;

/// Notifications that all sessions together have not taken yet, in bytes.
const MOST_UNDELIVERED: usize = 256 << 20;
/// And one of them.
const MOST_FOR_ONE: usize = 8 << 20;

/// All listening connections.
#[derive(Debug)]
pub struct Listening {
    means: Arc<Means>,
    /// Beside the budget of everything that sessions make the proxy hold.
    undelivered: Arc<MemoryBudget>,
    feeds: Mutex<HashMap<Audience, Arc<Feed>>>,
}

impl Listening {
    pub fn new(means: Means) -> Self {
        Self {
            means: Arc::new(means),
            undelivered: Arc::new(MemoryBudget::new(MOST_UNDELIVERED, MOST_FOR_ONE)),
            feeds: Mutex::default(),
        }
    }

    /// A session's end of its connection, which is opened by the calling thread's event loop if there is
    /// none yet. `password` is for the servers, of a user that the configuration does not know any more.
    pub(super) fn join(self: &Arc<Self>, audience: &Audience, password: Option<&Secret>) -> Ear {
        let mut feeds = self.feeds.lock();
        if let Some(feed) = feeds.get(audience) {
            return Ear::of(feed);
        }
        let budgets = [
            Arc::clone(&self.means.memory),
            Arc::clone(&self.undelivered),
        ];
        let feed = Feed::new(
            audience.clone(),
            password.cloned(),
            Arc::clone(&self.means),
            budgets,
        );
        let feed = Arc::new(feed);
        let ear = Ear::of(&feed);
        feeds.insert(audience.clone(), Arc::clone(&feed));
        let all = Arc::clone(self);
        tokio::spawn(async move {
            while !all.retire(&feed) {
                feed.serve_once().await;
            }
        });
        ear
    }

    /// Waits until all connections of a database have read what was acknowledged before.
    pub(super) async fn catch_up(&self, database: &str) {
        let feeds: Vec<_> = {
            let all = self.feeds.lock();
            let of = |feed: &&Arc<Feed>| *feed.audience().database == *database;
            all.values().filter(of).cloned().collect()
        };
        for feed in feeds {
            feed.catch_up().await;
        }
    }

    /// Forgets a connection that nobody needs. False if somebody has come.
    fn retire(&self, feed: &Feed) -> bool {
        let mut feeds = self.feeds.lock();
        let is_idle = feed.is_idle();
        if is_idle {
            feeds.remove(feed.audience());
        }
        is_idle
    }
}
