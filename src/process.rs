//! Processes and signals: a postmaster with its children as one thing to stop, freeze or kill.
//!
//! Every PostgreSQL backend leads a process group of its own, so that signalling a group reaches
//! nobody; children are found by their parent, or, once orphaned, by the directory they work in.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// The kernel takes that long at most to act on SIGSTOP or SIGKILL, except under heavy IO.
const KERNEL: Duration = Duration::from_secs(10);

/// One process at the moment of looking.
#[derive(Clone, Copy, Debug)]
pub struct Process {
    pub pid: i32,
    parent: i32,
    state: u8,
    /// The processor time that it has used, in clock ticks.
    pub worked: u64,
    /// Tells a process from a later one with the same number.
    started: u64,
}

impl Process {
    /// Whether this very process still exists and is no zombie.
    pub fn is_alive(self) -> bool {
        look(self.pid).is_some_and(|now| now.started == self.started && now.state != b'Z')
    }

    /// Sends a signal; a process that has gone is no error.
    pub fn signal(self, signal: Signal) -> Result<(), Errno> {
        send(self.pid, signal)
    }

    /// Whether it works in that directory and runs one of the programs; see [`working_in`].
    /// Without `/proc` nobody can tell, and it does.
    pub fn works_in(self, directory: &Path, programs: &[&str]) -> bool {
        if !has_proc() {
            return true;
        }
        let entry = |name: &str| fs::read_link(format!("/proc/{}/{name}", self.pid));
        entry("cwd").is_ok_and(|cwd| cwd == directory)
            && entry("exe").is_ok_and(|exe| is_one_of(&exe, programs))
    }

    /// What it is shown as in the list of processes; empty without `/proc`.
    pub fn title(self) -> String {
        let title = fs::read(format!("/proc/{}/cmdline", self.pid)).unwrap_or_default();
        String::from_utf8_lossy(&title).replace('\0', " ")
    }

    /// Whether it stands still (SIGSTOP), or has ended.
    pub fn is_still(self) -> bool {
        look(self.pid).is_none_or(|now| matches!(now.state, b'T' | b't' | b'Z' | b'X'))
    }
}

/// Sends a signal; a process that has gone is no error.
pub fn send(pid: i32, signal: Signal) -> Result<(), Errno> {
    match kill(Pid::from_raw(pid), signal) {
        Err(Errno::ESRCH) => Ok(()),
        other => other,
    }
}

/// Stops a postmaster, then its children, and returns them once all stand still.
///
/// The parent goes first: from then on nobody is born.
pub fn freeze_family(postmaster: i32) -> Result<Vec<Process>, Errno> {
    let until = Instant::now() + KERNEL;
    send(postmaster, Signal::SIGSTOP)?;
    while !look(postmaster).is_none_or(Process::is_still) {
        if !again(until) {
            return Err(Errno::ETIMEDOUT);
        }
    }
    let family = children(postmaster);
    for child in &family {
        child.signal(Signal::SIGSTOP)?;
    }
    while !family.iter().all(|child| child.is_still()) {
        if !again(until) {
            return Err(Errno::ETIMEDOUT);
        }
    }
    Ok(family)
}

/// Lets a frozen family run again, the children first, so that the parent finds them alive.
pub fn thaw_family(postmaster: i32) -> Result<(), Errno> {
    for child in children(postmaster) {
        child.signal(Signal::SIGCONT)?;
    }
    send(postmaster, Signal::SIGCONT)
}

/// Kills processes and waits until they are gone; false when the kernel kept one.
pub fn kill_all(processes: &[Process]) -> bool {
    let until = Instant::now() + KERNEL;
    for process in processes.iter().filter(|process| process.is_alive()) {
        let _ = process.signal(Signal::SIGKILL);
    }
    while processes.iter().any(|process| process.is_alive()) {
        if !again(until) {
            return false;
        }
    }
    true
}

/// The processes whose working directory that is, which must be its canonical path, and whose
/// program has one of the names.
///
/// A PostgreSQL server's processes all work in its data directory, those that have lost their
/// postmaster too. Needs `/proc`, and to be the processes' owner or root; else it finds nobody.
pub fn working_in(directory: &Path, programs: &[&str]) -> Vec<Process> {
    if !has_proc() {
        return Vec::new();
    }
    everybody()
        .into_iter()
        .filter(|process| process.state != b'Z' && process.works_in(directory, programs))
        .collect()
}

