//! The section `failover`: what happens when the primary fails, and who decides it.

use std::path::PathBuf;
use std::time::Duration;

use super::auth;
use super::monitor::Monitor;
use super::nodes::Node;
use crate::config::secret::Secret;
use crate::config::section::{Read, Section};
use crate::config::units::{Span, minutes, ms};
use crate::config::values::{
    bytes_or_unlimited, command, conninfo, endpoint, identifier, key_prefix, one_of, short_name,
    span,
};

/// What a promotion may lose unless that is given: one WAL segment of the usual size.
const MAX_LOST_BYTES: u64 = 16 << 20;

/// What a replication slot may hold back unless that is given.
const MAX_SLOT_BYTES: u64 = 16 << 30;

/// What happens when the primary fails. There is none of this without a `failover` section: roles
/// are followed, and a statement that needs a primary waits for one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failover {
    /// Who promotes.
    pub mode: FailoverMode,
    /// What a commit waits for.
    pub durability: Durability,
    /// A primary that answers nobody for this long has failed.
    pub timeout: Duration,
    /// An agent stops its primary when the deciding proxy has not renewed this lease for as long.
    pub lease: Duration,
    /// How much acknowledged WAL, in bytes, a promotion may lose; none means any amount. Always 0
    /// with [`Durability::Quorum`].
    pub max_lost_bytes: Option<u64>,
    /// Whether agents may prolong a lease by each other's promises while no proxy renews it.
    pub failsafe: bool,
    /// Run by a shell to make sure that a failed primary is down; its exit code 0 says that it is.
    pub fence_command: Option<String>,
    /// Run by a shell to make a former primary a standby again.
    pub rejoin_command: Option<String>,
    /// Whether a promotion needs proof that the old primary takes no more writes.
    pub fencing: Fencing,
    /// What a session is told whose acknowledged writes a promotion lost.
    pub on_lost_writes: OnLostWrites,
    /// How much WAL a replication slot may hold back for a standby that is away, in bytes; none if there are
    /// no slots.
    pub slots: Option<u64>,
    /// Whether a transaction's id is asked for before its COMMIT, at the price of a round trip.
    pub resolve_commits: bool,
    /// Name of this cluster; proxies that share it decide together.
    pub cluster: String,
    /// Where the record of a failover and the leadership among proxies are kept.
    pub coordination: Coordination,
    /// As whom standbys replicate, for `primary_conninfo` when they are told to follow another node.
    pub replication: Option<Replication>,
}

/// Who promotes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailoverMode {
    /// The proxy.
    Automatic,
    /// The proxy when an operator says so.
    Manual,
    /// Somebody else: the proxy follows.
    Observe,
}

impl FailoverMode {
    /// Its name in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Automatic => "automatic",
            Self::Manual => "manual",
            Self::Observe => "observe",
        }
    }
}

/// What a commit waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// The primary alone.
    Async,
    /// Enough standbys for no single failure to lose it; `synchronous_standby_names` is managed.
    Quorum,
}

/// Whether a promotion needs proof that the old primary takes no more writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fencing {
    /// It does: from an agent, a lease that has run out, `fence_command`, or a quorum.
    Required,
    /// It does not: the operator accepts that clients which reach the old primary directly may
    /// go on writing to it.
    RoutingOnly,
}

/// What a session is told whose acknowledged writes a promotion lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnLostWrites {
    /// Its next statement fails.
    Error,
    /// Its next statement is answered with a warning.
    Warn,
}

/// Where the record of a failover and the leadership among proxies are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Coordination {
    /// In a file, for one proxy.
    File {
        /// The file; its directory must exist and be writable.
        state_file: PathBuf,
    },
    /// On etcd, for several proxies.
    Etcd(Etcd),
}

