//! Wiring: the only room that knows both planes. Starts them, and takes them down again.

mod maintenance;
mod workers;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::net::TcpListener;
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::admin::{self, Sources};
use crate::agent::client::AgentClient;
use crate::backend::pools::Pools;
use crate::client::accept::dispatcher;
use crate::client::cancels::Cancels;
use crate::client::listening::Listening;
use crate::client::listening::feed::Means;
use crate::client::rules::{Rules, RulesError, StartConfig};
use crate::client::worker::Common;
use crate::config::{Config, Live};
use crate::control::failover::{self, Controller};
use crate::control::store::OpenError;
use crate::control::{catalogs, leaving, logins::LoginWatch, monitor::NodeMonitor};
use crate::core::topology::{MAX_NODES, NodeId};
use crate::descriptors::{Descriptors, Shares};
use crate::logging::Switch;
use crate::metrics::Metrics;
use crate::shared::cluster::ClusterState;
use crate::shared::connections::Connections;
use crate::shared::maintenance::Maintenance;
use crate::shared::memory::MemoryBudget;
use crate::shared::operator::OperatorState;
use crate::shared::pause::Pause;
use crate::strangers::Strangers;
use maintenance::{Maintainer, show_limits};
use workers::Workers;

/// Sessions in the middle of a transaction may take this long to end it at a shutdown.
pub const SHUTDOWN_GRACE: Duration = Duration::from_secs(10);
/// How often pools are tidied and counted.
const TIDY: Duration = Duration::from_millis(500);

