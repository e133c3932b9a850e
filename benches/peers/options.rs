//! The command line: which cells, how often, how long, and whose binaries.

use std::path::PathBuf;
use std::time::Duration;

use super::cell::Cell;

/// Compares Causeway with PgBouncer and with no proxy at all.
#[derive(Debug, clap::Parser)]
#[command(name = "peers", max_term_width = 100)]
pub(crate) struct Options {
    /// Only cells whose name contains one of these, such as select or prepared-16.
    #[arg(
        long,
        visible_alias = "cells",
        value_name = "TEXT",
        value_delimiter = ','
    )]
    filter: Vec<String>,
    /// Numbers of clients.
    #[arg(
        long,
        value_name = "N",
        value_delimiter = ',',
        default_value = "1,16,64"
    )]
    clients: Vec<usize>,
    /// Measured runs for each contestant in each cell.
    #[arg(long, value_name = "N", default_value_t = 3)]
    rounds: usize,
    /// Length of a measured run.
    #[arg(long, value_name = "N", default_value_t = 5)]
    seconds: u64,
    /// One round of two seconds: shows that it works, and no figure worth quoting.
    #[arg(long)]
    quick: bool,
    /// Longest wait before each run for others on this machine to be quiet.
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    patience: u64,
    /// Keeps the proxies on the first core and everything else off it (`taskset`): no figure of
    /// normal life, but the scheduler's choices no longer decide who wins.
    #[arg(long)]
    pub(crate) pin: bool,
    /// Worker threads of Causeway; several numbers make several contestants. One for every two
    /// cores if not said.
    #[arg(long, value_name = "N", value_delimiter = ',')]
    workers: Vec<usize>,
    /// The consistency levels at which Causeway competes.
    #[arg(
        long,
        value_name = "LEVEL",
        value_delimiter = ',',
        default_value = "session,eventual"
    )]
    pub(crate) levels: Vec<String>,
    /// Another build of Causeway to compete at every level, as NAME=BINARY.
    #[arg(long, value_name = "NAME=BINARY")]
    pub(crate) also: Vec<String>,
    /// The PgBouncer; found on PATH and in /usr/sbin if not said.
    #[arg(long, value_name = "BINARY")]
    pub(crate) pgbouncer: Option<PathBuf>,
    /// Idle clients for the memory cell; 0 leaves it out.
    #[arg(long, value_name = "N", default_value_t = 500)]
    pub(crate) idle_clients: usize,
    /// The file for the table, instead of target/bench/peers.md.
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Prints the cells and does nothing.
    #[arg(long)]
    pub(crate) list: bool,
    /// The machine's cores, counted before anything is pinned.
    #[arg(skip = std::thread::available_parallelism().map_or(1, std::num::NonZero::get))]
    pub(crate) cores: usize,
    /// What cargo adds.
    #[arg(long, hide = true)]
    bench: bool,
}

impl Options {
    /// The cells to run, in order.
    pub(crate) fn cells(&self) -> Vec<Cell> {
        let all = Cell::all(&self.clients);
        let wanted = |cell: &Cell| {
            let name = cell.to_string();
            self.filter.is_empty() || self.filter.iter().any(|text| name.contains(text))
        };
        all.into_iter().filter(wanted).collect()
    }

    /// Measured runs for each contestant.
    pub(crate) fn rounds(&self) -> usize {
        if self.quick { 1 } else { self.rounds.max(1) }
    }

    /// How long a measured run lasts. What is measured is a little less.
    pub(crate) fn length(&self) -> Duration {
        Duration::from_secs(if self.quick { 2 } else { self.seconds.max(2) })
    }

    /// How long each contestant runs unmeasured before a cell's first round.
    pub(crate) fn warm_up(&self) -> Duration {
        Duration::from_secs(if self.quick { 1 } else { 2 })
    }

    /// Longest wait for a quiet machine.
    pub(crate) fn patience(&self) -> Duration {
        Duration::from_secs(if self.quick { 0 } else { self.patience })
    }

    /// The numbers of workers with which Causeway competes.
    pub(crate) fn workers(&self) -> Vec<usize> {
        if !self.workers.is_empty() {
            return self.workers.clone();
        }
        vec![self.cores.div_ceil(2)]
    }

    /// Where the table goes.
    pub(crate) fn output(&self) -> PathBuf {
        self.output.clone().unwrap_or_else(|| {
            let target = std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into());
            PathBuf::from(target).join("bench").join("peers.md")
        })
    }
}
