//! One pgbench run, with the proxy's counters read while it lasts.
//!
//! pgbench logs the moment at which each transaction ended; the proxy's counters are sampled all
//! along. The window that counts begins when every client has been at work for a while, so that
//! logins stay outside, and the transactions in it are counted exactly.

use std::fs;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use pgcauseway::rig::{Cluster, Login};
use tokio::process::Command;

use super::cell::{self, Cell, SCALE};
use super::process::{self, Sample};
use super::statistics::percentile;
use crate::Outcome;

/// Between two looks at the proxy.
const PACE: Duration = Duration::from_millis(100);
/// Between the first transaction and the window.
const LEAD: Duration = Duration::from_millis(400);
/// For logins before a run and answers after it.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where a run connects.
#[derive(Clone, Debug)]
pub(crate) struct Endpoint {
    pub(crate) port: u16,
    pub(crate) login: Login,
}

/// What a run showed; the figures are of its window.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    pub(crate) transactions: u64,
    pub(crate) per_second: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    /// The share of the machine that others took just before.
    pub(crate) others_percent: f64,
    /// None without a proxy.
    pub(crate) cost: Option<Cost>,
    /// What went wrong, if anything did.
    pub(crate) failure: Option<String>,
}

/// What the proxy spent on one transaction.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cost {
    pub(crate) cpu_us: f64,
    /// The share of it in user mode, in percent.
    pub(crate) user_percent: f64,
    /// Times that one of its threads went to sleep.
    pub(crate) waits: f64,
}

impl Run {
    /// For a person who watches.
    pub(crate) fn line(&self) -> String {
        let cost = self.cost.map_or_else(String::new, |cost| {
            format!("{:6.1} us CPU, {:.2} waits, ", cost.cpu_us, cost.waits)
        });
        let failure = self.failure.as_deref().unwrap_or("");
        format!(
            "{cost}{:6.0} tps, p50 {:.2} ms, p99 {:.2} ms, others {:.0} % {failure}",
            self.per_second, self.p50_ms, self.p99_ms, self.others_percent
        )
    }
}

/// The program, and the directory in which it works.
#[derive(Debug)]
pub(crate) struct Pgbench {
    program: PathBuf,
    directory: PathBuf,
}

impl Pgbench {
    /// Takes the one that came with the servers, or else any on PATH.
    pub(crate) fn new(cluster: &Cluster) -> Outcome<Self> {
        let beside = cluster.binaries().directory().join("pgbench");
        let program = if beside.is_file() {
            beside
        } else {
            "pgbench".into()
        };
        let directory = cluster.directory().join("pgbench");
        fs::create_dir_all(&directory)?;
        Ok(Self { program, directory })
    }

    /// Makes pgbench's tables and the functions on the primary, and the scripts.
    pub(crate) async fn initialise(&self, cluster: &Cluster) -> Outcome<()> {
        cell::write_scripts(&self.directory)?;
        let endpoint = Endpoint {
            port: cluster.primary().port(),
            login: cluster.application().clone(),
        };
        let tables = ["--initialize", "--quiet", &format!("--scale={SCALE}")];
        let functions = ["--no-vacuum", "--transactions=1", "--file", cell::FUNCTIONS];
        for arguments in [&tables[..], &functions] {
            let mut command = self.command(&endpoint);
            command.args(arguments);
            let output = tokio::time::timeout(PATIENCE * 5, command.output()).await??;
            if !output.status.success() {
                let said = String::from_utf8_lossy(&output.stderr);
                return Err(format!("pgbench {}: {said}", arguments.join(" ")).into());
            }
        }
        Ok(())
    }