/// A program that was replaced while it runs is shown as `postgres (deleted)`.
fn is_one_of(exe: &Path, programs: &[&str]) -> bool {
    let name = exe.file_name().unwrap_or_default().to_string_lossy();
    let name = name.strip_suffix(" (deleted)").unwrap_or(&name);
    programs.contains(&name)
}

/// The children of a process.
pub fn children(parent: i32) -> Vec<Process> {
    everybody()
        .into_iter()
        .filter(|process| process.parent == parent)
        .collect()
}

/// A process that exists.
pub fn look(pid: i32) -> Option<Process> {
    match fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => parse_stat(&stat),
        Err(_) if has_proc() => None,
        Err(_) => ask_ps().into_iter().find(|process| process.pid == pid),
    }
}

/// Pauses until it is worth another look; false once the time is up.
fn again(until: Instant) -> bool {
    std::thread::sleep(Duration::from_millis(1));
    Instant::now() < until
}

fn everybody() -> Vec<Process> {
    if !has_proc() {
        return ask_ps();
    }
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let stats = entries
        .filter(|entry| entry.file_name().as_encoded_bytes()[0].is_ascii_digit())
        .filter_map(|entry| fs::read_to_string(entry.path().join("stat")).ok());
    stats.filter_map(|stat| parse_stat(&stat)).collect()
}

fn has_proc() -> bool {
    fs::exists("/proc/self/stat").unwrap_or(false)
}

/// Reads `/proc/<pid>/stat` (proc(5)): the name in parentheses may hold anything.
fn parse_stat(stat: &str) -> Option<Process> {
    let (head, tail) = stat.rsplit_once(") ")?;
    let mut fields = tail.split(' ');
    Some(Process {
        pid: head.split_once(' ')?.0.parse().ok()?,
        state: *fields.next()?.as_bytes().first()?,
        parent: fields.next()?.parse().ok()?,
        worked: {
            let (user, system): (u64, u64) =
                (fields.nth(9)?.parse().ok()?, fields.next()?.parse().ok()?);
            user.saturating_add(system)
        },
        started: fields.nth(6)?.parse().ok()?,
    })
}

/// For systems without `/proc`.
fn ask_ps() -> Vec<Process> {
    let answer = Command::new("ps")
        .args(["-A", "-o", "pid=,ppid=,state="])
        .stdin(Stdio::null())
        .output()
        .map(|output| output.stdout)
        .unwrap_or_default();
    let parse = |line: &str| {
        let mut fields = line.split_whitespace();
        Some(Process {
            pid: fields.next()?.parse().ok()?,
            parent: fields.next()?.parse().ok()?,
            state: *fields.next()?.as_bytes().first()?,
            worked: 0,
            started: 0,
        })
    };
    String::from_utf8_lossy(&answer)
        .lines()
        .filter_map(parse)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stat_line_is_read_whatever_the_name_holds() {
        let line = "71 (od) d) S 3 71 71 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 987654 11 12\n";
        let process = parse_stat(line).unwrap();
        assert_eq!((process.pid, process.parent), (71, 3));
        assert_eq!((process.state, process.started), (b'S', 987_654));
        assert_eq!(process.worked, 5 + 6);
    }

    #[test]
    fn a_child_is_frozen_thawed_and_killed() {
        let directory = std::env::temp_dir();
        let mut sleep = Command::new("sleep");
        let mut child = sleep.arg("60").current_dir(&directory).spawn().unwrap();
        let pid = child.id() as i32;
        let me = std::process::id() as i32;
        let seen = children(me)
            .into_iter()
            .find(|process| process.pid == pid)
            .unwrap();
        let there = |programs: &[&str]| {
            let found = working_in(&directory, programs);
            found.iter().any(|process| process.pid == pid)
        };
        // Where /bin/sleep is one of many programs in a file, that file's name is the program's.
        if cfg!(target_os = "linux") {
            assert!(there(&["sleep", "coreutils", "busybox"]) && !there(&["postgres"]));
        }
        assert!(freeze_family(pid).unwrap().is_empty());
        assert!(seen.is_still());
        thaw_family(pid).unwrap();
        assert!(seen.is_alive());
        assert!(kill_all(&[seen]));
        child.wait().unwrap();
        assert!(look(pid).is_none());
    }
}
