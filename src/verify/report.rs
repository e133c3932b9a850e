//! The outcome of a check: for programs as JSON, for eyes as text.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use serde::Serialize;

use super::checker::Guarantee;
use super::options::Options;
use super::tally::{FormCount, Moves, NodeCount, Operation, Tally, Timed, Violation};

/// Everything that a check found.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Where was written (and read), without credentials.
    pub target: String,
    /// Where was read instead, if elsewhere.
    pub read_targets: Vec<String>,
    /// Level asked for, if any.
    pub consistency: Option<String>,
    /// Repeats the choices of this run.
    pub seed: u64,
    /// Sessions that write, that read, and that do everything.
    pub sessions: [usize; 3],
    /// Time from the first statement to the last.
    pub elapsed_seconds: f64,
    pub reads: u64,
    /// Of these, answered by a server in recovery.
    pub replica_reads: u64,
    /// `replica_reads / reads`.
    pub replica_share: f64,
    /// Reads that broke at least one promise.
    pub violating_reads: u64,
    pub writes: u64,
    /// Writes of which nobody can tell whether they happened.
    pub unknown_outcomes: u64,
    /// Connections replaced.
    pub reconnects: u64,
    /// Acknowledged writes to own rows that were missing at the end: with a history all of them, else
    /// of each session the last; absent if that could not be looked up.
    pub lost_writes: Option<u64>,
    /// How many were looked for.
    pub sought_writes: u64,
    /// By promise.
    pub guarantees: BTreeMap<Guarantee, Rate>,
    /// By server, as it names itself.
    pub nodes: BTreeMap<String, NodeCount>,
    /// By form, such as `prepared, BEGIN…COMMIT`.
    pub forms: BTreeMap<String, FormCount>,
    /// How often consecutive reads of a session were served by different servers: without moves a
    /// check proves little.
    pub moves: Moves,
    /// By kind of work.
    pub latencies: BTreeMap<String, LatencySummary>,
    /// By operation and SQLSTATE.
    pub errors: Vec<ErrorCount>,
    pub examples: Vec<Violation>,
}

/// How often a promise was put to the test, and broken.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Rate {
    /// Answers that could have broken it.
    pub checks: u64,
    /// Answers that did.
    pub violations: u64,
    /// `violations` in 10,000 `checks`.
    pub per_10000: f64,
}

/// How long answers took.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct LatencySummary {
    /// Answers.
    pub count: u64,
    /// Median, microseconds.
    pub p50_us: u64,
    /// 99th percentile, microseconds.
    pub p99_us: u64,
    /// Slowest, microseconds.
    pub max_us: u64,
}

/// Errors of one kind.
#[derive(Clone, Debug, Serialize)]
pub struct ErrorCount {
    /// `connect`, `read` or `write`.
    pub operation: &'static str,
    /// SQLSTATE, or what happened instead of one.
    pub code: String,
    pub count: u64,
    pub message: String,
}

impl Report {
    pub(super) fn new(
        options: &Options,
        tally: Tally,
        elapsed_seconds: f64,
        lost_writes: Option<u64>,
        sought_writes: u64,
    ) -> Self {
        let latencies = latencies(&tally);
        let guarantees = rates(&tally, options.recency);
        let errors = errors(tally.errors);
        let mut examples = tally.examples;
        examples.sort_by_key(|violation| violation.at_ms);
        examples.truncate(options.examples);
        Self {
            target: options.target.to_string(),
            read_targets: options
                .read_targets
                .iter()
                .map(ToString::to_string)
                .collect(),
            consistency: options.consistency.clone(),
            seed: options.seed,
            sessions: [options.writers, options.readers, options.mixed],
            elapsed_seconds,
            reads: tally.reads,
            replica_reads: tally.replica_reads,
            replica_share: share(tally.replica_reads, tally.reads),
            violating_reads: tally.violating_reads,
            writes: tally.writes,
            unknown_outcomes: tally.unknown_outcomes,
            reconnects: tally.reconnects,
            lost_writes,
            sought_writes,
            guarantees,
            nodes: tally.nodes,
            forms: tally
                .forms
                .into_iter()
                .map(|((form, block), count)| (format!("{form}, {block}"), count))
                .collect(),
            moves: tally.moves,
            latencies,
            errors,
            examples,
        }
    }

    /// Broken promises, lost writes among them.
    pub fn violations(&self) -> u64 {
        let broken: u64 = self.guarantees.values().map(|rate| rate.violations).sum();
        broken + self.lost_writes.unwrap_or(0)
    }

    /// How one promise fared.
    pub fn rate(&self, guarantee: Guarantee) -> Rate {
        self.guarantees.get(&guarantee).copied().unwrap_or_default()
    }

    /// Errors of every kind.
    pub fn error_count(&self) -> u64 {
        self.errors.iter().map(|error| error.count).sum()
    }
}

fn latencies(tally: &Tally) -> BTreeMap<String, LatencySummary> {
    Timed::ALL
        .into_iter()
        .filter_map(|timed| {
            let histogram = tally.histogram(timed)?;
            let latency = LatencySummary {
                count: histogram.len(),
                p50_us: histogram.value_at_quantile(0.5),
                p99_us: histogram.value_at_quantile(0.99),
                max_us: histogram.max(),
            };
            Some((timed.name().to_owned(), latency))
        })
        .collect()
}

