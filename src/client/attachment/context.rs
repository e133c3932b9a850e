//! What a session only uses and does not own: its worker, its database's statements, its place among the
//! cancel requests and on the list of clients, its way to the pools.

use std::pin::Pin;
use std::sync::Arc;

use tokio_util::sync::WaitForCancellationFutureOwned;

use super::routing::Places;
use crate::client::cancels::Slot;
use crate::client::connection::batch::Batch;
use crate::client::database::Database;
use crate::client::relay::LookAfter;
use crate::client::worker::Worker;
use crate::core::statement::{Effect, Renew};
use crate::shared::connections::Entry;

/// One for each session.
#[derive(Debug)]
pub(in crate::client) struct Context {
    pub(in crate::client) worker: Arc<Worker>,
    pub(in crate::client) database: Arc<Database>,
    pub(in crate::client) slot: Arc<Slot>,
    pub(in crate::client) entry: Entry,
    pub(in crate::client) places: Places,
    pub(in crate::client) look_after: LookAfter,
    /// Resolves when idle sessions are to end.
    pub(in crate::client) draining: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Context {
    pub(in crate::client) fn node_name(&self, node: u16) -> String {
        let names = &self.worker.common.start.node_names;
        names.get(usize::from(node)).cloned().unwrap_or_default()
    }

    /// Databases that are to be dropped, renamed or copied may have nobody connected to them.
    pub(in crate::client) fn renew_before(&self, batch: &Batch) {
        if batch.has_no_effects() {
            return;
        }
        for effect in batch.effects() {
            if let Effect::Renew(renew @ Renew::Close(_)) = effect {
                self.renew(renew);
            }
        }
    }

    /// What sessions that begin later find has changed: connections of before are not given to them.
    pub(in crate::client) fn renew(&self, renew: &Renew) {
        let common = &self.worker.common;
        match renew {
            Renew::Role(user) => common.pools.renew(None, None, user.as_deref()),
            Renew::Database(database) | Renew::Close(database) => {
                common.pools.renew(None, Some(database), None)
            }
        }
        common.forget_greetings();
    }
}
