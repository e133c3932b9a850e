//! A process of the rig other than a PostgreSQL server: started, awaited, killed, frozen and thawed.

use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::Signal;
use parking_lot::Mutex;

use super::account::Account;
use super::deadline::Deadline;
use super::{RigError, home};
use crate::process;

/// One process, or the place for it while it does not run.
#[derive(Debug)]
pub(super) struct Daemon {
    /// What it is called in errors.
    what: String,
    log: PathBuf,
    within: Duration,
    child: Mutex<Option<Child>>,
}

impl Daemon {
    /// None runs yet. `within` bounds every wait for it.
    pub(super) fn new(what: String, log: PathBuf, within: Duration) -> Self {
        Self {
            what,
            log,
            within,
            child: Mutex::default(),
        }
    }

    pub(super) fn log(&self) -> PathBuf {
        self.log.clone()
    }

    /// Its process number while it runs.
    pub(super) fn pid(&self) -> Option<i32> {
        let mut child = self.child.lock();
        let child = child.as_mut()?;
        match child.try_wait() {
            Ok(None) => i32::try_from(child.id()).ok(),
            _ => None,
        }
    }

    /// Starts it, with its output in its log. The process number.
    pub(super) fn spawn(&self, command: &mut Command, account: Account) -> Result<u32, RigError> {
        let log = home::open_log(&self.log, account)?;
        let doing = || RigError::io(format!("start {}", self.what));
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone().map_err(doing())?)
            .stderr(log)
            .spawn()
            .map_err(doing())?;
        let id = child.id();
        *self.child.lock() = Some(child);
        Ok(id)
    }

    /// Waits for a condition, for as long as the process lives.
    pub(super) async fn wait(
        &self,
        awaited: &str,
        mut ready: impl AsyncFnMut() -> bool,
    ) -> Result<(), RigError> {
        let deadline = Deadline::after(self.within);
        while !ready().await {
            if let Some(status) = self.ended() {
                return Err(RigError::Exited {
                    node: self.what.clone(),
                    status,
                    log: home::tail(&self.log),
                });
            }
            if !deadline.again().await {
                return Err(self.too_late(awaited));
            }
        }
        Ok(())
    }

    /// Kills it (SIGKILL), frozen or not, and returns once it is gone.
    pub(super) fn kill(&self) -> Result<(), RigError> {
        let Some(mut child) = self.child.lock().take() else {
            return Ok(());
        };
        let killed = child.kill().and_then(|()| child.wait()).map(drop);
        killed.map_err(RigError::io(format!("kill {}", self.what)))
    }

    /// Stops it and its children where they stand (SIGSTOP), and returns once they do: the kernel still
    /// accepts connections, and nobody answers.
    pub(super) fn freeze(&self) -> Result<(), RigError> {
        let frozen = process::freeze_family(self.running()?).map(drop);
        frozen.map_err(self.signal_error("freeze"))
    }

    /// The same without its children.
    pub(super) fn freeze_alone(&self) -> Result<(), RigError> {
        let pid = self.running()?;
        process::send(pid, Signal::SIGSTOP).map_err(self.signal_error("freeze"))?;
        let deadline = Deadline::after(self.within);
        while !process::look(pid).is_none_or(process::Process::is_still) {
            if !deadline.again_blocking() {
                return Err(self.signal_error("freeze")(Errno::ETIMEDOUT));
            }
        }
        Ok(())
    }

    /// Lets it run on.
    pub(super) fn thaw(&self) -> Result<(), RigError> {
        let thawed = process::send(self.running()?, Signal::SIGCONT);
        thawed.map_err(self.signal_error("thaw"))
    }

    /// The error of a wait that reached its bound.
    pub(super) fn too_late(&self, awaited: &str) -> RigError {
        RigError::TooLate {
            node: self.what.clone(),
            awaited: awaited.to_owned(),
            within: self.within,
            log: home::tail(&self.log),
        }
    }

    fn ended(&self) -> Option<ExitStatus> {
        self.child.lock().as_mut()?.try_wait().ok()?
    }

    fn running(&self) -> Result<i32, RigError> {
        self.pid().ok_or_else(|| RigError::NotRunning {
            node: self.what.clone(),
        })
    }

    fn signal_error(&self, verb: &str) -> impl FnOnce(Errno) -> RigError {
        let doing = format!("{verb} {}", self.what);
        move |errno| RigError::Io {
            doing,
            source: errno.into(),
        }
    }
}
