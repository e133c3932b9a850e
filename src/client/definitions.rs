//! Changes of a database's definitions, as far as sessions see them: what was parsed before one may mean
//! something else after it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Of one database, for all workers.
#[derive(Debug, Default)]
pub struct Definitions {
    seen: AtomicU64,
    under_way: AtomicUsize,
}

/// A statement that may change definitions for everybody is at a server, and its answer has not been read
/// to the end: until this is dropped, nobody knows whether it has.
#[derive(Debug)]
pub struct Redefinition(Arc<Definitions>);

impl Definitions {
    /// How many changes have been seen.
    pub fn seen(&self) -> u64 {
        self.seen.load(Ordering::Acquire)
    }

    /// One has been seen.
    pub fn changed(&self) {
        self.seen.fetch_add(1, Ordering::AcqRel);
    }

    /// Whether there may be one that nobody has seen yet.
    pub fn are_changing(&self) -> bool {
        self.under_way.load(Ordering::Acquire) > 0
    }

    /// One is about to be sent.
    pub fn change(self: &Arc<Self>) -> Redefinition {
        self.under_way.fetch_add(1, Ordering::AcqRel);
        Redefinition(Arc::clone(self))
    }
}

impl Drop for Redefinition {
    fn drop(&mut self) {
        // Whoever sent it may have lost its server instead.
        self.0.changed();
        self.0.under_way.fetch_sub(1, Ordering::AcqRel);
    }
}
