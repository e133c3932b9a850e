//! Placing a batch: asking `core::route` where it runs, waiting when told to, and taking a server
//! connection there.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::Cache;

use crate::backend::own_query::OwnQueryError;
use crate::backend::pool::{Lease, Pool, Turn};
use crate::backend::server::StartupSettings;
use crate::backend::want::{AcquireError, Want};
use crate::client::rules::{Bounds, LiveRules, Rules};
use crate::client::state::last_route::LastRoute;
use crate::client::worker::{Common, Worker};
use crate::config::Secret;
use crate::core::route::{self, Decision, Question};
use crate::core::session::{Broken, Level, Seen};
use crate::core::statement::{Access, WriteReason};
use crate::core::topology::{NodeId, NodeSet, NodeView};
use crate::error::{Kind, Problem};
use crate::metrics::Metrics;
use crate::shared::cluster::ClusterState;

/// Different nodes are tried for one batch at most this often.
pub(in crate::client) const MAX_ATTEMPTS: usize = 8;

/// The pools that one session uses, by node, so that none has to be looked up twice.
#[derive(Debug)]
pub(in crate::client) struct Places {
    database: Arc<str>,
    user: Arc<str>,
    /// For the servers, as of the login; for a user whom a reload has removed since.
    password: Option<Secret>,
    /// What the client's startup packet asked for.
    startup: StartupSettings,
    /// The session's, as long as it lives.
    token: Arc<()>,
    rules: Cache<LiveRules, Arc<Rules>>,
    by_node: Vec<Option<Arc<Pool>>>,
    /// Breaks ties between standbys, differently for each session.
    salt: u64,
    /// What the client must be told before the answer to what was placed last.
    warning: Option<Problem>,
}

/// What is to be placed.
#[derive(Clone, Copy, Debug)]
pub(in crate::client) struct Need {
    pub(in crate::client) access: Access,
    pub(in crate::client) write_reason: Option<WriteReason>,
    pub(in crate::client) level: Level,
    pub(in crate::client) exclude: NodeSet,
}

impl Places {
    pub(in crate::client) fn new(
        database: Arc<str>,
        user: Arc<str>,
        password: Option<Secret>,
        startup: StartupSettings,
        salt: u64,
        rules: &LiveRules,
    ) -> Self {
        Self {
            database,
            user,
            password,
            startup,
            token: Arc::new(()),
            rules: Cache::new(Arc::clone(rules)),
            by_node: Vec::new(),
            salt,
            warning: None,
        }
    }