/// How etcd is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Etcd {
    /// URLs, such as `http://10.0.0.1:2379`; all `http` or all `https`.
    pub endpoints: Vec<String>,
    /// What every key begins with, such as `/causeway`.
    pub prefix: String,
    /// How long the leadership lasts without a renewal.
    pub ttl: Duration,
    /// User and password, if etcd asks for them.
    pub login: Option<(String, Secret)>,
    /// Certificates of whoever signed the servers', PEM; needed with `https`.
    pub ca_file: Option<PathBuf>,
    /// Our certificate and its key, PEM, if etcd asks for them.
    pub client_cert: Option<(PathBuf, PathBuf)>,
}

/// A login that may replicate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replication {
    pub user: String,
    /// Its password, if it has one.
    pub password: Option<Secret>,
    /// What else `primary_conninfo` is told, such as `sslmode=verify-full`.
    pub conninfo: String,
}

/// Reads the section, if there is one: what is to happen, unless nothing is, and how long statements
/// wait for a primary, which they do in any case.
pub(super) fn failover(
    section: &mut Section<'_>,
    nodes: usize,
) -> Read<(Option<Failover>, Duration)> {
    let given = section.optional_section("failover", |section| inside(section, nodes))?;
    Ok(given.unwrap_or((None, HOLD_WITHOUT)))
}

/// While nobody here promotes, a primary that does not come back soon hardly comes at all.
const HOLD_WITHOUT: Duration = ms(5_000);
const HOLD: Duration = ms(30_000);
const LEASE: Duration = ms(3_000);

// Every part is read before the first `?`, so that all faults are found.
fn inside(section: &mut Section<'_>, nodes: usize) -> Read<(Option<Failover>, Duration)> {
    let modes = [
        ("automatic", Some(FailoverMode::Automatic)),
        ("manual", Some(FailoverMode::Manual)),
        ("observe", Some(FailoverMode::Observe)),
        ("off", None),
    ];
    let fencings = [
        ("required", Fencing::Required),
        ("routing_only", Fencing::RoutingOnly),
    ];
    let tellings = [("error", OnLostWrites::Error), ("warn", OnLostWrites::Warn)];
    let switch = [("true", true), ("false", false)];
    let mode = section.required("mode", one_of(&modes));
    let losses = losses(section);
    let timeout = section.or("timeout", ms(2_000), span(ms(100)..=minutes(10)));
    let lease = section.optional("lease", span(ms(500)..=minutes(10)));
    let failsafe = section.or(
        "failsafe",
        true,
        one_of(&[("true", true), ("false", false)]),
    );
    let hold = section.optional("hold_timeout", span(ms(0)..=minutes(10)));
    let fence_command = section.optional("fence_command", command);
    let rejoin_command = section.optional("rejoin_command", command);
    let fencing = section.or("fencing", Fencing::Required, one_of(&fencings));
    let on_lost_writes = section.or("on_lost_writes", OnLostWrites::Error, one_of(&tellings));
    let slots = slots(section);
    let resolve_commits = section.or("resolve_commits", false, one_of(&switch));
    let cluster = section.or("cluster", "main".to_owned(), short_name);
    let coordination = coordination(section);
    let replication = section.optional_section("replication", replication);
    if let (Ok(Some(FailoverMode::Automatic | FailoverMode::Manual)), Ok(None)) =
        (&mode, &replication)
        && nodes > 1
    {
        let text = "missing: standbys are told to follow the new primary as this user";
        return Err(section.fault("replication", text));
    }
    let (mode, (durability, max_lost_bytes)) = (mode?, losses?);
    let coordination = coordination?;
    let lease = match (&coordination, lease?) {
        (Coordination::File { .. }, lease) => lease.unwrap_or(LEASE),
        (Coordination::Etcd(etcd), None) => LEASE.max(etcd.ttl * 2),
        // Until another proxy decides, and its first renewal has arrived, nobody renews.
        (Coordination::Etcd(etcd), Some(lease)) if lease < etcd.ttl * 2 => {
            let text = "must be at least twice etcd.ttl: the primary is to survive a change of the \
                        proxy that decides";
            return Err(section.fault("lease", text));
        }
        (Coordination::Etcd(_), Some(lease)) => lease,
    };
    let failover = Failover {
        mode: mode.unwrap_or(FailoverMode::Observe),
        durability,
        timeout: timeout?,
        lease,
        failsafe: failsafe?,
        max_lost_bytes,
        fence_command: fence_command?,
        rejoin_command: rejoin_command?,
        fencing: fencing?,
        on_lost_writes: on_lost_writes?,
        slots: slots?,
        resolve_commits: resolve_commits?,
        cluster: cluster?,
        coordination,
        replication: replication?,
    };
    let default = if mode.is_some() { HOLD } else { HOLD_WITHOUT };
    Ok((mode.map(|_| failover), hold?.unwrap_or(default)))
}

