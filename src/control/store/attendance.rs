//! Which proxies are there, and how far each has come: a proxy says when it holds its clients by a record, and
//! nothing of theirs is under way any more. So the one that decides knows when all have heard of it.
//!
//! Each has a key of its own and writes it again and again. One that has not been seen to change for as long as a
//! proxy relies on what it knew is nobody's, and is taken away after a while.

use std::sync::Arc;

use tokio::sync::watch;
use tokio::time::timeout;

use super::attended::Word;
use super::keys::Keys;
use super::{Version, claim};
use crate::core::leader_lease::micros;

/// A key is taken away once nobody has written it for so many times as long as its proxy could rely on.
const FORGOTTEN: u64 = 20;

/// This proxy's own word, and the others'.
#[derive(Clone, Debug)]
pub(super) struct Attendance {
    keys: Arc<Keys>,
    key: String,
    word: watch::Sender<Word>,
}

impl Attendance {
    pub(super) fn new(keys: Arc<Keys>, id: &str) -> Self {
        Self {
            key: format!("{}{id}", keys.proxies),
            keys,
            word: watch::Sender::default(),
        }
    }

    /// It has heard of this state of the record, and from now on holds its clients by it with nothing under way, or
    /// does not.
    pub(super) fn say(&self, heard: Version, holds: bool) {
        let said = Word {
            heard: Some(heard.0),
            holds: holds.then_some(heard.0),
        };
        self.word
            .send_if_modified(|word| std::mem::replace(word, said) != said);
    }

    pub(super) fn behind(&self, version: Version, unaware_count: bool) -> usize {
        let attended = self.keys.attended.lock();
        let ttl = micros(self.keys.ttl);
        let own = self.key.as_bytes();
        attended.behind(own, version, ttl, claim::now(), unaware_count)
    }

    /// Says it again and again, and at once when it changes; for ever.
    pub(super) async fn run(self) {
        let mut word = self.word.subscribe();
        loop {
            let said = *word.borrow_and_update();
            let value = serde_json::to_string(&said).unwrap_or_default();
            match self.keys.attend(&self.key, &value).await {
                Ok(()) => {
                    let _ = timeout(self.keys.ttl / 3, word.changed()).await;
                }
                Err(error) => {
                    tracing::debug!(%error, "say on etcd that this proxy is there");
                    // Where it may not write, or nobody answers, the others' calls come first.
                    tokio::time::sleep(self.keys.ttl / 6).await;
                }
            }
            let bound = micros(self.keys.ttl).saturating_mul(FORGOTTEN);
            let forgotten = self.keys.attended.lock().forgotten(bound, claim::now());
            for (key, revision) in forgotten {
                // Whoever looks next finds it again.
                let _ = self.keys.dismiss(&key, revision).await;
            }
        }
    }

    /// It leaves.
    pub(super) async fn end(&self) {
        if let Err(error) = self.keys.dismiss(&self.key, 0).await {
            tracing::debug!(%error, "say on etcd that this proxy leaves");
        }
    }
}
