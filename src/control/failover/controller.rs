//! The loop: freeze the facts, plan, store, publish, act; again.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::agent_poller::AgentPoller;
use super::command_runner::CommandRunner;
use super::control_sessions::ControlSessions;
use super::early_poller::{EarlyPoller, Whose};
use super::event_log::{EventLog, Report};
use super::executor::Executor;
use super::facts::{ControllerFacts, Facts};
use super::hosts::Hosts;
use super::identity;
use super::orders::Orders;
use super::panics::propagate;
use super::policy;
use super::publisher::Publisher;
use super::record_keeper::{KnownRecord, RecordKeeper};
use super::server_poller::ServerPoller;
use super::shared::Shared;
use super::slot_keeper::SlotKeeper;
use super::write_permission;
use crate::agent::client::AgentClient;
use crate::config::Failover;
use crate::control::store::{Leader, OpenError, Store, Version};
use crate::core::failover::candidate::promotable;
use crate::core::failover::consent::{Consent, consent};
use crate::core::failover::facts::observation::{Leadership, ServerAnswer};
use crate::core::failover::facts::primary_health::{Health, judge};
use crate::core::failover::policy::Mode;
use crate::core::failover::{FailoverPolicy, Phase, Plan, Record, View, plan, renewal};
use crate::core::leader_lease::micros;
use crate::core::topology::{NodeId, Writer};

/// The facts are looked at as often as this, and at once when one of weight changes.
const TICK: Duration = Duration::from_millis(50);
/// Every other proxy holds its clients so long after it was decided, as a rule; it says so when it does.
const HEARD: Duration = Duration::from_millis(100);

/// The controller of one cluster.
pub struct Controller {
    shared: Shared,
    policy: Arc<FailoverPolicy>,
    facts: Arc<Facts>,
    keeper: RecordKeeper,
    publisher: Publisher,
    orders: Orders,
    runner: CommandRunner,
    slots: SlotKeeper,
    log: EventLog,
    /// The term under which this proxy leads.
    term: Option<Term>,
    /// The term under which the epoch was raised.
    in_office: Option<u64>,
}

struct Term {
    number: u64,
    since_us: u64,
}

impl Controller {
    /// Opens the store and prepares everything; nothing is watched before `run`.
    pub async fn open(
        shared: Shared,
        failover: &Failover,
        agents: Vec<Option<Arc<AgentClient>>>,
    ) -> Result<Self, OpenError> {
        let config = shared.live.current();
        let name = identity::name(config.listen);
        let store = Store::open(&failover.coordination, &failover.cluster, &name).await?;
        let policy = Arc::new(policy::policy(&config, failover));
        let cluster = Arc::clone(&shared.cluster);
        let nodes = config.nodes.len();
        let facts = Arc::new(Facts::new(cluster, nodes));
        let address = identity::address(&name);
        let log = EventLog::new(shared.clone(), Arc::clone(&policy), failover, address);
        let executor = Executor {
            config,
            failover: failover.clone(),
            policy: Arc::clone(&policy),
            facts: Arc::clone(&facts),
            agents,
            operator: Arc::clone(&shared.operator),
            sessions: Arc::new(ControlSessions::new(nodes)),
            conninfos: Arc::default(),
            name,
        };
        let (cluster, metrics) = (Arc::clone(&shared.cluster), Arc::clone(&shared.metrics));
        Ok(Self {
            keeper: RecordKeeper::new(store, Arc::clone(&facts), Arc::clone(&metrics)),
            publisher: Publisher::new(cluster, metrics),
            orders: Orders::new(Arc::clone(&shared.operator)),
            runner: CommandRunner::new(executor),
            slots: SlotKeeper::default(),
            shared,
            policy,
            facts,
            log,
            term: None,
            in_office: None,
        })
    }

