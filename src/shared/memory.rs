//! What sessions make the proxy hold, all of them together, in bytes, and how much that may be.
//!
//! Counted is what can grow with what clients say: messages that have to come whole, answers that are not
//! taken, texts of prepared statements (once, however many share one), names, settings. What is small and
//! bounded by the number of clients is not.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The bytes in use, and the bounds.
#[derive(Debug)]
pub struct MemoryBudget {
    held: AtomicUsize,
    total: AtomicUsize,
    session: AtomicUsize,
}

/// Somebody's part of what is in use; given back when dropped.
#[derive(Debug)]
pub struct Share {
    budget: Arc<MemoryBudget>,
    bytes: usize,
}

impl MemoryBudget {
    pub fn new(total: usize, session: usize) -> Self {
        Self {
            held: AtomicUsize::new(0),
            total: AtomicUsize::new(total),
            session: AtomicUsize::new(session),
        }
    }

    /// Other bounds are in force; what is over them stays until it is given back.
    pub fn set_bounds(&self, total: usize, session: usize) {
        self.total.store(total, Ordering::Relaxed);
        self.session.store(session, Ordering::Relaxed);
    }

    /// Bytes in use.
    pub fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    /// Bytes that all sessions may use.
    pub fn total(&self) -> usize {
        self.total.load(Ordering::Relaxed)
    }

    /// Bytes that one session may use.
    pub fn session(&self) -> usize {
        self.session.load(Ordering::Relaxed)
    }

    /// Whether there is room for so many bytes more.
    pub fn has_room(&self, bytes: usize) -> bool {
        self.held().saturating_add(bytes) <= self.total()
    }

    /// Part of it, nothing as yet.
    pub fn share(self: &Arc<Self>) -> Share {
        Share {
            budget: Arc::clone(self),
            bytes: 0,
        }
    }
}

impl Share {
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Grows to so many bytes if there is room; it never shrinks.
    pub fn grow_to(&mut self, bytes: usize) -> bool {
        let Some(more) = bytes.checked_sub(self.bytes).filter(|more| *more > 0) else {
            return true;
        };
        let total = self.budget.total();
        let grown = |held: usize| held.checked_add(more).filter(|held| *held <= total);
        let taken = self
            .budget
            .held
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, grown);
        if taken.is_ok() {
            self.bytes = bytes;
        }
        taken.is_ok()
    }

    /// So many bytes are there, whether there is room for them or not.
    pub fn set(&mut self, bytes: usize) {
        let held = &self.budget.held;
        if bytes > self.bytes {
            held.fetch_add(bytes - self.bytes, Ordering::Relaxed);
        } else {
            held.fetch_sub(self.bytes - bytes, Ordering::Relaxed);
        }
        self.bytes = bytes;
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.set(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_is_given_back() {
        let budget = Arc::new(MemoryBudget::new(100, 60));
        let (mut one, mut other) = (budget.share(), budget.share());
        assert!(one.grow_to(60) && other.grow_to(40) && !other.grow_to(41));
        assert!(other.grow_to(10), "it has that already");
        assert_eq!((one.bytes(), other.bytes(), budget.held()), (60, 40, 100));
        assert!(budget.has_room(0) && !budget.has_room(1));
        // What is there is counted, even beyond the bound.
        one.set(90);
        assert_eq!(budget.held(), 130);
        one.set(5);
        drop(other);
        assert_eq!(budget.held(), 5);
        budget.set_bounds(4, 4);
        assert!(!one.grow_to(6) && one.grow_to(5));
        drop(one);
        assert_eq!((budget.held(), budget.total(), budget.session()), (0, 4, 4));
    }
}
