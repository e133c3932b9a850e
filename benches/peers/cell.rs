//! What is measured: a workload, a protocol and a number of clients.

use std::fmt;
use std::path::Path;

use super::contestant::POOL;
use crate::Outcome;

/// pgbench's scale factor.
pub(crate) const SCALE: u32 = 10;

/// What one pgbench transaction does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Workload {
    /// `-S`: one SELECT by primary key.
    Select,
    /// The standard script: BEGIN, three UPDATEs, a SELECT, an INSERT, END.
    Tpcb,
    /// One UPDATE and nine SELECTs, each a transaction of its own.
    Mix,
    /// A `SET` before the SELECT, as frameworks send with each request.
    Set,
    /// The SELECT in a session that has a temporary table, and so a server connection for itself.
    Pinned,
    /// The SELECT in a PL/pgSQL function, whose body tells that it leaves nothing in the session.
    Call,
    /// The same put together at run time: what it has left there can only be asked.
    Opaque,
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
            (Workload::Set, Protocol::Simple),
            (Workload::Pinned, Protocol::Simple),
            (Workload::Call, Protocol::Simple),
            (Workload::Opaque, Protocol::Simple),
        ];
        let with_clients = |(workload, protocol)| {
            clients.iter().map(move |&clients| Self {
                workload,
                protocol,
                clients,
            })
        };
        let cells = kinds.into_iter().flat_map(with_clients);
        cells
            .filter(|cell| cell.workload != Workload::Pinned || cell.clients <= POOL)
            .collect()
    }

    /// pgbench's arguments for it; its working directory must be where the scripts are.
    pub(crate) fn arguments(&self) -> Vec<String> {
        let workload = match self.workload {
            Workload::Select => vec!["--builtin=select-only".to_owned()],
            Workload::Tpcb => vec!["--builtin=tpcb-like".to_owned()],
            own => vec![
                format!("--file={own}.sql"),
                format!("--define=scale={SCALE}"),
            ],
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

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Select => "select",
            Self::Tpcb => "tpcb",
            Self::Mix => "mix",
            Self::Set => "set",
            Self::Pinned => "pinned",
            Self::Call => "call",
            Self::Opaque => "opaque",
        })
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            workload, clients, ..
        } = self;
        let name = format!("{workload}-{}-{clients}", self.protocol.name());
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

/// What `call` and `opaque` call.
pub(crate) const FUNCTIONS: &str = "functions.sql";

/// Writes the scripts that are not pgbench's own into its working directory.
pub(crate) fn write_scripts(directory: &Path) -> Outcome<()> {
    const AID: &str = "\\set aid random(1, 100000 * :scale)\n";
    const READ: &str = "SELECT abalance FROM pgbench_accounts WHERE aid = :aid;\n";
    const WRITE: &str = "UPDATE pgbench_accounts SET abalance = abalance + 1 WHERE aid = :aid;\n";
    let reads = format!("{AID}{READ}").repeat(9);
    let scripts = [
        (Workload::Mix, format!("{AID}{WRITE}{reads}")),
        (
            Workload::Set,
            format!("{AID}SET app.tenant = :client_id;\n{READ}"),
        ),
        (
            Workload::Pinned,
            format!(
                "{AID}\\if :{{?made}}\n\\else\nCREATE TEMPORARY TABLE IF NOT EXISTS own ();\n\
                 \\set made 1\n\\endif\n{READ}"
            ),
        ),
        (Workload::Call, format!("{AID}SELECT called(:aid);\n")),
        (Workload::Opaque, format!("{AID}SELECT opaque(:aid);\n")),
    ];
    for (workload, script) in scripts {
        std::fs::write(directory.join(format!("{workload}.sql")), script)?;
    }
    let function = |name, body| {
        format!("CREATE FUNCTION {name}(a int) RETURNS int LANGUAGE plpgsql AS $$ {body} $$;\n")
    };
    let functions = [
        function(
            "called",
            "BEGIN RETURN (SELECT abalance FROM pgbench_accounts WHERE aid = a); END",
        ),
        function(
            "opaque",
            "DECLARE b int; BEGIN \
             EXECUTE 'SELECT abalance FROM pgbench_accounts WHERE aid = $1' INTO b USING a; \
             RETURN b; END",
        ),
    ];
    std::fs::write(directory.join(FUNCTIONS), functions.concat())?;
    Ok(())
}
