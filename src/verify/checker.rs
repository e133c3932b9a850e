//! Pure: what one session may be shown, and which answers break that.
//!
//! Every cell only ever grows in the database (`greatest`, `value + 1`), so a value below one that
//! the session has written or seen can only come from an older state.

use serde::Serialize;

use super::runs::Runs;

/// What a session reads and writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Cell {
    /// The row which only this session writes.
    Own,
    /// A counter which many sessions increase.
    Shared,
    /// A counter always increased before `Second`, in a transaction of its own.
    First,
    /// A counter which never exceeds `First` in any prefix of the history.
    Second,
}

impl Cell {
    /// How many there are.
    pub(super) const COUNT: usize = 4;

    /// Position in tables indexed by cell.
    pub(super) fn index(self) -> usize {
        self as usize
    }
}

/// A promise that an answer can keep or break.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Guarantee {
    /// A session sees what it wrote.
    ReadYourWrites,
    /// A session never sees an older state than it has already seen.
    MonotonicReads,
    /// A session's write is built on everything that it has seen.
    WritesFollowReads,
    /// What a session sees of two counters is a prefix of the history.
    ConsistentPrefix,
    /// A read sees every write acknowledged to anyone before it began.
    Recency,
    /// The answer belongs to the question, and somebody wrote the value.
    Provenance,
}

impl Guarantee {
    /// All, in the order in which they are reported.
    pub const ALL: [Self; 6] = [
        Self::ReadYourWrites,
        Self::MonotonicReads,
        Self::WritesFollowReads,
        Self::ConsistentPrefix,
        Self::Recency,
        Self::Provenance,
    ];

    /// The name shown in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::ReadYourWrites => "read your writes",
            Self::MonotonicReads => "monotonic reads",
            Self::WritesFollowReads => "writes follow reads",
            Self::ConsistentPrefix => "consistent prefix",
            Self::Recency => "recency",
            Self::Provenance => "provenance",
        }
    }

    /// Position in tables indexed by guarantee.
    pub(super) fn index(self) -> usize {
        self as usize
    }
}

/// One promise held against one answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Finding {
    pub(super) guarantee: Guarantee,
    /// The bound that the value had to respect: a lower one, except for provenance.
    pub(super) expected: i64,
    /// Whether it was kept.
    pub(super) kept: bool,
}

/// What surrounds a read besides the session's own history.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Context {
    /// What the transaction in progress has written to this cell, not yet committed.
    pub(super) pending: Option<i64>,
    /// The greatest value acknowledged to any session before the read was sent, where recency
    /// is promised.
    pub(super) published: Option<i64>,
}

#[derive(Clone, Copy, Debug, Default)]
struct LowerBound {
    written: Option<i64>,
    seen: Option<i64>,
}

impl LowerBound {
    fn known(self) -> Option<i64> {
        self.written.max(self.seen)
    }
}

/// The state of one session: what it has written, tried to write, and seen.
#[derive(Clone, Debug, Default)]
pub(super) struct Checker {
    floors: [LowerBound; Cell::COUNT],
    attempted: i64,
    acknowledged: Runs,
}

impl Checker {
    /// The next value for the session's own row. From now on it may be seen, whatever becomes of
    /// the write: an outcome can stay unknown.
    pub(super) fn attempt(&mut self) -> i64 {
        self.attempted += 1;
        self.attempted
    }

    /// The values of the own row that were ever acknowledged to this session.
    pub(super) fn acknowledged_own(&self) -> &Runs {
        &self.acknowledged
    }

    /// A write of `value` was committed and the session was told so.
    pub(super) fn acknowledge(&mut self, cell: Cell, value: i64) {
        let floor = &mut self.floors[cell.index()];
        floor.written = floor.written.max(Some(value));
        if cell == Cell::Own {
            self.acknowledged.push(value);
        }
    }

    /// The connection was replaced by a new one, which owes nothing to what the old one saw. Values
    /// attempted on the old one may still appear.
    pub(super) fn forget(&mut self) {
        self.floors = Default::default();
    }

