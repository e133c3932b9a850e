//! What a check is asked to do, and the faults that can be told before anything is connected.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::Serialize;
use tokio_postgres::config::Host;

use super::error::VerifyError;

/// How a statement is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Form {
    /// One Query message.
    Simple,
    /// Unnamed Parse, Bind, Describe, Execute, Sync in one flight.
    Extended,
    /// A named statement, parsed once for each connection.
    Prepared,
}

impl Form {
    pub const ALL: [Self; 3] = [Self::Simple, Self::Extended, Self::Prepared];

    /// The name shown in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Simple => "simple",
            Self::Extended => "extended",
            Self::Prepared => "prepared",
        }
    }
}

/// How often statements are wrapped in BEGIN and COMMIT.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Blocks {
    /// Autocommit only.
    Never,
    /// Half of the writes, a quarter of the reads.
    #[default]
    Mixed,
    /// Every statement.
    Always,
}

/// Where to connect. Never shows the password.
#[derive(Clone)]
pub struct Endpoint(tokio_postgres::Config);

impl Endpoint {
    pub(super) fn config(&self) -> &tokio_postgres::Config {
        &self.0
    }
}

impl FromStr for Endpoint {
    type Err = VerifyError;

    fn from_str(text: &str) -> Result<Self, VerifyError> {
        // The parser's own message can quote a part of the text, and so of the password.
        let config = text
            .parse::<tokio_postgres::Config>()
            .map_err(|_| VerifyError::usage("not a PostgreSQL URL or connection string"))?;
        if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
            return Err(VerifyError::usage("the URL names no host"));
        }
        if config.get_ssl_mode() == tokio_postgres::config::SslMode::Require {
            return Err(VerifyError::usage(
                "sslmode=require: the checker does not speak TLS, use sslmode=prefer or disable",
            ));
        }
        Ok(Self(config))
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ports = self.0.get_ports();
        let hosts = self.0.get_hosts();
        let addresses = self.0.get_hostaddrs();
        for index in 0..hosts.len().max(addresses.len()) {
            if index > 0 {
                f.write_str(",")?;
            }
            match (hosts.get(index), addresses.get(index)) {
                (Some(Host::Tcp(name)), _) => f.write_str(name)?,
                #[cfg(unix)]
                (Some(Host::Unix(path)), _) => write!(f, "{}", path.display())?,
                (None, Some(address)) => write!(f, "{address}")?,
                (None, None) => {}
            }
            let port = ports.get(index).or(ports.first()).copied().unwrap_or(5432);
            write!(f, ":{port}")?;
        }
        if let Some(database) = self.0.get_dbname() {
            write!(f, "/{database}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Endpoint({self})")
    }
}

/// What to check, and for how long.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where everything is written, and read too unless `read_targets` are given.
    pub target: Endpoint,
    /// Where transactions that only read go instead, round robin in each session: plain read/write
    /// splitting as an application would do it.
    pub read_targets: Vec<Endpoint>,
    /// Sessions which write and then read their own row.
    pub writers: usize,
    /// Sessions which only read counters.
    pub readers: usize,
    /// Sessions which do everything.
    pub mixed: usize,
    /// Reads that follow each write.
    pub reads_per_write: usize,
    /// Forms to choose from.
    pub forms: Vec<Form>,
    /// Use of BEGIN and COMMIT.
    pub blocks: Blocks,
    /// Sent as `SET causeway.consistency` on every connection; nothing is sent without it.
    pub consistency: Option<String>,
    /// Sends a `SET causeway.session` of its own for every session, and holds what a session saw
    /// against its next connection too.
    pub session_key: bool,
    /// Also checks that reads see every write acknowledged to anyone before they began.
    pub recency: bool,
    /// Notes every write of an own row in a table, and looks at the end whether each acknowledged one
    /// is there; otherwise only each session's last one is looked for.
    pub history: bool,
    /// SQL expression that names the server answering; must not be volatile.
    pub node_expression: String,
    /// The check ends after this long…
    pub duration: Option<Duration>,
    /// …or after this many reads, whichever comes first. At least one of them is needed.
    pub reads: Option<u64>,
    /// Pause between the cycles of a session.
    pub think_time: Duration,
    /// Bound on every wait for the server.
    pub statement_timeout: Duration,
    /// Bound on the preparation: schema made, visible on every connection.
    pub setup_timeout: Duration,
    /// Schema that is made and dropped.
    pub schema: String,
    /// Leaves the schema behind.
    pub keep: bool,
    /// Violations shown as examples.
    pub examples: usize,
    /// Seed of every choice.
    pub seed: u64,
}

