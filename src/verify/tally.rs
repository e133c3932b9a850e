//! What one session counts while it runs; merged into the report when it ends.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use super::checker::{Cell, Finding, Guarantee};
use super::connection::StatementError;
use super::options::Form;

/// What a latency belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Timed {
    ReplicaRead,
    PrimaryRead,
    /// An autocommit write, or a whole transaction that writes.
    Write,
}

impl Timed {
    pub(super) const ALL: [Self; 3] = [Self::ReplicaRead, Self::PrimaryRead, Self::Write];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::ReplicaRead => "read on a replica",
            Self::PrimaryRead => "read on the primary",
            Self::Write => "write",
        }
    }
}

/// Which work met an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Operation {
    Connect,
    Read,
    Write,
}

impl Operation {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Read => "read",
            Self::Write => "write",
        }
    }
}

/// Reads served by one server.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct NodeCount {
    /// While in recovery.
    pub reads_as_replica: u64,
    /// While not.
    pub reads_as_primary: u64,
    /// Of both, those that broke a promise.
    pub violating_reads: u64,
}

/// Reads sent in one form.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct FormCount {
    /// All.
    pub reads: u64,
    /// On replicas.
    pub replica_reads: u64,
    /// Those that broke a promise.
    pub violating_reads: u64,
}

/// Moves between servers from one read of a session to its next.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Moves {
    /// From a standby to the primary.
    pub replica_to_primary: u64,
    /// From the primary to a standby.
    pub primary_to_replica: u64,
    /// From one standby to another.
    pub replica_to_replica: u64,
}

/// One answer that broke a promise.
#[derive(Clone, Debug, Serialize)]
pub struct Violation {
    /// Milliseconds into the check.
    pub at_ms: u64,
    /// Which session, such as `writer 3`.
    pub session: String,
    pub guarantee: Guarantee,
    /// What was read or written.
    pub cell: Cell,
    /// The bound that was owed.
    pub expected: i64,
    /// The value in the answer.
    pub seen: i64,
    pub node: String,
    /// Whether it was in recovery.
    pub replica: bool,
    /// Who answered the session's read before.
    pub previous_node: Option<String>,
    /// How it was sent.
    pub form: Form,
    /// Whether inside BEGIN and COMMIT.
    pub block: bool,
}

#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) reads: u64,
    pub(super) replica_reads: u64,
    pub(super) writes: u64,
    pub(super) unknown_outcomes: u64,
    pub(super) reconnects: u64,
    pub(super) violating_reads: u64,
    /// Per guarantee: how often it was held against an answer, and how often it was broken.
    pub(super) checks: [(u64, u64); Guarantee::ALL.len()],
    pub(super) nodes: BTreeMap<String, NodeCount>,
    pub(super) forms: BTreeMap<(&'static str, &'static str), FormCount>,
    pub(super) errors: HashMap<(Operation, String), (u64, String)>,
    pub(super) moves: Moves,
    pub(super) examples: Vec<Violation>,
    latencies: [Option<Histogram<u64>>; Timed::ALL.len()],
}

impl Tally {
    /// Counts findings; returns how many promises were broken.
    pub(super) fn findings(&mut self, findings: &[Finding]) -> usize {
        let mut broken = 0;
        for finding in findings {
            let (checks, violations) = &mut self.checks[finding.guarantee.index()];
            *checks += 1;
            if !finding.kept {
                *violations += 1;
                broken += 1;
            }
        }
        broken
    }

    pub(super) fn error(&mut self, operation: Operation, failure: &StatementError) {
        let (count, _) = self
            .errors
            .entry((operation, failure.code.clone()))
            .or_insert_with(|| (0, failure.message.clone()));
        *count += 1;
    }

    pub(super) fn latency(&mut self, timed: Timed, elapsed: Duration) {
        let slot = &mut self.latencies[timed as usize];
        if slot.is_none() {
            // One microsecond to ten minutes; two digits keep a session's three small.
            *slot = Histogram::new_with_bounds(1, 600_000_000, 2).ok();
        }
        if let Some(histogram) = slot {
            histogram.saturating_record(u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX));
        }
    }

    pub(super) fn histogram(&self, timed: Timed) -> Option<&Histogram<u64>> {
        self.latencies[timed as usize].as_ref()
    }

    pub(super) fn merge(&mut self, other: Self) {
        self.reads += other.reads;
        self.replica_reads += other.replica_reads;
        self.writes += other.writes;
        self.unknown_outcomes += other.unknown_outcomes;
        self.reconnects += other.reconnects;
        self.violating_reads += other.violating_reads;
        for (mine, theirs) in self.checks.iter_mut().zip(other.checks) {
            mine.0 += theirs.0;
            mine.1 += theirs.1;
        }
        for (node, count) in other.nodes {
            let mine = self.nodes.entry(node).or_default();
            mine.reads_as_replica += count.reads_as_replica;
            mine.reads_as_primary += count.reads_as_primary;
            mine.violating_reads += count.violating_reads;
        }
        for (form, count) in other.forms {
            let mine = self.forms.entry(form).or_default();
            mine.reads += count.reads;
            mine.replica_reads += count.replica_reads;
            mine.violating_reads += count.violating_reads;
        }
        for (key, (count, message)) in other.errors {
            self.errors.entry(key).or_insert((0, message)).0 += count;
        }
        self.moves.replica_to_primary += other.moves.replica_to_primary;
        self.moves.primary_to_replica += other.moves.primary_to_replica;
        self.moves.replica_to_replica += other.moves.replica_to_replica;
        self.examples.extend(other.examples);
        for (mine, theirs) in self.latencies.iter_mut().zip(other.latencies) {
            match (mine.as_mut(), theirs) {
                (Some(mine), Some(theirs)) => {
                    // Equal bounds: cannot fail.
                    let _ = mine.add(&theirs);
                }
                (None, theirs) => *mine = theirs,
                (Some(_), None) => {}
            }
        }
    }
}
