//! `agent.yaml`: what one agent is told about its server, its own door, and its bounds.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::agents::Agents;
use super::auth;
use super::log::{Log, log};
use crate::config::document::Document;
use crate::config::faults::Faults;
use crate::config::pem::{Certificates, Identity, authorities, identity};
use crate::config::secret::Secret;
use crate::config::section::{Read, Section};
use crate::config::units::{DAY, HOUR, minutes, ms};
use crate::config::values::{address, conninfo, host, identifier, one_of, short_name, span};

const DOCUMENT: Document<AgentConfig> = Document {
    needed: "`name`, `postgres` and `tls`",
    read: agent,
};

/// What of PostgreSQL an agent needs.
const PROGRAMS: [&str; 4] = ["postgres", "pg_basebackup", "pg_rewind", "psql"];

/// A whole, valid configuration of an agent.
#[derive(Clone, Debug)]
pub struct AgentConfig {
    /// The node's name: that in the proxy's configuration, and the server's `application_name`.
    pub name: String,
    /// Where it serves HTTPS.
    pub listen: SocketAddr,
    pub identity: Identity,
    /// Who signs the certificates that callers must show; none asks for no certificate.
    pub client_ca: Option<Certificates>,
    /// What callers must show; none asks for no secret.
    pub secret: Option<Secret>,
    /// How the agents of other nodes are trusted, and how this one proves itself to them; none where nothing
    /// says who signed their certificates.
    pub peers: Option<Agents>,
    pub data: PathBuf,
    /// The directory of PostgreSQL's programs.
    pub bin: PathBuf,
    /// `postgresql.conf` where it lies elsewhere.
    pub config_file: Option<PathBuf>,
    /// Where the server's standard output and error go.
    pub log_file: PathBuf,
    /// The agent's own directory, on the same file system as the data directory.
    pub state_dir: PathBuf,
    /// How the agent logs in to its own server to ask it how it stands.
    pub login: AgentLogin,
    /// How the server logs in to the one that it follows, where the proxy says nothing else.
    pub replication: AgentLogin,
    /// What else `primary_conninfo` and the copying tools are told, such as `sslmode=verify-full`.
    pub conninfo: String,
    /// Where tablespaces of a copy go that are new here, by where the source has them.
    pub tablespace_mapping: Vec<(PathBuf, PathBuf)>,
    /// Whether the server starts and stops with the agent.
    pub supervise: bool,
    /// Bound on a start, until the server accepts connections.
    pub start_timeout: Duration,
    /// Bound on each step of a rejoin that copies data.
    pub copy_timeout: Duration,
    pub log: Log,
}

impl AgentConfig {
    /// Reads and checks an agent's file, with the environment of this process.
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
}

/// A role, its password and its database.
#[derive(Clone, Debug)]
pub struct AgentLogin {
    pub user: String,
    /// Its password, if it needs one.
    pub password: Option<Secret>,
    pub database: String,
    /// Where to connect; where `postmaster.pid` says, if not given.
    pub host: Option<String>,
}

// Every part is read before the first `?`, so that all faults are found.
fn agent(section: &mut Section<'_>) -> Read<AgentConfig> {
    let name = section.required("name", short_name);
    let listen = section.or("listen", SocketAddr::from(([127, 0, 0, 1], 6433)), address);
    let secret = section.secret("secret", "secret_file");
    let tls = section.section("tls", tls);
    let peers = section.section("peers", peers);
    let postgres = section.section("postgres", postgres);
    let login = section.section("login", |section| login(section, "postgres"));
    let replication = section.section("replication", replication);
    let state_dir = section.path("state_dir");
    let copy_timeout = section.or("copy_timeout", HOUR, span(ms(1_000)..=DAY));
    let log = section.section("log", log);

    let secret = secret?;
    let (identity, client_ca) = tls?;
    let (ca, own) = peers?;
    if ca.is_none() && client_ca.is_none() && own.is_some() {
        return Err(section.fault(
            "peers.ca_file",
            "missing: name the certificate of the authority that signed the other nodes' agents'",
        ));
    }
    // Who signs for the proxies signs for the agents, unless it is said otherwise.
    let ca = ca.or_else(|| client_ca.clone());
    let peers = ca.map(|ca| Agents {
        ca,
        secret: secret.as_ref().map(|given| given.secret.clone()),
        client: own.or_else(|| client_ca.is_some().then(|| identity.clone())),
    });
    let secret = secret.map(|given| given.secret);
    if secret.is_none() && client_ca.is_none() {
        return Err(section.fault(
            "secret",
            "missing: callers must prove who they are: give `secret` (or `secret_file`), or \
             tls.client_ca_file, or both",
        ));
    }
    let Postgres {
        data,
        bin,
        config_file,
        log_file,
        tablespace_mapping,
        supervise,
        start_timeout,
    } = postgres?;
    let beside = |suffix: &str| {
        let mut path = data.clone().into_os_string();
        path.push(suffix);
        PathBuf::from(path)
    };
    let state_dir = state_dir?.unwrap_or_else(|| beside(".causeway"));
    if state_dir.starts_with(&data) {
        return Err(section.fault(
            "state_dir",
            "must not lie in the data directory, which is replaced as a whole at times",
        ));
    }
    let (replication, conninfo) = replication?;
    Ok(AgentConfig {
        name: name?,
        listen: listen?,
        identity,
        client_ca,
        secret,
        peers,
        log_file: log_file.unwrap_or_else(|| beside(".log")),
        data,
        bin,
        config_file,
        state_dir,
        login: login?,
        replication,
        conninfo,
        tablespace_mapping,
        supervise,
        start_timeout,
        copy_timeout: copy_timeout?,
        log: log?,
    })
}

