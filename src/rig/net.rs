//! Hosts in network namespaces of their own, on one switch, so that pairs can be cut off from each
//! other without a word, as a failed network does it.
//!
//! All of it lives inside a network namespace that the whole process was started in (see
//! [`private`]), and nothing of the machine's own network is touched. Each host is held by a shell
//! that ends with this process, and the namespace with it.

use std::io::{BufRead, BufReader};
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};

use parking_lot::Mutex;

use super::RigError;
use super::account::Account;

/// Set for the process that runs inside a network namespace of its own.
const PRIVATE: &str = "CAUSEWAY_RIG_PRIVATE_NETWORK";
/// The switch, which this process can be reached at too.
const SWITCH: &str = "causeway";
/// Hosts are 10.77.0.1 and on.
const MOST_HOSTS: u8 = 200;
const OURSELVES: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 254);

/// Where a test that needs a network of its own runs.
#[derive(Debug)]
pub enum Private {
    /// Here: go on.
    Inside,
    /// It has been run, in a process inside a new network namespace, and ended so.
    Ran(ExitStatus),
    /// Namespaces are not permitted, or a program is missing: skip it, and say this.
    Impossible(String),
}

/// Runs the test of that full name again inside a new network namespace, unless this is inside one.
pub fn private(test: &str) -> Result<Private, RigError> {
    if std::env::var_os(PRIVATE).is_some() {
        return Ok(Private::Inside);
    }
    let attempt = Command::new("unshare")
        .args([
            "--net",
            "sh",
            "-c",
            "ip link add name try type bridge && nft list tables",
        ])
        .output();
    match attempt {
        Ok(output) if output.status.success() => {}
        Ok(output) => {
            let reason = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Ok(Private::Impossible(format!("network namespaces: {reason}")));
        }
        Err(error) => return Ok(Private::Impossible(format!("unshare: {error}"))),
    }
    let program = std::env::current_exe().map_err(RigError::io("find this program"))?;
    let status = Command::new("unshare")
        .arg("--net")
        .arg(program)
        .args(["--exact", test, "--nocapture"])
        .env(PRIVATE, "1")
        .status();
    status
        .map(Private::Ran)
        .map_err(RigError::io("run the test in a network namespace"))
}

/// Where a server of the rig runs: on this host's loopback, or on a [`Host`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    /// The address that it listens on.
    pub(super) address: Ipv4Addr,
    /// The process whose network namespace it runs in.
    namespace: Option<u32>,
}

impl Place {
    pub(super) const LOOPBACK: Self = Self {
        address: Ipv4Addr::LOCALHOST,
        namespace: None,
    };

    pub(super) fn url(self, scheme: &str, port: u16) -> String {
        format!("{scheme}://{}:{port}", self.address)
    }

    /// A command that runs there, as this process's user.
    pub(super) fn own_command(self, program: &Path) -> Command {
        let Some(namespace) = self.namespace else {
            return Command::new(program);
        };
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net=/proc/{namespace}/ns/net"))
            .arg("--")
            .arg(program);
        command
    }

    /// A command that runs there, as the servers' user.
    pub(super) fn command(self, program: &Path, account: Account) -> Command {
        let Some(namespace) = self.namespace else {
            let mut command = Command::new(program);
            account.prepare(&mut command);
            return command;
        };
        // To enter takes more rights than the servers' user has, so that it is not the command's.
        let mut command = Command::new("nsenter");
        account.clean(&mut command);
        command
            .arg(format!("--net=/proc/{namespace}/ns/net"))
            .args(account.nsenter_arguments())
            .arg("--")
            .arg(program);
        command
    }
}

/// The switch and what is plugged into it.
#[derive(Debug)]
pub struct Net {
    hosts: Vec<Host>,
}

/// One host: an address, and programs that have no other network.
#[derive(Debug)]
pub struct Host {
    address: Ipv4Addr,
    /// Keeps the namespace as long as its standard input is open.
    holder: Mutex<Child>,
    pid: u32,
}

