//! What the agent is asked and what it answers, as JSON over HTTPS; the proxy's client shares it.
//!
//! Every request carries an *epoch*, the number of the decision it belongs to. The agent keeps the
//! highest it has seen on disk and refuses lower ones. All calls may be repeated.
//!
//! An address may lead to the agent of another node, or of another cluster. So each request names in its
//! headers whom it means ([`NODE`], [`SYSTEM`]); who is somebody else refuses. Absent ones mean whoever
//! answers, as with older proxies, and older agents read neither: who asks them looks at [`Status::node`].

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::config::Secret;

/// Header: the name of the node whose agent is meant.
pub const NODE: &str = "causeway-node";
/// Header of orders: the cluster that is meant, as PostgreSQL's system identifier in decimal. An agent whose
/// server has no data yet is of any.
pub const SYSTEM: &str = "causeway-system";

/// `GET`: [`Status`].
pub const STATUS: &str = "/v1/status";
/// `POST` [`LeaseRequest`]: [`LeaseAnswer`].
pub const LEASE: &str = "/v1/lease";
/// `POST` [`ReleaseRequest`]: [`ReleaseAnswer`].
pub const RELEASE: &str = "/v1/release";
/// `POST` [`PromiseRequest`]: [`PromiseAnswer`]. Agents ask this of each other.
pub const PROMISE: &str = "/v1/promise";
/// `POST` [`AnnounceRequest`]: [`AnnounceAnswer`].
pub const ANNOUNCE: &str = "/v1/announce";
/// `POST` [`StopRequest`]: [`StopAnswer`].
pub const STOP: &str = "/v1/stop";
/// `POST` [`StartRequest`]: [`StartAnswer`].
pub const START: &str = "/v1/start";
/// `POST` [`UpstreamRequest`]: [`UpstreamAnswer`].
pub const UPSTREAM: &str = "/v1/upstream";
/// `POST` [`RejoinRequest`]: [`Job`], which goes on by itself; [`Status::job`] tells how it stands.
pub const REJOIN: &str = "/v1/rejoin";

/// From the moment a lease has run out, a server that still runs as a primary is gone within this
/// many milliseconds as long as the agent is given processor time: the enforcer's pace, the grace
/// of an immediate shutdown, and the kernel's part of a kill.
pub const FENCE_WITHIN_MS: u64 = 1_000;

/// What a server is or would be once started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Takes writes.
    Primary,
    /// Follows another server.
    Standby,
}

/// Everything the agent knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The node's name in the agent's configuration.
    pub node: String,
    /// The agent's clock, in milliseconds since the machine started; runs on through suspends.
    pub clock_ms: u64,
    pub postmaster: Postmaster,
    /// What the server runs as, or would start as; none when the data directory cannot be read.
    pub role: Option<Role>,
    /// `pg_control`'s word for the server's state, such as `in production`.
    pub cluster_state: Option<String>,
    /// Where the shutdown checkpoint's record begins, after a clean stop of a primary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shutdown_checkpoint: Option<String>,
    /// The timeline: the live one when the server answers, else that of its last checkpoint.
    pub timeline: Option<u32>,
    /// Whether `timeline` and `role` were just told by the server itself.
    pub answers: bool,
    /// PostgreSQL's system identifier, in decimal.
    pub system_identifier: Option<String>,
    /// The version of the PostgreSQL binaries, such as `15.18`.
    pub version: String,
    /// The lease in force.
    pub lease: Option<Lease>,
    /// The highest epoch ever seen.
    pub highest_epoch: u64,
    /// Whether the server may run as a primary only under a lease: from the first lease or stop on, until
    /// it is released.
    pub governed: bool,
    /// The rejoin under way, or the last one since the agent started.
    pub job: Option<Job>,
    /// A rejoin was cut short and the data directory cannot be started: it must be rejoined again.
    pub unfinished_rejoin: bool,
    /// Its part in prolonging leases without a proxy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failsafe: Option<Failsafe>,
}

/// An agent's part in prolonging leases without a proxy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failsafe {
    /// Why it cannot ask other agents, if it cannot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unable: Option<String>,
    /// Whom it asks, and how many must promise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<PeerRule>,
    /// What it has promised, while that lasts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub promise: Option<Promise>,
    /// Why too few of the others would promise anything at present, for people; empty if enough would.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub trouble: String,
}

