//! Wiring: the only file that knows everyone. Starts the planes, and takes them down again.

mod maintenance;

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::admin::{self, Sources};
use crate::backend::pools::Pools;
use crate::client::accept::cancels::Cancels;
use crate::client::accept::dispatcher::{self, Door};
use crate::client::rules::{PasswordError, Rules, StartConfig};
use crate::client::worker::{Common, Worker};
use crate::config::{Config, Live};
use crate::control::agent_client::AgentClient;
use crate::control::failover::{self, Controller};
use crate::control::store::OpenError;
use crate::control::{catalogs, monitor::NodeMonitor};
use crate::core::route::MAX_NODES;
use crate::core::topology::NodeId;
use crate::logging::Switch;
use crate::metrics::Metrics;
use crate::shared::cluster::ClusterState;
use crate::shared::maintenance::Maintenance;
use crate::shared::memory::MemoryBudget;
use crate::shared::operator::OperatorState;
use crate::shared::pause::Pause;
use crate::shared::registry::Connections;
use maintenance::Maintainer;

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
    /// The failover record cannot be used.
    #[error("open the failover record: {0}")]
    Store(#[from] OpenError),
    /// A node's agent cannot be spoken to.
    #[error("prepare for the agent of node {node}: {reason}")]
    Agent { node: String, reason: String },
    /// The rules of sessions cannot be derived.
    #[error(transparent)]
    Password(#[from] PasswordError),
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

/// Runs the proxy until `shutdown`: then it accepts no more clients, closes the idle sessions, lets
/// the others end their transactions within `SHUTDOWN_GRACE`, and ends.
pub async fn run(
    config: Config,
    listeners: Listeners,
    signals: impl Into<Signals>,
) -> Result<(), AppError> {
    let signals = signals.into();
    let shutdown = signals.shutdown;
    if config.nodes.len() > MAX_NODES {
        return Err(AppError::TooManyNodes(config.nodes.len()));
    }
    let workers = config.workers.unwrap_or_else(default_workers).max(1);
    let start = StartConfig::of(&config);
    let metrics = Arc::new(Metrics::new(&start.node_names, workers)?);
    metrics.pools.size.set(config.pool.size as i64);
    metrics
        .clients
        .connections_max
        .set(config.max_clients as i64);
    let cluster = Arc::new(ClusterState::new(&config));
    let (operator, connections) = (
        Arc::new(OperatorState::default()),
        Arc::new(Connections::default()),
    );
    let pause = Arc::new(Pause::default());
    let memory = Arc::new(MemoryBudget::new(
        config.memory.total,
        config.memory.session,
    ));
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
        log: signals.log,
        one_at_a_time: Default::default(),
    });
    metrics.process.config_was_read();
    let state = admin::State::new(Sources {
        live: Arc::clone(&live),
        maintenance: Arc::clone(&maintenance),
        pause: Arc::clone(&pause),
        cluster: Arc::clone(&cluster),
        metrics: Arc::clone(&metrics),
        operator: Arc::clone(&operator),
        connections: Arc::clone(&connections),
        memory: Arc::clone(&memory),
        shutdown: shutdown.clone(),
    });
    let common = Arc::new(Common {
        rules,
        pools,
        pause,
        memory,
        databases: Default::default(),
        console: Arc::new(state.clone()),
        connections,
        cancels: Cancels::default(),
        draining: CancellationToken::new(),
        grace: SHUTDOWN_GRACE,
        greetings: Default::default(),
        definitions: Default::default(),
        token: rand::random(),
        workers,
        cluster: Arc::clone(&cluster),
        metrics: Arc::clone(&metrics),
        start,
    });

    // Everything but the acceptor and the workers lives until the last session has ended.
    let stop_control = CancellationToken::new();
    let tracker = TaskTracker::new();
    for (index, node) in config.nodes.iter().enumerate() {
        let monitor = NodeMonitor {
            id: NodeId(index as u16),
            node: node.clone(),
            live: Arc::clone(&live),
            cluster: Arc::clone(&cluster),
            metrics: Arc::clone(&metrics),
            operator: Arc::clone(&operator),
        };
        tracker.spawn(monitor.run(stop_control.clone()));
    }
    tracker.spawn(catalogs::run(
        Arc::clone(&live),
        Arc::clone(&cluster),
        stop_control.clone(),
    ));
    if let Some(settings) = &config.failover {
        let shared = failover::Shared {
            live: Arc::clone(&live),
            cluster: Arc::clone(&cluster),
            operator: Arc::clone(&operator),
            metrics: Arc::clone(&metrics),
        };
        let controller = Controller::open(shared, settings, agents(&config)?).await?;
        tracker.spawn(controller.run(stop_control.clone()));
    }
    tracker.spawn(reload(maintenance, signals.reload, stop_control.clone()));
    tracker.spawn(tidy(Arc::clone(&common), stop_control.clone()));
    if let Some(http) = listeners.http {
        tracker.spawn(admin::http::serve(http, state, stop_control.clone()));
    }

    let abort = CancellationToken::new();
    let (doors, threads) = start_workers(&common, workers, &abort)?;
    tracing::info!(address = %config.listen, workers, nodes = config.nodes.len(), "causeway is ready for clients");
    dispatcher::accept(listeners.clients, doors, Arc::clone(&common), shutdown).await;

    tracing::info!(clients = metrics.clients.connections.get(), "shutting down");
    common.draining.cancel();
    let ended = tokio::task::spawn_blocking(move || {
        threads.into_iter().for_each(|thread| drop(thread.join()));
    });
    tokio::pin!(ended);
    if tokio::time::timeout(SHUTDOWN_GRACE, &mut ended)
        .await
        .is_err()
    {
        abort.cancel();
        let _ = ended.await;
    }
    stop_control.cancel();
    tracker.close();
    tracker.wait().await;
    tracing::info!("causeway has ended");
    Ok(())
}

/// One event loop for every two cores: the servers and the clients need some as well, and a second
/// loop on a small machine costs more than it brings (docs/adr/0001-runtime-shape.md).
fn default_workers() -> usize {
    std::thread::available_parallelism()
        .map_or(1, usize::from)
        .div_ceil(2)
}

fn start_workers(
    common: &Arc<Common>,
    workers: usize,
    abort: &CancellationToken,
) -> Result<(Vec<Door>, Vec<JoinHandle<()>>), AppError> {
    let io = |what: &str| {
        let what = what.to_owned();
        move |source| AppError::Io { what, source }
    };
    let mut doors = Vec::with_capacity(workers);
    let mut threads = Vec::with_capacity(workers);
    for index in 0..workers {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(io("start a worker's event loop"))?;
        let worker = Arc::new(Worker::new(index, Arc::clone(common)));
        let (door, floor) = dispatcher::door();
        let abort = abort.clone();
        let thread = std::thread::Builder::new()
            .name(format!("causeway-{index}"))
            .spawn(move || runtime.block_on(dispatcher::serve(floor, worker, abort)))
            .map_err(io("start a worker"))?;
        doors.push(door);
        threads.push(thread);
    }
    Ok((doors, threads))
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
        Ok(Some(Arc::new(client)))
    });
    clients.collect()
}
