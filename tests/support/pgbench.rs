//! pgbench, PostgreSQL's own load, through a proxy.

use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::need::pgbench;

/// Its tpcb-like transactions by 16 clients. Killed when dropped.
pub struct Pgbench(Option<Child>);

impl Pgbench {
    /// Makes its tables through the proxy at this port, and begins.
    pub fn start(port: u16, protocol: &str) -> Self {
        let port = port.to_string();
        let run = |arguments: &[&str]| {
            let mut command = Command::new(pgbench());
            command
                .args(["-h", "127.0.0.1", "-p", &port, "-U", "demo"])
                .args(arguments)
                .arg("demo")
                .env("PGPASSWORD", "demo")
                .stdout(Stdio::piped())
                .stderr(Stdio::piped());
            command
        };
        let made = run(&["-i", "-s", "4", "-q"]).output().unwrap();
        assert!(made.status.success(), "{made:?}");
        // Always some under way, and cores to spare for servers that start.
        let load = ["-n", "-c", "16", "-j", "2", "-T", "1000", "-R", "300"];
        let load = [&load[..], &["-M", protocol]].concat();
        Self(Some(run(&load).spawn().unwrap()))
    }

    /// Lets it end as it does when its time is up; its words. Fails if a client has given up or a
    /// transaction has failed.
    pub fn stop(mut self) -> String {
        let child = self.0.take().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        kill(Pid::from_raw(pid), Signal::SIGALRM).unwrap();
        let ended = child.wait_with_output().unwrap();
        let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let all = said(&ended.stdout) + &said(&ended.stderr);
        assert!(ended.status.success(), "{all}");
        assert!(all.contains("number of failed transactions: 0 "), "{all}");
        assert!(!all.contains("aborted"), "{all}");
        all
    }
}

impl Drop for Pgbench {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