fn peers(section: &mut Section<'_>) -> Read<(Option<Certificates>, Option<Identity>)> {
    let ca = section.found("ca_file", authorities);
    let identity = identity(section, "cert_file", "key_file");
    Ok((ca?, identity?))
}

fn tls(section: &mut Section<'_>) -> Read<(Identity, Option<Certificates>)> {
    let identity = identity(section, "cert_file", "key_file");
    let client_ca = section.found("client_ca_file", authorities);
    match (identity?, client_ca?) {
        (Some(identity), client_ca) => Ok((identity, client_ca)),
        (None, _) => Err(section.fault(
            "cert_file",
            "missing: the agent serves HTTPS: give `cert_file` and `key_file`",
        )),
    }
}

struct Postgres {
    data: PathBuf,
    bin: PathBuf,
    config_file: Option<PathBuf>,
    log_file: Option<PathBuf>,
    tablespace_mapping: Vec<(PathBuf, PathBuf)>,
    supervise: bool,
    start_timeout: Duration,
}

fn postgres(section: &mut Section<'_>) -> Read<Postgres> {
    let data = section.path("data");
    let bin = section.found("bin", |path| {
        // A link to one of them leads to where the others are.
        let real = path.join("postgres").canonicalize().ok();
        let real = real.and_then(|real| real.parent().map(PathBuf::from));
        let path = real.unwrap_or(path);
        let missing = PROGRAMS.iter().find(|name| !path.join(name).is_file());
        match missing {
            Some(name) => Err(format!("`{}` holds no {name}", path.display())),
            None => Ok(path),
        }
    });
    let config_file = section.found("config_file", |path| match path.is_file() {
        true => Ok(path),
        false => Err(format!("`{}` is no file", path.display())),
    });
    let log_file = section.path("log_file");
    let tablespace_mapping = if section.has("tablespace_mapping") {
        section.texts("tablespace_mapping", mapping)
    } else {
        section.known("tablespace_mapping");
        Ok(Vec::new())
    };
    let supervise = section.or(
        "supervise",
        false,
        one_of(&[("false", false), ("true", true)]),
    );
    let start_timeout = section.or("start_timeout", minutes(1), span(ms(1_000)..=DAY));
    let needed = |section: &Section<'_>, key: &str, what: &str| {
        section.fault(key, format!("missing: name {what}"))
    };
    let data = match data? {
        Some(path) => std::path::absolute(path)
            .map_err(|error| section.fault("data", format!("cannot be resolved: {error}"))),
        None => Err(needed(section, "data", "the server's data directory")),
    };
    let bin = match bin? {
        Some(path) => Ok(path),
        None => Err(needed(
            section,
            "bin",
            "the directory of PostgreSQL's programs",
        )),
    };
    Ok(Postgres {
        data: data?,
        bin: bin?,
        config_file: config_file?,
        log_file: log_file?,
        tablespace_mapping: tablespace_mapping?,
        supervise: supervise?,
        start_timeout: start_timeout?,
    })
}

fn login(section: &mut Section<'_>, database: &str) -> Read<AgentLogin> {
    let user = section.or("user", "postgres".to_owned(), identifier);
    let password = auth::plain_password(section);
    let database = section.or("database", database.to_owned(), identifier);
    let host = section.optional("host", host);
    Ok(AgentLogin {
        user: user?,
        password: password?,
        database: database?,
        host: host?,
    })
}

fn replication(section: &mut Section<'_>) -> Read<(AgentLogin, String)> {
    let user = section.or("user", "postgres".to_owned(), identifier);
    let password = auth::plain_password(section);
    let database = section.or("database", "postgres".to_owned(), identifier);
    let conninfo = section.or("conninfo", String::new(), conninfo);
    let login = AgentLogin {
        user: user?,
        password: password?,
        database: database?,
        host: None,
    };
    Ok((login, conninfo?))
}

/// Two absolute paths, as pg_basebackup takes them.
fn mapping(text: &str) -> Result<(PathBuf, PathBuf), String> {
    let pair = text
        .split_once('=')
        .map(|(from, to)| (PathBuf::from(from), PathBuf::from(to)));
    pair.filter(|(from, to)| from.is_absolute() && to.is_absolute())
        .ok_or_else(|| "must be two absolute paths, such as /srv/old=/srv/new".to_owned())
}