/// By whose promises an agent may prolong its lease: `needed` of `peers`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PeerRule {
    /// Rises with every change: a lower one that comes late changes nothing.
    pub version: u64,
    pub needed: usize,
    /// With none the lease is not prolonged.
    pub peers: Vec<Peer>,
}

/// Another node's agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Peer {
    /// Its node's name.
    pub node: String,
    /// Host name or address; its certificate must be for it.
    pub host: String,
    pub port: u16,
}

/// That a server is granted no lease.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Promise {
    /// The node that it was given to.
    pub to: String,
    /// What is left of it, in milliseconds.
    pub remaining_ms: u64,
}

/// Asks a standby's agent to let its server be granted no lease for a while. It promises only if its server
/// streams from the asker's timeline, if it knows of no higher epoch, and if it has no lease of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PromiseRequest {
    /// The asker's node.
    pub from: String,
    /// Whom it means: an address may lead to another.
    pub to: String,
    /// The epoch of the lease that is to be prolonged.
    pub epoch: u64,
    /// The asker's cluster: PostgreSQL's system identifier, in decimal.
    pub system_identifier: String,
    /// The timeline that the asker's server writes.
    pub timeline: u32,
    /// For how long, in milliseconds, counted from when the request is read. 0 only asks whether it would.
    pub promise_ms: u64,
}

/// It is promised.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PromiseAnswer {
    /// What was asked for.
    pub promise_ms: u64,
}

/// Tells an agent an epoch: to whoever leads in a lower one it promises nothing any more. What it has promised
/// stands; [`Status::failsafe`] tells of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AnnounceRequest {
    pub epoch: u64,
}

/// It is on disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnnounceAnswer {
    /// The highest epoch ever seen.
    pub highest_epoch: u64,
}

/// The postmaster, as the operating system shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Postmaster {
    pub running: bool,
    /// Its process number while it runs.
    pub pid: Option<i32>,
    /// Since when it runs or has been seen stopped, in seconds of the Unix epoch.
    pub since: Option<u64>,
    /// Whether it accepts connections by its own account.
    pub ready: bool,
    /// Whether it was stopped where it stands (SIGSTOP): it answers nobody.
    pub frozen: bool,
    /// For how long it has not got on with its start, its recovery or what it replays, in milliseconds, while
    /// it runs.
    #[serde(default)]
    pub still_ms: Option<u64>,
}

/// A lease in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// The epoch that it was given under.
    pub epoch: u64,
    /// Who renews it.
    pub holder: String,
    /// What is left of it, in milliseconds.
    pub remaining_ms: u64,
    /// It lasts by what other agents have promised since it was last renewed.
    #[serde(default)]
    pub prolonged: bool,
}

/// Grants or renews the right to run as a primary.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LeaseRequest {
    pub epoch: u64,
    /// Who asks; within one epoch only one may.
    pub holder: String,
    /// How long the lease lasts, in milliseconds, counted from `clock_ms`.
    pub ttl_ms: u64,
    /// The agent's clock at the time of sending, as known from its last answer: however late the
    /// request is read, the lease then ends no later than the sender reckons. Without it the lease
    /// counts from when the request is read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clock_ms: Option<u64>,
    /// By whose promises the agent may prolong it while nobody renews it. Without one it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failsafe: Option<PeerRule>,
}

/// What is in force after a lease was granted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseAnswer {
    pub lease: Lease,
    /// The agent's clock, for the next request.
    pub clock_ms: u64,
}

/// Ends the rule of leases: from now on, and until another is granted, the server is left alone whatever it
/// runs as. For proxies that leave, or that no longer decide.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReleaseRequest {
    pub epoch: u64,
}

/// No lease is needed any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReleaseAnswer {
    /// Whether one was needed before.
    pub was_governed: bool,
}

/// How a server is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StopMode {
    /// At once; what does not go is killed. Always ends.
    Immediate,
    /// With a checkpoint, and all WAL sent to the standbys. Fails when the time is up.
    Fast,
}

