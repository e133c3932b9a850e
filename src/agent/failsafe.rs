//! What promises are worth to a primary whose lease nobody renews: pure. Times in, the lease's new end out.
//!
//! The other side counts a promise from when it read the question, this one from before it sent it, and
//! less the margin: by then the server is gone, also where the two clocks differ in speed.

use std::collections::BTreeMap;
use std::time::Duration;

use super::api::{FENCE_WITHIN_MS, PeerRule};

/// Clocks differ by less than one part in so many.
const DRIFT: u32 = 50;

/// For how long others are asked to promise, so that a lease of `ttl` can go on for all of it.
pub(super) fn promise_for(ttl: Duration) -> Duration {
    ttl + Duration::from_millis(FENCE_WITHIN_MS) + ttl / DRIFT
}

/// Whether it is time to ask: two renewals, which come in each quarter, have not.
pub(super) fn is_due(left: Duration, ttl: Duration) -> bool {
    left <= ttl / 2
}

/// The promises that were collected for one rule and one epoch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Collected {
    epoch: u64,
    version: u64,
    /// By node, until when the lease may go on by its promise.
    ends: BTreeMap<String, Duration>,
}

impl Collected {
    /// Forgets those that were made for another epoch or another rule.
    pub(super) fn keep_for(&mut self, epoch: u64, rule: &PeerRule) {
        if (self.epoch, self.version) != (epoch, rule.version) {
            *self = Self {
                epoch,
                version: rule.version,
                ends: BTreeMap::new(),
            };
        }
    }

    /// A node has promised what it was asked for at `sent`, for a lease of `ttl`.
    pub(super) fn note(&mut self, node: &str, sent: Duration, ttl: Duration) {
        let until = sent + ttl;
        let known = self.ends.entry(node.to_owned()).or_default();
        *known = until.max(*known);
    }

    /// Until when the lease may go on: the latest moment up to which enough have promised.
    pub(super) fn until(&self, rule: &PeerRule) -> Option<Duration> {
        let mut ends: Vec<Duration> = rule
            .peers
            .iter()
            .filter_map(|peer| self.ends.get(&peer.node).copied())
            .collect();
        ends.sort_unstable_by(|a, b| b.cmp(a));
        ends.get(rule.needed.checked_sub(1)?).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::super::api::Peer;
    use super::*;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn rule(needed: usize, nodes: &[&str]) -> PeerRule {
        let peer = |node: &&str| Peer {
            node: (*node).to_owned(),
            host: "127.0.0.1".to_owned(),
            port: 1,
        };
        PeerRule {
            version: 1,
            needed,
            peers: nodes.iter().map(peer).collect(),
        }
    }

    #[test]
    fn the_lease_goes_on_as_long_as_enough_have_promised() {
        let all = rule(2, &["pg2", "pg3"]);
        let any = rule(1, &["pg2", "pg3"]);
        let mut collected = Collected::default();
        collected.keep_for(4, &all);
        assert_eq!(collected.until(&all), None);
        collected.note("pg2", s(100), s(3));
        assert_eq!(
            (collected.until(&all), collected.until(&any)),
            (None, Some(s(103)))
        );
        collected.note("pg3", s(101), s(3));
        assert_eq!(collected.until(&all), Some(s(103)));
        assert_eq!(collected.until(&any), Some(s(104)));
        // A late answer to an earlier question takes nothing away.
        collected.note("pg3", s(99), s(3));
        assert_eq!(collected.until(&any), Some(s(104)));
        // Who is no member counts for nothing.
        collected.note("pg9", s(200), s(3));
        assert_eq!(collected.until(&any), Some(s(104)));
    }

    #[test]
    fn nobody_to_ask_and_nobody_needed_prolong_nothing() {
        let mut collected = Collected::default();
        collected.note("pg2", s(100), s(3));
        assert_eq!(collected.until(&rule(1, &[])), None);
        assert_eq!(collected.until(&rule(0, &["pg2"])), None);
        assert_eq!(collected.until(&rule(2, &["pg2"])), None);
    }

    #[test]
    fn promises_for_another_epoch_or_rule_are_forgotten() {
        let first = rule(1, &["pg2"]);
        let second = PeerRule {
            version: 2,
            ..first.clone()
        };
        let mut collected = Collected::default();
        collected.keep_for(4, &first);
        collected.note("pg2", s(100), s(3));
        collected.keep_for(4, &first);
        assert!(collected.until(&first).is_some());
        let mut other = collected.clone();
        other.keep_for(4, &second);
        assert_eq!(other.until(&second), None);
        collected.keep_for(5, &first);
        assert_eq!(collected.until(&first), None);
    }

    #[test]
    fn a_promise_outlasts_what_the_lease_gains_by_it() {
        for ttl in [s(1), s(3), s(600)] {
            let spare = promise_for(ttl) - ttl;
            assert!(spare >= Duration::from_millis(FENCE_WITHIN_MS) + ttl / 100);
        }
        assert!(is_due(s(1), s(3)) && !is_due(s(2), s(3)));
    }
}