    /// Which connections the session can use.
    pub(in crate::client) fn want(&self) -> Want<'_> {
        Want {
            startup: &self.startup,
            session: &self.token,
        }
    }

    /// The role that it logged in as.
    pub(in crate::client) fn user(&self) -> &Arc<str> {
        &self.user
    }

    /// Its password for the servers, as of the login.
    pub(in crate::client) fn password(&self) -> Option<&Secret> {
        self.password.as_ref()
    }

    /// The session's pools that it has used.
    pub(in crate::client) fn pools(&self) -> impl Iterator<Item = &Arc<Pool>> {
        self.by_node.iter().flatten()
    }

    /// The session's, as long as it lives.
    pub(in crate::client) fn token(&self) -> &Arc<()> {
        &self.token
    }

    /// The session's pool on a node.
    pub(in crate::client) fn pool(&mut self, common: &Common, node: NodeId) -> Option<Arc<Pool>> {
        let index = usize::from(node.0);
        if self.by_node.len() <= index {
            self.by_node.resize(index + 1, None);
        }
        let slot = self.by_node.get_mut(index)?;
        if slot.is_none() {
            let password = || {
                let rules = common.rules.load();
                match rules.users.get(&*self.user) {
                    Some(account) => account.server_password.clone(),
                    None => self.password.clone(),
                }
            };
            *slot = common.pools.get(node, &self.database, &self.user, password);
        }
        slot.clone()
    }

    /// What the configuration in force says to every batch.
    pub(in crate::client) fn bounds(&mut self) -> Bounds {
        self.rules.load().bounds
    }

    /// Finds a node and takes a server connection to it.
    pub(in crate::client) async fn place(
        &mut self,
        worker: &Worker,
        seen: &mut Seen,
        mut need: Need,
    ) -> Result<(Lease, LastRoute), Failure> {
        let common = &*worker.common;
        let cluster = &*common.cluster;
        let began_us = cluster.now_us();
        let bounds = self.bounds();
        let mut attempts = 0;
        loop {
            let mut last = self.route(common, bounds, seen, &need, began_us).await?;
            let pool = self.known_pool(common, last.route.node)?;
            let wanders = need.access == Access::Read && need.level != Level::Primary;
            let lease = match pool.take_idle(worker.index, self.want()) {
                Some(lease) => Ok(lease),
                None if !wanders => pool.acquire(worker.index, self.want()).await,
                None => match pool.take_or_queue(worker.index, self.want()).await {
                    Ok(Turn::Now(lease)) => Ok(lease),
                    Ok(Turn::Later(place)) => {
                        let (lease, whence) = self.stand(worker, seen, need, place, last).await?;
                        last = whence;
                        lease
                    }
                    Err(error) => Err(error),
                },
            };
            let route = last.route;
            attempts += 1;
            match lease {
                Ok(mut lease) => {
                    if lease.server().origin.incarnation != route.incarnation {
                        // The decision was about the node's former life: decide again. The
                        // connection is good, and goes back.
                        continue;
                    }
                    if route.primary {
                        // From here on it counts as work. Whoever has held new work since it was decided
                        // may have counted none before that, as while this waited for a connection.
                        let held = need.access != Access::Neutral && !leads(cluster, route.node);
                        match held {
                            true => continue,
                            false => return Ok((lease, last)),
                        }
                    }
                    match prove(cluster, &mut lease, bounds.policy.visibility_wait_us).await {
                        Proof::Given => return Ok((lease, last)),
                        // Since it was chosen; given back, the connection is closed.
                        Proof::Drained => continue,
                        // Its node was restarted under our hands.
                        Proof::Missing => lease.discard(),
                    }
                    if attempts >= MAX_ATTEMPTS {
                        need.exclude.insert(route.node);
                    }
                }
                Err(error)
                    if attempts < MAX_ATTEMPTS && another_node_may_do(&error, route.primary) =>
                {
                    tracing::debug!(%error, "take a server connection");
                    if route.primary {
                        let waited = Duration::from_micros(cluster.now_us() - began_us);
                        if waited >= bounds.hold_timeout {
                            return Err(unavailable(&error).into());
                        }
                        wait_for_change(cluster, Duration::from_millis(50)).await;
                        attempts -= 1;
                    } else {
                        need.exclude.insert(route.node);
                    }
                }
                Err(error) => return Err(Failure::from(error)),
            }
        }
    }

    /// Takes what the client must be told before the answer to what was placed last.
    pub(in crate::client) fn take_warning(&mut self) -> Option<Problem> {
        self.warning.take()
    }

    pub(super) fn known_pool(
        &mut self,
        common: &Common,
        node: NodeId,
    ) -> Result<Arc<Pool>, Failure> {
        let pool = self.pool(common, node);
        pool.ok_or_else(|| Problem::error(Kind::Internal, "a route to an unknown node").into())
    }

    /// Decides once.
    fn ask(
        &self,
        cluster: &ClusterState,
        bounds: Bounds,
        seen: &mut Seen,
        need: &Need,
        waited_us: u64,
        now_us: u64,
    ) -> (Decision, Option<LastRoute>) {
        let topology = cluster.topology();
        let loads = cluster.load.by_node();
        let question = Question {
            access: need.access,
            write_reason: need.write_reason,
            level: need.level,
            exclude: need.exclude,
            waited_us,
            now_us,
            load: &loads,
            salt: self.salt,
        };
        let decision = route::decide(&question, seen, &topology, &bounds.policy);
        let last = match &decision {
            Decision::Go(route) => Some(LastRoute::placed(*route, seen, &topology)),
            _ => None,
        };
        (decision, last)
    }

    /// A standby that would do at once, other than those that are excluded.
    pub(super) fn another_standby(
        &mut self,
        cluster: &ClusterState,
        bounds: Bounds,
        seen: &mut Seen,
        need: &Need,
    ) -> Result<Option<LastRoute>, Failure> {
        match self.ask(cluster, bounds, seen, need, 0, cluster.now_us()) {
            (Decision::Broken(broken), _) if bounds.warns_of_lost_writes => {
                self.warning = Some(lost_writes(&broken));
                Ok(None)
            }
            (Decision::Broken(broken), _) => Err(lost_writes(&broken).into()),
            (_, last) => Ok(last.filter(|last| !last.route.primary)),
        }
    }

    pub(super) async fn route(
        &mut self,
        common: &Common,
        bounds: Bounds,
        seen: &mut Seen,
        need: &Need,
        began_us: u64,
    ) -> Result<LastRoute, Failure> {
        let cluster = &*common.cluster;
        let mut held: Option<Waiting<'_>> = None;
        let mut stale_prevented = false;
        let mut asked_at_us = began_us;
        let mut awaited: Option<NodeSet> = None;
        loop {
            // Registered before looking, so that no publication falls between look and wait.
            let signal = awaited.map(|nodes| cluster.signal(nodes));
            let asked_before = signal.is_some();
            if asked_before {
                asked_at_us = cluster.now_us();
            }
            let waited_us = asked_at_us - began_us;
            let (decision, last) = self.ask(cluster, bounds, seen, need, waited_us, asked_at_us);
            let (probe, heeds, left) = match decision {
                Decision::Go(route) => {
                    let waited = Duration::from_micros(route.waited_us);
                    if asked_before && need.access == Access::Read {
                        common
                            .metrics
                            .routing
                            .catchup_wait
                            .observe(waited.as_secs_f64());
                    }
                    if route.unproven {
                        common.metrics.routing.visibility_unproven.inc();
                    }
                    if stale_prevented || route.stale_prevented {
                        common.metrics.routing.stale_reads_prevented.inc();
                    }
                    match last {
                        Some(last) => return Ok(last),
                        None => continue,
                    }
                }
                Decision::Wait { probe, left_us } => {
                    stale_prevented |= need.access == Access::Read;
                    (probe, probe, Duration::from_micros(left_us))
                }
                Decision::Broken(broken) if bounds.warns_of_lost_writes => {
                    // Asked again, it goes on from the present history.
                    self.warning = Some(lost_writes(&broken));
                    continue;
                }
                Decision::Broken(broken) => return Err(lost_writes(&broken).into()),
                Decision::NoPrimary => {
                    let waited = Duration::from_micros(asked_at_us - began_us);
                    let left = bounds.hold_timeout.saturating_sub(waited);
                    if left.is_zero() {
                        common.metrics.routing.hold_timeouts.inc();
                        return Err(no_primary(waited, &cluster.why()).into());
                    }
                    held.get_or_insert_with(|| Waiting::new(&common.metrics));
                    // A standby that is fit again would do for a read as well.
                    let heeds = match need.access {
                        Access::Read => NodeSet(u64::MAX),
                        _ => NodeSet::default(),
                    };
                    (NodeSet::default(), heeds, left)
                }
            };
            let before = awaited.replace(heeds);
            let Some(signal) = signal.filter(|_| before == Some(heeds)) else {
                continue;
            };
            cluster.demands.ask(probe);
            let _ = tokio::time::timeout(left, signal).await;
        }
    }
}