impl Net {
    /// Sets up so many hosts, all of which reach each other and this process. Only inside
    /// [`private`], where it is the first of its kind.
    pub fn new(hosts: u8) -> Result<Self, RigError> {
        if std::env::var_os(PRIVATE).is_none() || hosts > MOST_HOSTS {
            let error = std::io::Error::other("not inside a network namespace, or too many hosts");
            return Err(RigError::io("set up a network")(error));
        }
        ip(&["link", "set", "lo", "up"])?;
        ip(&["link", "add", "name", SWITCH, "type", "bridge"])?;
        ip(&["addr", "add", &format!("{OURSELVES}/24"), "dev", SWITCH])?;
        ip(&["link", "set", SWITCH, "up"])?;
        let mut net = Self { hosts: Vec::new() };
        for number in 1..=hosts {
            net.hosts.push(Host::plug_in(number)?);
        }
        Ok(net)
    }

    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// Where this process is reached by the hosts. It is never cut off from any.
    pub fn ourselves(&self) -> Ipv4Addr {
        OURSELVES
    }

    /// From now on nothing arrives from one host at the other, either way; nobody is told.
    pub fn cut(&self, one: usize, other: usize) -> Result<(), RigError> {
        for (at, from) in [(one, other), (other, one)] {
            let from = self.hosts[from].address.to_string();
            let set = format!("add element ip rig away {{ {from} }}");
            self.hosts[at].nft(&set)?;
        }
        Ok(())
    }

    /// Cuts a host off from all the others.
    pub fn isolate(&self, host: usize) -> Result<(), RigError> {
        for other in (0..self.hosts.len()).filter(|other| *other != host) {
            self.cut(host, other)?;
        }
        Ok(())
    }

    /// Mends every cut.
    pub fn heal(&self) -> Result<(), RigError> {
        for host in &self.hosts {
            host.nft("flush set ip rig away")?;
        }
        Ok(())
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for host in &self.hosts {
            let mut holder = host.holder.lock();
            drop(holder.stdin.take());
            let _ = holder.kill();
            let _ = holder.wait();
        }
        self.hosts.clear();
        let _ = ip(&["link", "delete", SWITCH]);
    }
}

impl Host {
    fn plug_in(number: u8) -> Result<Self, RigError> {
        let mut holder = Command::new("unshare")
            .args(["--net", "sh", "-c", "echo ready; read -r _"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(RigError::io("run unshare"))?;
        let mut ready = String::new();
        if let Some(said) = holder.stdout.take() {
            let read = BufReader::new(said).read_line(&mut ready);
            read.map_err(RigError::io("await a network namespace"))?;
        }
        let host = Self {
            address: Ipv4Addr::new(10, 77, 0, number),
            pid: holder.id(),
            holder: Mutex::new(holder),
        };
        let (ours, theirs) = (format!("rig{number}"), format!("peer{number}"));
        let namespace = host.pid.to_string();
        let add = [
            "link", "add", "name", &ours, "type", "veth", "peer", "name", &theirs,
        ];
        ip(&add)?;
        ip(&["link", "set", &theirs, "netns", &namespace])?;
        ip(&["link", "set", &ours, "master", SWITCH, "up"])?;
        let address = format!("{}/24", host.address);
        host.run("ip", &["link", "set", "lo", "up"])?;
        host.run("ip", &["addr", "add", &address, "dev", &theirs])?;
        host.run("ip", &["link", "set", &theirs, "up"])?;
        // What is dropped on arrival is lost as on a broken line; dropped on departure, the sender
        // would be told.
        host.nft(
            "add table ip rig; add set ip rig away { type ipv4_addr; }; \
             add chain ip rig arrivals { type filter hook input priority 0; }; \
             add rule ip rig arrivals ip saddr @away drop",
        )?;
        Ok(host)
    }

    /// The host's address.
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    pub(super) fn place(&self) -> Place {
        Place {
            address: self.address,
            namespace: Some(self.pid),
        }
    }

    /// A command that runs on this host, as the same user.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        self.place().own_command(Path::new(program.as_ref()))
    }

    fn run(&self, program: &str, arguments: &[&str]) -> Result<(), RigError> {
        let output = self.command(program).args(arguments).output();
        succeeded("nsenter", output)
    }

    fn nft(&self, commands: &str) -> Result<(), RigError> {
        self.run("nft", &[commands])
    }
}

fn ip(arguments: &[&str]) -> Result<(), RigError> {
    succeeded("ip", Command::new("ip").args(arguments).output())
}

fn succeeded(program: &'static str, output: std::io::Result<Output>) -> Result<(), RigError> {
    let output = output.map_err(RigError::io(format!("run {program}")))?;
    if output.status.success() {
        return Ok(());
    }
    let said = [output.stdout, output.stderr].concat();
    Err(RigError::Program {
        program,
        status: output.status,
        output: String::from_utf8_lossy(&said).into_owned(),
    })
}
