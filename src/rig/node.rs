//! One server of the cluster as a process: started, stopped, killed, frozen and thawed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;

use nix::errno::Errno;
use nix::sys::signal::Signal;
use parking_lot::Mutex;

use super::agent::Agent;
use super::deadline::Deadline;
use super::net::Place;
use super::ports::Reservation;
use super::settings::{self, Settings};
use super::shared::Shared;
use super::{RigError, home};
use crate::process::{self, Process};

/// How a server is asked to stop (manual, "Shutting Down the Server").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopMode {
    /// Waits for every session to end by itself.
    Smart,
    /// Ends the sessions, writes a checkpoint and sends all WAL to the standbys.
    Fast,
    /// Drops everything; the next start recovers from WAL.
    Immediate,
}

/// One server of the cluster.
#[derive(Debug)]
pub struct Node {
    pub(super) name: String,
    pub(super) shared: Arc<Shared>,
    home: PathBuf,
    place: Place,
    port: Mutex<Reservation>,
    settings: Mutex<Settings>,
    running: Mutex<Running>,
    agent: Option<Agent>,
}

/// The processes of a node.
#[derive(Debug, Default)]
struct Running {
    postmaster: Option<Child>,
    frozen: bool,
    /// The cluster has been dropped: nothing may start any more.
    over: bool,
    /// Children that outlive a postmaster that was killed alone.
    strays: Vec<Process>,
    /// Where a postmaster that was started by an agent is found.
    adopts_in: Option<PathBuf>,
}

/// What may be at work in a data directory.
const PROGRAMS: [&str; 3] = ["postgres", "pg_rewind", "pg_basebackup"];

impl Running {
    /// The postmaster's number while it runs; notices when it has ended.
    fn pid(&mut self) -> Option<i32> {
        if let Some(child) = self.postmaster.as_mut()
            && let Ok(None) = child.try_wait()
        {
            return i32::try_from(child.id()).ok();
        }
        self.adopted()
    }

    fn adopted(&self) -> Option<i32> {
        let data = fs::canonicalize(self.adopts_in.as_ref()?).ok()?;
        let file = fs::read_to_string(data.join("postmaster.pid")).ok()?;
        let pid = file.lines().next()?.parse().ok().filter(|pid| *pid > 0)?;
        let found = process::look(pid)?;
        (found.is_alive() && found.works_in(&data, &PROGRAMS)).then_some(pid)
    }
}

impl Node {
    /// A node whose data directory does not exist yet.
    pub(super) fn new(
        name: String,
        home: PathBuf,
        place: Place,
        port: Reservation,
        settings: Settings,
        shared: Arc<Shared>,
        agent: Option<Agent>,
    ) -> Self {
        let running = Running {
            adopts_in: agent.as_ref().map(|_| home.join("data")),
            ..Running::default()
        };
        Self {
            name,
            shared,
            home,
            place,
            port: Mutex::new(port),
            settings: Mutex::new(settings),
            running: Mutex::new(running),
            agent,
        }
    }

    /// `causeway agent` beside this server, if the cluster has agents.
    pub fn agent(&self) -> Option<&Agent> {
        self.agent.as_ref()
    }

    /// The name, such as `pg1`; also its `cluster_name` and `application_name`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The address that the server listens on: 127.0.0.1, or its host's.
    pub fn address(&self) -> std::net::Ipv4Addr {
        self.place.address
    }

    /// The port; it stays the same for the cluster's life.
    pub fn port(&self) -> u16 {
        self.port.lock().port()
    }

    pub fn data(&self) -> PathBuf {
        self.home.join("data")
    }

    /// The server's log.
    pub fn log(&self) -> PathBuf {
        self.home.join("postgres.log")
    }

    /// The directory that holds the data and the log.
    pub(super) fn home(&self) -> &Path {
        &self.home
    }

    /// The postmaster's process number while it runs.
    pub fn pid(&self) -> Option<i32> {
        self.running.lock().pid()
    }

    /// Starts the server unless it runs, and waits until it answers a query.
    ///
    /// A standby answers as soon as it is consistent; [`Node::wait_streaming`] awaits more.
    pub async fn start(&self) -> Result<(), RigError> {
        self.await_strays().await?;
        self.spawn()?;
        self.wait_ready().await.map(drop)
    }

