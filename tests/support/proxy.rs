//! The proxy in this process, on free ports, in front of a cluster; gone when dropped.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use pgcauseway::app::{self, Listeners};
use pgcauseway::config::Config;
use pgcauseway::rig::{Cluster, Login};
use rustls::ClientConfig;
use tokio_util::sync::CancellationToken;

use super::tls::Tunnel;
use super::{Wire, eventually, http, panics};

/// A running proxy.
pub struct Proxy {
    /// Where clients connect.
    pub port: u16,
    /// Where status and metrics are.
    pub http: SocketAddr,
    login: Login,
    /// By which our own sessions come where not by the port itself.
    tunnel: Option<Tunnel>,
    shutdown: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl Proxy {
    /// Starts it with the cluster's own sections and what `extra_yaml` adds; returns once every
    /// node is up and the functions of the application's database are known.
    pub fn start(cluster: &Cluster, extra_yaml: &str) -> Self {
        Self::with_yaml(cluster, &format!("{}{extra_yaml}", cluster.yaml()))
    }

    /// Starts it with exactly these sections.
    pub fn with_yaml(cluster: &Cluster, yaml: &str) -> Self {
        let proxy = Self::unready(cluster, yaml);
        proxy.ready();
        proxy
    }

    /// Starts it with exactly these sections; our own sessions come by TLS.
    pub fn over_tls(cluster: &Cluster, yaml: &str, client: &Arc<ClientConfig>) -> Self {
        let mut proxy = Self::unready(cluster, yaml);
        proxy.tunnel = Some(Tunnel::to(proxy.port, client));
        proxy.ready();
        proxy
    }

    fn ready(&self) {
        eventually("every node is up", || {
            let status = http::status(self.http);
            let nodes = status["nodes"].as_array().unwrap();
            nodes.iter().all(|node| node["state"] == "up")
        });
        let mut wire = self.wire();
        eventually("the functions are known", || {
            wire.ask("SELECT abs(1)");
            let route = wire.value("SHOW causeway.last_route");
            !route.contains("has not been read yet")
        });
    }

    /// Starts it without waiting for anything but its sockets.
    pub fn unready(cluster: &Cluster, yaml: &str) -> Self {
        let config = Config::parse("test", &whole(yaml), &|_| None);
        Self::run(cluster, config.unwrap_or_else(|faults| panic!("{faults}")))
    }

    /// Starts it from a file, so that it can be reloaded; returns once every node is up.
    pub fn with_file(cluster: &Cluster, file: &ConfigFile) -> Self {
        let config = Config::load(file.path()).unwrap_or_else(|faults| panic!("{faults}"));
        let proxy = Self::run(cluster, config);
        proxy.ready();
        proxy
    }

    fn run(cluster: &Cluster, config: Config) -> Self {
        panics::watch();
        log();
        let shutdown = CancellationToken::new();
        let token = shutdown.clone();
        let (send, addresses) = std::sync::mpsc::channel();
        let serve = move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let listeners = Listeners::bind(&config).await.unwrap();
                let clients = listeners.clients.local_addr().unwrap();
                let http = listeners.http.as_ref().unwrap().local_addr().unwrap();
                send.send((clients, http)).unwrap();
                app::run(config, listeners, token).await.unwrap();
            });
        };
        let thread = std::thread::Builder::new()
            .name("causeway-main".to_owned())
            .spawn(serve)
            .unwrap();
        let (clients, http) = addresses.recv().unwrap();
        Self {
            port: clients.port(),
            http,
            login: cluster.application().clone(),
            tunnel: None,
            shutdown,
            thread: Some(thread),
        }
    }

    /// A connection string for the application's login.
    pub fn url(&self) -> String {
        let Login {
            user,
            password,
            database,
        } = &self.login;
        format!(
            "postgresql://{user}:{password}@127.0.0.1:{}/{database}",
            self.port
        )
    }

    /// A driver's connection for the application's login.
    pub async fn connect(&self) -> tokio_postgres::Client {
        super::connect(&self.url()).await
    }

    /// A logged-in client that speaks in raw messages.
    pub fn wire(&self) -> Wire {
        self.wire_with(&[])
    }

    /// The same, with settings in its startup packet.
    pub fn wire_with(&self, parameters: &[(&str, &str)]) -> Wire {
        let port = self.tunnel.as_ref().map_or(self.port, |by| by.port);
        Wire::login(port, &self.login, parameters)
    }

    /// Statements that went nowhere else than to a standby, since the start.
    pub fn reads_on_standbys(&self) -> u64 {
        let status = http::status(self.http);
        let counts = status["routing"]["statements"].as_array().unwrap();
        counts
            .iter()
            .filter(|count| count["route"] == "standby")
            .map(|count| count["count"].as_u64().unwrap())
            .sum()
    }

    /// How often a batch was repeated for this reason.
    pub fn replays(&self, reason: &str) -> u64 {
        let status = http::status(self.http);
        let counts = status["routing"]["replays"].as_array().unwrap();
        counts
            .iter()
            .filter(|count| count["reason"] == reason)
            .map(|count| count["count"].as_u64().unwrap())
            .sum()
    }

    /// Fails unless other sessions still work and nothing has panicked.
    pub fn assert_well(&self) {
        assert_eq!(self.wire().value("SELECT 40 + 2"), "42");
        assert_eq!(panics::count(), 0, "the proxy panicked");
    }
}

/// A configuration in a file of the cluster's directory.
pub struct ConfigFile(PathBuf);

impl ConfigFile {
    /// Writes it under a name of its own.
    pub fn new(cluster: &Cluster, name: &str, yaml: &str) -> Self {
        let file = Self(cluster.directory().join(format!("{name}.yaml")));
        file.write(yaml);
        file
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Replaces its sections.
    pub fn write(&self, yaml: &str) {
        std::fs::write(&self.0, whole(yaml)).unwrap();
    }
}

/// A configuration from the sections that a test names.
fn whole(yaml: &str) -> String {
    // A busy machine is not a failed node.
    let yaml = yaml.replacen("monitor:\n", "monitor:\n  timeout: 10s\n", 1);
    // A test that says more of the section says all of it.
    let admin = if yaml.contains("\nadmin:") {
        ""
    } else {
        "admin: { http: 127.0.0.1:0 }\n"
    };
    format!("listen: 127.0.0.1:0\n{admin}{yaml}")
}

/// `RUST_LOG=info` shows what the proxy logs.
fn log() {
    if std::env::var_os("RUST_LOG").is_some() {
        let _ = tracing_subscriber::fmt()
            .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
            .with_writer(std::io::stderr)
            .with_ansi(false)
            .try_init();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shutdown.cancel();
        let ended = self.thread.take().map(JoinHandle::join);
        if !std::thread::panicking() {
            assert!(matches!(ended, Some(Ok(()))), "the proxy did not end well");
            assert_eq!(panics::count(), 0, "the proxy panicked");
        }
    }
}
