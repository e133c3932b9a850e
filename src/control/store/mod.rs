//! Where the failover controller keeps its record, and which proxy leads: in a file or on etcd.
//!
//! The record is an opaque JSON value with a version. It is changed by compare-and-set, and only by
//! the proxy that leads; the others watch. What the record means is the controller's business.

mod attendance;
mod attended;
mod claim;
mod etcd;
mod examine;
mod file;
mod keys;
mod leadership;
mod members;
mod rpc;

use std::time::Duration;

use serde_json::Value;
use tokio::sync::watch;

use crate::config::Coordination;

pub use claim::Claim;
pub use examine::{Examined, examine};

/// Which state of the record: 0 before there is any, and greater with every change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub u64);

/// A record as it is stored.
#[derive(Clone, Debug, PartialEq)]
pub struct Stored {
    pub record: Value,
    /// To be named when it is replaced.
    pub version: Version,
}

/// Who leads, as far as this proxy knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Leader {
    /// This proxy, for as long as its [`Claim`] holds.
    Me {
        /// Greater than that of every earlier leader.
        term: u64,
    },
    /// Another proxy, or one that has just failed.
    Other {
        id: String,
        /// Greater than that of every earlier leader.
        term: u64,
    },
    Nobody,
    /// The store does not answer.
    Unknown,
}

/// The store does not answer. Whatever was asked of it may yet happen.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the coordination store is unavailable: {0}")]
pub struct Unavailable(pub String);

/// Why a record was not saved.
#[derive(Clone, Debug, thiserror::Error)]
pub enum SaveError {
    /// The record has another version by now.
    #[error("the record has been changed by another")]
    Conflict {
        /// What is stored now.
        current: Option<Stored>,
    },
    /// This proxy does not lead, or not any more.
    #[error("this proxy does not lead")]
    NotLeader,
    /// It is not known whether it was saved: load before going on.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

/// Why a store cannot be used at all; each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has the file.
    #[error(
        "{file} is in use by another proxy{holder}: one file serves one proxy; for several, set \
         failover.coordination to etcd"
    )]
    InUse {
        file: String,
        /// Who holds it, in parentheses, if that is known.
        holder: String,
    },
    /// The file is not what was written.
    #[error(
        "{file} is damaged ({reason}): restore it from a copy; or, when it is certain which server is \
         the primary and no failover was under way, move it away and start again"
    )]
    Damaged { file: String, reason: String },
    /// The system refused.
    #[error("could not {doing}: {source}")]
    Io {
        /// What was attempted, as a verb phrase.
        doing: String,
        source: std::io::Error,
    },
    /// The settings for etcd make no sense to its client.
    #[error("etcd: {0}")]
    Etcd(String),
}

#[derive(Debug)]
pub enum Store {
    /// One proxy, one file.
    File(file::FileStore),
    /// Several proxies on etcd.
    Etcd(etcd::EtcdStore),
}

impl Store {
    /// Opens the store. With a file this proxy leads from then on, or is refused; with etcd, which
    /// need not answer yet, it stands for leader in the background until it resigns.
    ///
    /// `cluster` names what is decided about, `id` this proxy. Needs a tokio runtime.
    pub async fn open(
        coordination: &Coordination,
        cluster: &str,
        id: &str,
    ) -> Result<Self, OpenError> {
        match coordination {
            Coordination::File { state_file } => {
                file::FileStore::open(state_file).await.map(Self::File)
            }
            Coordination::Etcd(settings) => {
                etcd::EtcdStore::open(settings, cluster, id).map(Self::Etcd)
            }
        }
    }

    /// The record as it is now.
    pub async fn load(&self) -> Result<Option<Stored>, Unavailable> {
        match self {
            Self::File(store) => store.load().await,
            Self::Etcd(store) => store.load().await,
        }
    }

    /// Replaces the record if it has the expected version, [`Version`]`(0)` if there is none yet,
    /// and if this proxy leads. After [`SaveError::Unavailable`] it may have been saved.
    pub async fn save(&self, record: &Value, expected: Version) -> Result<Version, SaveError> {
        match self {
            Self::File(store) => store.save(record, expected).await,
            Self::Etcd(store) => store.save(record, expected).await,
        }
    }

    /// The record as it was last seen; none before it was first seen, or while there is none.
    pub fn watch(&self) -> watch::Receiver<Option<Stored>> {
        match self {
            Self::File(store) => store.watch(),
            Self::Etcd(store) => store.watch(),
        }
    }

    /// For how long what `watch` shows may still be relied on by a proxy that does not lead.
    pub fn current_for(&self) -> Duration {
        match self {
            Self::File(_) => Duration::MAX,
            Self::Etcd(store) => store.current_for(),
        }
    }

    /// Tells the proxy that decides that this one has heard of this state of the record, and whether it holds its
    /// clients by it with nothing of theirs under way.
    pub fn say(&self, heard: Version, holds: bool) {
        match self {
            Self::File(_) => {}
            Self::Etcd(store) => store.attendance().say(heard, holds),
        }
    }

    /// How many other proxies do not hold their clients by this state of the record or a later one; of those
    /// that have not heard of it, only if they count.
    pub fn behind(&self, version: Version, unaware_count: bool) -> usize {
        match self {
            Self::File(_) => 0,
            Self::Etcd(store) => store.attendance().behind(version, unaware_count),
        }
    }

    /// Whether other proxies may serve clients of the same cluster.
    pub fn is_shared(&self) -> bool {
        matches!(self, Self::Etcd(_))
    }

    /// Who leads. It lags behind the truth; whether this proxy may act is what [`Store::claim`] says.
    pub fn leader(&self) -> watch::Receiver<Leader> {
        match self {
            Self::File(store) => store.leader(),
            Self::Etcd(store) => store.leader(),
        }
    }

    /// Whether this proxy leads, and until when: by its own clock alone, to be asked before every act.
    pub fn claim(&self) -> &Claim {
        match self {
            Self::File(store) => store.claim(),
            Self::Etcd(store) => store.claim(),
        }
    }

    /// Gives the leadership up at once and does not stand again for `pause`: for a leader that
    /// could not do its work where another may. Does nothing on a file.
    pub async fn step_down(&self, pause: Duration) {
        match self {
            Self::File(_) => {}
            Self::Etcd(store) => store.step_down(Some(pause)).await,
        }
    }

    /// Gives the leadership up for good; to be called at a shutdown, after the last act as a leader.
    /// Bounded: an etcd that does not answer is left to find out.
    pub async fn resign(&self) {
        match self {
            Self::File(store) => store.claim().end(),
            Self::Etcd(store) => {
                store.step_down(None).await;
                store.attendance().end().await;
            }
        }
    }
}
