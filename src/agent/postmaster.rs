//! One PostgreSQL server as processes and files: looked at, stopped, started. Blocks.
//!
//! The server is told from other processes by its directory: all its processes work in the data
//! directory, those included whose postmaster has gone and that may still finish a commit.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use parking_lot::Mutex;

use super::api::{Role, StopMode, Stopped};
use super::control_file::Control;
use super::{files, progress};
use crate::config::AgentConfig;
use crate::file;
use crate::process::{self, Process};

/// An immediate shutdown takes about a tenth of a second; what is still there then is killed.
const GRACE: Duration = Duration::from_millis(500);
/// How long the kernel may take over a kill.
const KERNEL: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(2);
/// Lines of a log that a message carries.
const TAIL: usize = 8;

/// What may be at work in the data directory.
pub(super) const PROGRAMS: [&str; 3] = ["postgres", "pg_rewind", "pg_basebackup"];

#[derive(Debug)]
pub(super) struct Server {
    /// The data directory, without symbolic links.
    pub(super) data: PathBuf,
    pub(super) bin: PathBuf,
    pub(super) config_file: Option<PathBuf>,
    log_file: PathBuf,
    /// The postmaster if it is this process's child; held while one is started.
    child: Mutex<Option<Child>>,
    /// Whether the server that was launched last has begun to look at its data.
    begun: Mutex<Arc<AtomicBool>>,
    /// What a stopped primary had written, and by which `pg_control` that was looked up.
    wrote: Mutex<Option<(Control, u32)>>,
}

/// A look at the server.
#[derive(Clone, Debug, Default)]
pub(super) struct Look {
    pub(super) postmaster: Option<Process>,
    pub(super) ready: bool,
    /// As started as it gets, be it that it lets nobody in (`hot_standby = off`).
    pub(super) up: bool,
    pub(super) frozen: bool,
    /// Seconds of the Unix epoch at which it was started.
    pub(super) started: Option<u64>,
    pub(super) role: Option<Role>,
    pub(super) control: Option<Control>,
    /// The timeline that it wrote, if it was a primary and runs no more.
    pub(super) wrote: Option<u32>,
}

impl Look {
    /// Whether it runs as a primary.
    pub(super) fn leads(&self) -> bool {
        self.postmaster.is_some() && self.role == Some(Role::Primary)
    }
}

/// Why a server was not stopped or started.
#[derive(Debug, thiserror::Error)]
pub(super) enum ServerError {
    #[error("the server did not {awaited} within {within:?}; its log ends:\n{log}")]
    TooLate {
        awaited: &'static str,
        within: Duration,
        log: String,
    },
    #[error("the postmaster stands still (SIGSTOP) and cannot stop in good order: stop it at once")]
    Frozen,
    #[error("the server ended while it started; its log ends:\n{log}")]
    Ended { log: String },
    #[error("something else was decided meanwhile")]
    Overtaken,
    #[error("could not {doing}: {source}")]
    Io {
        doing: &'static str,
        source: io::Error,
    },
}

impl ServerError {
    fn io(doing: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { doing, source }
    }
}

/// What a running server says in `postmaster.pid` (src/include/utils/pidfile.h).
#[derive(Clone, Debug, Default)]
pub(super) struct PidFile {
    pid: i32,
    started: Option<u64>,
    pub(super) port: Option<u16>,
    pub(super) socket_directory: Option<String>,
    pub(super) address: Option<String>,
    status: String,
}

impl PidFile {
    fn read(data: &Path) -> Option<Self> {
        let text = fs::read_to_string(data.join("postmaster.pid")).ok()?;
        Self::parse(&text)
    }

    fn parse(text: &str) -> Option<Self> {
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        let line = |number: usize| lines.get(number).copied().filter(|line| !line.is_empty());
        Some(Self {
            // Negative while a single-user server is at work.
            pid: line(0)?.parse().ok().filter(|pid| *pid > 0)?,
            started: line(2).and_then(|text| text.parse().ok()),
            port: line(3).and_then(|text| text.parse().ok()),
            socket_directory: line(4).map(str::to_owned),
            address: line(5).map(str::to_owned),
            status: line(7).unwrap_or_default().to_owned(),
        })
    }

    fn is_ready(&self) -> bool {
        self.status == "ready"
    }

    /// A standby that lets nobody in (`hot_standby = off`) is as started as it gets.
    fn is_started(&self) -> bool {
        matches!(self.status.as_str(), "ready" | "standby")
    }
}