    /// Stops the server and waits until its process has ended; a frozen one is thawed first.
    pub async fn stop(&self, mode: StopMode) -> Result<(), RigError> {
        let signal = match mode {
            StopMode::Smart => Signal::SIGTERM,
            StopMode::Fast => Signal::SIGINT,
            StopMode::Immediate => Signal::SIGQUIT,
        };
        let Some(pid) = self.pid() else { return Ok(()) };
        self.thaw()?;
        process::send(pid, signal).map_err(self.signal_error("stop"))?;
        let deadline = Deadline::after(self.shared.within);
        while self.pid().is_some() {
            if !deadline.again().await {
                return Err(self.too_late("stop", deadline));
            }
        }
        Ok(())
    }

    /// Stops the server and starts it again.
    pub async fn restart(&self, mode: StopMode) -> Result<(), RigError> {
        self.stop(mode).await?;
        self.start().await
    }

    /// Kills the postmaster and all its children at one blow, as a power failure of the node would,
    /// and returns once they are gone. Works on a frozen node too.
    pub fn kill(&self) -> Result<(), RigError> {
        let mut running = self.running.lock();
        self.kill_locked(&mut running)
    }

    fn kill_locked(&self, running: &mut Running) -> Result<(), RigError> {
        if let Some(pid) = running.pid() {
            // Frozen first, nobody is born meanwhile; but what cannot be frozen is killed too.
            let family = process::freeze_family(pid).unwrap_or_else(|_| process::children(pid));
            running.strays.extend(process::look(pid));
            running.strays.extend(family);
        }
        running.frozen = false;
        if !process::kill_all(&running.strays) {
            return Err(self.signal_error("kill")(Errno::ETIMEDOUT));
        }
        running.strays.clear();
        self.reap(running)
    }

    /// Collects a postmaster that has been killed, so that no zombie stays.
    fn reap(&self, running: &mut Running) -> Result<(), RigError> {
        let Some(mut postmaster) = running.postmaster.take() else {
            return Ok(());
        };
        let reaped = postmaster.wait().map(drop);
        reaped.map_err(RigError::io(format!("await the end of {}", self.name)))
    }

    /// Kills the postmaster alone: its children notice by themselves and end when they next wait.
    /// The node can be started again once they have.
    pub fn kill_postmaster(&self) -> Result<(), RigError> {
        let mut running = self.running.lock();
        let Some(pid) = running.pid() else {
            return Err(self.not_running());
        };
        let family = process::freeze_family(pid).map_err(self.signal_error("freeze"))?;
        if !process::kill_all(process::look(pid).as_slice()) {
            return Err(self.signal_error("kill")(Errno::ETIMEDOUT));
        }
        for child in &family {
            child
                .signal(Signal::SIGCONT)
                .map_err(self.signal_error("thaw"))?;
        }
        running.strays.extend(family);
        running.frozen = false;
        self.reap(&mut running)
    }

    /// Stops every process of the node where it stands (SIGSTOP) and returns once all do: the
    /// kernel still accepts connections, and nobody answers.
    pub fn freeze(&self) -> Result<(), RigError> {
        let mut running = self.running.lock();
        let Some(pid) = running.pid() else {
            return Err(self.not_running());
        };
        running.frozen = true;
        process::freeze_family(pid).map_err(self.signal_error("freeze"))?;
        Ok(())
    }

    /// Lets a frozen node run on; one that is not frozen is left alone.
    pub fn thaw(&self) -> Result<(), RigError> {
        let mut running = self.running.lock();
        match running.pid() {
            Some(pid) if running.frozen => {
                process::thaw_family(pid).map_err(self.signal_error("thaw"))?;
                running.frozen = false;
            }
            _ => {}
        }
        Ok(())
    }

    /// Kills what runs, for [`Drop`]; nothing is reported since nobody could act on it.
    pub(super) fn destroy(&self) {
        // First, so that it starts nothing any more.
        if let Some(agent) = &self.agent {
            let _ = agent.kill();
        }
        let mut running = self.running.lock();
        running.over = true;
        if let Some(data) = running
            .adopts_in
            .as_deref()
            .and_then(|data| fs::canonicalize(data).ok())
        {
            let left = process::working_in(&data, &PROGRAMS);
            running.strays.extend(left);
        }
        let _ = self.kill_locked(&mut running);
        release_shared_memory(&self.data());
    }

    /// Removes the data of a node that was killed.
    pub(super) fn erase(&self) {
        release_shared_memory(&self.data());
        let _ = fs::remove_dir_all(self.data());
    }

    /// Changes one setting in the file; a running server must be told by [`Node::reload`].
    pub(super) fn write_setting(&self, name: &str, value: &str) -> Result<(), RigError> {
        let text = {
            let mut settings = self.settings.lock();
            settings.insert(name.to_owned(), value.to_owned());
            settings::render(&settings)
        };
        home::write_private(
            &self.data().join("postgresql.conf"),
            &text,
            self.shared.account,
        )
    }

