//! What /proc tells of a process: CPU time, context switches, memory.

use std::fs;
use std::time::{Duration, Instant, SystemTime};

use crate::Outcome;

/// How long one look at the machine takes.
const LOOK: Duration = Duration::from_millis(300);
/// Below this share of all CPU time the machine counts as quiet; idle servers and proxies probe too.
const QUIET_PERCENT: f64 = 15.0;

/// A process at one moment, all its threads together.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    pub(crate) at: SystemTime,
    /// On a CPU, to the nanosecond (`schedstat`).
    pub(crate) cpu: Duration,
    /// Times that a thread gave its CPU up to wait.
    pub(crate) waits: u64,
    /// Clock ticks in user mode and in the kernel; coarse, good for a share only.
    pub(crate) user_ticks: u64,
    pub(crate) kernel_ticks: u64,
}

/// Looks at a process now.
pub(crate) fn sample(pid: u32) -> Outcome<Sample> {
    let mut cpu_ns = 0;
    let mut waits = 0;
    let at = SystemTime::now();
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        let thread = thread?.path();
        // A thread may end between being listed and being read.
        let (Ok(schedule), Ok(status)) = (
            fs::read_to_string(thread.join("schedstat")),
            fs::read_to_string(thread.join("status")),
        ) else {
            continue;
        };
        cpu_ns += number(schedule.split(' ').next());
        waits += field(&status, "voluntary_ctxt_switches:");
    }
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name in parentheses may hold anything (proc(5)); user time is the 14th field.
    let mut fields = stat
        .rsplit_once(") ")
        .map_or("", |(_, rest)| rest)
        .split(' ')
        .skip(11);
    Ok(Sample {
        at,
        cpu: Duration::from_nanos(cpu_ns),
        waits,
        user_ticks: number(fields.next()),
        kernel_ticks: number(fields.next()),
    })
}

/// Waits until nobody else keeps the machine busy, for a while at most, and returns the share of its
/// CPU time, in percent, that others took last. The benchmark's own processes must be idle.
pub(crate) async fn quiet(at_most: Duration) -> Outcome<f64> {
    let begun = Instant::now();
    loop {
        let (before_idle, before) = machine_ticks()?;
        tokio::time::sleep(LOOK).await;
        let (idle, all) = machine_ticks()?;
        let ticks = all.saturating_sub(before).max(1) as f64;
        let busy = 100.0 * (1.0 - idle.saturating_sub(before_idle) as f64 / ticks);
        if busy < QUIET_PERCENT || begun.elapsed() >= at_most {
            return Ok(busy.max(0.0));
        }
    }
}

/// The machine's idle clock ticks, and all of them.
fn machine_ticks() -> Outcome<(u64, u64)> {
    let stat = fs::read_to_string("/proc/stat")?;
    let line = stat.lines().next().unwrap_or("");
    let ticks: Vec<u64> = line
        .split_whitespace()
        .skip(1)
        // Guests' time is in the user's already.
        .take(8)
        .map(|field| number(Some(field)))
        .collect();
    // Idle, and waiting for a disk.
    let idle = ticks.iter().skip(3).take(2).sum();
    Ok((idle, ticks.iter().sum()))
}

/// Which cores a process and what it starts may use, as `taskset` writes them; None for all.
pub(crate) type Cores = Option<String>;

/// The cores of the proxies and those of everybody else, if they are to be kept apart.
pub(crate) fn cores(pin: bool, all: usize) -> (Cores, Cores) {
    if !pin || all < 2 {
        return (None, None);
    }
    (Some("0".to_owned()), Some(format!("1-{}", all - 1)))
}

/// Moves a running process, with its children so far, to some cores.
pub(crate) fn confine(pid: i32, cores: &str) -> Outcome<()> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
    let children = children.split_whitespace().map(str::to_owned);
    for pid in children.chain([pid.to_string()]) {
        let taskset = std::process::Command::new("taskset")
            .args(["--all-tasks", "--cpu-list", "--pid", cores, &pid])
            .stdout(std::process::Stdio::null())
            .status()?;
        if !taskset.success() {
            return Err(format!("taskset of {pid}: {taskset}").into());
        }
    }
    Ok(())
}

/// Resident memory in KiB.
pub(crate) fn resident_kib(pid: u32) -> Outcome<u64> {
    Ok(field(
        &fs::read_to_string(format!("/proc/{pid}/status"))?,
        "VmRSS:",
    ))
}

fn field(status: &str, name: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    number(line.and_then(|rest| rest.split_whitespace().next()))
}

fn number(text: Option<&str>) -> u64 {
    text.and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}
