//! The loop: freeze the facts, plan, store, publish, act; again.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::errands::Errands;
use super::facts::{Facts, Frame};
use super::hands::Hands;
use super::holder;
use super::policy;
use super::reporter::Reporter;
use super::ruling::Ruling;
use super::tend::Tend;
use super::watch::Watch;
use crate::config::{Failover, Live};
use crate::control::agent::AgentClient;
use crate::control::store::{Claim, Leader, OpenError, SaveError, Store, Stored, Version};
use crate::core::failover::candidate::promotable;
use crate::core::failover::command::{Act, Command};
use crate::core::failover::detect::{Health, judge};
use crate::core::failover::observation::{Leadership, Observation};
use crate::core::failover::policy::Mode;
use crate::core::failover::record::{Phase, Record};
use crate::core::failover::{Policy, plan};
use crate::core::route::NodeSet;
use crate::core::topology::{NodeId, Writer};
use crate::metrics::Metrics;
use crate::shared::cluster::ClusterState;
use crate::shared::operator::OperatorState;
use crate::shared::operator::commands::Outcome;

/// The facts are looked at as often as this, and at once when one of weight changes.
const TICK: Duration = Duration::from_millis(50);
/// Every other proxy holds its clients so long after it was decided: they are told of each change.
const HEARD: Duration = Duration::from_millis(100);

/// The controller of one cluster.
pub struct Controller {
    store: Store,
    cluster: Arc<ClusterState>,
    operator: Arc<OperatorState>,
    metrics: Arc<Metrics>,
    live: Arc<Live>,
    policy: Arc<Policy>,
    facts: Arc<Facts>,
    hands: Arc<Hands>,
    known: Option<Known>,
    published: Option<Ruling>,
    /// The term by whose claim the ruling stands; 0 when it stands by no claim.
    ruled_by: Arc<AtomicU64>,
    /// The term under which the epoch was raised.
    in_office: Option<u64>,
    /// Under which term this proxy leads, and since when.
    leads: Option<(u64, u64)>,
    /// The latest order that was taken up here.
    took: Option<u64>,
    /// When clients' statements began to be held.
    held_since: Option<Instant>,
    /// For how long they were held the last time.
    last_stall: Duration,
    reporter: Reporter,
    /// Commands that nobody waits for.
    errands: Errands,
}

/// The record as this process knows it.
struct Known {
    record: Record,
    version: Version,
    phase_since_us: u64,
}

impl Controller {
    /// Opens the store and prepares everything; nothing is watched before `run`.
    pub async fn open(
        live: Arc<Live>,
        failover: &Failover,
        agents: Vec<Option<Arc<AgentClient>>>,
        cluster: Arc<ClusterState>,
        operator: Arc<OperatorState>,
        metrics: Arc<Metrics>,
    ) -> Result<Self, OpenError> {
        let config = live.current();
        let holder = holder::name(config.listen);
        let store = Store::open(&failover.coordination, &failover.cluster, &holder).await?;
        let policy = Arc::new(policy::policy(&config, failover));
        let facts = Arc::new(Facts::new(Arc::clone(&cluster), config.nodes.len()));
        let reporter = Reporter::new(
            Arc::clone(&cluster),
            Arc::clone(&operator),
            Arc::clone(&metrics),
            Arc::clone(&policy),
            failover.mode.name(),
            holder::address(&holder),
        );
        let hands = Hands {
            config,
            failover: failover.clone(),
            policy: Arc::clone(&policy),
            facts: Arc::clone(&facts),
            agents,
            holder,
        };
        // Nobody may be written to before the record says who.
        cluster.rule(0, Writer::Nobody, Default::default(), u64::MAX);
        Ok(Self {
            store,
            cluster,
            operator,
            metrics,
            live,
            policy,
            facts,
            hands: Arc::new(hands),
            known: None,
            published: None,
            ruled_by: Arc::default(),
            in_office: None,
            leads: None,
            took: None,
            held_since: None,
            last_stall: Duration::ZERO,
            reporter,
            errands: Errands::default(),
        })
    }