/// Counts a statement while it waits for a primary.
struct Waiting<'a>(&'a Metrics);

impl<'a> Waiting<'a> {
    fn new(metrics: &'a Metrics) -> Self {
        metrics.routing.statements_held.inc();
        Self(metrics)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.routing.statements_held.dec();
    }
}

/// Whether a connection to a standby may serve a read.
enum Proof {
    Given,
    /// Its node's life is over, or no measurement came in time.
    Missing,
    /// An operator keeps new reads from its node.
    Drained,
}

/// Whether this node may be written to at this moment.
fn leads(cluster: &ClusterState, node: NodeId) -> bool {
    let topology = cluster.topology();
    topology.primary().is_some_and(|primary| primary.id == node)
}

/// Waits until measurements speak for a new connection to a standby.
async fn prove(cluster: &ClusterState, lease: &mut Lease, wait_us: u64) -> Proof {
    let began_us = cluster.now_us();
    let mut probe = NodeSet::default();
    probe.insert(lease.server().origin.node);
    loop {
        // Before looking, so that nothing is missed.
        let signal = cluster.signal(probe);
        let server = lease.server();
        {
            let topology = cluster.topology();
            let node = topology.node(server.origin.node);
            if node.is_some_and(NodeView::is_drained) {
                return Proof::Drained;
            }
            if server.is_proven(&topology) {
                return Proof::Given;
            }
            if !server.is_current(&topology) {
                return Proof::Missing;
            }
        }
        let left_us = wait_us.saturating_sub(cluster.now_us() - began_us);
        if left_us == 0 {
            return Proof::Missing;
        }
        cluster.demands.ask(probe);
        let _ = tokio::time::timeout(Duration::from_micros(left_us), signal).await;
    }
}

