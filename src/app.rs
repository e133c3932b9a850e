//! Wiring: the only file that knows everyone. Starts the planes, and takes them down again.

mod operator;

use std::collections::HashMap;
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
use crate::backend::pool::Pools;
use crate::client::accept::cancels::Cancels;
use crate::client::accept::dispatcher::{self, Door};
use crate::client::rules::{Account, Bounds, Rules};
use crate::client::worker::{Common, Worker};
use crate::config::{AuthMethod, Config, Durability, Live, Node, OnLostWrites, Secret};
use crate::control::agent_client::AgentClient;
use crate::control::failover::{self, Controller};
use crate::control::store::OpenError;
use crate::control::{catalogs, monitor::NodeMonitor};
use crate::core::route::Policy;
use crate::core::topology::{NodeId, NodeView};
use crate::logging::Switch;
use crate::metrics::Metrics;
use crate::shared::cluster::{ClusterState, MAX_NODES};
use crate::shared::maintenance::Maintenance;
use crate::shared::operator::Desk;
use crate::shared::pause::Pause;
use crate::shared::registry::Connections;
use crate::wire::auth::Verifier;
use operator::Operator;

/// Longest wait for proof that the primary shows what a standby has shown.
const VISIBILITY_WAIT: Duration = Duration::from_secs(1);
/// Sessions in the middle of a transaction may take this long to end it at a shutdown.
pub const SHUTDOWN_GRACE: Duration = Duration::from_secs(10);
/// How often pools are tidied and counted.
const TIDY: Duration = Duration::from_millis(500);

/// Why the proxy cannot run.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// A socket, a thread or a runtime could not be had.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// What the system said.
        source: io::Error,
    },
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
    Agent {
        /// The node.
        node: String,
        /// Why not.
        reason: String,
    },
    /// A user's password in the configuration cannot be used.
    #[error("the password of user \"{0}\" is not one that the authentication method can check")]
    Password(String),
}

/// The listening sockets, made by the caller so that tests own them.
#[derive(Debug)]
pub struct Listeners {
    /// For clients.
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
    /// Cancelled, it ends the proxy.
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
    let names: Vec<String> = config.nodes.iter().map(|node| node.name.clone()).collect();
    let metrics = Arc::new(Metrics::new(&names)?);
    metrics.pool_size.set(config.pool.size as i64);
    metrics
        .client_connections_max
        .set(config.max_clients as i64);
    let cluster = Arc::new(ClusterState::new(node_views(&config)));
    let (desk, connections) = (Arc::new(Desk::default()), Arc::new(Connections::default()));
    let gate = Arc::new(Pause::default());
    let live = Arc::new(Live::new(config.clone()));
    let rules = Arc::new(ArcSwap::from_pointee(rules(live.current(), None)?));
    let pools = Arc::new(Pools::new(
        &config,
        workers,
        Arc::clone(&cluster),
        Arc::clone(&metrics),
        Arc::clone(&connections),
        Arc::clone(&gate),
    ));
    let operator: Arc<dyn Maintenance> = Arc::new(Operator {
        live: Arc::clone(&live),
        rules: Arc::clone(&rules),
        pools: Arc::clone(&pools),
        cluster: Arc::clone(&cluster),
        metrics: Arc::clone(&metrics),
        desk: Arc::clone(&desk),
        log: signals.log,
        one_at_a_time: Default::default(),
    });
    operator::note_time(&metrics);
    let state = admin::State::new(Sources {
        live: Arc::clone(&live),
        operations: Arc::clone(&operator),
        gate: Arc::clone(&gate),
        cluster: Arc::clone(&cluster),
        metrics: Arc::clone(&metrics),
        desk: Arc::clone(&desk),
        connections: Arc::clone(&connections),
        shutdown: shutdown.clone(),
    });
    let common = Arc::new(Common {
        rules,
        pools,
        gate,
        console: Arc::new(state.clone()),
        connections,
        cancels: Cancels::default(),
        draining: CancellationToken::new(),
        greetings: Default::default(),
        definitions: Default::default(),
        workers,
        cluster: Arc::clone(&cluster),
        metrics: Arc::clone(&metrics),
        config: config.clone(),
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
            desk: Arc::clone(&desk),
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
            desk: Arc::clone(&desk),
            metrics: Arc::clone(&metrics),
        };
        let controller = Controller::open(shared, settings, agents(&config)?).await?;
        tracker.spawn(controller.run(stop_control.clone()));
    }
    tracker.spawn(reload(operator, signals.reload, stop_control.clone()));
    tracker.spawn(tidy(Arc::clone(&common), stop_control.clone()));
    if let Some(http) = listeners.http {
        tracker.spawn(admin::http::serve(http, state, stop_control.clone()));
    }

