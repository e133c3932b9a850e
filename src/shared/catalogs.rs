//! The function catalogue of each database in use: control reads it from the primary, the data plane
//! classifies statements by it.

use std::collections::HashMap;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use arc_swap::ArcSwap;
use parking_lot::RwLock;
use tokio::sync::Notify;

use crate::core::traces::Knowledge;
use crate::sql::catalog::Catalog;

/// The catalogue of one database.
#[derive(Debug)]
pub struct LatestCatalog {
    catalog: ArcSwap<Catalog>,
    /// It was found to be the newest when so many changes had been seen.
    as_of: AtomicU64,
    changes: Arc<AtomicU64>,
    gone: AtomicBool,
}

impl LatestCatalog {
    fn new(changes: &Arc<AtomicU64>) -> Self {
        Self {
            catalog: ArcSwap::from_pointee(Catalog::empty()),
            as_of: AtomicU64::new(0),
            changes: Arc::clone(changes),
            gone: AtomicBool::new(false),
        }
    }

    /// Whether its database has been dropped: nobody reads it any more.
    pub fn is_gone(&self) -> bool {
        self.gone.load(Ordering::SeqCst)
    }

    /// It has been looked at since so many changes had been seen.
    pub fn is_as_of(&self, changes: u64) {
        self.as_of.fetch_max(changes, Ordering::SeqCst);
    }

    /// By which reading the definitions of now are known; none while a change that was seen has not been
    /// read.
    pub fn knowledge(&self) -> Knowledge {
        let catalog = self.catalog.load();
        let as_of = self.as_of.load(Ordering::SeqCst);
        let current = catalog.is_loaded() && as_of >= self.changes.load(Ordering::SeqCst);
        current.then(|| catalog.version())
    }
}

impl Deref for LatestCatalog {
    type Target = ArcSwap<Catalog>;

    fn deref(&self) -> &Self::Target {
        &self.catalog
    }
}

#[derive(Debug, Default)]
pub struct Catalogs {
    known: RwLock<HashMap<Arc<str>, Arc<LatestCatalog>>>,
    changes: Arc<AtomicU64>,
    wanted: Notify,
}

impl Catalogs {
    /// The catalogue of a database; empty until control has read it.
    pub fn of(&self, database: &str) -> Arc<LatestCatalog> {
        if let Some(found) = self.known.read().get(database) {
            return Arc::clone(found);
        }
        let mut known = self.known.write();
        let entry = known
            .entry(Arc::from(database))
            .or_insert_with(|| Arc::new(LatestCatalog::new(&self.changes)));
        let entry = Arc::clone(entry);
        drop(known);
        self.wanted.notify_one();
        entry
    }

    /// There is no such database any more. Of another one of that name whoever asks gets another catalogue; who
    /// has this one has an empty one.
    pub fn forget(&self, database: &str) {
        if let Some(entry) = self.known.write().remove(database) {
            entry.gone.store(true, Ordering::SeqCst);
            entry.store(Arc::new(Catalog::empty()));
        }
    }

    /// Databases whose catalogue is in use.
    pub fn databases(&self) -> Vec<Arc<str>> {
        self.known.read().keys().cloned().collect()
    }

    /// How often something has changed, as far as it was seen.
    pub fn changes(&self) -> u64 {
        self.changes.load(Ordering::SeqCst)
    }

    /// Definitions may have changed: asks control to read the catalogues again.
    pub fn want(&self) {
        self.changes.fetch_add(1, Ordering::SeqCst);
        self.wanted.notify_one();
    }

    /// Resolves once catalogues are wanted.
    pub async fn wanted(&self) {
        self.wanted.notified().await;
    }
}