impl Options {
    /// The defaults of the command line, for ten seconds.
    pub fn new(target: Endpoint) -> Self {
        Self {
            target,
            read_targets: Vec::new(),
            writers: 12,
            readers: 6,
            mixed: 4,
            reads_per_write: 1,
            forms: Form::ALL.to_vec(),
            blocks: Blocks::Mixed,
            consistency: None,
            session_key: false,
            recency: false,
            history: false,
            node_expression: "current_setting('port')".to_owned(),
            duration: Some(Duration::from_secs(10)),
            reads: None,
            think_time: Duration::ZERO,
            statement_timeout: Duration::from_secs(10),
            setup_timeout: Duration::from_secs(30),
            schema: "causeway_verify".to_owned(),
            keep: false,
            examples: 10,
            seed: rand::random(),
        }
    }

    /// Refuses what cannot work.
    pub(super) fn check(&self) -> Result<(), VerifyError> {
        let sessions = self.writers + self.mixed + self.readers;
        let named = !self.schema.is_empty()
            && self.schema.len() <= 63
            && !self.schema.starts_with("pg_")
            && self
                .schema
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
        let fault = if self.writers + self.mixed == 0 {
            "nobody writes: give at least one writer or mixed session"
        } else if sessions > 10_000 {
            "more than 10000 sessions"
        } else if self.forms.is_empty() {
            "no form to send statements in"
        } else if self.duration.is_none() && self.reads.is_none() {
            "no end: give a duration or a number of reads"
        } else if self.statement_timeout.is_zero() {
            "a statement timeout of zero"
        } else if !named {
            "the schema's name must be of lower case letters, digits and _, and not begin with pg_"
        } else {
            return Ok(());
        };
        Err(VerifyError::usage(fault))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_never_shown() {
        for text in [
            "postgres://app:hunter2@db.example:6432/shop",
            "host=db.example port=6432 user=app password=hunter2 dbname=shop",
        ] {
            let endpoint: Endpoint = text.parse().unwrap();
            assert_eq!(endpoint.to_string(), "db.example:6432/shop");
            let shown = format!("{:?}", Options::new(endpoint));
            assert!(!shown.contains("hunter2"), "{shown}");
        }
        for text in [
            "postgres://app:hunter2@db:port/shop",
            "password=x hunter2=y",
            "postgres://app:hunter2@db/x?sslmode=require",
            "postgres://app:hunter2@/x",
        ] {
            let error = text.parse::<Endpoint>().unwrap_err();
            assert!(!format!("{error} {error:?}").contains("hunter2"));
        }
    }

    #[test]
    fn what_cannot_work_is_refused() {
        let good = Options::new("host=localhost".parse().unwrap());
        assert!(good.check().is_ok());
        let refused = |change: fn(&mut Options)| {
            let mut options = good.clone();
            change(&mut options);
            assert!(options.check().is_err());
        };
        refused(|options| (options.writers, options.mixed) = (0, 0));
        refused(|options| options.forms.clear());
        refused(|options| options.duration = None);
        refused(|options| options.schema = "x\"; DROP".to_owned());
        refused(|options| options.schema = "pg_catalog".to_owned());
        refused(|options| options.schema = String::new());
    }
}
