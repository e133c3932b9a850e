//! `config.yaml` as a whole: what the proxy is told.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::admin::{Admin, admin, admins};
use super::agents::{Agents, agents};
use super::auth::{self, Auth, AuthMethod, auth};
use super::failover::{self, Failover, failover};
use super::log::{Log, log};
use super::memory::{Memory, memory};
use super::monitor::{Monitor, monitor};
use super::nodes::{Node, nodes};
use super::pool::{Pool, pool};
use super::routing::{Routing, routing};
use super::tls::{self, Tls, tls};
use crate::config::document::Document;
use crate::config::faults::Faults;
use crate::config::section::{Read, Section};
use crate::config::values::{address, whole};

const DOCUMENT: Document<Config> = Document {
    needed: "`nodes` and `auth`",
    read: config,
};

/// A whole, valid configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// The file that it was read from, and is read from again at a reload.
    pub file: PathBuf,
    /// Everybody on the machine can read the file, and secrets stand in it.
    pub shows_secrets: bool,
    /// Where clients connect.
    pub listen: SocketAddr,
    /// Worker threads, each with its own event loop; none means one for every two cores.
    pub workers: Option<usize>,
    /// Client connections above this are refused with SQLSTATE 53300.
    pub max_clients: usize,
    /// Who may watch the proxy and give it orders.
    pub admin: Admin,
    /// The servers; their order is their identity.
    pub nodes: Vec<Node>,
    /// How the nodes' agents are reached; given whenever a node has one.
    pub agents: Option<Agents>,
    /// How nodes are measured.
    pub monitor: Monitor,
    /// How server connections are shared.
    pub pool: Pool,
    /// How much sessions may make the proxy hold.
    pub memory: Memory,
    /// Who may connect.
    pub auth: Auth,
    /// Where bytes are encrypted.
    pub tls: Tls,
    /// Where reads may go.
    pub routing: Routing,
    /// What happens when the primary fails; none when that is left to others (`mode: off`).
    pub failover: Option<Failover>,
    /// Longest time a statement waits for a primary to appear before it fails with 57P03.
    pub hold_timeout: Duration,
    pub log: Log,
}

impl Config {
    /// Reads and checks a file, with the environment of this process.
    pub fn load(path: impl AsRef<Path>) -> Result<Self, Faults> {
        DOCUMENT.load(path.as_ref())
    }

    /// Checks a text; `name` is its file's path, to which paths inside it are relative.
    pub fn parse(
        name: &str,
        text: &str,
        env: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, Faults> {
        DOCUMENT.parse(name, text, env)
    }

    /// What is allowed and yet probably not meant, one sentence each.
    pub fn advice(&self) -> Vec<String> {
        let mut advice = Vec::new();
        if self.shows_secrets {
            advice.push(format!(
                "{} can be read by everyone and holds passwords: run chmod o-rwx on it, or move them to \
                 a `password_file`",
                self.file.display()
            ));
        }
        let servers_ask = self.auth.method != AuthMethod::Trust;
        for name in auth::without_server_password(&self.auth)
            .iter()
            .filter(|_| servers_ask)
        {
            advice.push(format!(
                "auth.users.{name}: a verifier or hash and no server_password: this user's \
                 statements succeed only on servers that ask the proxy for no password"
            ));
        }
        if !servers_ask && !self.listen.ip().is_loopback() {
            advice.push(format!(
                "auth.method: trust lets anyone who reaches {} in as any user",
                self.listen
            ));
        }
        if let Some(zone) = &self.routing.zone
            && self
                .nodes
                .iter()
                .all(|node| node.zone.as_ref() != Some(zone))
        {
            advice.push(format!("routing.zone: no node is in zone {zone}"));
        }
        if self.agents.is_some() && self.nodes.iter().all(|node| node.agent.is_none()) {
            advice.push("agents: no node has an `agent`".to_owned());
        }
        advice.extend(tls::advice(&self.tls));
        if let Some(failover) = &self.failover {
            advice.extend(failover::advice(failover, &self.nodes, &self.monitor));
        }
        advice
    }
}

// Every part is read before the first `?`, so that all faults are found.
fn config(section: &mut Section<'_>) -> Read<Config> {
    let listen = section.or("listen", SocketAddr::from(([127, 0, 0, 1], 6432)), address);
    let workers = section.optional("workers", whole(1..=1024));
    let max_clients = section.or("max_clients", 10_000, whole(1..=1_000_000));
    let admin = section.section("admin", |section| admin(section, listen));
    let nodes = nodes(section);
    let with_agents = nodes
        .as_ref()
        .is_ok_and(|nodes| nodes.iter().any(|node| node.agent.is_some()));
    let agents = agents(section, with_agents);
    let monitor = section.section("monitor", monitor);
    let pool = section.section("pool", pool);
    let memory = section.section("memory", memory);
    let auth = section.section("auth", auth);
    let tls = section.section("tls", tls);
    let routing = section.section("routing", routing);
    let node_count = nodes.as_ref().map(Vec::len);
    let failover = failover(section, node_count.unwrap_or(0));
    let log = section.section("log", log);
    let (admin, auth) = (admin?, auth?);
    admins(section, &admin.users, &auth, listen)?;
    let (failover, hold_timeout) = failover?;
    Ok(Config {
        file: section.file(),
        shows_secrets: section.shows_secrets(),
        listen: listen?,
        workers: workers?,
        max_clients: max_clients?,
        admin,
        nodes: nodes?,
        agents: agents?,
        monitor: monitor?,
        pool: pool?,
        memory: memory?,
        auth,
        tls: tls?,
        routing: routing?,
        failover,
        hold_timeout,
        log: log?,
    })
}
