//! Which server connection a client's cancel request means at this moment.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock};
use tokio::sync::Notify;

use crate::backend::server::CancelTarget;

/// All sessions by the process id that they were given.
#[derive(Debug, Default)]
pub struct Cancels {
    slots: RwLock<HashMap<i32, Arc<Slot>>>,
    next: AtomicI32,
}

/// One session's place.
#[derive(Debug)]
pub struct Slot {
    process: i32,
    key: Vec<u8>,
    current: Mutex<Current>,
    /// The number of the batch that is being worked on, doubled; odd while none is.
    batch: AtomicU64,
    /// Told of a request that finds no server connection.
    unattached: Notify,
}

#[derive(Debug, Default)]
struct Current {
    target: Option<CancelTarget>,
    /// The batch that was to be cancelled.
    requested: Option<u64>,
}

impl Cancels {
    /// A place for a new session with a key of `length` random bytes.
    pub fn register(&self, length: usize) -> Arc<Slot> {
        let mut key = vec![0; length];
        rand::fill(&mut key[..]);
        let mut slots = self.slots.write();
        let process = loop {
            let process = self.next.fetch_add(1, Ordering::Relaxed) & i32::MAX;
            if process != 0 && !slots.contains_key(&process) {
                break process;
            }
        };
        let slot = Arc::new(Slot {
            process,
            key,
            current: Mutex::default(),
            batch: AtomicU64::new(1),
            unattached: Notify::new(),
        });
        slots.insert(process, Arc::clone(&slot));
        slot
    }

    /// A session has ended.
    pub fn unregister(&self, slot: &Slot) {
        self.slots.write().remove(&slot.process);
    }

    /// The session that a cancel request means, if its key is right.
    pub fn find(&self, process: i32, key: &[u8]) -> Option<Arc<Slot>> {
        let slot = self.slots.read().get(&process).cloned()?;
        (slot.key == key).then_some(slot)
    }
}

impl Slot {
    /// The process id that the client was told.
    pub fn process(&self) -> i32 {
        self.process
    }

    /// The key that the client was told.
    pub fn key(&self) -> &[u8] {
        &self.key
    }

    /// A batch is being worked on from now on.
    pub fn begin(&self) {
        self.batch.fetch_add(1, Ordering::AcqRel);
    }

    /// It was answered.
    pub fn end(&self) {
        self.batch.fetch_add(1, Ordering::AcqRel);
    }

    /// The batch that is being worked on; none while the session is idle.
    pub fn batch(&self) -> Option<u64> {
        let batch = self.batch.load(Ordering::Acquire);
        (batch & 1 == 0).then_some(batch)
    }

    /// A cancel request: the server connection that it means now, if the session holds one, which is then
    /// not passed on to another session. Otherwise what the session waits for is given up.
    pub fn request(&self) -> Option<CancelTarget> {
        let mut current = self.current.lock();
        current.requested = self.batch();
        let target = current.target.clone();
        if target.is_none() {
            self.unattached.notify_waiters();
        }
        target
    }

    /// Resolves at a cancel request while it holds no server connection.
    pub async fn cancelled(&self) {
        let notified = self.unattached.notified();
        tokio::pin!(notified);
        notified.as_mut().enable();
        let batch = self.batch();
        if self.current.lock().requested != batch || batch.is_none() {
            notified.await;
        }
    }

    /// The session now holds this server connection. True when a cancel request came before: nothing is
    /// to be sent.
    #[must_use]
    pub fn attach(&self, target: &CancelTarget) -> bool {
        let mut current = self.current.lock();
        current.target = Some(target.clone());
        let batch = self.batch();
        batch.is_some() && std::mem::take(&mut current.requested) == batch
    }

    /// The session lets go of it. True when a cancel request may still be on its way to it, so that
    /// it must not serve another session.
    pub fn detach(&self) -> bool {
        let mut current = self.current.lock();
        current.target = None;
        current.requested.take().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_reaches_only_what_the_session_holds_now() {
        let cancels = Cancels::default();
        let slot = cancels.register(4);
        let target = CancelTarget {
            address: ([127, 0, 0, 1], 5432).into(),
            process: 42,
            key: 7,
        };
        assert!(slot.batch().is_none(), "idle");
        slot.begin();
        assert!(slot.batch().is_some());
        assert!(
            cancels.find(slot.process(), b"no, no").is_none(),
            "wrong key"
        );
        assert!(slot.request().is_none(), "not attached yet");
        assert!(
            slot.attach(&target),
            "what was cancelled before is not sent"
        );
        assert!(!slot.detach());
        assert!(!slot.attach(&target));
        assert_eq!(slot.request().unwrap().process, 42);
        assert!(slot.detach(), "a request is on its way: not to be reused");
        slot.end();
        assert!(slot.batch().is_none());
        cancels.unregister(&slot);
        assert!(cancels.find(slot.process(), slot.key()).is_none());
    }
}