fn slots(section: &mut Section<'_>) -> Read<Option<u64>> {
    let wanted = section.or("slots", false, one_of(&[("true", true), ("false", false)]));
    let most = section.optional("max_slot_bytes", |text| match bytes_or_unlimited(text)? {
        Some(bytes) if bytes > 0 => Ok(bytes),
        _ => Err(
            "must be above 0, and have a bound: a standby that is away would fill the disk"
                .to_owned(),
        ),
    });
    let (wanted, most) = (wanted?, most?);
    Ok(wanted.then(|| most.unwrap_or(MAX_SLOT_BYTES)))
}

fn losses(section: &mut Section<'_>) -> Read<(Durability, Option<u64>)> {
    let kinds = [("async", Durability::Async), ("quorum", Durability::Quorum)];
    let durability = section.or("durability", Durability::Async, one_of(&kinds));
    let most = section.optional("max_lost_bytes", bytes_or_unlimited);
    match (durability?, most?) {
        (Durability::Quorum, Some(_)) => {
            let text = "has no meaning with durability: quorum, which loses nothing: remove it";
            Err(section.fault("max_lost_bytes", text))
        }
        (Durability::Quorum, None) => Ok((Durability::Quorum, Some(0))),
        (Durability::Async, most) => Ok((Durability::Async, most.unwrap_or(Some(MAX_LOST_BYTES)))),
    }
}

