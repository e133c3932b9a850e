//! What each section may say: its keys, their defaults and bounds, and what must hold between them.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::agents::{AgentUrl, agent_url, agents};
use super::auth::{self, auth};
use super::failover;
use super::section::{Read, Reported, Section};
use super::types::{
    Auth, AuthMethod, Config, Log, LogFormat, Monitor, Node, Pool, PoolMode, Routing,
};
use super::units::Span;
use super::values::{
    address, host, identifier, level, log_filter, one_of, short_name, span, whole,
};
use crate::core::session::Level;

pub(super) const fn us(count: u64) -> Duration {
    Duration::from_micros(count)
}

pub(super) const fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

pub(super) const fn minutes(count: u64) -> Duration {
    Duration::from_secs(count * 60)
}

pub(super) const HOUR: Duration = minutes(60);
pub(super) const DAY: Duration = minutes(24 * 60);
const WEEK: Duration = minutes(7 * 24 * 60);

/// Reads the whole document.
// Every part is read before the first `?`, so that all faults are found.
pub(super) fn config(section: &mut Section<'_>) -> Read<Config> {
    let listen = section.or("listen", SocketAddr::from(([127, 0, 0, 1], 6432)), address);
    let workers = section.optional("workers", whole(1..=1024));
    let max_clients = section.or("max_clients", 10_000, whole(1..=1_000_000));
    let admin = section.section("admin", |section| {
        let http = admin_http(section, listen.ok());
        let secret = section.secret("secret", "secret_file");
        let users = if section.has("users") {
            section.texts("users", identifier)
        } else {
            section.known("users");
            Ok(Vec::new())
        };
        Ok((http?, secret?.map(|given| given.secret), users?))
    });
    let nodes = nodes(section);
    let with_agents = nodes
        .as_ref()
        .is_ok_and(|nodes| nodes.iter().any(|node| node.agent.is_some()));
    let agents = agents(section, with_agents);
    let monitor = section.section("monitor", monitor);
    let pool = section.section("pool", pool);
    let auth = section.section("auth", auth);
    let routing = section.section("routing", routing);
    let node_count = nodes.as_ref().map(Vec::len);
    let failover = failover::failover(section, node_count.unwrap_or(0));
    let log = section.section("log", log);
    let (admin_http, admin_secret, admin_users) = admin?;
    let auth = auth?;
    admins(section, &admin_users, &auth, listen)?;
    let (failover, hold_timeout) = failover?;
    Ok(Config {
        file: PathBuf::new(),
        listen: listen?,
        workers: workers?,
        max_clients: max_clients?,
        admin_http,
        admin_secret,
        admin_users,
        nodes: nodes?,
        agents: agents?,
        monitor: monitor?,
        pool: pool?,
        auth,
        routing: routing?,
        failover,
        hold_timeout,
        log: log?,
    })
}

fn admin_http(section: &mut Section<'_>, listen: Option<SocketAddr>) -> Read<Option<SocketAddr>> {
    let http = section.optional("http", address)?;
    if let (Some(http), Some(listen)) = (http, listen) {
        let overlap =
            http.ip() == listen.ip() || http.ip().is_unspecified() || listen.ip().is_unspecified();
        // Port 0 is any free one.
        if http.port() == listen.port() && http.port() != 0 && overlap {
            return Err(section.fault("http", format!("must differ from listen, {listen}")));
        }
    }
    Ok(http)
}

/// Whoever gives orders on the console has shown who they are, or sits at this machine.
fn admins(
    section: &Section<'_>,
    users: &[String],
    auth: &Auth,
    listen: Read<SocketAddr>,
) -> Read<()> {
    if auth.method == AuthMethod::Trust {
        if !users.is_empty() && listen.is_ok_and(|listen| !listen.ip().is_loopback()) {
            let text = "users: under auth.method trust anybody could claim to be one of them: \
                choose another method, or let `listen` be a loopback address";
            return Err(section.fault("admin", text));
        }
        return Ok(());
    }
    match users.iter().find(|name| !auth.users.contains_key(*name)) {
        None => Ok(()),
        Some(name) => {
            let text = format!("users: `{name}` could not log in: it is not among auth.users");
            Err(section.fault("admin", text))
        }
    }
}

fn nodes(section: &mut Section<'_>) -> Read<Vec<Node>> {
    let mut names = HashMap::new();
    let mut addresses = HashMap::new();
    let nodes = section.list("nodes", |section| {
        let node = node(section);
        let unique_name = once(section, "name", node.name.clone(), &mut names);
        let unique_address = once(section, "host", node.address(), &mut addresses);
        unique_name?;
        unique_address?;
        node.checked()
    })?;
    if nodes.is_empty() {
        return Err(section.fault("nodes", "missing: name at least one PostgreSQL server"));
    }
    if nodes.iter().all(|node| node.weight == 0) {
        return Err(section.fault(
            "nodes",
            "no node could serve reads: give one a weight above 0",
        ));
    }
    Ok(nodes)
}

/// A node whose parts have been read and may be faulty, each for itself.
struct NodeParts {
    name: Read<String>,
    host: Read<String>,
    port: Read<u16>,
    zone: Read<Option<String>>,
    weight: Read<u32>,
    agent: Read<Option<AgentUrl>>,
    promote_priority: Read<u32>,
}