    /// A read of `cell` returned `value`.
    pub(super) fn read(&mut self, cell: Cell, value: i64, context: Context) -> Vec<Finding> {
        let floor = self.floors[cell.index()];
        let mut findings = Vec::with_capacity(4);
        let mut at_least = |guarantee, bound: Option<i64>| {
            if let Some(expected) = bound {
                findings.push(Finding {
                    guarantee,
                    expected,
                    kept: value >= expected,
                });
            }
        };
        at_least(
            Guarantee::ReadYourWrites,
            context.pending.max(floor.written),
        );
        at_least(Guarantee::MonotonicReads, floor.seen);
        if cell == Cell::First {
            at_least(
                Guarantee::ConsistentPrefix,
                self.floors[Cell::Second.index()].known(),
            );
        }
        at_least(Guarantee::Recency, context.published);
        if cell == Cell::Own {
            findings.push(Finding {
                guarantee: Guarantee::Provenance,
                expected: self.attempted,
                kept: value <= self.attempted,
            });
        }
        // What only this transaction sees may yet be rolled back.
        if context.pending.is_none() {
            let floor = &mut self.floors[cell.index()];
            floor.seen = floor.seen.max(Some(value));
        }
        findings
    }

    /// A write to `cell` reported `value` as the row's new value; `asked` is what the session wanted
    /// to write where that is known beforehand.
    pub(super) fn returned(&self, cell: Cell, value: i64, asked: Option<i64>) -> Vec<Finding> {
        match asked {
            Some(expected) => vec![Finding {
                guarantee: Guarantee::Provenance,
                expected,
                kept: value == expected,
            }],
            // An increase starts from a committed value at least as new as what was seen.
            None => self.floors[cell.index()]
                .known()
                .map(|known| Finding {
                    guarantee: Guarantee::WritesFollowReads,
                    expected: known.saturating_add(1),
                    kept: value > known,
                })
                .into_iter()
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn broken(findings: &[Finding]) -> Vec<(Guarantee, i64)> {
        findings
            .iter()
            .filter(|finding| !finding.kept)
            .map(|finding| (finding.guarantee, finding.expected))
            .collect()
    }

    fn read(checker: &mut Checker, cell: Cell, value: i64) -> Vec<(Guarantee, i64)> {
        broken(&checker.read(cell, value, Context::default()))
    }

    #[test]
    fn a_fresh_session_expects_nothing() {
        let mut checker = Checker::default();
        assert!(read(&mut checker, Cell::Own, 0).is_empty());
        assert!(read(&mut checker, Cell::Shared, 700).is_empty());
    }

    #[test]
    fn an_acknowledged_write_must_be_seen() {
        let mut checker = Checker::default();
        let value = checker.attempt();
        checker.acknowledge(Cell::Own, value);
        assert_eq!(
            read(&mut checker, Cell::Own, 0),
            [(Guarantee::ReadYourWrites, 1)]
        );
        // A stale answer does not lower what is owed.
        assert_eq!(
            read(&mut checker, Cell::Own, 0),
            [(Guarantee::ReadYourWrites, 1)]
        );
        assert!(read(&mut checker, Cell::Own, 1).is_empty());
    }

    #[test]
    fn an_unknown_outcome_gives_bounds_on_both_sides() {
        let mut checker = Checker::default();
        let first = checker.attempt();
        checker.acknowledge(Cell::Own, first);
        let _unknown = checker.attempt();
        assert!(read(&mut checker, Cell::Own, 1).is_empty());
        assert!(read(&mut checker, Cell::Own, 2).is_empty());
        // Seen once, it has been committed and may not vanish.
        assert_eq!(
            read(&mut checker, Cell::Own, 1),
            [(Guarantee::MonotonicReads, 2)]
        );
        assert_eq!(
            read(&mut checker, Cell::Own, 3),
            [(Guarantee::Provenance, 2)]
        );
    }

    #[test]
    fn counters_never_go_back_within_a_session() {
        let mut checker = Checker::default();
        assert!(read(&mut checker, Cell::Shared, 10).is_empty());
        assert_eq!(
            read(&mut checker, Cell::Shared, 9),
            [(Guarantee::MonotonicReads, 10)]
        );
        assert!(read(&mut checker, Cell::Shared, 10).is_empty());
    }

    #[test]
    fn monotonic_reads_hold_across_a_write_of_another_cell() {
        let mut checker = Checker::default();
        assert!(read(&mut checker, Cell::Shared, 10).is_empty());
        let value = checker.attempt();
        checker.acknowledge(Cell::Own, value);
        assert_eq!(
            read(&mut checker, Cell::Shared, 9),
            [(Guarantee::MonotonicReads, 10)]
        );
    }

    #[test]
    fn the_first_counter_is_never_behind_what_was_seen_of_the_second() {
        let mut checker = Checker::default();
        assert!(read(&mut checker, Cell::Second, 5).is_empty());
        assert_eq!(
            read(&mut checker, Cell::First, 4),
            [(Guarantee::ConsistentPrefix, 5)]
        );
        assert!(read(&mut checker, Cell::First, 5).is_empty());
        // The other order proves nothing: the second may be anywhere at or below the first.
        let mut checker = Checker::default();
        assert!(read(&mut checker, Cell::First, 4).is_empty());
        assert!(read(&mut checker, Cell::Second, 9).is_empty());
    }

    #[test]
    fn a_transaction_sees_its_own_pending_write_and_owes_nothing_if_it_rolls_back() {
        let mut checker = Checker::default();
        let value = checker.attempt();
        let inside = Context {
            pending: Some(value),
            ..Context::default()
        };
        assert_eq!(
            broken(&checker.read(Cell::Own, 0, inside)),
            [(Guarantee::ReadYourWrites, 1)]
        );
        assert!(broken(&checker.read(Cell::Own, 1, inside)).is_empty());
        assert!(read(&mut checker, Cell::Own, 0).is_empty());
    }

    #[test]
    fn an_increase_starts_from_what_was_seen() {
        let mut checker = Checker::default();
        assert!(checker.returned(Cell::Shared, 1, None).is_empty());
        assert!(read(&mut checker, Cell::Shared, 10).is_empty());
        assert_eq!(
            broken(&checker.returned(Cell::Shared, 10, None)),
            [(Guarantee::WritesFollowReads, 11)]
        );
        assert!(broken(&checker.returned(Cell::Shared, 11, None)).is_empty());
    }

    #[test]
    fn a_write_that_reports_another_value_has_a_foreign_answer() {
        let mut checker = Checker::default();
        let value = checker.attempt();
        assert!(broken(&checker.returned(Cell::Own, value, Some(value))).is_empty());
        assert_eq!(
            broken(&checker.returned(Cell::Own, 7, Some(value))),
            [(Guarantee::Provenance, 1)]
        );
    }

    #[test]
    fn recency_is_checked_only_where_it_is_promised() {
        let mut checker = Checker::default();
        assert!(read(&mut checker, Cell::Shared, 3).is_empty());
        let promised = Context {
            published: Some(4),
            ..Context::default()
        };
        assert_eq!(
            broken(&checker.read(Cell::Shared, 3, promised)),
            [(Guarantee::Recency, 4)]
        );
    }

    #[test]
    fn a_new_connection_owes_nothing_but_late_writes_may_still_land() {
        let mut checker = Checker::default();
        let value = checker.attempt();
        checker.acknowledge(Cell::Own, value);
        let _unknown = checker.attempt();
        assert!(read(&mut checker, Cell::Shared, 10).is_empty());
        checker.forget();
        assert!(read(&mut checker, Cell::Own, 0).is_empty());
        assert!(read(&mut checker, Cell::Own, 2).is_empty());
        assert!(read(&mut checker, Cell::Shared, 1).is_empty());
        assert_eq!(checker.acknowledged_own().last(), 1);
    }
}