fn replication(section: &mut Section<'_>) -> Read<Replication> {
    let user = section.required("user", identifier);
    let password = auth::plain_password(section);
    let conninfo = section.or("conninfo", String::new(), conninfo);
    Ok(Replication {
        user: user?,
        password: password?,
        conninfo: conninfo?,
    })
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum CoordinationKind {
    File,
    Etcd,
}

fn coordination(section: &mut Section<'_>) -> Read<Coordination> {
    let kinds = [
        ("file", CoordinationKind::File),
        ("etcd", CoordinationKind::Etcd),
    ];
    let kind = section.or("coordination", CoordinationKind::File, one_of(&kinds));
    let state_file = section.path("state_file");
    let etcd = section.optional_section("etcd", etcd);
    let (kind, state_file, etcd) = (kind?, state_file?, etcd?);
    match (kind, state_file, etcd) {
        (CoordinationKind::File, _, Some(_)) => {
            Err(section.fault("etcd", "is used only with coordination: etcd"))
        }
        (CoordinationKind::Etcd, Some(_), _) => {
            Err(section.fault("state_file", "is used only with coordination: file"))
        }
        (CoordinationKind::Etcd, None, None) => {
            Err(section.fault("etcd", "missing: coordination: etcd needs its endpoints"))
        }
        (CoordinationKind::File, given, None) => Ok(Coordination::File {
            state_file: given.unwrap_or_else(|| section.beside("causeway.state")),
        }),
        (CoordinationKind::Etcd, None, Some(etcd)) => Ok(Coordination::Etcd(etcd)),
    }
}

fn etcd(section: &mut Section<'_>) -> Read<Etcd> {
    let endpoints = section.texts("endpoints", endpoint);
    let prefix = section.or("prefix", "/causeway".to_owned(), key_prefix);
    let ttl = section.or("ttl", ms(3_000), span(ms(1_000)..=minutes(1)));
    let login = login(section);
    let ca_file = pem(section, "ca_file");
    let client_cert = client_cert(section);
    let endpoints = endpoints?;
    let secure = endpoints
        .iter()
        .filter(|url| url.starts_with("https:"))
        .count();
    if secure != 0 && secure != endpoints.len() {
        return Err(section.fault("endpoints", "must be all http or all https"));
    }
    let (ca_file, client_cert) = (ca_file?, client_cert?);
    if secure > 0 && ca_file.is_none() {
        let text = "missing: with https, name the file of the certificates that sign the servers'";
        return Err(section.fault("ca_file", text));
    }
    if secure == 0 && (ca_file.is_some() || client_cert.is_some()) {
        let key = if ca_file.is_some() {
            "ca_file"
        } else {
            "cert_file"
        };
        return Err(section.fault(key, "has no meaning with http: use https endpoints"));
    }
    Ok(Etcd {
        endpoints,
        prefix: prefix?,
        ttl: ttl?,
        login: login?,
        ca_file,
        client_cert,
    })
}

fn login(section: &mut Section<'_>) -> Read<Option<(String, Secret)>> {
    let user = section.optional("user", identifier);
    let password = section.secret("password", "password_file");
    match (user?, password?) {
        (None, None) => Ok(None),
        (Some(user), Some(given)) => Ok(Some((user, given.secret))),
        (None, Some(given)) => Err(section.fault(given.key, "given without a `user`")),
        (Some(_), None) => {
            Err(section.fault("user", "given without a `password` or `password_file`"))
        }
    }
}

fn client_cert(section: &mut Section<'_>) -> Read<Option<(PathBuf, PathBuf)>> {
    let (certificate, key) = (pem(section, "cert_file"), pem(section, "key_file"));
    match (certificate?, key?) {
        (None, None) => Ok(None),
        (Some(certificate), Some(key)) => Ok(Some((certificate, key))),
        (Some(_), None) => Err(section.fault("cert_file", "given without its `key_file`")),
        (None, Some(_)) => Err(section.fault("key_file", "given without its `cert_file`")),
    }
}

/// A file in PEM format that can be read now.
fn pem(section: &mut Section<'_>, key: &'static str) -> Read<Option<PathBuf>> {
    let Some(path) = section.path(key)? else {
        return Ok(None);
    };
    let name = path.display();
    match std::fs::read_to_string(&path) {
        Ok(text) if text.contains("-----BEGIN ") => Ok(Some(path)),
        Ok(_) => Err(section.fault(key, format!("`{name}` holds nothing in PEM format"))),
        Err(error) => Err(section.fault(key, format!("`{name}` cannot be read: {error}"))),
    }
}

/// What is allowed and yet probably not meant.
pub(super) fn advice(failover: &Failover, nodes: &[Node], monitor: &Monitor) -> Vec<String> {
    let mut advice = Vec::new();
    let promotes = failover.mode != FailoverMode::Observe;
    let candidates = nodes.iter().filter(|node| node.promote_priority > 0);
    if promotes && candidates.count() < 2 {
        advice.push(
            "failover.mode: with fewer than two nodes whose promote_priority is above 0, nothing \
             could take over"
                .to_owned(),
        );
    }
    if promotes && failover.timeout < monitor.timeout {
        advice.push(format!(
            "failover.timeout: a primary that hangs is not noticed before monitor.timeout, {}",
            Span(monitor.timeout)
        ));
    }
    if let Coordination::Etcd(etcd) = &failover.coordination
        && etcd.login.is_some()
        && etcd.ca_file.is_none()
    {
        advice.push("failover.etcd.password: goes to etcd in the clear without https".to_owned());
    }
    advice
}