    /// Writes the configuration files into a data directory that has just been made.
    pub(super) fn configure(&self, standby: bool) -> Result<(), RigError> {
        let (data, account) = (self.data(), self.shared.account);
        let text = settings::render(&self.settings.lock());
        home::write_private(&data.join("postgresql.conf"), &text, account)?;
        home::write_private(&data.join("pg_hba.conf"), settings::HBA, account)?;
        // The copied one may hold what its owner was told by ALTER SYSTEM.
        home::write_private(&data.join("postgresql.auto.conf"), "", account)?;
        if standby {
            home::write_private(&data.join("standby.signal"), "", account)?;
        }
        Ok(())
    }

    /// Whether the server lets clients in, by what it writes down for pg_ctl.
    pub(super) fn says_ready(&self) -> bool {
        let file = fs::read_to_string(self.data().join("postmaster.pid"));
        file.is_ok_and(|text| text.lines().nth(7).map(str::trim_end) == Some("ready"))
    }

    pub(super) fn signal_reload(&self) -> Result<(), RigError> {
        let pid = self.pid().ok_or_else(|| self.not_running())?;
        process::send(pid, Signal::SIGHUP).map_err(self.signal_error("reload"))
    }

    /// Starts the process unless it runs.
    pub(super) fn spawn(&self) -> Result<(), RigError> {
        let mut running = self.running.lock();
        if running.pid().is_some() {
            return Ok(());
        }
        if running.over {
            return Err(self.not_running());
        }
        if running.adopts_in.is_some() {
            // It may name a zombie that only the agent, which may be frozen, can collect.
            let _ = fs::remove_file(self.data().join("postmaster.pid"));
        }
        self.port.lock().make_way();
        let log = home::open_log(&self.log(), self.shared.account)?;
        let doing = || {
            let account = self.shared.account;
            RigError::io(format!(
                "start {} in {} as {account}",
                self.name,
                self.home.display()
            ))
        };
        let program = self.shared.binaries.program("postgres");
        let mut command = self.place.command(&program, self.shared.account);
        command
            .arg("-D")
            .arg(self.data())
            .current_dir(&self.home)
            .stdin(Stdio::null())
            .stdout(log.try_clone().map_err(doing())?)
            .stderr(log);
        running.postmaster = Some(command.spawn().map_err(doing())?);
        running.frozen = false;
        Ok(())
    }

    async fn await_strays(&self) -> Result<(), RigError> {
        let deadline = Deadline::after(self.shared.within);
        while self.has_strays() {
            if !deadline.again().await {
                return Err(self.too_late("lose the backends of its last run", deadline));
            }
        }
        Ok(())
    }

    fn has_strays(&self) -> bool {
        let strays = &mut self.running.lock().strays;
        strays.retain(|stray| stray.is_alive());
        !strays.is_empty()
    }

    /// How the process ended, if it did although it was to run.
    pub(super) fn ended(&self) -> Option<ExitStatus> {
        let mut running = self.running.lock();
        if running.pid().is_some() {
            return None;
        }
        running.postmaster.as_mut()?.try_wait().ok()?
    }

    /// The error of a wait that reached its bound.
    pub(super) fn too_late(&self, awaited: &str, deadline: Deadline) -> RigError {
        RigError::TooLate {
            node: self.name.clone(),
            awaited: awaited.to_owned(),
            within: deadline.within,
            log: home::tail(&self.log()),
        }
    }

    fn not_running(&self) -> RigError {
        RigError::NotRunning {
            node: self.name.clone(),
        }
    }

    fn signal_error(&self, verb: &str) -> impl FnOnce(Errno) -> RigError {
        let doing = format!("{verb} {}", self.name);
        move |errno| RigError::Io {
            doing,
            source: errno.into(),
        }
    }
}

/// Removes the System V segment by which PostgreSQL notices a second server on the same data: a
/// server that was killed leaves it behind, and the kernel allows only so many (sysvipc(7)).
fn release_shared_memory(data: &Path) {
    let Ok(pid_file) = fs::read_to_string(data.join("postmaster.pid")) else {
        return;
    };
    let segment = pid_file
        .lines()
        .nth(6)
        .and_then(|line| line.split_whitespace().nth(1));
    if let Some(segment) = segment {
        let quietly = || Stdio::null();
        let _ = Command::new("ipcrm")
            .args(["-m", segment])
            .stdin(quietly())
            .stdout(quietly())
            .stderr(quietly())
            .status();
    }
}
