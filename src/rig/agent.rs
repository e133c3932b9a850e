//! `causeway agent` beside one server, as a process: started, killed, frozen and thawed.
//!
//! It is separate from the postmaster, whoever started that: the rig starts a cluster's servers and
//! the agents find them; a server that an agent has started is found by the rig through
//! `postmaster.pid`.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::Arc;

use nix::errno::Errno;
use nix::sys::signal::Signal;
use parking_lot::Mutex;

use super::authority::Authority;
use super::deadline::Deadline;
use super::net::Place;
use super::node::Shared;
use super::ports::Reservation;
use super::{RigError, home};
use crate::process;

/// One node's agent.
#[derive(Debug)]
pub struct Agent {
    node: String,
    home: PathBuf,
    place: Place,
    program: PathBuf,
    port: Mutex<Reservation>,
    authority: Arc<Authority>,
    shared: Arc<Shared>,
    child: Mutex<Option<Child>>,
}

impl Agent {
    pub(super) fn new(
        node: &str,
        home: &Path,
        place: Place,
        program: PathBuf,
        authority: Arc<Authority>,
        shared: Arc<Shared>,
    ) -> Result<Self, RigError> {
        Ok(Self {
            node: node.to_owned(),
            home: home.to_owned(),
            place,
            program,
            port: Mutex::new(Reservation::any()?),
            authority,
            shared,
            child: Mutex::default(),
        })
    }

    /// Where it serves; it stays the same for the cluster's life.
    pub fn url(&self) -> String {
        self.place.url("https", self.port.lock().port())
    }

    /// Its log.
    pub fn log(&self) -> PathBuf {
        self.home.join("agent.log")
    }

    /// Its configuration.
    pub fn config(&self) -> PathBuf {
        self.home.join("agent.yaml")
    }

    /// Its process number while it runs.
    pub fn pid(&self) -> Option<i32> {
        let mut child = self.child.lock();
        let child = child.as_mut()?;
        match child.try_wait() {
            Ok(None) => i32::try_from(child.id()).ok(),
            _ => None,
        }
    }

    /// Starts it unless it runs, and waits until it accepts connections.
    pub async fn start(&self) -> Result<(), RigError> {
        self.spawn()?;
        let deadline = Deadline::after(self.shared.within);
        let address = (self.place.address, self.port.lock().port());
        while tokio::net::TcpStream::connect(address).await.is_err() {
            if let Some(status) = self.ended() {
                return Err(RigError::Exited {
                    node: format!("the agent of {}", self.node),
                    status,
                    log: home::tail(&self.log()),
                });
            }
            if !deadline.again().await {
                return Err(RigError::TooLate {
                    node: format!("the agent of {}", self.node),
                    awaited: "accept connections".to_owned(),
                    within: deadline.within,
                    log: home::tail(&self.log()),
                });
            }
        }
        Ok(())
    }

    /// Kills it (SIGKILL), frozen or not, and returns once it is gone. Its server runs on.
    pub fn kill(&self) -> Result<(), RigError> {
        let Some(mut child) = self.child.lock().take() else {
            return Ok(());
        };
        let killed = child.kill().and_then(|()| child.wait()).map(drop);
        killed.map_err(RigError::io(format!("kill the agent of {}", self.node)))
    }

    /// Stops it where it stands (SIGSTOP).
    pub fn freeze(&self) -> Result<(), RigError> {
        let pid = self.running()?;
        // Alone: a postmaster that it has started is its child.
        process::send(pid, Signal::SIGSTOP).map_err(self.signal_error("freeze"))?;
        let deadline = Deadline::after(self.shared.within);
        while !process::look(pid).is_none_or(process::Process::is_still) {
            if !deadline.again_blocking() {
                return Err(self.signal_error("freeze")(Errno::ETIMEDOUT));
            }
        }
        Ok(())
    }

    /// Lets it run on.
    pub fn thaw(&self) -> Result<(), RigError> {
        let thawed = process::send(self.running()?, Signal::SIGCONT);
        thawed.map_err(self.signal_error("thaw"))
    }

    fn running(&self) -> Result<i32, RigError> {
        self.pid().ok_or_else(|| RigError::NotRunning {
            node: format!("the agent of {}", self.node),
        })
    }

    fn ended(&self) -> Option<std::process::ExitStatus> {
        self.child.lock().as_mut()?.try_wait().ok()?
    }

    fn spawn(&self) -> Result<(), RigError> {
        if self.pid().is_some() {
            return Ok(());
        }
        let account = self.shared.account;
        home::write_private(&self.config(), &self.yaml(), account)?;
        let log = home::open_log(&self.log(), account)?;
        let doing = || RigError::io(format!("start the agent of {}", self.node));
        self.port.lock().make_way();
        let mut command = self.place.own_command(&self.program);
        command
            .args(["agent", "--config"])
            .arg(self.config())
            .current_dir(&self.home)
            .stdin(Stdio::null())
            .stdout(log.try_clone().map_err(doing())?)
            .stderr(log);
        // As root it becomes the owner of the data by itself, as it would in earnest.
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let child = command.spawn().map_err(doing())?;
        // For the watchdog.
        let pid = fs::write(self.home.join("agent.pid"), format!("{}\n", child.id()));
        *self.child.lock() = Some(child);
        pid.map_err(RigError::io("write agent.pid"))
    }

    fn yaml(&self) -> String {
        let superuser = &self.shared.credentials.superuser;
        let (user, password) = (&superuser.user, &superuser.password);
        let (address, port) = (self.place.address, self.port.lock().port());
        let file = |name| self.authority.file(name);
        let mut yaml = format!("name: {}\nlisten: {address}:{port}\n", self.node);
        // Writing to a String cannot fail.
        let _ = write!(
            yaml,
            "secret: {:?}\n\
             tls:\n  cert_file: {:?}\n  key_file: {:?}\n  client_ca_file: {:?}\n\
             postgres:\n  data: {:?}\n  bin: {:?}\n  log_file: {:?}\n\
             state_dir: {:?}\n\
             login: {{ user: {user:?}, password: {password:?}, host: {address} }}\n\
             replication: {{ user: {user:?}, password: {password:?} }}\n",
            self.authority.secret,
            file("agent.pem"),
            file("agent.key"),
            file("ca.pem"),
            self.home.join("data"),
            self.shared.binaries.directory(),
            self.home.join("postgres.log"),
            self.home.join("agent"),
        );
        yaml
    }

    fn signal_error(&self, verb: &str) -> impl FnOnce(Errno) -> RigError {
        let doing = format!("{verb} the agent of {}", self.node);
        move |errno| RigError::Io {
            doing,
            source: errno.into(),
        }
    }
}