/// Stops the server, and forbids it to run as a primary until a lease of this epoch or a higher one:
/// at once, or after a fast stop has succeeded. During a fast stop a lease in force must go on being
/// renewed, under the epoch of the stop.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StopRequest {
    pub epoch: u64,
    pub mode: StopMode,
    /// The bound, in milliseconds; after it a fast stop fails.
    pub timeout_ms: u64,
}

/// How the server came to stand still.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stopped {
    /// No process of it was there.
    Already,
    /// It ended by itself when asked to.
    Asked,
    /// It did not react, or could not: its processes were killed.
    Killed,
}

/// The server is gone, with every process of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StopAnswer {
    /// How it came to that.
    pub stopped: Stopped,
    /// How long it took, in milliseconds.
    pub elapsed_ms: u64,
}

/// The server to follow.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    pub host: String,
    pub port: u16,
    /// The role to replicate as; the agent's own `replication` login if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,
    /// What else the connection string is to say; the agent's own `replication.conninfo` is stronger.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conninfo: Option<String>,
    /// The replication slot to use there; without one a slot of Causeway's is not used any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slot: Option<String>,
}

impl Source {
    /// The password, to be handed on.
    pub(super) fn secret(&self) -> Option<Secret> {
        self.password.clone().map(Secret::new)
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StartRequest {
    pub epoch: u64,
    /// What it starts as. As a primary it needs a lease in force, if it was ever given one.
    #[serde(rename = "as")]
    pub role: Role,
    /// Whom a standby follows; left as it is if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<Source>,
    /// The bound, in milliseconds; the agent's own if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
}

/// The server runs and accepts connections.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartAnswer {
    pub pid: i32,
    /// Whether it ran already.
    pub already: bool,
    /// How long it took, in milliseconds.
    pub elapsed_ms: u64,
}

/// Asks what the server's `primary_conninfo` must say for it to follow `source`; the server itself is not
/// told. The password goes into a file of the agent's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UpstreamRequest {
    pub epoch: u64,
    pub source: Source,
}

/// The agent's keys are in it, and no secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpstreamAnswer {
    pub conninfo: String,
}

/// Makes the server a standby of `source`, whatever it has become.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RejoinRequest {
    pub epoch: u64,
    /// The primary to follow.
    pub source: Source,
    /// Rewinding is out of the question: copy the primary.
    #[serde(default)]
    pub copy: bool,
}

/// A rejoin and how it stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    pub epoch: u64,
    pub kind: JobKind,
    pub state: JobState,
    /// When it began, in seconds of the Unix epoch.
    pub started: u64,
    /// The step it is at, or how it ended, for people.
    pub detail: String,
}

/// What a job does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobKind {
    /// Makes the server a standby.
    Rejoin,
}

/// How a job stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    Running,
    /// The server streams from its source.
    Done,
    /// Given up; it may be asked for again.
    Failed,
}

/// Why something was not done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// The kind of reason, for programs.
    pub code: RefusalCode,
    /// The reason, for people.
    pub text: String,
    /// The highest epoch ever seen.
    pub highest_epoch: u64,
}

/// The kinds of reasons for which something is not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefusalCode {
    /// The epoch is lower than the highest ever seen.
    StaleEpoch,
    /// Somebody else has a lease of the same epoch.
    OtherHolder,
    /// The lease has run out, and the server that it let run is being stopped.
    Expired,
    /// The request is older than the lease it asks for.
    Late,
    /// As a primary the server starts only under a lease.
    LeaseRequired,
    /// The agent has promised another node that its server is granted no lease.
    Promised,
    /// A promise is asked for that only a standby of the asker's can give.
    NotFollowing,
    /// It runs in the other role.
    OtherRole,
    /// A rejoin is under way.
    Busy,
    /// A rejoin was cut short: the data directory cannot be started.
    UnfinishedRejoin,
    /// It was not done within its bound.
    TooLate,
    /// The system or the server did not let it be done.
    Failed,
    /// It is meant for the agent of another node, or of another cluster.
    OtherNode,
    /// The request cannot be read.
    BadRequest,
    /// The secret is missing or wrong.
    Unauthorized,
}