    /// Runs a cell once; `proxy` is the process to look at, if there is one.
    pub(crate) async fn run(
        &self,
        cell: &Cell,
        endpoint: &Endpoint,
        proxy: Option<u32>,
        length: Duration,
    ) -> Outcome<Run> {
        self.remove_logs()?;
        let mut command = self.command(endpoint);
        command
            .args(cell.arguments())
            .args(["--no-vacuum", "--jobs=1", "--log", "--log-prefix=log"])
            .arg(format!("--time={}", length.as_secs()));
        let child = command.spawn()?;
        let mut samples = Vec::new();
        let output = {
            let finished = tokio::time::timeout(length + PATIENCE, child.wait_with_output());
            tokio::pin!(finished);
            loop {
                tokio::select! {
                    output = &mut finished => break output.map_err(|_| "pgbench hangs")??,
                    () = tokio::time::sleep(PACE) => {
                        if let Some(pid) = proxy {
                            samples.push(process::sample(pid)?);
                        } else {
                            samples.push(clock());
                        }
                    }
                }
            }
        };
        let mut failure = None;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            let line = said.lines().find(|line| line.contains("error"));
            failure = Some(line.or(said.lines().last()).unwrap_or("failed").to_owned());
        }
        let log = self.read_logs()?;
        if log.failed > 0 {
            failure = Some(format!("{} transactions failed", log.failed));
        }
        let mut run = log.within(&samples, proxy.is_some());
        if run.transactions == 0 {
            failure = failure.or_else(|| Some("no transactions in the window".to_owned()));
        }
        run.failure = failure;
        Ok(run)
    }

    fn command(&self, endpoint: &Endpoint) -> Command {
        let Login {
            user,
            password,
            database,
        } = &endpoint.login;
        let mut command = Command::new(&self.program);
        command
            .current_dir(&self.directory)
            .env("PGPASSWORD", password)
            .env("PGSSLMODE", "disable")
            .env("PGGSSENCMODE", "disable")
            .args(["--host=127.0.0.1", &format!("--port={}", endpoint.port)])
            .args([format!("--username={user}"), database.clone()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    fn logs(&self) -> Outcome<Vec<PathBuf>> {
        let entries = fs::read_dir(&self.directory)?.collect::<Result<Vec<_>, _>>()?;
        let paths = entries.into_iter().map(|entry| entry.path());
        let is_log = |path: &PathBuf| {
            let name = path.file_name().unwrap_or_default();
            name.as_encoded_bytes().starts_with(b"log.")
        };
        Ok(paths.filter(is_log).collect())
    }

    fn remove_logs(&self) -> Outcome<()> {
        for path in self.logs()? {
            fs::remove_file(path)?;
        }
        Ok(())
    }

    fn read_logs(&self) -> Outcome<Log> {
        let mut log = Log::default();
        for path in self.logs()? {
            fs::read_to_string(path)?
                .lines()
                .for_each(|line| log.read(line));
        }
        log.ended.sort_unstable();
        Ok(log)
    }
}

/// pgbench's log of a run.
#[derive(Debug, Default)]
struct Log {
    /// When each transaction ended, in microseconds since 1970, and how long it took in them.
    ended: Vec<(u64, u32)>,
    failed: u64,
}

impl Log {
    /// Reads `client transaction duration script seconds microseconds …` (pgbench's manual).
    fn read(&mut self, line: &str) {
        let fields: Vec<&str> = line.split(' ').collect();
        let number = |index: usize| fields.get(index).and_then(|text| text.parse::<u64>().ok());
        match (number(2), number(4), number(5)) {
            (Some(took), Some(seconds), Some(micros)) => {
                let took = u32::try_from(took).unwrap_or(u32::MAX);
                self.ended.push((seconds * 1_000_000 + micros, took));
            }
            // In place of the duration it says `failed` or `skipped`.
            _ => self.failed += 1,
        }
    }

    /// The figures between the first sample well after the first transaction and the last sample
    /// before the last one.
    fn within(&self, samples: &[Sample], proxied: bool) -> Run {
        let mut run = Run {
            transactions: 0,
            per_second: 0.0,
            p50_ms: 0.0,
            p99_ms: 0.0,
            others_percent: 0.0,
            cost: None,
            failure: None,
        };
        let (Some(&(first, _)), Some(&(last, _))) = (self.ended.first(), self.ended.last()) else {
            return run;
        };
        let first = first + micros(LEAD);
        let begin = samples.iter().find(|sample| moment(sample) >= first);
        let end = samples.iter().rfind(|sample| moment(sample) <= last);
        let (Some(begin), Some(end)) = (begin, end) else {
            return run;
        };
        let window = moment(begin)..moment(end);
        let ended = self.ended.iter().filter(|(at, _)| window.contains(at));
        let mut took: Vec<u32> = ended.map(|(_, took)| *took).collect();
        if took.is_empty() {
            return run;
        }
        took.sort_unstable();
        let count = took.len() as f64;
        run.transactions = took.len() as u64;
        run.per_second = count * 1e6 / (window.end - window.start) as f64;
        run.p50_ms = f64::from(percentile(&took, 0.50)) / 1e3;
        run.p99_ms = f64::from(percentile(&took, 0.99)) / 1e3;
        run.cost = proxied.then(|| {
            let user = (end.user_ticks - begin.user_ticks) as f64;
            let kernel = (end.kernel_ticks - begin.kernel_ticks) as f64;
            Cost {
                cpu_us: end.cpu.saturating_sub(begin.cpu).as_secs_f64() * 1e6 / count,
                user_percent: 100.0 * user / (user + kernel).max(1.0),
                waits: end.waits.saturating_sub(begin.waits) as f64 / count,
            }
        });
        run
    }
}

fn clock() -> Sample {
    Sample {
        at: SystemTime::now(),
        cpu: Duration::ZERO,
        waits: 0,
        user_ticks: 0,
        kernel_ticks: 0,
    }
}

fn moment(sample: &Sample) -> u64 {
    micros(sample.at.duration_since(UNIX_EPOCH).unwrap_or_default())
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
