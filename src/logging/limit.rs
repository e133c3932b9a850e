//! How many lines of one kind are written: the first as they are, the rest as a number. Pure: time
//! is an argument.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

/// So many lines of a kind are written as they are.
pub const FIRST: u32 = 5;
/// A number is written this often while more come; a kind that was quiet for as long starts anew.
pub const PERIOD: Duration = Duration::from_secs(10);
/// Kinds that are told apart; lines of others are all written. Nothing that a client chooses makes a
/// kind, so that this is never reached.
const MOST_KINDS: usize = 4096;

/// The lines of the present period, by kind.
#[derive(Debug)]
pub struct Limit<K, T> {
    kinds: HashMap<K, Flow<T>>,
}

/// The lines of one kind.
#[derive(Debug)]
struct Flow<T> {
    since: Duration,
    /// Written as they are.
    said: u32,
    more: u64,
    /// What the line that was held back first looked like.
    first: Option<T>,
}

/// Lines that were held back.
#[derive(Debug, PartialEq, Eq)]
pub struct More<T> {
    /// What the first of them looked like.
    pub first: T,
    /// How many they were.
    pub count: u64,
    /// In what time.
    pub within: Duration,
}

impl<K, T> Default for Limit<K, T> {
    fn default() -> Self {
        Self {
            kinds: HashMap::new(),
        }
    }
}

impl<K: Hash + Eq, T> Limit<K, T> {
    /// Whether a line is to be written; otherwise it has been counted.
    pub fn admit(&mut self, kind: K, now: Duration, look: impl FnOnce() -> T) -> bool {
        if self.kinds.len() >= MOST_KINDS && !self.kinds.contains_key(&kind) {
            return true;
        }
        let flow = self.kinds.entry(kind).or_insert(Flow {
            since: now,
            said: 0,
            more: 0,
            first: None,
        });
        if flow.said < FIRST {
            flow.said += 1;
            return true;
        }
        flow.more += 1;
        flow.first.get_or_insert_with(look);
        false
    }

    /// What was held back in periods that are over.
    pub fn due(&mut self, now: Duration) -> Vec<More<T>> {
        self.take(now, PERIOD)
    }

    /// All that was held back and has not been told.
    pub fn rest(&mut self, now: Duration) -> Vec<More<T>> {
        self.take(now, Duration::ZERO)
    }

    fn take(&mut self, now: Duration, age: Duration) -> Vec<More<T>> {
        let mut due = Vec::new();
        self.kinds.retain(|_, flow| {
            let within = now.saturating_sub(flow.since);
            if within < age {
                return true;
            }
            let Some(first) = flow.first.take() else {
                return false;
            };
            let count = std::mem::take(&mut flow.more);
            due.push(More {
                first,
                count,
                within,
            });
            // It goes on, most likely: from now on only numbers are written.
            flow.since = now;
            flow.said = FIRST;
            true
        });
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// Lines of one kind at these seconds: which are written.
    fn written(limit: &mut Limit<&'static str, u64>, kind: &'static str, at: &[u64]) -> Vec<bool> {
        let lines = at.iter();
        lines.map(|at| limit.admit(kind, s(*at), || *at)).collect()
    }

    #[test]
    fn the_first_lines_are_written_and_the_rest_is_counted() {
        let mut limit = Limit::default();
        let storm = written(&mut limit, "a", &[0, 0, 0, 0, 1, 2, 3, 4]);
        assert_eq!(storm, [true, true, true, true, true, false, false, false]);
        assert_eq!(written(&mut limit, "b", &[4]), [true], "another kind");
        assert!(limit.due(s(9)).is_empty());
        let told = More {
            first: 2,
            count: 3,
            within: s(10),
        };
        assert_eq!(limit.due(s(10)), [told]);
        assert!(limit.due(s(10)).is_empty(), "told once");
    }

    #[test]
    fn a_storm_that_goes_on_is_one_line_a_period() {
        let mut limit = Limit::default();
        let mut lines = 0;
        let mut counted = 0;
        for second in 0..100 {
            for _ in 0..50 {
                lines += u32::from(limit.admit((), s(second), || ()));
            }
            for more in limit.due(s(second)) {
                lines += 1;
                counted += more.count;
            }
        }
        assert_eq!(lines, FIRST + 9);
        let rest = limit.rest(s(100));
        counted += rest.iter().map(|more| more.count).sum::<u64>();
        assert_eq!(counted + u64::from(FIRST), 100 * 50, "no line is forgotten");
    }

    #[test]
    fn after_a_quiet_period_lines_are_written_again() {
        let mut limit = Limit::default();
        written(&mut limit, "a", &[0; 9]);
        assert_eq!(limit.due(s(10)).len(), 1);
        assert_eq!(written(&mut limit, "a", &[15]), [false], "not quiet yet");
        assert_eq!(limit.due(s(20)).len(), 1);
        assert!(limit.due(s(30)).is_empty());
        assert_eq!(written(&mut limit, "a", &[31]), [true]);
    }

    #[test]
    fn a_few_lines_now_and_then_are_all_written() {
        let mut limit = Limit::default();
        for second in (0..1000).step_by(3) {
            assert!(limit.admit((), s(second), || ()), "{second}");
            assert!(limit.due(s(second)).is_empty());
        }
    }
}