fn rates(tally: &Tally, recency: bool) -> BTreeMap<Guarantee, Rate> {
    Guarantee::ALL
        .into_iter()
        .filter(|guarantee| *guarantee != Guarantee::Recency || recency)
        .map(|guarantee| {
            let (checks, violations) = tally.checks[guarantee.index()];
            let rate = Rate {
                checks,
                violations,
                per_10000: 10_000.0 * share(violations, checks),
            };
            (guarantee, rate)
        })
        .collect()
}

/// The most frequent first.
fn errors(met: HashMap<(Operation, String), (u64, String)>) -> Vec<ErrorCount> {
    let mut errors: Vec<ErrorCount> = met
        .into_iter()
        .map(|((operation, code), (count, message))| ErrorCount {
            operation: operation.name(),
            code,
            count,
            message,
        })
        .collect();
    errors.sort_by(|a, b| b.count.cmp(&a.count).then_with(|| a.code.cmp(&b.code)));
    errors
}

fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 {
        0.0
    } else {
        part as f64 / whole as f64
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [writers, readers, mixed] = self.sessions;
        write!(f, "target     {}", self.target)?;
        if !self.read_targets.is_empty() {
            write!(f, ", reads from {}", self.read_targets.join(", "))?;
        }
        if let Some(level) = &self.consistency {
            write!(f, ", consistency {level}")?;
        }
        writeln!(
            f,
            "\nsessions   {writers} writers, {readers} readers, {mixed} mixed; {:.1} s; seed {}",
            self.elapsed_seconds, self.seed
        )?;
        writeln!(
            f,
            "reads      {}, {:.1} % on replicas; {} writes, {} of unknown outcome; {} reconnects",
            self.reads,
            100.0 * self.replica_share,
            self.writes,
            self.unknown_outcomes,
            self.reconnects
        )?;
        writeln!(
            f,
            "moves      {} replica to primary, {} primary to replica, {} replica to replica",
            self.moves.replica_to_primary,
            self.moves.primary_to_replica,
            self.moves.replica_to_replica
        )?;
        writeln!(
            f,
            "\n{:<24}{:>12}{:>12}{:>14}",
            "promise", "checks", "violations", "per 10,000"
        )?;
        for (guarantee, rate) in &self.guarantees {
            writeln!(
                f,
                "{:<24}{:>12}{:>12}{:>14.1}",
                guarantee.name(),
                rate.checks,
                rate.violations,
                rate.per_10000
            )?;
        }
        match self.lost_writes {
            Some(lost) => writeln!(
                f,
                "acknowledged writes missing at the end: {lost} of {} looked for",
                self.sought_writes
            )?,
            None => writeln!(f, "acknowledged writes missing at the end: not known")?,
        }
        writeln!(
            f,
            "\n{:<24}{:>12}{:>12}{:>14}",
            "node", "as replica", "as primary", "violating"
        )?;
        for (node, count) in &self.nodes {
            writeln!(
                f,
                "{node:<24}{:>12}{:>12}{:>14}",
                count.reads_as_replica, count.reads_as_primary, count.violating_reads
            )?;
        }
        writeln!(
            f,
            "\n{:<24}{:>12}{:>12}{:>14}",
            "form", "reads", "replicas %", "violating"
        )?;
        for (form, count) in &self.forms {
            writeln!(
                f,
                "{form:<24}{:>12}{:>12.1}{:>14}",
                count.reads,
                100.0 * share(count.replica_reads, count.reads),
                count.violating_reads
            )?;
        }
        writeln!(
            f,
            "\n{:<24}{:>12}{:>12}{:>14}{:>12}",
            "latency, µs", "count", "p50", "p99", "max"
        )?;
        for (kind, latency) in &self.latencies {
            writeln!(
                f,
                "{kind:<24}{:>12}{:>12}{:>14}{:>12}",
                latency.count, latency.p50_us, latency.p99_us, latency.max_us
            )?;
        }
        if !self.errors.is_empty() {
            writeln!(f, "\nerrors")?;
        }
        for error in &self.errors {
            writeln!(
                f,
                "  {} × {} {}: {}",
                error.count, error.operation, error.code, error.message
            )?;
        }
        if !self.examples.is_empty() {
            writeln!(f, "\nfirst violations")?;
        }
        for violation in &self.examples {
            writeln!(f, "  {violation}")?;
        }
        match self.violations() {
            0 if self.reads == 0 => writeln!(f, "\nNOTHING CHECKED: no read was answered"),
            0 => writeln!(f, "\nno violation"),
            count => writeln!(f, "\n{count} VIOLATIONS"),
        }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bound = match self.guarantee {
            Guarantee::Provenance => "at most",
            _ => "at least",
        };
        let role = if self.replica { "replica" } else { "primary" };
        let block = if self.block { ", BEGIN…COMMIT" } else { "" };
        write!(
            f,
            "{:>6} ms  {}: {}, {:?} expected {bound} {}, seen {} on {role} {} ({}{block})",
            self.at_ms,
            self.session,
            self.guarantee.name(),
            self.cell,
            self.expected,
            self.seen,
            self.node,
            self.form.name(),
        )?;
        if let Some(previous) = self
            .previous_node
            .as_ref()
            .filter(|name| **name != self.node)
        {
            write!(f, ", after a read on {previous}")?;
        }
        Ok(())
    }
}
