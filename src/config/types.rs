//! The checked configuration: what `config.yaml` means once every fault has been ruled out.

use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::agents::{AgentUrl, Agents};
use super::failover::Failover;
use crate::core::session::Level;

/// A whole, valid configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// The file that it was read from, and is read from again at a reload.
    pub file: PathBuf,
    /// Where clients connect.
    pub listen: SocketAddr,
    /// Worker threads, each with its own event loop; none means one for every two cores.
    pub workers: Option<usize>,
    /// Client connections above this are refused with SQLSTATE 53300.
    pub max_clients: usize,
    /// Where `/metrics`, `/livez`, `/readyz` and `/api/status` are served; none switches them off.
    pub admin_http: Option<SocketAddr>,
    /// What operators must show over HTTP; none means that only this machine's may give orders.
    pub admin_secret: Option<Secret>,
    /// Who may use the console; without anybody there is none, and `causeway` is a database like others.
    pub admin_users: Vec<String>,
    /// The servers; their order is their identity.
    pub nodes: Vec<Node>,
    /// How the nodes' agents are reached; given whenever a node has one.
    pub agents: Option<Agents>,
    /// How nodes are measured.
    pub monitor: Monitor,
    /// How server connections are shared.
    pub pool: Pool,
    /// Who may connect.
    pub auth: Auth,
    /// Where reads may go.
    pub routing: Routing,
    /// What happens when the primary fails; none when that is left to others (`mode: off`).
    pub failover: Option<Failover>,
    /// Longest time a statement waits for a primary to appear before it fails with 57P03.
    pub hold_timeout: Duration,
    /// What is logged.
    pub log: Log,
}

/// One PostgreSQL server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Unique short name, shown wherever the node is spoken of.
    pub name: String,
    /// Host name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Failure domain, if given.
    pub zone: Option<String>,
    /// Share of reads relative to the other standbys; 0 means none.
    pub weight: u32,
    /// Where `causeway agent` beside it is reached, if there is one.
    pub agent: Option<AgentUrl>,
    /// Of standbys that have received equally much, the one with the highest is promoted; one with
    /// 0 never is.
    pub promote_priority: u32,
}

/// The monitoring role and its pace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Monitor {
    /// Role to log in as; needs `pg_monitor`.
    pub user: String,
    /// Its password, if it has one.
    pub password: Option<Secret>,
    /// Database to connect to.
    pub database: String,
    /// Pause between probes while nobody waits for one.
    pub interval: Duration,
    /// A probe unanswered for this long ends the node's incarnation.
    pub timeout: Duration,
    /// Pause between probes while somebody waits for one.
    pub busy_interval: Duration,
}

/// When a server connection is given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PoolMode {
    /// At the end of each transaction.
    Transaction,
    /// When the client disconnects.
    Session,
}

/// The pool of server connections kept for each node, database and user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    /// When a server connection is given back.
    pub mode: PoolMode,
    /// Server connections per node, database and user.
    pub size: usize,
    /// A client that waits longer than this for a server connection gets SQLSTATE 53300.
    pub wait_timeout: Duration,
    /// Bound on TCP connect and login together.
    pub connect_timeout: Duration,
    /// Idle server connections are closed after this.
    pub idle_timeout: Duration,
    /// Named prepared statements kept on one server connection.
    pub max_prepared: usize,
}

/// How clients prove who they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthMethod {
    /// SCRAM-SHA-256.
    ScramSha256,
    /// MD5 challenge.
    Md5,
    /// No proof.
    Trust,
}

/// Who may connect, and how they prove it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Auth {
    /// Method asked of clients.
    pub method: AuthMethod,
    /// By user name.
    pub users: HashMap<String, User>,
}

/// One user: what a client must prove and what is shown to the servers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// Plain password, `SCRAM-SHA-256$…` verifier or `md5…` hash; none only under `trust`.
    pub password: Option<Secret>,
    /// Plain password for the servers, filled in from `password` where that is a plain one.
    pub server_password: Option<Secret>,
}

/// Where reads may go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Routing {
    /// Level of a session that asks for none.
    pub consistency: Level,
    /// Overrides by database name.
    pub databases: HashMap<String, Level>,
    /// Overrides by user name; stronger than the database's.
    pub users: HashMap<String, Level>,
    /// Longest time a read waits for a standby to catch up before it goes to the primary.
    pub catchup_wait: Duration,
    /// A standby further behind than this serves no reads; none means no bound.
    pub max_lag: Option<Duration>,
    /// This proxy's failure domain: standbys of the same one are preferred.
    pub zone: Option<String>,
}

/// What is logged, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// Filter in `tracing` syntax, such as `info` or `pgcauseway=debug`.
    pub filter: String,
    /// Text or JSON.
    pub format: LogFormat,
}

/// The shape of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For eyes.
    Text,
    /// One JSON object per line.
    Json,
}

/// A text that is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The secret itself, for the one place that must send or check it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<secret>")
    }
}
