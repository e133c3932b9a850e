//! `causeway serve` in front of a cluster, as a process: started, killed, frozen and thawed.

use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::Arc;

use nix::errno::Errno;
use nix::sys::signal::Signal;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::cluster::{Cluster, Login};
use super::deadline::Deadline;
use super::home::Home;
use super::net::{Host, Place};
use super::node::Shared;
use super::ports::Reservation;
use super::{RigError, home};
use crate::process;

/// One proxy; killed when dropped.
#[derive(Debug)]
pub struct Proxy {
    name: String,
    place: Place,
    program: PathBuf,
    directory: PathBuf,
    /// For clients, and for HTTP.
    ports: Mutex<[Reservation; 2]>,
    child: Mutex<Option<Child>>,
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
        Ok(Self {
            name: name.to_owned(),
            place,
            program: program.to_owned(),
            directory,
            ports: Mutex::new(ports),
            child: Mutex::default(),
            shared: Arc::clone(cluster.shared()),
            _home: Arc::clone(cluster.home()),
        })
    }

    /// The name, such as `p1`.
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

    /// Its log.
    pub fn log(&self) -> PathBuf {
        self.directory.join("causeway.log")
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
        while tokio::net::TcpStream::connect(self.address())
            .await
            .is_err()
        {
            let ended = self.child.lock().as_mut().map(Child::try_wait);
            if let Some(Ok(Some(status))) = ended {
                return Err(RigError::Exited {
                    node: self.name.clone(),
                    status,
                    log: home::tail(&self.log()),
                });
            }
            if !deadline.again().await {
                return Err(RigError::TooLate {
                    node: self.name.clone(),
                    awaited: "accept connections".to_owned(),
                    within: deadline.within,
                    log: home::tail(&self.log()),
                });
            }
        }
        Ok(())
    }

    /// Kills it (SIGKILL), frozen or not, and returns once it is gone.
    pub fn kill(&self) -> Result<(), RigError> {
        let Some(mut child) = self.child.lock().take() else {
            return Ok(());
        };
        let killed = child.kill().and_then(|()| child.wait()).map(drop);
        killed.map_err(RigError::io(format!("kill {}", self.name)))
    }

    /// Stops it where it stands (SIGSTOP) and returns once it does.
    pub fn freeze(&self) -> Result<(), RigError> {
        let pid = self.running()?;
        let frozen = process::freeze_family(pid).map(drop);
        frozen.map_err(self.signal_error("freeze"))
    }

    /// Lets it run on.
    pub fn thaw(&self) -> Result<(), RigError> {
        let thawed = process::send(self.running()?, Signal::SIGCONT);
        thawed.map_err(self.signal_error("thaw"))
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
        let log = home::open_log(&self.log(), self.shared.account)?;
        let doing = || RigError::io(format!("start {}", self.name));
        let mut command = self.place.own_command(&self.program);
        command
            .args(["serve", "--config"])
            .arg(self.directory.join("config.yaml"))
            .current_dir(&self.directory)
            .stdin(Stdio::null())
            .stdout(log.try_clone().map_err(doing())?)
            .stderr(log)
            .process_group(0);
        let child = command.spawn().map_err(doing())?;
        // For the watchdog.
        let pid = home::write_private(
            &self.directory.join("agent.pid"),
            &format!("{}\n", child.id()),
            self.shared.account,
        );
        *self.child.lock() = Some(child);
        pid
    }

    fn running(&self) -> Result<i32, RigError> {
        self.pid().ok_or_else(|| RigError::NotRunning {
            node: self.name.clone(),
        })
    }

    fn signal_error(&self, verb: &str) -> impl FnOnce(Errno) -> RigError {
        let doing = format!("{verb} {}", self.name);
        move |errno| RigError::Io {
            doing,
            source: errno.into(),
        }
    }
}

/// What operators show; it guards nothing but a test's own processes.
const SECRET: &str = "operator";

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}