fn node(section: &mut Section<'_>) -> NodeParts {
    NodeParts {
        name: section.required("name", short_name),
        host: section.required("host", host),
        port: section.or("port", 5432, whole(1..=u16::MAX)),
        zone: section.optional("zone", short_name),
        weight: section.or("weight", 1, whole(0..=1000)),
        agent: section.optional("agent", agent_url),
        promote_priority: section.or("promote_priority", 100, whole(0..=1000)),
    }
}

impl NodeParts {
    fn address(&self) -> Read<String> {
        let (Ok(host), Ok(port)) = (&self.host, self.port) else {
            return Err(Reported);
        };
        Ok(format!("{}:{port}", host.to_ascii_lowercase()))
    }

    fn checked(self) -> Read<Node> {
        Ok(Node {
            name: self.name?,
            host: self.host?,
            port: self.port?,
            zone: self.zone?,
            weight: self.weight?,
            agent: self.agent?,
            promote_priority: self.promote_priority?,
        })
    }
}

/// Refuses what an earlier item of the list has already; `seen` holds the lines.
fn once(
    section: &Section<'_>,
    key: &str,
    value: Read<String>,
    seen: &mut HashMap<String, usize>,
) -> Read<()> {
    let (value, line) = (value?, section.line_of(key));
    match seen.get(&value) {
        Some(first) => {
            let text = format!("`{value}` is already on line {first}: every node needs its own");
            Err(section.fault(key, text))
        }
        None => {
            seen.insert(value, line);
            Ok(())
        }
    }
}

fn monitor(section: &mut Section<'_>) -> Read<Monitor> {
    let user = section.or("user", "causeway".to_owned(), identifier);
    let password = match section.secret("password", "password_file") {
        Ok(Some(given)) => auth::plain(section, given).map(Some),
        Ok(None) => Ok(None),
        Err(reported) => Err(reported),
    };
    let database = section.or("database", "postgres".to_owned(), identifier);
    let interval = section.or("interval", ms(100), span(ms(1)..=minutes(1)));
    let busy_interval = section.or("busy_interval", us(500), span(us(50)..=minutes(1)));
    let timeout = section.or("timeout", ms(1000), span(ms(10)..=minutes(5)));
    if let (Ok(interval), Ok(timeout), Ok(busy_interval)) = (interval, timeout, busy_interval) {
        pace(section, interval, timeout, busy_interval)?;
    }
    Ok(Monitor {
        user: user?,
        password: password?,
        database: database?,
        interval: interval?,
        timeout: timeout?,
        busy_interval: busy_interval?,
    })
}

fn pace(
    section: &Section<'_>,
    interval: Duration,
    timeout: Duration,
    busy_interval: Duration,
) -> Read<()> {
    let interval_text = Span(interval);
    if timeout <= interval {
        let text = format!("must be longer than monitor.interval, {interval_text}");
        return Err(section.fault("timeout", format!("{text}, not {}", Span(timeout))));
    }
    if busy_interval > interval {
        let text = format!("must not be longer than monitor.interval, {interval_text}");
        return Err(section.fault(
            "busy_interval",
            format!("{text}, not {}", Span(busy_interval)),
        ));
    }
    Ok(())
}

fn pool(section: &mut Section<'_>) -> Read<Pool> {
    let modes = [
        ("transaction", PoolMode::Transaction),
        ("session", PoolMode::Session),
    ];
    let mode = section.or("mode", PoolMode::Transaction, one_of(&modes));
    let size = section.or("size", 20, whole(1..=10_000));
    let wait_timeout = section.or("wait_timeout", ms(5_000), span(ms(1)..=HOUR));
    let connect_timeout = section.or("connect_timeout", ms(3_000), span(ms(10)..=minutes(5)));
    let idle_timeout = section.or("idle_timeout", minutes(10), span(ms(1_000)..=WEEK));
    let max_prepared = section.or("max_prepared", 500, whole(1..=100_000));
    Ok(Pool {
        mode: mode?,
        size: size?,
        wait_timeout: wait_timeout?,
        connect_timeout: connect_timeout?,
        idle_timeout: idle_timeout?,
        max_prepared: max_prepared?,
    })
}

fn routing(section: &mut Section<'_>) -> Read<Routing> {
    let consistency = section.or("consistency", Level::Session, level);
    let catchup_wait = section.or("catchup_wait", ms(10), span(ms(0)..=minutes(1)));
    let max_lag = section.optional("max_lag", span(ms(1)..=DAY));
    let renamed = if section.has("primary_wait") {
        section.known("primary_wait");
        let text = "is called failover.hold_timeout now: move it there";
        Err(section.fault("primary_wait", text))
    } else {
        Ok(())
    };
    let zone = section.optional("zone", short_name);
    let databases = levels(section, "databases");
    let users = levels(section, "users");
    renamed?;
    Ok(Routing {
        consistency: consistency?,
        databases: databases?,
        users: users?,
        catchup_wait: catchup_wait?,
        max_lag: max_lag?,
        zone: zone?,
    })
}

fn levels(section: &mut Section<'_>, key: &'static str) -> Read<HashMap<String, Level>> {
    let levels = section.named(key, |section| section.required("consistency", level))?;
    Ok(levels.into_iter().collect())
}

pub(super) fn log(section: &mut Section<'_>) -> Read<Log> {
    let formats = [("text", LogFormat::Text), ("json", LogFormat::Json)];
    let filter = section.or("filter", "info".to_owned(), log_filter);
    let format = section.or("format", LogFormat::Text, one_of(&formats));
    Ok(Log {
        filter: filter?,
        format: format?,
    })
}
