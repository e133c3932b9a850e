//! `causeway serve` as a process of its own, whose memory and descriptors can be told.

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use crate::cluster;
use crate::support::{Wire, eventually, http};

pub(super) struct Program {
    child: Child,
    pub(super) port: u16,
    pub(super) http: SocketAddr,
    directory: Directory,
}

/// Goes with its owner.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The application's session on the primary itself.
pub(super) fn direct() -> Wire {
    Wire::login(cluster().primary().port(), cluster().application(), &[])
}

/// All numbers in a table's column `n`, in order.
pub(super) fn numbers(table: &str) -> Vec<i64> {
    let sql = format!("SELECT coalesce(string_agg(n::text, ',' ORDER BY n), '') FROM {table}");
    let all = direct().value(&sql);
    let all = all.split(',').filter(|number| !number.is_empty());
    all.map(|number| number.parse().unwrap()).collect()
}

impl Program {
    /// In front of the shared cluster.
    pub(super) fn start(name: &str) -> Self {
        Self::with(name, &cluster().yaml(), "")
    }

    /// With these sections of nodes and users, and others.
    pub(super) fn with(name: &str, cluster: &str, more: &str) -> Self {
        // Free a moment ago; nobody else takes ports from the system's own range by number.
        let free = || {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            listener.local_addr().unwrap()
        };
        let (clients, admin) = (free(), free());
        let directory = Directory::new(name);
        let path = directory.0.join("config.yaml");
        let mut file = std::fs::File::create(&path).unwrap();
        let yaml = cluster.replacen("monitor:\n", "monitor:\n  timeout: 10s\n", 1);
        write!(
            file,
            "listen: {clients}\nadmin: {{ http: {admin} }}\nlog: {{ filter: warn }}\n{yaml}{more}"
        )
        .unwrap();
        let log = std::fs::File::create(directory.0.join("log")).unwrap();
        let child = Command::new(crate::support::PROGRAM)
            .args(["serve", "--config"])
            .arg(&path)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let program = Self {
            child,
            port: clients.port(),
            http: admin,
            directory,
        };
        eventually("every node is up", || {
            http::get(admin, "/api/status").is_ok_and(|text| text.matches("\"up\"").count() == 3)
        });
        eventually("the functions are known", || {
            let mut wire = program.wire();
            wire.ask("SELECT abs(1)");
            let route = wire.value("SHOW causeway.last_route");
            !route.contains("has not been read yet")
        });
        program
    }

    pub(super) fn wire(&self) -> Wire {
        self.wire_with(&[])
    }

    pub(super) fn wire_with(&self, parameters: &[(&str, &str)]) -> Wire {
        Wire::login(self.port, cluster().application(), parameters)
    }

    /// A line of `/proc/…/status`, in bytes.
    pub(super) fn memory(&self, field: &str) -> usize {
        let path = format!("/proc/{}/status", self.child.id());
        let lines = BufReader::new(std::fs::File::open(path).unwrap()).lines();
        let line = lines
            .map_while(Result::ok)
            .find(|line| line.starts_with(field));
        let line = line.unwrap();
        let kilobytes: usize = line.split_whitespace().nth(1).unwrap().parse().unwrap();
        kilobytes * 1024
    }

    /// Open descriptors.
    pub(super) fn descriptors(&self) -> usize {
        let path = format!("/proc/{}/fd", self.child.id());
        std::fs::read_dir(path).unwrap().count()
    }

    /// Server connections that are in use, over all nodes, and clients that wait for one.
    pub(super) fn busy(&self) -> u64 {
        let status = http::status(self.http);
        let nodes = status["nodes"].as_array().unwrap();
        let count = |node: &serde_json::Value| {
            node["transactions_in_flight"].as_u64().unwrap()
                + node["pool"]["waiting"].as_u64().unwrap()
        };
        nodes.iter().map(count).sum()
    }

    /// What it has logged.
    pub(super) fn log(&self) -> String {
        std::fs::read_to_string(self.directory.0.join("log")).unwrap()
    }

    /// Fails unless other sessions still work, nothing is in use, and nothing has panicked.
    pub(super) fn assert_well(&self) {
        assert_eq!(self.wire().value("SELECT 40 + 2"), "42");
        eventually("nothing is in use", || self.busy() == 0);
        let log = self.log();
        assert!(!log.contains("panicked"), "{log}");
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
