//! The rig as its scripts show it: up, broken, judged, down, and what both proxies say of it.

use std::path::Path;
use std::process::{Command, Output};
use std::time::Instant;

use serde_json::Value;

use crate::support::eventually;
use crate::support::http::ask;
use crate::support::status::{is_settled, names};

pub(crate) const NODES: [&str; 3] = ["pg1", "pg2", "pg3"];

/// Where a proxy is reached from this machine.
#[derive(Clone, Debug)]
pub(crate) struct Proxy {
    pub(crate) sql: String,
    pub(crate) http: String,
}

/// What a proxy says of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Standing {
    pub(crate) primary: String,
    pub(crate) standbys: Vec<String>,
    pub(crate) down: Vec<String>,
    pub(crate) epoch: u64,
    pub(crate) settled: bool,
}

/// A rig of our own; taken down when dropped, its logs kept if a panic is why.
pub(crate) struct Rig {
    name: String,
}

impl Rig {
    /// Builds the images from the binary under test, and starts everything.
    pub(crate) fn up() -> Self {
        let rig = Self {
            name: format!("causeway-test-{}", std::process::id()),
        };
        let begun = Instant::now();
        rig.script("up", &[]).succeeded();
        println!("up after {:?}", begun.elapsed());
        rig
    }

    pub(crate) fn chaos(&self, arguments: &[&str]) {
        self.script("chaos", arguments).succeeded();
    }

    /// The exit code of `docker/verify` and what it printed.
    pub(crate) fn verify(&self) -> (Option<i32>, String) {
        let output = self.script("verify", &[]).0;
        let (said, also) = (text(&output.stdout), text(&output.stderr));
        (output.status.code(), format!("{said}\n{also}"))
    }

    /// Takes everything down and looks for leftovers.
    pub(crate) fn down(self) {
        let before = self.left();
        assert!(before.iter().all(|found| !found.is_empty()), "{before:?}");
        self.script("down", &["--images"]).succeeded();
        let after = self.left();
        assert!(after.iter().all(String::is_empty), "{after:?}");
        // Nothing is left for dropping.
        std::mem::forget(self);
    }

    /// Containers, volumes, networks, images, and what building those leaves behind.
    fn left(&self) -> [String; 5] {
        let project = format!("label=com.docker.compose.project={}", self.name);
        let images = format!("reference={}-*", self.name);
        let built = format!("label=causeway.images={}", self.name);
        [
            &["ps", "--all", "--quiet", "--filter", &project][..],
            &["volume", "ls", "--quiet", "--filter", &project],
            &["network", "ls", "--quiet", "--filter", &project],
            &["image", "ls", "--quiet", "--filter", &images],
            &["image", "ls", "--all", "--quiet", "--filter", &built],
        ]
        .map(docker)
    }

    pub(crate) fn proxies(&self) -> [Proxy; 2] {
        ["proxy1", "proxy2"].map(|proxy| Proxy {
            sql: self.published(proxy, 6432),
            http: self.published(proxy, 9432),
        })
    }

    /// Where a port is published.
    pub(crate) fn published(&self, service: &str, port: u16) -> String {
        let found = docker(&["port", &self.container(service), &format!("{port}/tcp")]);
        found.lines().next().unwrap().to_owned()
    }

    pub(crate) fn container(&self, service: &str) -> String {
        let project = format!("label=com.docker.compose.project={}", self.name);
        let service = format!("label=com.docker.compose.service={service}");
        docker(&[
            "ps", "--all", "--quiet", "--filter", &project, "--filter", &service,
        ])
    }

    /// What a container has said so far.
    pub(crate) fn log(&self, service: &str) -> String {
        let output = run("docker", &["logs", &self.container(service)]);
        text(&output.stdout) + &text(&output.stderr)
    }

    /// Runs something in a container; none if it fails.
    pub(crate) fn inside(&self, service: &str, command: &[&str]) -> Option<String> {
        let container = self.container(service);
        let mut arguments = vec!["exec", &*container];
        arguments.extend(command);
        let output = run("docker", &arguments);
        output.status.success().then(|| text(&output.stdout))
    }

