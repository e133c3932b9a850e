//! PostgreSQL's own programs as steps of a rejoin: bounded, cancellable, with what they said.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::process::Command;
use tokio_util::sync::CancellationToken;

use super::postmaster::Server;
use crate::config::Secret;
use crate::file;
use crate::pg;

/// Bytes of what a program prints that are read.
const OUTPUT_BYTES: u64 = 64 * 1024;
/// Lines of a log that a message carries.
const TAIL: usize = 8;

/// A program about to run; it dies with its step.
#[derive(Debug)]
pub(super) struct Tool {
    name: &'static str,
    command: Command,
    log: PathBuf,
    within: Duration,
}

/// Why a program did not do its work.
#[derive(Debug, thiserror::Error)]
pub(super) enum ToolError {
    #[error("{program} failed with {status}: {output}")]
    Failed {
        program: &'static str,
        status: ExitStatus,
        output: String,
    },
    #[error("{program} was not done within {within:?}")]
    TooLate {
        program: &'static str,
        within: Duration,
    },
    #[error("{program} answered what was not expected: {output:?}")]
    Unexpected {
        program: &'static str,
        output: String,
    },
    #[error("{program} could not run: {source}")]
    Io {
        program: &'static str,
        source: std::io::Error,
    },
    #[error("something else was decided meanwhile")]
    Cancelled,
}

impl Tool {
    /// A program of the server's version; what it says of its progress is appended to `log`.
    pub(super) fn new(server: &Server, name: &'static str, log: &Path, within: Duration) -> Self {
        let mut command = Command::from(server.program(name));
        command
            .env("LC_ALL", "C")
            .env("PGOPTIONS", pg::OPTIONS)
            .kill_on_drop(true);
        Self {
            name,
            command,
            log: log.to_owned(),
            within,
        }
    }

    pub(super) fn args<'a>(&mut self, args: impl IntoIterator<Item = &'a str>) {
        self.command.args(args);
    }

    pub(super) fn arg(&mut self, arg: impl AsRef<std::ffi::OsStr>) {
        self.command.arg(arg);
    }

    /// Puts a secret into the program's environment, which only its owner can read.
    pub(super) fn secret(&mut self, name: &str, secret: &Secret) {
        self.command.env(name, secret.reveal());
    }

    /// Runs the program to its end and returns what it printed.
    pub(super) async fn run(self, cancel: &CancellationToken) -> Result<String, ToolError> {
        let Self {
            name: program,
            mut command,
            log,
            within,
        } = self;
        let io = |source| ToolError::Io { program, source };
        let mut said = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(&log)
            .map_err(io)?;
        writeln!(said, "-- {program}").map_err(io)?;
        command.stdout(Stdio::piped()).stderr(said);
        let mut child = command.spawn().map_err(io)?;
        let mut printed = Vec::new();
        let work = async {
            if let Some(stdout) = child.stdout.take() {
                let mut stdout = stdout.take(OUTPUT_BYTES);
                stdout.read_to_end(&mut printed).await?;
                // More is not wanted, but the program must not stumble over a closed pipe.
                let mut rest = stdout.into_inner();
                tokio::io::copy(&mut rest, &mut tokio::io::sink()).await?;
            }
            child.wait().await
        };
        let status = tokio::select! {
            status = tokio::time::timeout(within, work) => status,
            () = cancel.cancelled() => {
                let _ = child.kill().await;
                return Err(ToolError::Cancelled);
            }
        };
        match status {
            Ok(Ok(status)) if status.success() => {
                Ok(String::from_utf8_lossy(&printed).into_owned())
            }
            Ok(Ok(_)) if cancel.is_cancelled() => Err(ToolError::Cancelled),
            Ok(Ok(status)) => Err(ToolError::Failed {
                program,
                status,
                output: file::tail(&log, TAIL),
            }),
            Ok(Err(source)) => Err(io(source)),
            Err(_) => {
                let _ = child.kill().await;
                Err(ToolError::TooLate { program, within })
            }
        }
    }
}
