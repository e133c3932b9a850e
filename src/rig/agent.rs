//! `causeway agent` beside one server, as a process: started, killed, frozen and thawed.
//!
//! It is separate from the postmaster, whoever started that: the rig starts a cluster's servers and
//! the agents find them; a server that an agent has started is found by the rig through
//! `postmaster.pid`.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::json;

use super::authority::Authority;
use super::daemon::Daemon;
use super::net::Place;
use super::ports::Reservation;
use super::shared::Shared;
use super::yaml::{path, section};
use super::{RigError, home};

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
    daemon: Daemon,
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
        let what = format!("the agent of {node}");
        let daemon = Daemon::new(what, home.join("agent.log"), shared.within);
        Ok(Self {
            node: node.to_owned(),
            home: home.to_owned(),
            place,
            program,
            port: Mutex::new(Reservation::any()?),
            authority,
            shared,
            daemon,
        })
    }

    /// Where it serves; it stays the same for the cluster's life.
    pub fn url(&self) -> String {
        self.place.url("https", self.port.lock().port())
    }

    pub fn log(&self) -> PathBuf {
        self.daemon.log()
    }

    pub fn config(&self) -> PathBuf {
        self.home.join("agent.yaml")
    }

    /// Its process number while it runs.
    pub fn pid(&self) -> Option<i32> {
        self.daemon.pid()
    }

    /// Starts it unless it runs, and waits until it accepts connections.
    pub async fn start(&self) -> Result<(), RigError> {
        self.spawn()?;
        let address = (self.place.address, self.port.lock().port());
        let accepts = async || tokio::net::TcpStream::connect(address).await.is_ok();
        self.daemon.wait("accept connections", accepts).await
    }

    /// Kills it (SIGKILL), frozen or not, and returns once it is gone. Its server runs on.
    pub fn kill(&self) -> Result<(), RigError> {
        self.daemon.kill()
    }

    /// Stops it where it stands (SIGSTOP).
    pub fn freeze(&self) -> Result<(), RigError> {
        // Alone: a postmaster that it has started is its child.
        self.daemon.freeze_alone()
    }

    /// Lets it run on.
    pub fn thaw(&self) -> Result<(), RigError> {
        self.daemon.thaw()
    }

    fn spawn(&self) -> Result<(), RigError> {
        if self.pid().is_some() {
            return Ok(());
        }
        let account = self.shared.account;
        home::write_private(&self.config(), &self.yaml(), account)?;
        self.port.lock().make_way();
        let mut command = self.place.own_command(&self.program);
        command
            .args(["agent", "--config"])
            .arg(self.config())
            .current_dir(&self.home);
        // As root it becomes the owner of the data by itself, as it would in earnest.
        command.process_group(0);
        let id = self.daemon.spawn(&mut command, account)?;
        // For the watchdog.
        let pid = fs::write(self.home.join("agent.pid"), format!("{id}\n"));
        pid.map_err(RigError::io("write agent.pid"))
    }

    fn yaml(&self) -> String {
        let superuser = &self.shared.credentials.superuser;
        let (user, password) = (&superuser.user, &superuser.password);
        let (address, port) = (self.place.address, self.port.lock().port());
        let file = |name| path(&self.authority.file(name));
        let home = |name| path(&self.home.join(name));
        let tls = json!({
            "cert_file": file("agent.pem"),
            "key_file": file("agent.key"),
            "client_ca_file": file("ca.pem"),
        });
        // Of servers on one machine, each needs a directory of its own for a tablespace.
        let shared = self.home.with_file_name("tablespace");
        let own = self.home.join("tablespace");
        let mapping = format!("{}={}", shared.display(), own.display());
        let postgres = json!({
            "data": home("data"),
            "bin": path(self.shared.binaries.directory()),
            "log_file": home("postgres.log"),
            "tablespace_mapping": [mapping],
        });
        [
            section("name", &self.node),
            section("listen", format!("{address}:{port}")),
            section("secret", &self.authority.secret),
            section("tls", tls),
            section("postgres", postgres),
            section("state_dir", home("agent")),
            section(
                "login",
                json!({ "user": user, "password": password, "host": address }),
            ),
            section("replication", json!({ "user": user, "password": password })),
        ]
        .concat()
    }
}
