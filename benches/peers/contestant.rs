//! Who competes: no proxy, PgBouncer, and Causeway at some levels, with some numbers of workers.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use pgcauseway::rig::{Cluster, Login};
use tokio::process::{Child, Command};
use tokio_postgres::NoTls;

use super::cell::{Cell, Protocol};
use super::options::Options;
use super::pgbench::Endpoint;
use super::pgbouncer;
use crate::Outcome;

/// Server connections of every proxy, for each server.
pub(crate) const POOL: usize = 20;

/// What a contestant is, apart from its process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// No proxy: the reference for latency.
    Direct { primary: u16, standby: u16 },
    /// PgBouncer; whether it can prepare statements in transaction pooling.
    PgBouncer { prepares: bool },
    /// Causeway, with what tells one from another.
    Causeway {
        build: String,
        level: String,
        workers: usize,
    },
}

/// One column of the comparison, running.
#[derive(Debug)]
pub(crate) struct Contestant {
    pub(crate) name: String,
    pub(crate) kind: Kind,
    port: u16,
    login: Login,
    child: Option<Child>,
}

/// All of them.
#[derive(Debug)]
pub(crate) struct Field {
    pub(crate) contestants: Vec<Contestant>,
    pub(crate) pgbouncer: String,
}

impl Field {
    /// Starts everybody and returns once all answer.
    pub(crate) async fn start(cluster: &Cluster, options: &Options) -> Outcome<Self> {
        let login = cluster.application();
        let standby = cluster.standbys().first().ok_or("no standby")?;
        let direct = Contestant {
            name: "direct".to_owned(),
            kind: Kind::Direct {
                primary: cluster.primary().port(),
                standby: standby.port(),
            },
            port: 0,
            login: login.clone(),
            child: None,
        };
        let program = pgbouncer::Program::find(options.pgbouncer.as_deref())?;
        let mut contestants = vec![direct];
        for kind in proxies(&program, options) {
            contestants.push(Contestant::start(kind, cluster, options, &program).await?);
        }
        Ok(Self {
            contestants,
            pgbouncer: program.version,
        })
    }
}

/// Everybody but the direct way.
pub(crate) fn proxies(program: &pgbouncer::Program, options: &Options) -> Vec<Kind> {
    let mut kinds = vec![Kind::PgBouncer {
        prepares: program.prepares,
    }];
    let others = options.also.iter().filter_map(|also| also.split_once('='));
    for build in std::iter::once("causeway").chain(others.map(|(name, _)| name)) {
        for workers in options.workers() {
            for level in &options.levels {
                kinds.push(Kind::Causeway {
                    build: build.to_owned(),
                    level: level.clone(),
                    workers,
                });
            }
        }
    }
    kinds
}

impl Contestant {
    /// Starts a proxy and returns once it answers a query.
    pub(crate) async fn start(
        kind: Kind,
        cluster: &Cluster,
        options: &Options,
        program: &pgbouncer::Program,
    ) -> Outcome<Self> {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let directory = cluster.directory().join(format!("proxy-{port}"));
        let (name, child) = match &kind {
            Kind::Direct { .. } => return Err("the direct way has no process".into()),
            Kind::PgBouncer { .. } => (
                "pgbouncer".to_owned(),
                program.start(cluster, &directory, port)?,
            ),
            Kind::Causeway {
                build,
                level,
                workers,
            } => {
                let mut name = format!("{level}/{workers}");
                if build != "causeway" {
                    name = format!("{build} {name}");
                }
                let binary = binary(build, options);
                let settings = format!(
                    "listen: 127.0.0.1:{port}\nworkers: {workers}\npool: {{ size: {POOL} }}\n\
                     routing: {{ consistency: {level} }}\n{}",
                    cluster.yaml()
                );
                (name, causeway(&binary, &directory, &settings)?)
            }
        };
        let mut contestant = Self {
            name,
            kind,
            port,
            login: cluster.application().clone(),
            child: Some(child),
        };
        contestant.wait_ready(&directory).await?;
        Ok(contestant)
    }

    /// The process to look at.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.child.as_ref().and_then(Child::id)
    }

    /// Where a cell's clients connect. What cannot split reads from writes has reads of a cell
    /// without writes at a standby, all else at the primary.
    pub(crate) fn endpoint(&self, cell: &Cell) -> Endpoint {
        let mut login = self.login.clone();
        let mut port = self.port;
        match self.kind {
            Kind::Direct { primary, standby } => {
                port = if cell.reads_only() { standby } else { primary };
            }
            Kind::PgBouncer { prepares } => {
                if cell.reads_only() {
                    login.database.push_str("_standby");
                }
                if cell.protocol == Protocol::Prepared && !prepares {
                    login.database.push_str("_session");
                }
            }
            Kind::Causeway { .. } => {}
        }
        Endpoint { port, login }
    }

    /// A client's connection for the whole proxy, in the database that has both reads and writes.
    pub(crate) async fn connect(&self) -> Outcome<tokio_postgres::Client> {
        let mut config = tokio_postgres::Config::new();
        config
            .host("127.0.0.1")
            .port(self.port)
            .user(&self.login.user)
            .password(&self.login.password)
            .dbname(&self.login.database)
            .ssl_mode(tokio_postgres::config::SslMode::Disable);
        let (client, connection) = config.connect(NoTls).await?;
        // Its error reaches the client as a failed statement.
        tokio::spawn(async move { drop(connection.await) });
        Ok(client)
    }

    async fn wait_ready(&mut self, directory: &Path) -> Outcome<()> {
        let begun = Instant::now();
        loop {
            if let Some(child) = &mut self.child
                && let Some(status) = child.try_wait()?
            {
                let log = last_log(directory);
                return Err(format!("{} ended with {status}: {log}", self.name).into());
            }
            let fault = match self.connect().await {
                Ok(client) => match client.simple_query("SELECT 1").await {
                    Ok(_) => return Ok(()),
                    Err(error) => error.to_string(),
                },
                Err(error) => error.to_string(),
            };
            if begun.elapsed() > Duration::from_secs(20) {
                let log = last_log(directory);
                return Err(format!("{} does not answer: {fault}: {log}", self.name).into());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

fn binary(build: &str, options: &Options) -> PathBuf {
    let others = options.also.iter().filter_map(|also| also.split_once('='));
    let other = others
        .filter(|(name, _)| *name == build)
        .map(|(_, path)| path)
        .next();
    other.unwrap_or(env!("CARGO_BIN_EXE_causeway")).into()
}

fn causeway(binary: &Path, directory: &Path, settings: &str) -> Outcome<Child> {
    std::fs::create_dir_all(directory)?;
    let config = directory.join("causeway.yaml");
    std::fs::write(&config, settings)?;
    let log = std::fs::File::create(directory.join("causeway.log"))?;
    let child = Command::new(binary)
        .args(["serve", "--config"])
        .arg(&config)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .kill_on_drop(true)
        .spawn();
    child.map_err(|error| format!("{}: {error}", binary.display()).into())
}

fn last_log(directory: &Path) -> String {
    let read = |name: &str| std::fs::read_to_string(directory.join(name)).ok();
    let log = read("causeway.log").or_else(|| read("pgbouncer.log"));
    let lines: Vec<String> = log.unwrap_or_default().lines().map(str::to_owned).collect();
    lines[lines.len().saturating_sub(5)..].join("\n")
}