fn lost_writes(broken: &Broken) -> Problem {
    Problem::error(
        Kind::LostWrites,
        "what this session has written or read may have been lost by a promotion",
    )
    .with_detail(broken.to_string())
    .with_hint(
        "Look whether it is there; from now on the session goes on from the present history.",
    )
}

async fn wait_for_change(cluster: &ClusterState, bound: Duration) {
    let _ = tokio::time::timeout(bound, cluster.turned()).await;
}

/// Why a batch could not be placed.
#[derive(Debug)]
pub(in crate::client) enum Failure {
    /// In our words.
    Problem(Problem),
    /// In a server's words, which end the session: the ErrorResponse frame.
    Refused(Vec<u8>),
    /// In a server's words: the ErrorResponse frame.
    Said(Vec<u8>),
    /// This standby refuses the session's settings: another node may know what they speak of.
    Unfit(NodeId),
    /// The held server connection broke before anything of the batch was sent.
    Lost,
    /// The client has left meanwhile: nothing is run for it.
    ClientGone,
    /// Operators have paused the database: it is to be placed again when they let it go on.
    Paused,
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        Self::Problem(problem)
    }
}

impl From<OwnQueryError> for Failure {
    fn from(error: OwnQueryError) -> Self {
        match error {
            OwnQueryError::Io(_) => Self::Lost,
            OwnQueryError::Refused(frame) => Self::Said(frame),
        }
    }
}

impl From<AcquireError> for Failure {
    fn from(error: AcquireError) -> Self {
        use crate::backend::connect::ConnectError;
        match error {
            AcquireError::Connect(ConnectError::Refused { frame, .. }) => Self::Refused(frame),
            AcquireError::Paused { .. } => Self::Paused,
            AcquireError::Exhausted { .. } => Self::Problem(
                Problem::error(Kind::TooManyConnections, error.to_string())
                    .with_hint("Raise pool.size, or look for transactions that stay open."),
            ),
            _ => Self::Problem(unavailable(&error)),
        }
    }
}

fn another_node_may_do(error: &AcquireError, primary: bool) -> bool {
    match error {
        AcquireError::Exhausted { .. } | AcquireError::Paused { .. } => false,
        AcquireError::Gone { .. } => true,
        AcquireError::Connect(error) => {
            error.is_about_the_node() || !primary && error.is_about_what_is_not_replayed()
        }
    }
}

fn unavailable(error: &AcquireError) -> Problem {
    Problem::error(Kind::CannotConnectNow, error.to_string())
}

pub(in crate::client) fn no_primary(waited: Duration, why: &str) -> Problem {
    let problem = Problem::error(
        Kind::CannotConnectNow,
        format!(
            "no primary is available: waited {:.1} s for one",
            waited.as_secs_f64()
        ),
    )
    .with_hint("See /api/status for what each node last answered.");
    match why {
        "" => problem,
        _ => problem.with_detail(why),
    }
}