impl Server {
    pub(super) fn new(config: &AgentConfig) -> io::Result<Self> {
        Ok(Self {
            data: fs::canonicalize(&config.data)?,
            bin: fs::canonicalize(&config.bin)?,
            config_file: config.config_file.clone(),
            log_file: config.log_file.clone(),
            child: Mutex::new(None),
            begun: Mutex::new(Arc::new(AtomicBool::new(true))),
            wrote: Mutex::default(),
        })
    }

    /// Looks at processes and small files. Blocks on the disk.
    pub(super) fn look(&self) -> Look {
        let postmaster = self.postmaster();
        let file = PidFile::read(&self.data).filter(|file| {
            let pid = postmaster.map(|process| process.pid);
            Some(file.pid) == pid
        });
        let file = file.unwrap_or_default();
        let control = Control::read(&self.data);
        // A promotion removes the signal file before it lets anybody write. The file alone is not
        // enough: put beside a running primary it changes nothing.
        let leads = !files::is_standby(&self.data)
            || file.is_ready() && control.is_some_and(Control::in_production);
        let role = match leads {
            true => Role::Primary,
            false => Role::Standby,
        };
        Look {
            postmaster,
            ready: file.is_ready(),
            up: file.is_started(),
            frozen: postmaster.is_some_and(Process::is_still),
            started: file.started,
            role: control.map(|_| role),
            control,
            wrote: control
                .filter(|_| leads && postmaster.is_none())
                .map(|control| self.wrote(control)),
        }
    }

    /// The timeline that a stopped primary wrote.
    fn wrote(&self, control: Control) -> u32 {
        let mut known = self.wrote.lock();
        match *known {
            Some((then, wrote)) if then == control => wrote,
            _ => {
                let wrote = control.timeline.max(files::newest_timeline(&self.data));
                *known = Some((control, wrote));
                wrote
            }
        }
    }

    /// Which WAL segment the startup process is at, and its processor time, as [`Sight`] has them.
    ///
    /// [`Sight`]: super::progress::Sight
    pub(super) fn recovery(&self, postmaster: Process) -> (u64, u64) {
        let children = process::children(postmaster.pid);
        let mut startup = children.iter().filter_map(|child| {
            let segment = progress::segment(&child.title())?;
            Some((segment, child.worked))
        });
        startup.next().unwrap_or_default()
    }

    /// The process of its `restore_command`, if one is under way.
    pub(super) fn restores(&self) -> Option<i32> {
        let children = process::children(self.postmaster()?.pid);
        let startup = children
            .iter()
            .find(|child| progress::segment(&child.title()).is_some())?;
        let command = process::children(startup.pid).into_iter().next();
        command.map(|command| command.pid)
    }

    /// Whether the server that was launched last has come so far as to look at its data; true of one that
    /// another hand has started.
    pub(super) fn has_begun(&self) -> bool {
        self.begun.lock().load(Ordering::Relaxed)
    }

    /// Watches for a postmaster's coming so far: it says so right before it looks, and takes it back when it ends.
    fn watch_begin(&self, pid: i32) {
        let begun = Arc::new(AtomicBool::new(false));
        *self.begun.lock() = Arc::clone(&begun);
        let data = self.data.clone();
        let watch = move || {
            let lives = || process::look(pid).is_some_and(Process::is_alive);
            while !begun.load(Ordering::Relaxed) && lives() {
                let file = PidFile::read(&data).filter(|file| file.pid == pid);
                let says = file.is_some_and(|file| !file.status.is_empty());
                begun.store(says, Ordering::Relaxed);
                std::thread::sleep(PAUSE / 2);
            }
        };
        // Without it nothing is known to have begun, and nothing is replaced for that.
        let _ = std::thread::Builder::new().spawn(watch);
    }

    /// Where the running server listens, by its own account.
    pub(super) fn listens(&self) -> Option<PidFile> {
        PidFile::read(&self.data)
    }

    /// The postmaster while it lives.
    pub(super) fn postmaster(&self) -> Option<Process> {
        if let Some(child) = self.child.lock().as_mut()
            && let Ok(None) = child.try_wait()
        {
            return i32::try_from(child.id()).ok().and_then(process::look);
        }
        let pid = PidFile::read(&self.data)?.pid;
        let found = process::look(pid)?;
        // The number may be a stranger's by now.
        (found.is_alive() && found.works_in(&self.data, &PROGRAMS)).then_some(found)
    }

