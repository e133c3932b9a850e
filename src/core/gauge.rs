//! What has been measured of one incarnation of a node: the probe counter and the positions.
//!
//! Probes of an incarnation are numbered in the order in which they leave. Therefore, for a moment
//! at which the counter stood at `n`: every measurement numbered above `n` was sent after that
//! moment, so that its position is an upper bound of the node's position at it.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock};

use super::lsn::{Lsn, Timeline};

/// How many measurements are kept: two seconds of back-to-back probes, minutes at rest.
const HISTORY: usize = 4096;
/// Distance of the measurements that are kept for longer, to tell a long lag, in microseconds.
const COARSE_US: u64 = 250_000;

/// A node's positions at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// WAL known to be on disk (`pg_current_wal_flush_lsn`), or replayed.
    pub flush: Lsn,
    /// WAL generated (`pg_current_wal_insert_lsn`, without a page header), or received and replayed.
    pub insert: Lsn,
    /// The end of WAL that holds every commit that the node shows (`core::visibility`), or replayed.
    pub commits: Lsn,
}

impl Position {
    /// A standby's: what it has replayed.
    pub fn replayed(lsn: Lsn) -> Self {
        Self {
            flush: lsn,
            insert: lsn,
            commits: lsn,
        }
    }
}

/// One answered probe.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Measurement {
    /// The probe's number within its incarnation; the first is 1.
    pub probe: u64,
    /// What it found.
    pub position: Position,
    /// On which timeline that counts.
    pub timeline: Timeline,
    /// A primary's commits are acknowledged before they are flushed, unless a session says otherwise
    /// (`synchronous_commit = off`).
    pub asynchronous: bool,
    /// When its answer arrived, in microseconds of the caller's clock.
    pub at_us: u64,
}

/// The shared gauge of one incarnation: written by its monitor, read by every session.
#[derive(Debug, Default)]
pub struct Gauge {
    sent: AtomicU64,
    /// The latest measurement's timeline.
    timeline: AtomicU32,
    /// When the node was first measured where it is now.
    moved_at_us: AtomicU64,
    history: RwLock<History>,
    /// Units under way that may commit asynchronously.
    asynchronous: AtomicU32,
    /// One more than the counter as the last such unit ended; 0 once its commit is on disk.
    asynchronous_until: AtomicU64,
    /// The processes of such units that were given up in the middle, and may still commit.
    abandoned: Mutex<Vec<i32>>,
}

#[derive(Debug, Default)]
struct History {
    /// The latest, oldest first.
    fine: VecDeque<Measurement>,
    /// Fewer, from further back; only those that found the node further than before.
    coarse: VecDeque<Measurement>,
}

impl Gauge {
    /// Numbers a probe that is about to leave.
    pub fn next_probe(&self) -> u64 {
        self.sent.fetch_add(1, Ordering::SeqCst) + 1
    }