    /// What both proxies say.
    pub(crate) fn standings(&self) -> Vec<Standing> {
        let proxies = self.proxies();
        let statuses = proxies.iter().map(|proxy| json(&proxy.http, "/api/status"));
        statuses.map(|status| standing(&status)).collect()
    }

    /// Waits until everything is in service and both proxies say the same.
    pub(crate) fn settled(&self) -> Standing {
        let mut last = Vec::new();
        eventually("both proxies say that everything is in service", || {
            last = self.standings();
            last[0] == last[1] && last[0].settled
        });
        last.remove(0)
    }

    /// Waits until both proxies serve writes on another node than before.
    pub(crate) fn led_by_another(&self, before: &Standing) -> Standing {
        let mut last = Vec::new();
        eventually("another node leads", || {
            last = self.standings();
            let moved = |standing: &Standing| {
                NODES.contains(&&*standing.primary)
                    && standing.primary != before.primary
                    && standing.epoch > before.epoch
            };
            last.iter().all(moved) && last[0].primary == last[1].primary
        });
        last.remove(0)
    }

    fn script(&self, name: &str, arguments: &[&str]) -> Ran {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("docker")
            .join(name);
        let mut command = Command::new(&path);
        command
            .args(arguments)
            .env("CAUSEWAY_PROJECT", &self.name)
            .env("CAUSEWAY_IMAGES", &self.name)
            .env("CAUSEWAY_BINARY", crate::support::PROGRAM)
            .env("CAUSEWAY_LOAD_SECONDS", "900");
        // Empty: any free port.
        for port in [
            "PROXY1_PORT",
            "PROXY1_HTTP",
            "PROXY2_PORT",
            "PROXY2_HTTP",
            "PROMETHEUS_PORT",
        ] {
            command.env(format!("CAUSEWAY_{port}"), "");
        }
        Ran(command.output().unwrap(), format!("{name} {arguments:?}"))
    }

    fn keep_logs(&self) {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/rig-logs/docker");
        let _ = std::fs::create_dir_all(&directory);
        for service in [
            "pg1", "pg2", "pg3", "proxy1", "proxy2", "etcd", "load", "secrets",
        ] {
            let _ = std::fs::write(directory.join(service), self.log(service));
        }
        eprintln!("the logs of the rig are in {}", directory.display());
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.keep_logs();
        }
        let _ = self.script("down", &["--images"]);
    }
}

/// A script that has run, and what it was.
struct Ran(Output, String);

impl Ran {
    fn succeeded(&self) {
        let Self(output, what) = self;
        assert!(
            output.status.success(),
            "docker/{what}: {}\n{}\n{}",
            output.status,
            text(&output.stdout),
            text(&output.stderr)
        );
    }
}

fn standing(status: &Value) -> Standing {
    let failover = &status["failover"];
    Standing {
        primary: names(status, "role", "primary").pop().unwrap_or_default(),
        standbys: names(status, "role", "standby"),
        down: names(status, "state", "down"),
        epoch: failover["epoch"].as_u64().unwrap_or_default(),
        settled: is_settled(status) && failover["durability"] == "quorum",
    }
}

/// What docker prints; it must succeed.
pub(crate) fn docker(arguments: &[&str]) -> String {
    let output = run("docker", arguments);
    let said = text(&output.stderr);
    assert!(output.status.success(), "docker {arguments:?}: {said}");
    text(&output.stdout)
}

fn run(program: &str, arguments: &[&str]) -> Output {
    Command::new(program).args(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim().to_owned()
}

/// The body of the answer to a GET, unless there is none.
pub(crate) fn get(address: &str, path: &str) -> Option<String> {
    let (status, body) = ask(address.parse().ok()?, "GET", path, "").ok()?;
    (status == 200).then_some(body)
}

/// The same, as JSON; null if it is none.
pub(crate) fn json(address: &str, path: &str) -> Value {
    let body = get(address, path).unwrap_or_default();
    serde_json::from_str(&body).unwrap_or_default()
}