    /// Controls until `shutdown`.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let mut watchers = JoinSet::new();
        for id in self.policy.ids() {
            let watch = Watch {
                id,
                nodes: self.hands.config.nodes.clone(),
                live: Arc::clone(&self.live),
                policy: Arc::clone(&self.policy),
                facts: Arc::clone(&self.facts),
                operator: Arc::clone(&self.operator),
            };
            watchers.spawn(watch.run());
            if let Some(Some(agent)) = self.hands.agents.get(usize::from(id.0)) {
                let tend = Tend {
                    id,
                    agent: Arc::clone(agent),
                    facts: Arc::clone(&self.facts),
                    node: self.policy.name(id),
                    operator: Arc::clone(&self.operator),
                };
                watchers.spawn(tend.run());
            }
        }
        let (cluster, ruled_by) = (Arc::clone(&self.cluster), Arc::clone(&self.ruled_by));
        watchers.spawn(prolong(self.store.claim().clone(), cluster, ruled_by));
        let mut record = self.store.watch();
        loop {
            tokio::select! {
                () = tokio::time::sleep(TICK) => {}
                // Its sender lives as long as the store.
                _ = record.changed() => {}
                () = self.facts.changed() => {}
                () = self.operator.commands.submitted() => {}
                () = shutdown.cancelled() => break,
            }
            for (doing, error) in self.errands.failed() {
                self.reporter.fail(&doing, &error);
            }
            // A command under way at a shutdown is left; whoever comes next repeats it.
            tokio::select! {
                () = self.turn() => {}
                () = shutdown.cancelled() => break,
            }
        }
        self.store.resign().await;
    }

    async fn turn(&mut self) {
        self.adopt();
        let claim = self.store.claim();
        let term = claim.term().filter(|_| claim.holds());
        let Some(term) = term else {
            self.leads = None;
            return self.follow();
        };
        if self.leads.is_none_or(|(known, _)| known != term) {
            self.leads = Some((term, self.facts.now_us()));
            // Whoever led before may have changed it.
            self.known = None;
        }
        if self.known.is_none() && !self.load().await {
            return;
        }
        if self.in_office != Some(term) && !self.take_office(term).await {
            return;
        }
        self.lead().await;
    }

    /// Goes by what a reload has changed. A plan follows from facts and record alone, so that this is
    /// what a restart would bring.
    fn adopt(&mut self) {
        let config = self.live.current();
        let Some(failover) = config.failover.as_ref() else {
            return;
        };
        if Arc::ptr_eq(&config, &self.hands.config) {
            return;
        }
        self.policy = Arc::new(policy::policy(&config, failover));
        let policy = Arc::clone(&self.policy);
        self.reporter.adopt(policy, failover.mode.name());
        self.hands = Arc::new(Hands {
            config: Arc::clone(&config),
            failover: failover.clone(),
            policy: Arc::clone(&self.policy),
            facts: Arc::clone(&self.facts),
            agents: self.hands.agents.clone(),
            holder: self.hands.holder.clone(),
        });
    }

    /// Raises the epoch: what another proxy, or this one before a restart, has under way is refused by
    /// the agents from now on, and they grant one holder a lease in each epoch.
    async fn take_office(&mut self, term: u64) -> bool {
        let Some(known) = &self.known else {
            return false;
        };
        let mut record = known.record.clone();
        if known.version != Version(0) {
            record.epoch += 1;
            if !self.save(record).await {
                return false;
            }
        }
        self.in_office = Some(term);
        true
    }

    /// A proxy that cannot reach a primary which others can makes way for one that may: nobody else
    /// would renew the primary's lease.
    async fn make_way(&mut self, record: &Record) {
        tracing::warn!(
            "the primary is alive and cannot be reached from here: another proxy is to decide"
        );
        // Before another can take over.
        self.ruled_by.store(0, Ordering::Release);
        self.publish(Ruling::of(record).blind(record), u64::MAX);
        let pause = Duration::from_micros(self.policy.lease_us.saturating_mul(2));
        self.store.step_down(pause).await;
        self.known = None;
        self.leads = None;
    }

    fn is_cut_off(&self, observation: &Observation, record: &Record) -> bool {
        let serving = matches!(record.phase, Phase::Steady | Phase::Following);
        let Some(primary) = record.primary.filter(|_| serving && self.store.is_shared()) else {
            return false;
        };
        let health = judge(observation, &self.policy, record, primary);
        matches!(health, Health::CutOff { .. })
    }

    /// Another proxy decides: what it has stored is published.
    fn follow(&mut self) {
        self.ruled_by.store(0, Ordering::Release);
        self.facts.want_open(false);
        // Asked before the record is looked at, so that it is not older than this says.
        let current_us = micros(self.store.current_for());
        self.metrics.failover.state.coordination(current_us > 0);
        let stored = self.store.watch().borrow().clone();
        self.turn_away();
        let Some(record) = stored.and_then(|stored| self.read(&stored)) else {
            return;
        };
        let ruling = Ruling::of(&record);
        if current_us > 0 {
            self.publish(ruling, self.facts.now_us().saturating_add(current_us));
            let why = match self.leader() {
                Some(leader) => format!("{leader} decides"),
                None => "no proxy decides at present".to_owned(),
            };
            self.stand(&record, why);
        } else {
            self.publish(ruling.blind(&record), u64::MAX);
            let why = "etcd does not answer: another primary may have been chosen since, and nothing is \
                       written";
            self.stand(&record, why.to_owned());
        }
    }

    /// Who decides, as far as is known: an address.
    fn leader(&self) -> Option<String> {
        match &*self.store.leader().borrow() {
            Leader::Me { .. } => Some(holder::address(&self.hands.holder)),
            Leader::Other { id, .. } => Some(holder::address(id)),
            Leader::Nobody | Leader::Unknown => None,
        }
    }

    /// Only the proxy that decides takes orders.
    fn turn_away(&mut self) {
        let Some(order) = self.operator.commands.pending() else {
            return;
        };
        let why = match self.leader() {
            Some(leader) => format!("the proxy at {leader} decides, not this one: order it there"),
            None => "no proxy decides at present: try again in a moment".to_owned(),
        };
        // It may have been taken up while this one decided.
        let begun = self.took == Some(order.id);
        let why = match begun {
            true => format!("begun, but {why}; /api/status there tells how it ended"),
            false => why,
        };
        self.operator
            .commands
            .finish(order.id, Outcome::Refused(why));
    }

    /// Reads the record before the first decision; false when that is not possible now.
    async fn load(&mut self) -> bool {
        let loaded = self.store.load().await;
        self.metrics.failover.state.coordination(loaded.is_ok());
        let loaded = match loaded {
            Ok(loaded) => loaded,
            Err(error) => {
                self.reporter
                    .fail("read the failover record", &error.to_string());
                return false;
            }
        };
        let (record, version) = match loaded {
            None => (Record::new(&self.policy), Version(0)),
            Some(stored) => match self.read(&stored) {
                Some(record) => (record, stored.version),
                None => return false,
            },
        };
        self.known = Some(Known {
            record,
            version,
            phase_since_us: self.facts.now_us(),
        });
        true
    }

    fn read(&mut self, stored: &Stored) -> Option<Record> {
        let read: Result<Record, _> = serde_json::from_value(stored.record.clone());
        let record = match read {
            Ok(record) => record,
            Err(error) => {
                self.reporter
                    .fail("read the failover record", &error.to_string());
                return None;
            }
        };
        if record.fits(&self.policy) {
            return Some(record);
        }
        match record.renumbered(&self.policy) {
            Ok(record) => Some(record),
            Err(node) => {
                let what = format!("node {node} is in it and not in the configuration");
                self.reporter.fail("use the failover record", &what);
                None
            }
        }
    }

    async fn lead(&mut self) {
        let Some(known) = &self.known else { return };
        let draining = matches!(known.record.phase, Phase::Draining { .. });
        self.facts.want_open(draining && self.store.is_shared());
        if let Some(answered) = known.record.answered_request {
            self.operator.commands.number_beyond(answered);
        }
        let observation = self.facts.freeze(self.frame(known));
        let plan = plan(&observation, &self.policy, &known.record);
        if plan.next != known.record && !self.save(plan.next.clone()).await {
            return;
        }
        if self.is_cut_off(&observation, &plan.next) {
            return self.make_way(&plan.next).await;
        }
        self.took = plan.next.request.map(|request| request.id).or(self.took);
        let Some((term, _)) = self.leads else { return };
        let left = self.store.claim().left().unwrap_or_default();
        let until_us = match self.store.is_shared() {
            true => self.facts.now_us().saturating_add(micros(left)),
            false => u64::MAX,
        };
        let observes = self.policy.mode == Mode::Observe;
        let able = promotable(&observation, &self.policy, &plan.next).len();
        let shown = &self.metrics.failover.state;
        shown.promotable((!observes).then_some(able));
        self.publish(Ruling::of(&plan.next), until_us);
        self.ruled_by.store(term, Ordering::Release);
        self.stand(&plan.next, plan.why.to_string());
        self.act(&plan.commands).await;
    }

    fn frame(&self, known: &Known) -> Frame {
        let now_us = self.facts.now_us();
        let loads = self.cluster.load.by_node();
        let topology = self.cluster.topology();
        let nodes = topology.nodes.iter();
        let stale = nodes.map(|node| match node.barred {
            true => loads[usize::from(node.id.0)],
            false => 0,
        });
        let left = self.store.claim().left();
        let left_us = left.map(micros);
        Frame {
            leadership: Leadership {
                since_us: self.leads.map_or(now_us, |(_, since_us)| since_us),
                until_us: left_us.map(|left_us| now_us.saturating_add(left_us)),
            },
            phase_since_us: known.phase_since_us,
            request: self.operator.commands.pending(),
            holding: self.published.is_some_and(|r| r.writer == Writer::Nobody),
            open_transactions: known.record.primary.map_or(0, |primary| {
                let own = loads[usize::from(primary.0)];
                own.max(self.open_elsewhere(primary, known.phase_since_us))
            }),
            stale_connections: stale.collect(),
            drained: topology.nodes.iter().map(|node| node.drained).collect(),
        }
    }

    /// What is open on the primary through any proxy, and began before all of them held their clients.
    /// While that is not known, it counts as one.
    fn open_elsewhere(&self, primary: NodeId, held_us: u64) -> u32 {
        if !self.store.is_shared() {
            return 0;
        }
        let heard_us = held_us.saturating_add(micros(HEARD));
        let open = self.facts.open_since_before(primary, heard_us);
        open.unwrap_or(1)
    }

    /// Stores a record before anything of it is done; false when it is not certain to be stored.
    async fn save(&mut self, record: Record) -> bool {
        let Some(known) = &mut self.known else {
            return false;
        };
        let value = match serde_json::to_value(&record) {
            Ok(value) => value,
            Err(error) => {
                self.reporter
                    .fail("store the failover record", &error.to_string());
                return false;
            }
        };
        match self.store.save(&value, known.version).await {
            Ok(version) => {
                let before = (known.record.epoch, known.record.phase.label());
                if before != (record.epoch, record.phase.label()) {
                    known.phase_since_us = self.facts.now_us();
                    tracing::info!(
                        phase = record.phase.label(),
                        epoch = record.epoch,
                        "failover phase"
                    );
                }
                known.record = record;
                known.version = version;
                true
            }
            Err(SaveError::Conflict { .. } | SaveError::NotLeader) => {
                self.known = None;
                false
            }
            Err(SaveError::Unavailable(error)) => {
                self.known = None;
                self.metrics.failover.state.coordination(false);
                self.reporter
                    .fail("store the failover record", &error.to_string());
                false
            }
        }
    }

    fn stand(&mut self, record: &Record, why: String) {
        let leader = self.leader();
        let answering = self.facts.answering(self.policy.timeout_us);
        self.reporter
            .stand(record, why, self.leads.is_some(), leader, answering);
    }

    fn publish(&mut self, ruling: Ruling, until_us: u64) {
        // The cluster withdraws a ruling by itself when its time has run out.
        if ruling.stands_on(&self.cluster.topology()) && self.published == Some(ruling) {
            return self.cluster.prolong(ruling.epoch, until_us);
        }
        self.published = Some(ruling);
        self.cluster
            .rule(ruling.epoch, ruling.writer, ruling.barred, until_us);
        self.metrics.failover.epoch.set(ruling.epoch as i64);
        match ruling.writer {
            Writer::Nobody => {
                self.held_since.get_or_insert_with(Instant::now);
            }
            _ => {
                if let Some(since) = self.held_since.take() {
                    let gap = since.elapsed();
                    self.last_stall = gap;
                    self.metrics.failover.write_gap.observe(gap.as_secs_f64());
                }
                if let Writer::Only(node, _) = ruling.writer {
                    // Clients go there once it has been measured in its new life.
                    let mut demanded = NodeSet::default();
                    demanded.insert(node);
                    self.cluster.demands.ask(demanded);
                }
                // Functions may be others, and what a standby refused it may accept now.
                self.cluster.catalogs.want();
            }
        }
    }

    /// Carries out commands in order, neighbours of one kind at the same time, up to the first that
    /// fails.
    async fn act(&mut self, commands: &[Command]) {
        let kind = |command: &Command| std::mem::discriminant(&command.act);
        for group in commands.chunk_by(|a, b| kind(a) == kind(b)) {
            if !self.store.claim().holds() {
                return;
            }
            let mut all = JoinSet::new();
            for command in group {
                if let Act::Report(event) = &command.act {
                    self.reporter.event(event, self.last_stall);
                    continue;
                }
                let (hands, command) = (Arc::clone(&self.hands), command.clone());
                if Errands::take(&command.act) {
                    let doing = command.act.describe(&self.policy);
                    self.errands.send(hands, command, doing);
                } else {
                    all.spawn(async move { (hands.carry_out(&command).await, command) });
                }
            }
            let mut failed = false;
            while let Some(ended) = all.join_next().await {
                if let Ok((Err(error), command)) = ended {
                    failed = true;
                    let doing = command.act.describe(&self.policy);
                    self.reporter.fail(&doing, &error.to_string());
                }
            }
            if failed {
                return;
            }
        }
    }
}

/// Lets the ruling stand for as long as the claim by which it was made, also while a command is being
/// carried out.
async fn prolong(claim: Claim, cluster: Arc<ClusterState>, ruled_by: Arc<AtomicU64>) {
    loop {
        tokio::time::sleep(TICK).await;
        // Looking at it is what withdraws a ruling whose time has run out.
        let epoch = cluster.topology().epoch;
        let (term, left) = (claim.term(), claim.left());
        if let (Some(term), Some(left)) = (term, left)
            && term == ruled_by.load(Ordering::Acquire)
        {
            cluster.prolong(epoch, cluster.now_us().saturating_add(micros(left)));
        }
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
