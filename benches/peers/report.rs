//! The table as Markdown: medians, spreads, ratios within a round, and where a bound is exceeded.

use std::fmt::Write;
use std::path::Path;

use pgcauseway::rig::Cluster;

use super::cell::{Cell, SCALE};
use super::contestant::{Contestant, Field, Kind, POOL};
use super::idle::Idle;
use super::options::Options;
use super::pgbench::{Cost, Run};
use super::statistics::Spread;
use crate::Outcome;

/// Causeway's CPU per transaction, as a multiple of PgBouncer's, that calls for work.
const PEER_BOUND: f64 = 1.3;
/// The same for what session consistency adds to none.
const LEVEL_BOUND: f64 = 1.05;

/// One contestant's runs in one cell.
#[derive(Debug)]
pub(crate) struct Row {
    name: String,
    kind: Kind,
    pub(crate) runs: Vec<Run>,
}

/// What the benchmark found so far.
#[derive(Debug)]
pub(crate) struct Report {
    introduction: String,
    cells: Vec<(Cell, Vec<Row>)>,
    /// Memory and logins.
    pub(crate) idle: Vec<Idle>,
}

impl Row {
    /// A row without runs.
    pub(crate) fn new(contestant: &Contestant) -> Self {
        Self {
            name: contestant.name.clone(),
            kind: contestant.kind.clone(),
            runs: Vec::new(),
        }
    }

    fn cost(&self, figure: impl Fn(Cost) -> f64) -> Option<Spread> {
        Spread::of(self.runs.iter().filter_map(|run| run.cost).map(figure))
    }

    fn median(&self, figure: impl Fn(&Run) -> f64) -> f64 {
        Spread::of(self.runs.iter().map(figure)).map_or(0.0, |spread| spread.median)
    }

    /// CPU per transaction over another contestant's of the same round.
    fn ratio(&self, other: &Self) -> Option<Spread> {
        let pairs = self.runs.iter().zip(&other.runs);
        let costs = pairs.filter_map(|(run, other)| Some((run.cost?, other.cost?)));
        Spread::of(costs.map(|(cost, other)| cost.cpu_us / other.cpu_us))
    }

    fn failure(&self) -> Option<&str> {
        self.runs.iter().find_map(|run| run.failure.as_deref())
    }

    /// The row that differs from this one in its level alone.
    fn is_eventual_of(&self, session: &Self) -> bool {
        match (&self.kind, &session.kind) {
            (
                Kind::Causeway {
                    build,
                    level,
                    workers,
                },
                Kind::Causeway {
                    build: its_build,
                    level: its_level,
                    workers: its_workers,
                },
            ) => {
                (build, workers) == (its_build, its_workers)
                    && (level.as_str(), its_level.as_str()) == ("eventual", "session")
            }
            _ => false,
        }
    }
}

impl Report {
    /// A report without figures.
    pub(crate) fn new(cluster: &Cluster, field: &Field, options: &Options) -> Self {
        let introduction = format!(
            "# Causeway beside PgBouncer\n\n\
             PostgreSQL {}, one primary and two standbys; PgBouncer {}; Causeway {} (`level/workers`). \
             pgbench at scale {SCALE}, one thread; pools of {POOL}; SCRAM, no TLS; {} cores shared \
             by all. {} rounds of {} s in turn{}. What each column means is in `benches/README.md`.\n",
            cluster.binaries().version(),
            field.pgbouncer,
            env!("CARGO_PKG_VERSION"),
            options.cores,
            options.rounds(),
            options.length().as_secs(),
            if options.pin {
                ", the proxies on a core of their own"
            } else {
                ""
            },
        );
        Self {
            introduction,
            cells: Vec::new(),
            idle: Vec::new(),
        }
    }

    /// Takes a cell's rows in.
    pub(crate) fn add(&mut self, cell: Cell, rows: Vec<Row>) {
        self.cells.push((cell, rows));
    }

    /// Whether no transaction failed.
    pub(crate) fn clean(&self) -> bool {
        let mut rows = self.cells.iter().flat_map(|(_, rows)| rows);
        rows.all(|row| row.failure().is_none())
    }

    /// Replaces the file.
    pub(crate) fn write(&self, path: &Path) -> Outcome<()> {
        if let Some(directory) = path.parent() {
            std::fs::create_dir_all(directory)?;
        }
        Ok(std::fs::write(path, self.markdown())?)
    }