/// Why the proxy cannot run.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// A socket, a thread or a runtime could not be had.
    #[error("{what}: {source}")]
    Io { what: String, source: io::Error },
    /// The metrics could not be set up.
    #[error("set up the metrics: {0}")]
    Metrics(#[from] prometheus::Error),
    /// More nodes than can be told apart.
    #[error("{0} nodes are configured; at most {MAX_NODES} are supported")]
    TooManyNodes(usize),
    /// The limit of open files leaves no room for clients.
    #[error(
        "the limit of open files, {limit}, leaves no room for clients beside {servers} connections to \
         servers: raise it (LimitNOFILE= of systemd, ulimit -n)"
    )]
    Descriptors { limit: usize, servers: usize },
    /// The failover record cannot be used.
    #[error("open the failover record: {0}")]
    Store(#[from] OpenError),
    /// A node's agent cannot be spoken to.
    #[error("prepare for the agent of node {node}: {reason}")]
    Agent { node: String, reason: String },
    /// Something that the proxy cannot do without has panicked.
    #[error("{0} has panicked; see standard error")]
    Panicked(&'static str),
    /// The rules of sessions cannot be derived.
    #[error(transparent)]
    Rules(#[from] RulesError),
}

/// The listening sockets, made by the caller so that tests own them.
#[derive(Debug)]
pub struct Listeners {
    pub clients: TcpListener,
    /// For HTTP, if it is served.
    pub http: Option<TcpListener>,
}

impl Listeners {
    /// Binds what the configuration names.
    pub async fn bind(config: &Config) -> Result<Self, AppError> {
        let bind = async |address: std::net::SocketAddr| {
            let what = || format!("listen on {address}");
            TcpListener::bind(address)
                .await
                .map_err(|source| AppError::Io {
                    what: what(),
                    source,
                })
        };
        let clients = bind(config.listen).await?;
        let http = match config.admin.http {
            Some(address) => Some(bind(address).await?),
            None => None,
        };
        Ok(Self { clients, http })
    }
}

/// What reaches the proxy from outside while it runs.
#[derive(Clone, Default)]
pub struct Signals {
    pub shutdown: CancellationToken,
    /// Notified, it has the configuration read again.
    pub reload: Arc<Notify>,
    /// Changes what is logged, if that can be changed.
    pub log: Option<Switch>,
}

impl From<CancellationToken> for Signals {
    fn from(shutdown: CancellationToken) -> Self {
        Self {
            shutdown,
            ..Self::default()
        }
    }
}

/// Runs the proxy until `shutdown`: then `/readyz` says so, new clients are refused, the idle sessions are
/// closed, the others may end their transactions within `SHUTDOWN_GRACE`, and it ends.
pub async fn run(
    config: Config,
    listeners: Listeners,
    signals: impl Into<Signals>,
) -> Result<(), AppError> {
    let signals = signals.into();
    let proxy = Proxy::assemble(config, &signals)?;
    let mut control = proxy.start_control(&signals, listeners.http).await?;
    let mut workers = Workers::start(&proxy.common).map_err(|source| AppError::Io {
        what: "start a worker".to_owned(),
        source,
    })?;
    tracing::info!(
        address = %proxy.config.listen,
        workers = proxy.common.workers,
        nodes = proxy.config.nodes.len(),
        "causeway is ready for clients"
    );
    let (clients, doors) = (listeners.clients, workers.take_doors());
    let accepting = dispatcher::accept(clients, doors, Arc::clone(&proxy.common));
    tokio::pin!(accepting);
    let mut accepts = true;
    tokio::select! {
        () = &mut accepting => accepts = false,
        () = signals.shutdown.cancelled() => {}
        // Who goes on without it lets leases run out, or routes by what was once so.
        name = control.panicked() => {
            workers.end_within(Duration::ZERO).await;
            return Err(AppError::Panicked(name));
        }
    }

    let clients = proxy.common.metrics.clients.connections.get();
    tracing::info!(clients, "shutting down");
    proxy.common.draining.cancel();
    let ended = workers.end_within(SHUTDOWN_GRACE);
    tokio::pin!(ended);
    loop {
        tokio::select! {
            () = &mut ended => break,
            () = &mut accepting, if accepts => accepts = false,
        }
    }
    // It is needed until the last session has ended.
    control.stop().await;
    tracing::info!("causeway has ended");
    Ok(())
}

/// What the planes share, made and not yet started.
struct Proxy {
    config: Config,
    live: Arc<Live>,
    operator: Arc<OperatorState>,
    maintenance: Arc<dyn Maintenance>,
    admin: admin::State,
    common: Arc<Common>,
}

impl Proxy {
    fn assemble(config: Config, signals: &Signals) -> Result<Self, AppError> {
        if config.nodes.len() > MAX_NODES {
            return Err(AppError::TooManyNodes(config.nodes.len()));
        }
        let workers = config.workers.unwrap_or_else(workers::by_cores).max(1);
        let shares = shares(&config)?;
        let start = StartConfig::of(&config);
        let metrics = Arc::new(Metrics::new(&start.node_names, workers)?);
        show_limits(&metrics, &config);
        metrics.process.config_was_read();
        let cluster = Arc::new(ClusterState::new(&config));
        let operator = Arc::new(OperatorState::default());
        let connections = Arc::new(Connections::default());
        let pause = Arc::new(Pause::default());
        let bounds = config.memory;
        let memory = Arc::new(MemoryBudget::new(bounds.total, bounds.session));
        let live = Arc::new(Live::new(config.clone()));
        let rules = Arc::new(ArcSwap::from_pointee(Rules::derive(live.current(), None)?));
        let pools = Arc::new(Pools::new(
            &config,
            workers,
            Arc::clone(&cluster),
            Arc::clone(&metrics),
            Arc::clone(&connections),
            Arc::clone(&pause),
        ));
        let maintenance: Arc<dyn Maintenance> = Arc::new(Maintainer {
            live: Arc::clone(&live),
            rules: Arc::clone(&rules),
            pools: Arc::clone(&pools),
            cluster: Arc::clone(&cluster),
            metrics: Arc::clone(&metrics),
            operator: Arc::clone(&operator),
            memory: Arc::clone(&memory),
            log: signals.log.clone(),
            one_at_a_time: Default::default(),
        });
        let admin = admin::State::new(Sources {
            live: Arc::clone(&live),
            maintenance: Arc::clone(&maintenance),
            pause: Arc::clone(&pause),
            cluster: Arc::clone(&cluster),
            metrics: Arc::clone(&metrics),
            operator: Arc::clone(&operator),
            connections: Arc::clone(&connections),
            memory: Arc::clone(&memory),
            shutdown: signals.shutdown.clone(),
        });
        let listening = Listening::new(Means {
            rules: Arc::clone(&rules),
            pools: Arc::clone(&pools),
            cluster: Arc::clone(&cluster),
            metrics: Arc::clone(&metrics),
            memory: Arc::clone(&memory),
            pause: Arc::clone(&pause),
        });
        let common = Arc::new(Common {
            listening: Arc::new(listening),
            rules,
            pools,
            pause,
            memory,
            databases: Default::default(),
            console: Arc::new(admin.clone()),
            connections,
            cancels: Cancels::default(),
            draining: CancellationToken::new(),
            grace: SHUTDOWN_GRACE,
            greetings: Default::default(),
            definitions: Default::default(),
            strangers: Strangers::new(shares.strangers),
            most_clients: shares.clients,
            token: rand::random(),
            workers,
            cluster,
            metrics,
            start,
        });
        Ok(Self {
            config,
            live,
            operator,
            maintenance,
            admin,
            common,
        })
    }

    /// Starts everything but the acceptor and the workers.
    async fn start_control(
        &self,
        signals: &Signals,
        http: Option<TcpListener>,
    ) -> Result<ControlPlane, AppError> {
        let (cluster, metrics) = (&self.common.cluster, &self.common.metrics);
        let mut control = ControlPlane::new();
        let stop = control.stop.clone();
        for (index, node) in self.config.nodes.iter().enumerate() {
            let monitor = NodeMonitor {
                id: NodeId(index as u16),
                node: node.clone(),
                live: Arc::clone(&self.live),
                cluster: Arc::clone(cluster),
                metrics: Arc::clone(metrics),
                operator: Arc::clone(&self.operator),
            };
            control.spawn("the monitor of a node", monitor.run(stop.clone()));
            let watch = LoginWatch::new(
                NodeId(index as u16),
                node.clone(),
                Arc::clone(&self.live),
                Arc::clone(cluster),
            );
            control.spawn("the watch on logins", watch.run(stop.clone()));
        }
        let (live, known) = (Arc::clone(&self.live), Arc::clone(cluster));
        control.spawn(
            "the reader of catalogues",
            catalogs::run(live, known, stop.clone()),
        );
        if let Some(settings) = &self.config.failover {
            let shared = failover::Shared {
                live: Arc::clone(&self.live),
                cluster: Arc::clone(cluster),
                operator: Arc::clone(&self.operator),
                metrics: Arc::clone(metrics),
            };
            let controller = Controller::open(shared, settings, agents(&self.config)?).await?;
            control.spawn("the failover controller", controller.run(stop.clone()));
        } else {
            let names = self.config.nodes.iter().map(|node| node.name.clone());
            let agents = names.zip(agents(&self.config)?);
            let agents = agents.filter_map(|(node, agent)| Some((node, agent?)));
            control.spawn(
                "the release of agents",
                leaving::release_all(agents.collect(), stop.clone()),
            );
        }
        let (maintenance, asked) = (Arc::clone(&self.maintenance), Arc::clone(&signals.reload));
        control.spawn("the reloader", reload(maintenance, asked, stop.clone()));
        control.spawn(
            "the tidying of pools",
            tidy(Arc::clone(&self.common), stop.clone()),
        );
        control.spawn(
            "the renewal of connections",
            renew(Arc::clone(&self.common), stop.clone()),
        );
        if let Some(http) = http {
            control.spawn(
                "the HTTP server",
                admin::http::serve(http, self.admin.clone(), stop.clone()),
            );
        }
        Ok(control)
    }
}

/// What the limit of open files leaves to clients: less than is configured is said, nothing is an error.
fn shares(config: &Config) -> Result<Shares, AppError> {
    let descriptors = Descriptors::present();
    let (limit, wanted) = (descriptors.limit(), config.max_clients);
    // More users and databases need more: what then comes too late is refused one by one.
    let servers = config.pool.size.saturating_mul(config.nodes.len());
    let shares = descriptors.share(wanted, servers);
    let shares = shares.ok_or(AppError::Descriptors { limit, servers })?;
    if shares.clients < wanted {
        tracing::warn!(
            limit,
            max_clients = wanted,
            room = shares.clients,
            "the limit of open files leaves room for fewer clients than max_clients: raise it \
             (LimitNOFILE= of systemd, ulimit -n)"
        );
    }
    Ok(shares)
}

/// The tasks that serve the sessions as a whole.
struct ControlPlane {
    tasks: TaskTracker,
    stop: CancellationToken,
    /// The names of tasks that have panicked, and their receiver.
    fallen: (mpsc::Sender<&'static str>, mpsc::Receiver<&'static str>),
}

impl ControlPlane {
    fn new() -> Self {
        Self {
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
            fallen: mpsc::channel(1),
        }
    }

    /// Starts a task that the proxy cannot do without.
    fn spawn(&mut self, name: &'static str, work: impl Future<Output = ()> + Send + 'static) {
        let task = tokio::spawn(work);
        let fallen = self.fallen.0.clone();
        self.tasks.spawn(async move {
            if task.await.is_err_and(|error| error.is_panic()) {
                // One is enough.
                let _ = fallen.try_send(name);
            }
        });
    }

    /// Resolves once a task has panicked.
    async fn panicked(&mut self) -> &'static str {
        match self.fallen.1.recv().await {
            Some(name) => name,
            // Its sender lives as long.
            None => std::future::pending().await,
        }
    }

    async fn stop(self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// Reloads whenever a signal asks for it.
async fn reload(
    maintenance: Arc<dyn Maintenance>,
    asked: Arc<Notify>,
    shutdown: CancellationToken,
) {
    let work = async {
        loop {
            asked.notified().await;
            // How it went is in the log.
            let _ = maintenance.reload("SIGHUP").await;
        }
    };
    tokio::select! {
        () = work => {}
        () = shutdown.cancelled() => {}
    }
}

/// Keeps connections of before a change of what logins find from being given to anybody.
async fn renew(common: Arc<Common>, shutdown: CancellationToken) {
    let work = async {
        loop {
            for changed in common.cluster.logins.changed().await {
                let (database, role) = (changed.database.as_deref(), changed.role.as_deref());
                common.pools.renew(Some(changed.node), database, role);
            }
            common.forget_greetings();
        }
    };
    tokio::select! {
        () = work => {}
        () = shutdown.cancelled() => {}
    }
}

async fn tidy(common: Arc<Common>, shutdown: CancellationToken) {
    let work = async {
        loop {
            tokio::time::sleep(TIDY).await;
            common.pools.tidy();
        }
    };
    tokio::select! {
        () = work => {}
        () = shutdown.cancelled() => {}
    }
}

fn agents(config: &Config) -> Result<Vec<Option<Arc<AgentClient>>>, AppError> {
    let clients = config.nodes.iter().map(|node| {
        let (Some(url), Some(agents)) = (&node.agent, &config.agents) else {
            return Ok(None);
        };
        let client = AgentClient::new(url, agents).map_err(|error| AppError::Agent {
            node: node.name.clone(),
            reason: error.to_string(),
        })?;
        Ok(Some(Arc::new(client.of(&node.name))))
    });
    clients.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_that_panics_is_named() {
        let mut control = ControlPlane::new();
        control.spawn("one that ends", async {});
        control.spawn("one that falls", async { panic!("on purpose") });
        assert_eq!(control.panicked().await, "one that falls");
        control.stop().await;
    }
}