    /// The number of the latest probe that may have left: a session's mark in time.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::SeqCst)
    }

    /// The timeline that the node was last seen to follow.
    pub fn timeline(&self) -> Timeline {
        Timeline(self.timeline.load(Ordering::SeqCst))
    }

    /// Records an answer. Answers arrive in the order of their probes.
    pub fn record(&self, measurement: Measurement) {
        self.timeline
            .store(measurement.timeline.0, Ordering::SeqCst);
        let History { fine, coarse } = &mut *self.history.write();
        let further = |last: &Measurement| measurement.position.flush > last.position.flush;
        if fine.back().is_none_or(further) {
            self.moved_at_us.store(measurement.at_us, Ordering::SeqCst);
        }
        let due = coarse.back().is_none_or(|last| {
            measurement.at_us >= last.at_us + COARSE_US
                && measurement.position.flush > last.position.flush
        });
        for (history, due) in [(fine, true), (coarse, due)] {
            if due && history.len() == HISTORY {
                history.pop_front();
            }
            if due {
                history.push_back(measurement);
            }
        }
    }

    /// The tightest measurement that was sent after the counter stood at `probe`.
    pub fn first_after(&self, probe: u64) -> Option<Measurement> {
        let history = &self.history.read().fine;
        // Nearly every question is about the latest few probes.
        let newest = history.back()?;
        if newest.probe <= probe {
            return None;
        }
        let index = history.partition_point(|m| m.probe <= probe);
        history.get(index).copied()
    }

    /// When the node was first measured at its present position, in microseconds.
    pub fn moved_at_us(&self) -> u64 {
        self.moved_at_us.load(Ordering::SeqCst)
    }

    /// Whether the first measurement found this node beyond `position` already, so that `age_of` is only
    /// how long it has been measured.
    pub fn begins_beyond(&self, position: Lsn) -> bool {
        let first = self.history.read().coarse.front().copied();
        first.is_some_and(|first| first.position.flush > position)
    }

    /// Microseconds since this node (a primary) was first seen beyond `position`; 0 when it was not.
    pub fn age_of(&self, position: Lsn, now_us: u64) -> u64 {
        let History { fine, coarse } = &*self.history.read();
        let reaches_back = fine.front().is_some_and(|m| m.position.flush <= position);
        let history = if reaches_back { fine } else { coarse };
        let index = history.partition_point(|m| m.position.flush <= position);
        match history.get(index) {
            Some(first_beyond) => now_us.saturating_sub(first_beyond.at_us),
            None => 0,
        }
    }

    /// Microseconds since this node (a primary) was first seen to have generated `position`.
    pub fn generated_for(&self, position: Lsn, now_us: u64) -> u64 {
        let history = &self.history.read().fine;
        let index = history.partition_point(|m| m.position.insert < position);
        match history.get(index) {
            Some(first) => now_us.saturating_sub(first.at_us),
            None => 0,
        }
    }

    /// A unit that may commit asynchronously is about to be sent to this node, a primary.
    pub fn asynchronous_begins(&self) {
        self.asynchronous.fetch_add(1, Ordering::SeqCst);
    }

    /// Such a unit has ended.
    pub fn asynchronous_ended(&self) {
        self.asynchronous_until
            .fetch_max(self.sent() + 1, Ordering::SeqCst);
        self.asynchronous.fetch_sub(1, Ordering::SeqCst);
    }

    /// The connection of such a unit was given up in the middle: it has ended once its process is gone.
    pub fn asynchronous_abandoned(&self, process: i32) {
        self.abandoned.lock().push(process);
    }

    /// Processes of which it is to be found out whether they are gone.
    pub fn abandoned(&self) -> Vec<i32> {
        self.abandoned.lock().clone()
    }

    /// Of the processes that were asked about, these are still there.
    pub fn still_there(&self, asked: &[i32], alive: &[i32]) {
        let gone = |process: &i32| asked.contains(process) && !alive.contains(process);
        let mut abandoned = self.abandoned.lock();
        let before = abandoned.len();
        abandoned.retain(|process| !gone(process));
        for _ in abandoned.len()..before {
            self.asynchronous_ended();
        }
    }

    /// Whether commits are asynchronous by default, as was last measured.
    pub fn is_asynchronous(&self) -> bool {
        let history = self.history.read();
        history.fine.back().is_some_and(|m| m.asynchronous)
    }

    /// Whether commits that are visible here are known to be possibly not on disk: those of this proxy's
    /// own sessions, or everybody's where that is the default. An asynchronous commit is visible before
    /// it is flushed, to everybody, not only to the session that made it.
    pub fn may_show_unflushed(&self) -> bool {
        if self.asynchronous.load(Ordering::SeqCst) > 0 || self.is_asynchronous() {
            return true;
        }
        let until = self.asynchronous_until.load(Ordering::SeqCst);
        if until == 0 {
            return false;
        }
        let generated = self.first_after(until - 1).map(|m| m.position.insert);
        let flushed = self.history.read().fine.back().map(|m| m.position.flush);
        if generated.is_none() || flushed < generated {
            return true;
        }
        // Only if no other such unit has ended meanwhile.
        let settled =
            self.asynchronous_until
                .compare_exchange(until, 0, Ordering::SeqCst, Ordering::SeqCst);
        settled.is_err()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gauge(positions: &[(u64, u64, u64)]) -> Gauge {
        let gauge = Gauge::default();
        for &(probe, lsn, at_us) in positions {
            let position = Position::replayed(Lsn(lsn));
            gauge.record(Measurement {
                probe,
                position,
                at_us,
                ..Measurement::default()
            });
        }
        gauge
    }

    #[test]
    fn only_a_probe_sent_later_bounds_a_moment() {
        let gauge = gauge(&[(1, 100, 10), (2, 200, 20), (5, 500, 50)]);
        let bound = |probe| gauge.first_after(probe).map(|m| m.position.flush.0);
        assert_eq!(bound(0), Some(100));
        assert_eq!(bound(1), Some(200));
        assert_eq!(
            bound(2),
            Some(500),
            "probes 3 and 4 were lost; the next one still bounds"
        );
        assert_eq!(
            bound(5),
            None,
            "a probe that left before the moment says nothing"
        );
    }

    #[test]
    fn lag_counts_from_when_the_primary_was_first_seen_beyond() {
        let gauge = gauge(&[(1, 100, 10), (2, 100, 20), (3, 300, 30)]);
        assert_eq!(gauge.age_of(Lsn(100), 90), 60);
        assert_eq!(
            gauge.age_of(Lsn(300), 90),
            0,
            "an idle primary shows no lag"
        );
    }

    #[test]
    fn history_is_bounded_and_stays_sound() {
        let gauge = Gauge::default();
        for probe in 1..=(HISTORY as u64 * 2) {
            let position = Position::replayed(Lsn(probe));
            gauge.record(Measurement {
                probe,
                position,
                at_us: probe,
                ..Measurement::default()
            });
        }
        let oldest = gauge.first_after(0).unwrap();
        assert!(
            oldest.probe > HISTORY as u64,
            "forgotten, so a looser bound is given"
        );
    }
    #[test]
    fn a_long_lag_is_told_although_probes_are_dense() {
        let gauge = Gauge::default();
        let probes = 10 * HISTORY as u64;
        for probe in 1..=probes {
            let position = Position::replayed(Lsn(probe));
            gauge.record(Measurement {
                probe,
                position,
                at_us: probe * 500,
                ..Measurement::default()
            });
        }
        let now_us = probes * 500;
        let lag_us = gauge.age_of(Lsn(10), now_us);
        assert!(now_us - lag_us <= COARSE_US + 500 * 11, "{lag_us}");
    }

    #[test]
    fn an_asynchronous_commit_is_exposed_until_it_is_flushed() {
        let gauge = Gauge::default();
        let measure = |flush, insert| {
            let (flush, insert) = (Lsn(flush), Lsn(insert));
            gauge.record(Measurement {
                probe: gauge.next_probe(),
                position: Position {
                    flush,
                    insert,
                    commits: insert,
                },
                at_us: 0,
                ..Measurement::default()
            });
        };
        assert!(!gauge.may_show_unflushed());
        gauge.asynchronous_begins();
        measure(100, 100);
        assert!(gauge.may_show_unflushed(), "it may commit at any moment");
        gauge.asynchronous_ended();
        assert!(gauge.may_show_unflushed(), "nothing was measured since");
        measure(100, 200);
        assert!(gauge.may_show_unflushed());
        measure(199, 300);
        assert!(gauge.may_show_unflushed());
        measure(200, 400);
        assert!(!gauge.may_show_unflushed());
    }
    #[test]
    fn a_unit_that_was_given_up_is_over_once_its_process_is_gone() {
        let gauge = Gauge::default();
        let measure = || {
            gauge.record(Measurement {
                probe: gauge.next_probe(),
                ..Measurement::default()
            });
        };
        for process in [7, 8] {
            gauge.asynchronous_begins();
            gauge.asynchronous_abandoned(process);
        }
        let asked = gauge.abandoned();
        assert_eq!(asked, [7, 8]);
        gauge.asynchronous_begins();
        gauge.asynchronous_abandoned(9);
        gauge.still_there(&asked, &[8]);
        assert_eq!(gauge.abandoned(), [8, 9], "nobody has asked about 9");
        measure();
        assert!(gauge.may_show_unflushed());
        gauge.still_there(&[8, 9], &[]);
        measure();
        assert!(!gauge.may_show_unflushed());
    }
}