    /// The whole report.
    pub(crate) fn markdown(&self) -> String {
        let mut text = self.introduction.clone();
        if !self.cells.is_empty() {
            text.push_str(
                "\n| cell | contestant | CPU µs/tx (min-max) | × PgBouncer (min-max) | least × least | \
                 waits/tx | user % | tx/s | p50 ms | p99 ms |\n|---|---|--:|--:|--:|--:|--:|--:|--:|--:|\n",
            );
        }
        for (cell, rows) in &self.cells {
            let peer = rows
                .iter()
                .find(|row| matches!(row.kind, Kind::PgBouncer { .. }));
            rows.iter()
                .for_each(|row| text.push_str(&line(cell, row, peer)));
        }
        if !self.idle.is_empty() {
            text.push_str(
                "\n| idle clients | KiB per client, growth | KiB per client, whole proxy | \
                 CPU µs per login |\n|---|--:|--:|--:|\n",
            );
        }
        for idle in &self.idle {
            // Writing to a String cannot fail.
            let _ = writeln!(
                text,
                "| {} | {:.1} | {:.1} | {:.0} |",
                idle.name, idle.growth_kib, idle.whole_kib, idle.login_us
            );
        }
        if !self.cells.is_empty() {
            text.push('\n');
            text.push_str(&self.noise());
            text.push('\n');
            text.push_str(&self.verdict());
        }
        text
    }

    /// PgBouncer did the same thing in every round; how far its figures lie apart is noise.
    fn noise(&self) -> String {
        let peers = self.cells.iter().flat_map(|(_, rows)| rows);
        let peers = peers.filter(|row| matches!(row.kind, Kind::PgBouncer { .. }));
        let spreads = peers.filter_map(|row| Some(row.cost(|cost| cost.cpu_us)?.percent()));
        let runs = self.cells.iter().flat_map(|(_, rows)| rows);
        let others = runs.flat_map(|row| row.runs.iter().map(|run| run.others_percent));
        let (Some(noise), Some(others)) = (Spread::of(spreads), Spread::of(others)) else {
            return String::new();
        };
        format!(
            "Noise: PgBouncer's own CPU per transaction spreads by {:.0} % of its median within a \
             cell (median of cells; worst {:.0} %). Before a run others took {:.0} % of the \
             machine's CPU time (median; worst {:.0} %).\n",
            noise.median, noise.most, others.median, others.most
        )
    }

    /// The closing lines: where work is due.
    fn verdict(&self) -> String {
        let (mut peer, mut level, mut failed) = (Vec::new(), Vec::new(), Vec::new());
        for (cell, rows) in &self.cells {
            let bouncer = rows
                .iter()
                .find(|row| matches!(row.kind, Kind::PgBouncer { .. }));
            for row in rows {
                if let Some(why) = row.failure() {
                    failed.push(format!("{cell} {} ({why})", row.name));
                }
                if !matches!(row.kind, Kind::Causeway { .. }) {
                    continue;
                }
                if let Some(ratio) = bouncer.and_then(|bouncer| row.ratio(bouncer))
                    && ratio.median > PEER_BOUND
                {
                    peer.push(format!("{cell} {} ({:.2})", row.name, ratio.median));
                }
                let eventual = rows.iter().find(|other| other.is_eventual_of(row));
                if let Some(ratio) = eventual.and_then(|eventual| row.ratio(eventual))
                    && ratio.median > LEVEL_BOUND
                {
                    level.push(format!("{cell} {} ({:.2})", row.name, ratio.median));
                }
            }
        }
        format!(
            "More CPU than {PEER_BOUND} × PgBouncer: {}.\n\
             More CPU at session than {LEVEL_BOUND} × eventual: {}.\n\
             Failed: {}.\n",
            list(&peer),
            list(&level),
            list(&failed)
        )
    }
}

fn line(cell: &Cell, row: &Row, peer: Option<&Row>) -> String {
    let range = |spread: Spread, digits: usize| {
        format!(
            "{:.digits$} ({:.digits$}-{:.digits$})",
            spread.median, spread.least, spread.most
        )
    };
    let cpu = row
        .cost(|cost| cost.cpu_us)
        .map_or_else(String::new, |spread| range(spread, 1));
    let ratio = peer
        .and_then(|peer| row.ratio(peer))
        .map_or_else(String::new, |spread| range(spread, 2));
    let least = |row: &Row| Some(row.cost(|cost| cost.cpu_us)?.least);
    let least = peer
        .and_then(|peer| Some(least(row)? / least(peer)?))
        .map_or_else(String::new, |ratio| format!("{ratio:.2}"));
    let waits = row
        .cost(|cost| cost.waits)
        .map_or_else(String::new, |spread| format!("{:.2}", spread.median));
    let user = row
        .cost(|cost| cost.user_percent)
        .map_or_else(String::new, |spread| format!("{:.0}", spread.median));
    let name = match row.failure() {
        Some(_) => format!("{} **failed**", row.name),
        None => row.name.clone(),
    };
    format!(
        "| {cell} | {name} | {cpu} | {ratio} | {least} | {waits} | {user} | {:.0} | {:.2} | {:.2} |\n",
        row.median(|run| run.per_second),
        row.median(|run| run.p50_ms),
        row.median(|run| run.p99_ms)
    )
}

fn list(entries: &[String]) -> String {
    if entries.is_empty() {
        "nowhere".to_owned()
    } else {
        entries.join(", ")
    }
}
