//! What is measured: a workload, a protocol and a number of clients.

use std::fmt;
use std::path::Path;

use crate::Outcome;

/// pgbench's scale factor.
pub(crate) const SCALE: u32 = 10;

/// The name of the file that [`write_scripts`] makes.
const MIX: &str = "mix.sql";

/// What one pgbench transaction does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Workload {
    /// `-S`: one SELECT by primary key.
    Select,
    /// The standard script: BEGIN, three UPDATEs, a SELECT, an INSERT, END.
    Tpcb,
    /// One UPDATE and nine SELECTs, each a transaction of its own.
    Mix,
}

/// pgbench's `-M`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    Simple,
    Extended,
    Prepared,
}

/// One line of the comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cell {
    pub(crate) workload: Workload,
    pub(crate) protocol: Protocol,
    pub(crate) clients: usize,
}

impl Cell {
    /// Every cell, the most telling first.
    pub(crate) fn all(clients: &[usize]) -> Vec<Self> {
        let kinds = [
            (Workload::Select, Protocol::Simple),
            (Workload::Select, Protocol::Extended),
            (Workload::Select, Protocol::Prepared),
            (Workload::Tpcb, Protocol::Simple),
            (Workload::Tpcb, Protocol::Prepared),
            (Workload::Mix, Protocol::Simple),
            (Workload::Mix, Protocol::Prepared),
        ];
        let with_clients = |(workload, protocol)| {
            clients.iter().map(move |&clients| Self {
                workload,
                protocol,
                clients,
            })
        };
        kinds.into_iter().flat_map(with_clients).collect()
    }

    /// pgbench's arguments for it; its working directory must be where the scripts are.
    pub(crate) fn arguments(&self) -> Vec<String> {
        let workload = match self.workload {
            Workload::Select => vec!["--builtin=select-only".to_owned()],
            Workload::Tpcb => vec!["--builtin=tpcb-like".to_owned()],
            Workload::Mix => vec![format!("--file={MIX}"), format!("--define=scale={SCALE}")],
        };
        let mut arguments = vec![
            format!("--protocol={}", self.protocol.name()),
            format!("--client={}", self.clients),
        ];
        arguments.extend(workload);
        arguments
    }

    /// Whether a standby can serve all of it.
    pub(crate) fn reads_only(&self) -> bool {
        self.workload == Workload::Select
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let workload = match self.workload {
            Workload::Select => "select",
            Workload::Tpcb => "tpcb",
            Workload::Mix => "mix",
        };
        let name = format!("{workload}-{}-{}", self.protocol.name(), self.clients);
        f.pad(&name)
    }
}

impl Protocol {
    fn name(self) -> &'static str {
        match self {
            Self::Simple => "simple",
            Self::Extended => "extended",
            Self::Prepared => "prepared",
        }
    }
}

/// Writes pgbench's own scripts into its working directory.
pub(crate) fn write_scripts(directory: &Path) -> Outcome<()> {
    let mut mix = String::new();
    for read in 0..=9 {
        mix.push_str("\\set aid random(1, 100000 * :scale)\n");
        mix.push_str(if read == 0 {
            "UPDATE pgbench_accounts SET abalance = abalance + 1 WHERE aid = :aid;\n"
        } else {
            "SELECT abalance FROM pgbench_accounts WHERE aid = :aid;\n"
        });
    }
    std::fs::write(directory.join(MIX), mix)?;
    Ok(())
}