    /// Controls until `shutdown`.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let mut tasks = JoinSet::new();
        self.start_pollers(&mut tasks);
        let store = self.keeper.store();
        tasks.spawn(self.publisher.keep_up(store.claim().clone()));
        let mut record = store.watch();
        loop {
            tokio::select! {
                () = tokio::time::sleep(TICK) => {}
                // Its sender lives as long as the store.
                _ = record.changed() => {}
                () = self.facts.changed() => {}
                () = self.orders.ordered() => {}
                Some(Err(error)) = tasks.join_next() => propagate(error),
                () = shutdown.cancelled() => break,
            }
            self.runner.tell_failures(&mut self.log);
            // A command under way at a shutdown is left; whoever comes next repeats it.
            tokio::select! {
                () = self.turn() => {}
                () = shutdown.cancelled() => break,
            }
        }
        self.hand_back().await;
        self.keeper.store().resign().await;
    }

    /// Leaves: no agent is to stop its server because nobody is there to renew a lease. With several proxies
    /// another one goes on, and in the middle of a change of primary it is for whoever comes next to say who
    /// may run.
    async fn hand_back(&mut self) {
        let claim = self.keeper.store().claim();
        if self.term.is_none() || !claim.holds() || self.keeper.store().is_shared() {
            return;
        }
        let Some(known) = self.keeper.known() else {
            return;
        };
        let mut record = known.record.clone();
        if !matches!(
            record.phase,
            Phase::Steady | Phase::Following | Phase::Checkpointing { .. } | Phase::Draining { .. }
        ) {
            return;
        }
        let in_service = |node: &NodeId| !record.quarantine.contains_key(node);
        let nodes: Vec<NodeId> = record.governed.iter().copied().filter(in_service).collect();
        // Renewals that are still on their way are of an older epoch. Stored before it is done: from then
        // on nobody reckons that a lease runs out.
        record.epoch += 1;
        record.governed.retain(|node| !nodes.contains(node));
        let epoch = record.epoch;
        if nodes.is_empty() || !self.keeper.save(record, &mut self.log).await {
            return;
        }
        let mut released = JoinSet::new();
        for node in nodes {
            let (executor, name) = (Arc::clone(&self.runner.executor), self.policy.name(node));
            released.spawn(async move { (executor.release(node, epoch).await, name) });
        }
        while let Some(ended) = released.join_next().await {
            match ended {
                Ok((Ok(()), node)) => tracing::info!(node, "its server needs no lease any more"),
                Ok((Err(error), node)) => {
                    tracing::error!(node, %error, "its agent stops the server when its lease runs out");
                }
                Err(_) => {}
            }
        }
    }

    fn start_pollers(&self, tasks: &mut JoinSet<()>) {
        let executor = &self.runner.executor;
        let hosts = Arc::new(Hosts::default());
        for id in self.policy.ids() {
            let whose = Arc::<Whose>::default();
            let server = ServerPoller {
                id,
                nodes: executor.config.nodes.clone(),
                live: Arc::clone(&self.shared.live),
                policy: Arc::clone(&self.policy),
                facts: Arc::clone(&self.facts),
                operator: Arc::clone(&self.shared.operator),
                hosts: Arc::clone(&hosts),
                whose: Arc::clone(&whose),
            };
            tasks.spawn(server.run());
            let node = &executor.config.nodes[usize::from(id.0)];
            let (sessions, live) = (
                Arc::clone(&executor.sessions),
                Arc::clone(&self.shared.live),
            );
            tasks.spawn(sessions.keep(id, node.clone(), live));
            let early = EarlyPoller {
                id,
                node: node.clone(),
                live: Arc::clone(&self.shared.live),
                policy: Arc::clone(&self.policy),
                facts: Arc::clone(&self.facts),
                whose,
            };
            tasks.spawn(early.run());
            if let Some(Some(agent)) = executor.agents.get(usize::from(id.0)) {
                let agent = AgentPoller {
                    id,
                    agent: Arc::clone(agent),
                    facts: Arc::clone(&self.facts),
                    node: self.policy.name(id),
                    names: self
                        .policy
                        .nodes
                        .iter()
                        .map(|node| node.name.clone())
                        .collect(),
                    operator: Arc::clone(&self.shared.operator),
                };
                tasks.spawn(agent.run());
            }
        }
    }

    async fn turn(&mut self) {
        self.take_over_reload();
        let claim = self.keeper.store().claim().clone();
        let term = claim.term().filter(|_| claim.holds());
        let Some(number) = term else {
            self.term = None;
            return self.follow();
        };
        if self.term.as_ref().is_none_or(|term| term.number != number) {
            let since_us = self.facts.now_us();
            self.term = Some(Term { number, since_us });
            // Whoever led before may have changed it.
            self.keeper.forget();
            self.runner.forget_leases();
        }
        // Where it cannot be read at present, what was last stored stands.
        let known = self.keeper.ensure_known(&self.policy, &mut self.log);
        if !self.runner.meanwhile(&claim, known).await {
            return;
        }
        if self.in_office != Some(number) {
            // What another proxy, or this one before a restart, has under way is refused by the agents
            // from now on, and they grant one holder a lease in each epoch.
            if !self.keeper.raise_epoch(&mut self.log).await {
                return;
            }
            self.in_office = Some(number);
        }
        self.lead().await;
    }

    /// Goes by what a reload has changed. A plan follows from facts and record alone, so that this is
    /// what a restart would bring.
    fn take_over_reload(&mut self) {
        let config = self.shared.live.current();
        let Some(failover) = config.failover.as_ref() else {
            return;
        };
        let before = &self.runner.executor;
        if Arc::ptr_eq(&config, &before.config) {
            return;
        }
        self.policy = Arc::new(policy::policy(&config, failover));
        self.log.reload(Arc::clone(&self.policy), failover);
        self.runner.executor = Arc::new(Executor {
            config: Arc::clone(&config),
            failover: failover.clone(),
            policy: Arc::clone(&self.policy),
            facts: Arc::clone(&self.facts),
            agents: before.agents.clone(),
            operator: Arc::clone(&before.operator),
            sessions: Arc::clone(&before.sessions),
            conninfos: Arc::clone(&before.conninfos),
            name: before.name.clone(),
        });
    }

    /// This proxy decides.
    async fn lead(&mut self) {
        let Some(known) = self.keeper.known() else {
            return;
        };
        let draining = matches!(known.record.phase, Phase::Draining { .. });
        let is_shared = self.keeper.store().is_shared();
        self.facts.want_open(draining && is_shared);
        let observation = self.facts.freeze(self.own_facts(known));
        let plan = plan(View {
            observation: &observation,
            policy: &self.policy,
            record: &known.record,
        });
        let renewal = renewal(View {
            observation: &observation,
            policy: &self.policy,
            record: &known.record,
        });
        // Nothing more is done for a primary that is to be replaced.
        let goes_on = plan.next.leading() == known.record.leading();
        self.runner
            .justified(&known.record, renewal.filter(|_| goes_on));
        if plan.next != known.record && !self.store(&plan).await {
            return;
        }
        let view = View {
            observation: &observation,
            policy: &self.policy,
            record: &plan.next,
        };
        if is_shared && is_cut_off(view) {
            return self.make_way(&plan.next).await;
        }
        if let Some(system) = plan.next.system {
            for agent in self.runner.executor.agents.iter().flatten() {
                agent.expect(system);
            }
        }
        self.orders.taken_up_by(&plan.next);
        let Some(term) = &self.term else { return };
        let claim = self.keeper.store().claim().clone();
        // The time first: what is left of the claim only shrinks.
        let now_us = self.facts.now_us();
        let left = claim.left().unwrap_or_default();
        let until_us = match is_shared {
            true => now_us.saturating_add(micros(left)),
            false => u64::MAX,
        };
        let observes = self.policy.mode == Mode::Observe;
        let able = promotable(view).len();
        let shown = &self.shared.metrics.failover.state;
        shown.promotable((!observes).then_some(able));
        self.publisher
            .goes_on_until(self.under_way_until_us(&plan.next));
        self.publisher
            .publish(write_permission::by(&plan.next), until_us);
        self.publisher.bind_to(term.number);
        let leader = self.leader();
        let failsafe = describe_failsafe(view);
        self.show(&plan.next, plan.why, leader, failsafe);
        let stall = self.publisher.last_stall();
        self.runner
            .run(&plan.commands, &claim, &mut self.log, stall)
            .await;
        self.log.tell_who_leads(&plan.next);
        if !observes && claim.holds() {
            let view = View {
                observation: &observation,
                policy: &self.policy,
                record: &plan.next,
            };
            self.slots.turn(&self.runner.executor, view);
        }
    }

    /// Stores what is planned; false when it is not certain to be stored. The lease that the record before
    /// justifies is renewed all the same, however long that takes and however it ends.
    async fn store(&mut self, plan: &Plan) -> bool {
        let claim = self.keeper.store().claim().clone();
        let saved = self.keeper.save(plan.next.clone(), &mut self.log);
        let saved = self.runner.meanwhile(&claim, saved).await;
        if self.keeper.was_overtaken() {
            self.runner.forget_leases();
        }
        saved
    }

    /// A proxy that cannot reach a primary which others can makes way for one that may: nobody else
    /// would renew the primary's lease.
    async fn make_way(&mut self, record: &Record) {
        tracing::warn!(
            "the primary is alive and cannot be reached from here: another proxy is to decide"
        );
        // Before another can take over.
        self.publisher.unbind();
        self.publisher
            .publish(write_permission::blind(record, false), u64::MAX);
        let pause = Duration::from_micros(self.policy.lease_us.saturating_mul(2));
        self.keeper.store().step_down(pause).await;
        self.keeper.forget();
        self.term = None;
    }

    /// Another proxy decides: what it has stored is published.
    fn follow(&mut self) {
        self.publisher.unbind();
        self.facts.want_open(false);
        // Asked before the record is looked at, so that it is not older than this says.
        let current_for = self.keeper.store().current_for();
        let is_current = micros(current_for) > 0;
        self.shared.metrics.failover.state.coordination(is_current);
        let record = self.keeper.watched(&self.policy, &mut self.log);
        let leader = self.leader();
        self.orders.turn_away(leader.as_deref());
        let Some((record, version)) = record else {
            return;
        };
        let why = if is_current {
            let until_us = self.facts.now_us().saturating_add(micros(current_for));
            self.publisher
                .goes_on_until(self.under_way_until_us(&record));
            self.publisher
                .publish(write_permission::by(&record), until_us);
            self.say(&record, version);
            match &leader {
                Some(leader) => format!("{leader} decides"),
                None => "no proxy decides at present".to_owned(),
            }
        } else {
            let until_us = self.under_way_until_us(&record);
            let goes_on = until_us > self.facts.now_us();
            self.publisher.goes_on_until(until_us);
            let ruling = write_permission::blind(&record, goes_on);
            let until_us = if goes_on { until_us } else { u64::MAX };
            self.publisher.publish(ruling, until_us);
            "etcd does not answer: another primary may have been chosen since, and nothing is begun"
                .to_owned()
        };
        let primary = record.primary;
        let rule = primary.and_then(|primary| record.failsafe.wanted(primary));
        let failsafe = rule.filter(|rule| !rule.members.is_empty());
        let failsafe = failsafe.map_or_else(
            || "not available".to_owned(),
            |rule| rule.describe(&self.policy),
        );
        self.show(&record, why, leader, failsafe);
    }

    /// Until when nobody leads in the recorded primary's place, whoever decides: its agent has said so. Where
    /// something else promotes, nobody can say.
    fn under_way_until_us(&self, record: &Record) -> u64 {
        let governed = self.policy.mode != Mode::Observe;
        let primary = record.primary.filter(|_| governed);
        primary.map_or(0, |primary| self.facts.leads_until_us(primary))
    }

    /// Tells whoever decides whether clients are held here by this record with nothing under way: counted after
    /// it was published that new work is held.
    fn say(&self, record: &Record, version: Version) {
        let holds = self.shared.cluster.topology().writer == Writer::Nobody;
        let loads = self.shared.cluster.load.by_node();
        let primary = record.primary;
        let open = primary.map_or(0, |primary| loads[usize::from(primary.0)]);
        self.keeper.store().say(version, holds && open == 0);
    }

    /// What the planner needs and only the controller knows.
    fn own_facts(&self, known: &KnownRecord) -> ControllerFacts {
        let now_us = self.facts.now_us();
        let loads = self.shared.cluster.load.by_node();
        let topology = self.shared.cluster.topology();
        let nodes = topology.nodes.iter();
        let stale = nodes.map(|node| match node.barred {
            true => loads[usize::from(node.id.0)],
            false => 0,
        });
        let term = self.term.as_ref();
        let left = self.keeper.store().claim().left();
        ControllerFacts {
            leadership: Leadership {
                since_us: term.map_or(now_us, |term| term.since_us),
                until_us: left.map(|left| now_us.saturating_add(micros(left))),
            },
            phase_since_us: known.phase_since_us,
            ruled_epoch: topology.epoch,
            request: self.orders.request(&known.record),
            holding: self.publisher.is_holding(),
            open_transactions: known.record.primary.map_or(0, |primary| {
                let own = loads[usize::from(primary.0)];
                own.max(self.open_elsewhere(primary, known))
            }),
            stale_connections: stale.collect(),
            drained: topology.nodes.iter().map(|node| node.drained).collect(),
        }
    }

    /// What is open on the primary through any proxy, and began before all of them held their clients.
    /// While that is not known, it counts as one, and so does each proxy that has not said that nothing is.
    fn open_elsewhere(&self, primary: NodeId, known: &KnownRecord) -> u32 {
        let store = self.keeper.store();
        if !store.is_shared() {
            return 0;
        }
        let held_us = known.phase_since_us;
        let heard_us = held_us.saturating_add(micros(HEARD));
        let open = self.facts.open_since_before(primary, heard_us);
        // One that has not heard of the record after so long begins nothing by what it knew.
        let passed_us = self.facts.now_us().saturating_sub(held_us);
        let unaware_count = passed_us < self.policy.routing_lease_us;
        let behind = store.behind(known.phase_version, unaware_count);
        let behind = u32::try_from(behind).unwrap_or(u32::MAX);
        open.unwrap_or(1).max(behind)
    }

    /// Who decides, as far as is known: an address.
    fn leader(&self) -> Option<String> {
        match &*self.keeper.store().leader().borrow() {
            Leader::Me { .. } => Some(identity::address(&self.runner.executor.name)),
            Leader::Other { id, .. } => Some(identity::address(id)),
            Leader::Nobody | Leader::Unknown => None,
        }
    }

    fn show(&mut self, record: &Record, why: String, leader: Option<String>, failsafe: String) {
        self.log.show(Report {
            record,
            why,
            leads: self.term.is_some(),
            leader,
            failsafe,
            agents: self.facts.answering(self.policy.timeout_us),
            unjoined: self.facts.unjoined(),
            early: record.primary.is_some_and(|primary| {
                let answer = self.facts.last_answer(primary);
                let facts = answer.as_ref().and_then(ServerAnswer::primary);
                facts.is_some_and(|facts| !facts.early.whose.is_empty())
            }),
        });
    }
}

/// By whose promises the primary's lease goes on without a proxy, or why it does not.
fn describe_failsafe(view: View<'_, '_>) -> String {
    let Some(primary) = view.record.primary else {
        return "not available: no primary is known".to_owned();
    };
    match consent(view, primary) {
        Ok(Consent { needed, members }) => {
            let names = view.policy.names(members.iter().copied());
            match needed == members.len() {
                true => names,
                false => format!("any {needed} of {names}"),
            }
        }
        Err(why) => format!("not available: {why}"),
    }
}

/// The primary is alive for others and not for this proxy.
fn is_cut_off(view: View<'_, '_>) -> bool {
    let serving = matches!(
        view.record.phase,
        Phase::Steady | Phase::Following | Phase::Checkpointing { .. }
    );
    let Some(primary) = view.record.primary.filter(|_| serving) else {
        return false;
    };
    matches!(judge(view, primary), Health::CutOff { .. })
}
