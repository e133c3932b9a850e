//! Which server connection a client's cancel request means at this moment.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

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
    /// Told of a request that finds no server connection.
    unattached: Notify,
}

#[derive(Debug, Default)]
struct Current {
    target: Option<CancelTarget>,
    requested: bool,
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
            unattached: Notify::new(),
        });
        slots.insert(process, Arc::clone(&slot));
        slot
    }

    /// A session has ended.
    pub fn unregister(&self, slot: &Slot) {
        self.slots.write().remove(&slot.process);
    }

    /// The server connection that a cancel request means now, if its key is right and the session
    /// holds one. The session then does not pass that connection on to another.
    pub fn request(&self, process: i32, key: &[u8]) -> Option<CancelTarget> {
        let slot = self.slots.read().get(&process).cloned()?;
        if slot.key != key {
            return None;
        }
        let mut current = slot.current.lock();
        let Some(target) = current.target.clone() else {
            slot.unattached.notify_waiters();
            return None;
        };
        current.requested = true;
        Some(target)
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

    /// Resolves at the next cancel request while it holds no server connection.
    pub async fn cancelled(&self) {
        self.unattached.notified().await;
    }

    /// The session now holds this server connection.
    pub fn attach(&self, target: &CancelTarget) {
        let mut current = self.current.lock();
        current.target = Some(target.clone());
        current.requested = false;
    }

    /// The session lets go of it. True when a cancel request may still be on its way to it, so that
    /// it must not serve another session.
    pub fn detach(&self) -> bool {
        let mut current = self.current.lock();
        current.target = None;
        current.requested
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
        assert!(
            cancels.request(slot.process(), slot.key()).is_none(),
            "idle"
        );
        slot.attach(&target);
        assert!(
            cancels.request(slot.process(), b"no, no").is_none(),
            "wrong key"
        );
        assert!(!slot.detach());
        slot.attach(&target);
        assert_eq!(
            cancels.request(slot.process(), slot.key()).unwrap().process,
            42
        );
        assert!(slot.detach(), "a request is on its way: not to be reused");
        assert!(cancels.request(slot.process(), slot.key()).is_none());
        cancels.unregister(&slot);
        assert!(cancels.request(slot.process(), slot.key()).is_none());
    }
}