    /// A process of a server that is at work in a directory, such as where its data were moved to.
    pub(super) fn occupant(&self, directory: &Path) -> Option<Process> {
        let own = self.postmaster().filter(|_| directory == self.data);
        let found = || {
            process::working_in(directory, &["postgres"])
                .into_iter()
                .next()
        };
        own.or_else(found)
    }

    /// Every process of the server, orphans included.
    pub(super) fn family(&self, postmaster: Option<Process>) -> Vec<Process> {
        let mut family = process::working_in(&self.data, &PROGRAMS);
        if let Some(postmaster) = postmaster.filter(|process| process.is_alive()) {
            family.push(postmaster);
            family.extend(process::children(postmaster.pid));
        }
        family
    }

    /// Stops the server. A fast stop fails when the time is up; an immediate one always ends.
    pub(super) fn stop(&self, mode: StopMode, within: Duration) -> Result<Stopped, ServerError> {
        let begun = Instant::now();
        let Some(postmaster) = self.postmaster() else {
            return match self.family(None).is_empty() {
                true => Ok(Stopped::Already),
                false => self.kill(None),
            };
        };
        let (signal, bound) = match mode {
            StopMode::Immediate => (Signal::SIGQUIT, GRACE.min(within)),
            StopMode::Fast => (Signal::SIGINT, within),
        };
        if postmaster.is_still() {
            return match mode {
                // No other signal acts on a process that stands still.
                StopMode::Immediate => self.kill(Some(postmaster)),
                StopMode::Fast => Err(ServerError::Frozen),
            };
        }
        let errno = |errno: nix::Error| ServerError::io("signal the postmaster")(errno.into());
        postmaster.signal(signal).map_err(errno)?;
        while begun.elapsed() < bound {
            if !postmaster.is_alive() && self.family(None).is_empty() {
                self.reap();
                return Ok(Stopped::Asked);
            }
            std::thread::sleep(PAUSE);
        }
        match mode {
            StopMode::Immediate => self.kill(Some(postmaster)),
            StopMode::Fast => Err(ServerError::TooLate {
                awaited: "stop",
                within,
                log: file::tail(&self.log_file, TAIL),
            }),
        }
    }

    /// Stops at once a postmaster that was seen earlier, without a look at the disk.
    pub(super) fn fence(&self, postmaster: Process) -> Result<Stopped, ServerError> {
        let begun = Instant::now();
        if postmaster.is_alive() && !postmaster.is_still() {
            let _ = postmaster.signal(Signal::SIGQUIT);
            while begun.elapsed() < GRACE {
                if !postmaster.is_alive() && self.family(None).is_empty() {
                    self.reap();
                    return Ok(Stopped::Asked);
                }
                std::thread::sleep(PAUSE);
            }
        }
        self.kill(Some(postmaster))
    }

    /// Kills the postmaster, from when on nobody is born, then all the others.
    fn kill(&self, postmaster: Option<Process>) -> Result<Stopped, ServerError> {
        let until = Instant::now() + KERNEL;
        let family = self.family(postmaster);
        if let Some(postmaster) = postmaster {
            process::kill_all(&[postmaster]);
        }
        process::kill_all(&family);
        loop {
            let left = self.family(postmaster);
            if left.is_empty() {
                self.reap();
                return Ok(Stopped::Killed);
            }
            if Instant::now() > until {
                return Err(ServerError::TooLate {
                    awaited: "die when killed",
                    within: KERNEL,
                    log: format!("processes left: {left:?}"),
                });
            }
            process::kill_all(&left);
        }
    }

    /// Collects a child that has ended, so that no zombie stays.
    pub(super) fn reap(&self) {
        let mut child = self.child.lock();
        if let Some(running) = child.as_mut()
            && !matches!(running.try_wait(), Ok(None))
        {
            *child = None;
        }
    }

    /// Starts the server and waits until it accepts connections. `permitted` is asked at the last
    /// moment: whoever forbids, then stops, finds either no server or one that it can stop.
    pub(super) fn start(
        &self,
        within: Duration,
        permitted: impl Fn() -> bool,
    ) -> Result<Process, ServerError> {
        let begun = Instant::now();
        let launched = self.launch(&permitted)?;
        loop {
            let file = PidFile::read(&self.data);
            if file.is_some_and(|file| file.pid == launched.pid && file.is_started()) {
                return Ok(launched);
            }
            let log = || file::tail(&self.log_file, TAIL);
            if self.postmaster().is_none() {
                self.reap();
                return Err(match permitted() {
                    true => self.ended(),
                    false => ServerError::Overtaken,
                });
            }
            if begun.elapsed() > within {
                return Err(ServerError::TooLate {
                    awaited: "accept connections",
                    within,
                    log: log(),
                });
            }
            std::thread::sleep(PAUSE * 5);
        }
    }

