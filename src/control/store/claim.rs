//! The claim to lead: what every act of a leader asks first, without a lock and without waiting.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::clock;
use crate::core::leader_lease::{Micros, micros};

/// Whether this proxy leads, by its own clock. Clones share one state.
///
/// Nothing but time needs to pass for it to end: no task must run, no answer must come.
#[derive(Clone, Debug, Default)]
pub struct Claim(Arc<ClaimState>);

#[derive(Debug, Default)]
struct ClaimState {
    /// 0 while there is no claim.
    until: AtomicU64,
    term: AtomicU64,
}

impl Claim {
    /// Whether this proxy leads at this moment.
    pub fn holds(&self) -> bool {
        now() < self.0.until.load(Ordering::Acquire)
    }

    /// For how long this proxy still leads if it renews no more; none when it does not lead.
    pub fn left(&self) -> Option<Duration> {
        let until = self.0.until.load(Ordering::Acquire);
        let left = until.checked_sub(now()).filter(|left| *left > 0)?;
        Some(Duration::from_micros(left))
    }

    /// The term of the claim while it holds. Who acts for long should see that it stays the same.
    pub fn term(&self) -> Option<u64> {
        let term = self.0.term.load(Ordering::Acquire);
        self.holds().then_some(term)
    }

    pub(super) fn set(&self, term: u64, until: Micros) {
        self.0.term.store(term, Ordering::Release);
        self.0.until.store(until, Ordering::Release);
    }

    pub(super) fn end(&self) {
        self.0.until.store(0, Ordering::Release);
    }
}

pub(super) fn now() -> Micros {
    micros(clock::now())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_ends_by_time_alone() {
        let claim = Claim::default();
        assert!(!claim.holds() && claim.left().is_none() && claim.term().is_none());
        claim.set(7, now() + 60_000_000);
        assert_eq!(claim.term(), Some(7));
        assert!(claim.left().unwrap() <= Duration::from_secs(60));
        claim.set(7, now());
        assert!(!claim.holds() && claim.left().is_none());
        claim.set(8, Micros::MAX);
        assert!(claim.clone().holds() && claim.left().is_some());
        claim.end();
        assert!(!claim.holds());
    }
}
