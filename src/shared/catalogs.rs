//! The function catalogue of each database in use: control reads it from the primary, the data plane
//! classifies statements by it.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use parking_lot::RwLock;
use tokio::sync::Notify;

use crate::sql::catalog::Catalog;

#[derive(Debug, Default)]
pub struct Catalogs {
    known: RwLock<HashMap<Arc<str>, Arc<ArcSwap<Catalog>>>>,
    wanted: Notify,
}

impl Catalogs {
    /// The catalogue of a database; empty until control has read it.
    pub fn of(&self, database: &str) -> Arc<ArcSwap<Catalog>> {
        if let Some(found) = self.known.read().get(database) {
            return Arc::clone(found);
        }
        let mut known = self.known.write();
        let entry = known
            .entry(Arc::from(database))
            .or_insert_with(|| Arc::new(ArcSwap::from_pointee(Catalog::empty())));
        let entry = Arc::clone(entry);
        drop(known);
        self.wanted.notify_one();
        entry
    }

    /// Databases whose catalogue is in use.
    pub fn databases(&self) -> Vec<Arc<str>> {
        self.known.read().keys().cloned().collect()
    }

    /// Asks control to read the catalogues again.
    pub fn want(&self) {
        self.wanted.notify_one();
    }

    /// Resolves once catalogues are wanted.
    pub async fn wanted(&self) {
        self.wanted.notified().await;
    }
}
