//! `causeway serve` in front of a cluster, as a process: started, killed, frozen and thawed.

use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::cluster::Cluster;
use super::credentials::Login;
use super::daemon::Daemon;
use super::home::Home;
use super::net::{Host, Place};
use super::ports::Reservation;
use super::shared::Shared;
use super::{RigError, home};

/// One proxy; killed when dropped.
#[derive(Debug)]
pub struct Proxy {
    name: String,
    place: Place,
    program: PathBuf,
    directory: PathBuf,
    /// For clients, and for HTTP.
    ports: Mutex<[Reservation; 2]>,
    daemon: Daemon,
    shared: Arc<Shared>,
    /// The files live as long as this does.
    _home: Arc<Home>,
}

impl Proxy {
    /// Writes the configuration, which is what `yaml` says and where it listens; nothing is started.
    pub fn new(
        cluster: &Cluster,
        name: &str,
        host: Option<&Host>,
        program: &Path,
        yaml: &str,
    ) -> Result<Self, RigError> {
        let place = host.map_or(Place::LOOPBACK, Host::place);
        let ports = [Reservation::any()?, Reservation::any()?];
        let directory = cluster.directory().join(name);
        let account = cluster.shared().account;
        home::private_directory(&directory, account)?;
        let [listen, http] = [&ports[0], &ports[1]].map(|port| (place.address, port.port()));
        let yaml = format!(
            "listen: {}:{}\nadmin: {{ http: {}:{}, secret: {SECRET:?} }}\n{yaml}",
            listen.0, listen.1, http.0, http.1
        );
        home::write_private(&directory.join("config.yaml"), &yaml, account)?;
        let log = directory.join("causeway.log");
        let daemon = Daemon::new(name.to_owned(), log, cluster.shared().within);
        Ok(Self {
            name: name.to_owned(),
            place,
            program: program.to_owned(),
            directory,
            ports: Mutex::new(ports),
            daemon,
            shared: Arc::clone(cluster.shared()),
            _home: Arc::clone(cluster.home()),
        })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        (self.place.address, self.ports.lock()[0].port()).into()
    }

    /// Where status is read and orders are given.
    pub fn http(&self) -> SocketAddr {
        (self.place.address, self.ports.lock()[1].port()).into()
    }

    /// A connection string for a login.
    pub fn url(&self, login: &Login) -> String {
        let Login {
            user,
            password,
            database,
        } = login;
        format!(
            "postgresql://{user}:{password}@{}/{database}",
            self.address()
        )
    }

    pub fn log(&self) -> PathBuf {
        self.daemon.log()
    }

    /// Its process number while it runs.
    pub fn pid(&self) -> Option<i32> {
        self.daemon.pid()
    }

    /// Starts it unless it runs, and waits until it accepts connections.
    pub async fn start(&self) -> Result<(), RigError> {
        self.spawn()?;
        let accepts = async || tokio::net::TcpStream::connect(self.address()).await.is_ok();
        self.daemon.wait("accept connections", accepts).await
    }

    /// Kills it (SIGKILL), frozen or not, and returns once it is gone.
    pub fn kill(&self) -> Result<(), RigError> {
        self.daemon.kill()
    }

    /// Stops it where it stands (SIGSTOP) and returns once it does.
    pub fn freeze(&self) -> Result<(), RigError> {
        self.daemon.freeze()
    }

    /// Lets it run on.
    pub fn thaw(&self) -> Result<(), RigError> {
        self.daemon.thaw()
    }

    /// One request over HTTP with the operator's secret: the answer's status and its body; none when
    /// there is no answer within the rig's bound.
    pub async fn ask(&self, method: &str, path: &str) -> Option<(u16, String)> {
        let asked = async {
            let mut stream = tokio::net::TcpStream::connect(self.http()).await.ok()?;
            let request = format!(
                "{method} {path} HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {SECRET}\r\n\
                 Content-Length: 0\r\nConnection: close\r\n\r\n",
                self.http()
            );
            stream.write_all(request.as_bytes()).await.ok()?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.ok()?;
            let status = answer.split(' ').nth(1)?.parse().ok()?;
            let (_, body) = answer.split_once("\r\n\r\n")?;
            Some((status, body.to_owned()))
        };
        let answered = tokio::time::timeout(self.shared.within, asked).await;
        answered.ok().flatten()
    }

    fn spawn(&self) -> Result<(), RigError> {
        if self.pid().is_some() {
            return Ok(());
        }
        for port in self.ports.lock().iter_mut() {
            port.make_way();
        }
        let mut command = self.place.own_command(&self.program);
        command
            .args(["serve", "--config"])
            .arg(self.directory.join("config.yaml"))
            .current_dir(&self.directory)
            .process_group(0);
        let account = self.shared.account;
        let id = self.daemon.spawn(&mut command, account)?;
        // For the watchdog.
        home::write_private(
            &self.directory.join("agent.pid"),
            &format!("{id}\n"),
            account,
        )
    }
}

/// What operators show; it guards nothing but a test's own processes.
const SECRET: &str = "operator";

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}
