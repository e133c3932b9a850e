//! What can go wrong while a local cluster is built, run or broken on purpose.

use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

/// A fault of the rig, with what a person needs to act on it.
#[derive(Debug, thiserror::Error)]
pub enum RigError {
    /// No usable server was found.
    #[error(
        "no PostgreSQL server binaries (initdb and postgres, version 13 or newer) in {looked}; \
         install PostgreSQL or set CAUSEWAY_PG_BIN to their directory"
    )]
    NoBinaries {
        /// Everywhere that was looked.
        looked: String,
    },
    /// No etcd was found.
    #[error("there is no etcd; install it (Debian: etcd-server) or set CAUSEWAY_ETCD to its path")]
    NoEtcd,
    /// The directory that was asked for does not hold a usable server.
    #[error("{} is not a usable PostgreSQL: {reason}", directory.display())]
    BadBinaries { directory: PathBuf, reason: String },
    /// PostgreSQL refuses to run as root and there is nobody else to run it.
    #[error("PostgreSQL does not run as root, and there is neither a user postgres nor nobody")]
    NoAccount,
    /// The base directory holds something already.
    #[error("{} is not empty; name a directory that is new or empty", directory.display())]
    DirectoryInUse { directory: PathBuf },
    /// More or fewer ports than nodes.
    #[error("{given} ports were given for {nodes} nodes")]
    PortCount {
        /// How many ports the caller gave.
        given: usize,
        /// How many nodes there are.
        nodes: usize,
    },
    /// Somebody else has the port.
    #[error("port {port} on 127.0.0.1 is not free: {source}")]
    PortTaken {
        /// The port; 0 when any would have done.
        port: u16,
        source: std::io::Error,
    },
    /// The system refused a file or process operation.
    #[error("could not {doing}: {source}")]
    Io {
        /// What was attempted, as a verb phrase.
        doing: String,
        source: std::io::Error,
    },
    /// A program that should have succeeded did not.
    #[error("{program} failed with {status}:\n{output}")]
    Program {
        program: &'static str,
        status: ExitStatus,
        /// The end of what it printed.
        output: String,
    },
    /// A server ended although it was to run.
    #[error("{node} exited with {status}; its log ends:\n{log}")]
    Exited {
        node: String,
        status: ExitStatus,
        log: String,
    },
    /// The node has no process to act on.
    #[error("{node} is not running")]
    NotRunning { node: String },
    /// A wait reached its bound.
    #[error("{node} did not {awaited} within {within:?}; its log ends:\n{log}")]
    TooLate {
        node: String,
        /// What was awaited, as a verb phrase.
        awaited: String,
        within: Duration,
        log: String,
    },
    /// A statement or a connection failed.
    #[error("could not {doing} on {node}: {}", crate::pg::describe(source))]
    Sql {
        node: String,
        /// What was attempted, as a verb phrase.
        doing: String,
        source: tokio_postgres::Error,
    },
}

impl RigError {
    /// For `map_err`: the system refused to do what `doing` says.
    pub(super) fn io(doing: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Io {
            doing: doing.into(),
            source,
        }
    }
}
