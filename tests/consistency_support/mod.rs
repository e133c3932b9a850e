//! A proxy in this process in front of a rig's cluster, for the tests of consistency.

// Not every test file uses everything.
#![allow(dead_code)]

use std::net::SocketAddr;
use std::time::Duration;

use pgcauseway::app::{self, AppError, Listeners};
use pgcauseway::config::Config;
use pgcauseway::rig::Cluster;
use pgcauseway::verify::{Endpoint, Options, Report};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// A running proxy.
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    shutdown: CancellationToken,
    ended: JoinHandle<Result<(), AppError>>,
}

impl Proxy {
    /// Starts one for a cluster, with more sections of configuration.
    pub(crate) async fn start(cluster: &Cluster, extra_yaml: &str) -> Self {
        let clients = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = clients.local_addr().unwrap();
        let text = format!("listen: {address}\n{}{extra_yaml}", cluster.yaml());
        let config = Config::parse("test", &text, &|_| None).unwrap();
        let listeners = Listeners {
            clients,
            http: None,
        };
        let shutdown = CancellationToken::new();
        let ended = tokio::spawn(app::run(config, listeners, shutdown.clone()));
        Self {
            address,
            shutdown,
            ended,
        }
    }

    /// The application's way in.
    pub(crate) fn url(&self) -> String {
        format!("postgresql://demo:demo@{}/demo", self.address)
    }

    /// A connection through it.
    pub(crate) async fn connect(&self) -> tokio_postgres::Client {
        let (client, connection) = tokio_postgres::connect(&self.url(), tokio_postgres::NoTls)
            .await
            .unwrap();
        tokio::spawn(connection);
        client
    }

    /// A check through it.
    pub(crate) fn check(&self, schema: &str, seconds: u64) -> Options {
        Options {
            duration: Some(Duration::from_secs(seconds)),
            schema: schema.to_owned(),
            ..Options::new(self.url().parse::<Endpoint>().unwrap())
        }
    }

    /// Ends it in good order.
    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        self.ended.await.unwrap().unwrap();
    }
}

/// How long a check lasts: a few seconds, or what `CAUSEWAY_TEST_SECONDS` says.
pub(crate) fn seconds(short: u64) -> u64 {
    let long = std::env::var("CAUSEWAY_TEST_SECONDS").ok();
    long.and_then(|text| text.parse().ok()).unwrap_or(short)
}

/// Share of the autocommit reads that standbys answered. Reads between BEGIN and COMMIT run on the
/// primary: this version does not know beforehand that nothing will be written.
pub(crate) fn autocommit_share(report: &Report) -> f64 {
    let autocommit = report
        .forms
        .iter()
        .filter(|(form, _)| form.ends_with("autocommit"));
    let (replica, all) = autocommit.fold((0, 0), |(replica, all), (_, count)| {
        (replica + count.replica_reads, all + count.reads)
    });
    replica as f64 / all.max(1) as f64
}