    /// That it has ended while it started, with what it said.
    pub(super) fn ended(&self) -> ServerError {
        ServerError::Ended {
            log: file::tail(&self.log_file, TAIL),
        }
    }

    /// Starts the server unless it runs, and waits for nothing.
    pub(super) fn launch(&self, permitted: &impl Fn() -> bool) -> Result<Process, ServerError> {
        if let Some(running) = self.postmaster() {
            *self.begun.lock() = Arc::new(AtomicBool::new(true));
            return Ok(running);
        }
        self.end_orphans()?;
        self.clear_pid_file()?;
        let mut child = self.child.lock();
        // Somebody else may just have started it.
        if let Some(running) = child.as_mut()
            && let Ok(None) = running.try_wait()
            && let Some(running) = i32::try_from(running.id()).ok().and_then(process::look)
        {
            return Ok(running);
        }
        if !permitted() {
            return Err(ServerError::Overtaken);
        }
        let log = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(&self.log_file)
            .map_err(ServerError::io("open the server's log"))?;
        let doing = "start postgres";
        let mut command = self.program("postgres");
        command
            .arg("-D")
            .arg(&self.data)
            .stdout(log.try_clone().map_err(ServerError::io(doing))?)
            .stderr(log);
        if let Some(file) = &self.config_file {
            command
                .arg("-c")
                .arg(format!("config_file={}", file.display()));
        }
        let started = command.spawn().map_err(ServerError::io(doing))?;
        let pid = i32::try_from(started.id()).unwrap_or_default();
        *child = Some(started);
        self.watch_begin(pid);
        process::look(pid).ok_or_else(|| self.ended())
    }

    /// One of PostgreSQL's programs, away from our terminal's signals and `PG…` variables.
    pub(super) fn program(&self, name: &str) -> Command {
        let mut command = Command::new(self.bin.join(name));
        for (name, _) in std::env::vars_os() {
            if name.as_encoded_bytes().starts_with(b"PG") {
                command.env_remove(name);
            }
        }
        command
            .current_dir(&self.data)
            .stdin(Stdio::null())
            .process_group(0);
        command
    }

    /// Ends what is left of a server whose postmaster was killed: a process that does not notice, such as one in
    /// a long computation, keeps the next server from starting for as long as it likes. A postmaster that has
    /// just been started by another hand, or a single-user server, is nobody's orphan.
    fn end_orphans(&self) -> Result<(), ServerError> {
        let family = self.family(None);
        let is_orphan = |process: &Process| process.title().starts_with("postgres: ");
        if !family.is_empty() && family.iter().all(is_orphan) {
            tracing::warn!(processes = ?family, "the postmaster is gone: its processes are killed");
            self.kill(None)?;
        }
        Ok(())
    }

    /// A file that names a zombie, or by chance a stranger of the same user, keeps PostgreSQL from
    /// starting for ever. It may go since no process of this server is left.
    fn clear_pid_file(&self) -> Result<(), ServerError> {
        match self.family(None).is_empty() {
            true => files::remove_if_there(&self.data.join("postmaster.pid"))
                .map_err(ServerError::io("remove a stale postmaster.pid")),
            false => Ok(()),
        }
    }

    /// Tells the server to read its configuration again.
    pub(super) fn reload(&self) -> Result<(), ServerError> {
        let Some(postmaster) = self.postmaster() else {
            return Ok(());
        };
        let sent = postmaster.signal(Signal::SIGHUP);
        sent.map_err(|errno| ServerError::io("signal the postmaster")(errno.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pid_file_is_read_at_every_stage() {
        let whole = "71\n/data\n1700000000\n5501\n/run\n127.0.0.1\n  12 3\nready   \n";
        let file = PidFile::parse(whole).unwrap();
        assert_eq!((file.pid, file.port), (71, Some(5501)));
        assert!(file.is_ready() && file.is_started());
        let early = PidFile::parse("71\n/data\n1700000000\n").unwrap();
        assert!(!early.is_started() && early.port.is_none());
        let no_socket = PidFile::parse("71\n/d\n1\n5501\n\n127.0.0.1\n1 2\nstarting\n").unwrap();
        assert_eq!(no_socket.socket_directory, None);
        assert_eq!(no_socket.address.as_deref(), Some("127.0.0.1"));
        assert!(PidFile::parse("-71\n/data\n").is_none(), "single-user");
        assert!(PidFile::parse("").is_none());
    }
}
