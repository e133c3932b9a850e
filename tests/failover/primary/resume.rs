//! A proxy that is killed in the middle of whatever it does goes on from the stored phase.

use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use pgcauseway::rig::Cluster;

use super::{cluster, named, rounds, writers};
use crate::support::BOUND;
use crate::support::http::{order, status};
use crate::support::status::{leader, settled};

/// `causeway serve` in a process of its own.
struct Process {
    child: Child,
    config: PathBuf,
    log: PathBuf,
    http: SocketAddr,
    url: String,
}

impl Process {
    fn start(cluster: &Cluster, more: &str) -> Self {
        let free = || {
            TcpListener::bind("127.0.0.1:0")
                .unwrap()
                .local_addr()
                .unwrap()
        };
        let (clients, http) = (free(), free());
        let yaml = cluster.yaml() + &cluster.failover_yaml(more);
        let yaml = yaml.replacen("monitor:\n", "monitor:\n  timeout: 10s\n", 1);
        let text = format!("listen: {clients}\nadmin: {{ http: {http} }}\n{yaml}");
        let config = cluster.directory().join("config.yaml");
        fs::write(&config, text).unwrap();
        let log = cluster.directory().join("causeway.log");
        let login = cluster.application();
        let (user, password, database) = (&login.user, &login.password, &login.database);
        let url = format!("postgresql://{user}:{password}@{clients}/{database}");
        let child = Self::spawn(&config, &log);
        Self {
            child,
            config,
            log,
            http,
            url,
        }
    }

    fn spawn(config: &PathBuf, log: &PathBuf) -> Child {
        let log = File::options().create(true).append(true).open(log).unwrap();
        Command::new(crate::support::PROGRAM)
            .args(["serve", "--config"])
            .arg(config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap()
    }

    /// Kills it (SIGKILL) and starts it again.
    fn restart(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.child = Self::spawn(&self.config, &self.log);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("{}", fs::read_to_string(&self.log).unwrap_or_default());
        }
    }
}

/// Waits until the record says that this phase has begun; false if it passed too quickly.
fn reaches(state: &PathBuf, phase: &str) -> bool {
    let until = Instant::now() + BOUND;
    let phase = format!("\"{phase}\"");
    let mut began = false;
    loop {
        let text = fs::read_to_string(state).unwrap_or_default();
        if text.contains(&phase) {
            return true;
        }
        let steady = text.contains("\"Steady\"");
        if began && steady || Instant::now() > until {
            return false;
        }
        began |= !steady && !text.is_empty();
        std::thread::sleep(Duration::from_micros(200));
    }
}

#[test]
fn a_killed_proxy_goes_on_from_its_phase() {
    let cluster = cluster("resume");
    let mut process = Process::start(&cluster, "durability: quorum");
    settled(process.http);
    let state = cluster.directory().join("causeway.state");
    let writers = writers(&process.url, 4);
    let phases = [
        "Fencing",
        "Stopping",
        "Promoting",
        "Following",
        "Draining",
        "CatchingUp",
    ];
    let mut hit = 0;
    for phase in phases.into_iter().cycle().take(rounds(3)) {
        writers.wait_acknowledged(20);
        let old = leader(process.http);
        let planned = ["Stopping", "Draining", "CatchingUp"].contains(&phase);
        let http = process.http;
        let orders = if planned {
            Some(std::thread::spawn(move || order(http, "/api/switchover")))
        } else {
            named(&cluster, &old).kill_postmaster().unwrap();
            None
        };
        let reached = reaches(&state, phase);
        hit += usize::from(reached);
        process.restart();
        let restarted = Instant::now();
        settled(process.http);
        let now = leader(process.http);
        let took = restarted.elapsed();
        println!(
            "killed in {phase}: {reached}; {old} led, {now} leads; all is well after {took:?}"
        );
        if let Some(orders) = orders {
            orders.join().unwrap();
        } else {
            assert_ne!(now, old);
        }
        status(process.http);
    }
    println!("{hit} phases were hit");
    assert!(hit > 0);
    let history = writers.stop();
    let found = history.check(&process.url);
    println!("{found}");
    assert_eq!(found.lost.len(), 0, "{found}");
    assert_eq!(found.came_true.len(), 0, "{found}");
}
