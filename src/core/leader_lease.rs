//! How long a leader may believe in its own lease, and when another may take it.
//!
//! The stored lease has no clock of its own. Its holder renews it by writing it again; another takes
//! it when it has not changed for `ttl` by the other's clock. Both count by the rule that keeps them
//! apart: the holder from *before* it sent a write, the other from *after* it saw the result. So the
//! holder's belief has ended when the other's wait has, however late any answer comes; that their
//! clocks do not run at quite the same speed is what [`margin`] is for.

use std::time::Duration;

/// A moment by one process's own clock, in microseconds since a start that only it knows.
pub type Micros = u64;

/// By how much a holder's belief is shorter than `ttl`: a tenth, between 50 ms and 1 s. It covers
/// clocks that drift apart and a write that was let through in the last moment and is still on its way.
pub fn margin(ttl: Duration) -> Duration {
    (ttl / 10).clamp(Duration::from_millis(50), Duration::from_secs(1))
}

/// One unbroken hold of the lease, as its holder may believe in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tenure {
    until: Micros,
}

impl Tenure {
    /// Begins with a write that was sent then and found to have succeeded at `answered`; none when
    /// the answer came too late to lead by.
    pub fn begin(sent: Micros, answered: Micros, ttl: Duration) -> Option<Self> {
        let until = end(sent, ttl);
        (answered < until).then_some(Self { until })
    }

    /// Goes on by a renewal that was sent then and confirmed at `answered`. A tenure that had ended
    /// by then stays ended: the lease must be taken anew.
    pub fn renewed(self, sent: Micros, answered: Micros, ttl: Duration) -> Option<Self> {
        if answered >= self.until {
            return None;
        }
        // Answers may overtake each other; none takes away what another gave.
        let until = self.until.max(end(sent, ttl));
        Some(Self { until })
    }

    /// The first moment at which the lease may no longer be relied on.
    pub fn until(self) -> Micros {
        self.until
    }
}

fn end(sent: Micros, ttl: Duration) -> Micros {
    sent.saturating_add(micros(ttl.saturating_sub(margin(ttl))))
}

/// What is known of a lease that somebody holds or held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sighting {
    /// When it was first seen as it is now, counted after the answer that showed it.
    pub since: Micros,
    /// What its holder said that it lasts without a renewal.
    pub ttl: Duration,
    /// Its holder gave it back.
    pub vacant: bool,
    /// It is ours, of a tenure that has ended: nobody else relies on it.
    pub own: bool,
}

/// From when on the lease may be taken; 0 is at once.
pub fn takeable_from(seen: Option<Sighting>) -> Micros {
    match seen {
        Some(seen) if !seen.vacant && !seen.own => seen.since.saturating_add(micros(seen.ttl)),
        _ => 0,
    }
}

pub fn micros(duration: Duration) -> Micros {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TTL: Duration = Duration::from_secs(3);

    #[test]
    fn a_tenure_is_counted_from_before_the_write() {
        let tenure = Tenure::begin(1_000_000, 1_400_000, TTL).unwrap();
        assert_eq!(tenure.until(), 1_000_000 + 2_700_000);
        assert_eq!(Tenure::begin(1_000_000, 3_700_000, TTL), None);
    }

    #[test]
    fn a_late_answer_never_revives_and_an_early_one_never_shortens() {
        let tenure = Tenure::begin(0, 1, TTL).unwrap();
        assert_eq!(tenure.renewed(2_600_000, 2_700_000, TTL), None);
        let renewed = tenure.renewed(1_000_000, 2_699_999, TTL).unwrap();
        assert_eq!(renewed.until(), 3_700_000);
        assert_eq!(renewed.renewed(500_000, 3_000_000, TTL), Some(renewed));
    }

    #[test]
    fn what_was_given_back_or_never_held_is_free() {
        let seen = Sighting {
            since: 5,
            ttl: TTL,
            vacant: false,
            own: false,
        };
        assert_eq!(takeable_from(Some(seen)), 3_000_005);
        assert_eq!(
            takeable_from(Some(Sighting {
                vacant: true,
                ..seen
            })),
            0
        );
        assert_eq!(takeable_from(Some(Sighting { own: true, ..seen })), 0);
        assert_eq!(takeable_from(None), 0);
    }

    proptest! {
        /// Sent, applied, answered and seen are in this order; whoever waits from what it saw begins
        /// after the holder has ended, even with a clock that runs 1 % too fast.
        #[test]
        fn nobody_takes_what_its_holder_still_believes_in(
            ttl_ms in 500_u64..60_000,
            renewals in prop::collection::vec((0_u64..2_000_000, 0_u64..2_000_000, 0_u64..2_000_000), 1..20),
            seen_later in 0_u64..1_000_000,
        ) {
            let ttl = Duration::from_millis(ttl_ms);
            let mut tenure = None;
            let (mut now, mut applied) = (0, 0);
            for (pause, to_store, back) in renewals {
                let sent = now + pause;
                applied = sent + to_store;
                now = applied + back;
                tenure = match tenure {
                    None => Tenure::begin(sent, now, ttl),
                    Some(tenure) => Tenure::renewed(tenure, sent, now, ttl),
                };
                if tenure.is_none() {
                    break;
                }
            }
            let seen = Sighting { since: applied + seen_later, ttl, vacant: false, own: false };
            let fast = (takeable_from(Some(seen)) - seen.since) * 99 / 100 + seen.since;
            if let Some(tenure) = tenure {
                prop_assert!(tenure.until() <= fast);
            }
        }
    }
}