    let abort = CancellationToken::new();
    let (doors, threads) = start_workers(&common, workers, &abort)?;
    tracing::info!(address = %config.listen, workers, nodes = config.nodes.len(), "causeway is ready for clients");
    dispatcher::accept(listeners.clients, doors, Arc::clone(&common), shutdown).await;

    tracing::info!(clients = metrics.client_connections.get(), "shutting down");
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
async fn reload(operator: Arc<dyn Maintenance>, asked: Arc<Notify>, shutdown: CancellationToken) {
    let work = async {
        loop {
            asked.notified().await;
            // How it went is in the log.
            let _ = operator.reload("SIGHUP").await;
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

fn node_views(config: &Config) -> Vec<NodeView> {
    let views = config
        .nodes
        .iter()
        .enumerate()
        .map(|(index, node)| NodeView {
            id: NodeId(index as u16),
            name: Arc::from(node.name.as_str()),
            weight: node.weight,
            near: is_near(config, node),
            life: None,
            barred: false,
            drained: false,
            previous: Arc::default(),
        });
    views.collect()
}

/// Whether a node stands in this proxy's zone, or zones are not in use.
fn is_near(config: &Config, node: &Node) -> bool {
    let zone = &config.routing.zone;
    zone.is_none() || node.zone == *zone
}

/// What sessions go by. Accounts that have not changed are taken from the rules before: to derive one
/// from a password costs thousands of hashes.
fn rules(config: Arc<Config>, before: Option<&Rules>) -> Result<Rules, AppError> {
    let failover = config.failover.as_ref();
    let warns = |on_lost_writes| on_lost_writes == OnLostWrites::Warn;
    Ok(Rules {
        bounds: Bounds {
            policy: policy(&config),
            hold_timeout: config.hold_timeout,
            max_prepared: config.pool.max_prepared,
            warns_of_lost_writes: failover.is_some_and(|f| warns(f.on_lost_writes)),
            resolves_commits: failover.is_some_and(|f| f.resolve_commits),
        },
        users: accounts(&config, before)?,
        config,
    })
}

fn policy(config: &Config) -> Policy {
    let us = |duration: Duration| duration.as_micros() as u64;
    Policy {
        catchup_wait_us: us(config.routing.catchup_wait),
        max_lag_us: config.routing.max_lag.map(us),
        visibility_wait_us: us(VISIBILITY_WAIT),
        lossless: config
            .failover
            .as_ref()
            .is_some_and(|failover| failover.durability == Durability::Quorum),
    }
}

fn accounts(
    config: &Config,
    before: Option<&Rules>,
) -> Result<HashMap<String, Arc<Account>>, AppError> {
    let mut accounts = HashMap::new();
    for (name, user) in &config.auth.users {
        // The method stays for the proxy's life.
        let same = before.filter(|before| before.config.auth.users.get(name) == Some(user));
        if let Some(account) = same.and_then(|before| before.users.get(name)) {
            accounts.insert(name.clone(), Arc::clone(account));
            continue;
        }
        let password = user.password.as_ref().map(Secret::reveal);
        let verifier = match (config.auth.method, password) {
            (AuthMethod::Trust, _) => Some(Verifier::Trust),
            (AuthMethod::Md5, Some(password)) => Some(Verifier::md5(name, password)),
            (AuthMethod::ScramSha256, Some(password)) => Verifier::scram(password),
            (_, None) => None,
        };
        let verifier = verifier.ok_or_else(|| AppError::Password(name.clone()))?;
        let account = Account {
            verifier,
            server_password: user.server_password.clone(),
        };
        accounts.insert(name.clone(), Arc::new(account));
    }
    Ok(accounts)
}
