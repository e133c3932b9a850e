//! Everything at one moment, and what an action makes of it.

use std::borrow::Cow;
use std::hash::{Hash, Hasher};
use std::rc::Rc;

use super::action::Action;
use super::agents::members;
use super::mutants::{Mutant, blind, mutate};
use super::proxy::{Proxy, TICK_US, us};
use super::setup::{Kind, Setup};
use super::world::{Entry, Host, LEASE, NODES, Run, Server, World};
use crate::core::failover::command::Act;
use crate::core::failover::facts::View;
use crate::core::failover::plan::plan;
use crate::core::failover::quorum::{CommitRule, SyncState};
use crate::core::failover::record::{Phase, Record, Request, RequestKind};
use crate::core::lsn::Timeline;
use crate::core::topology::NodeId;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct State {
    pub(super) world: World,
    pub(super) record: Record,
    pub(super) proxies: Vec<Proxy>,
    pub(super) faults: u8,
    pub(super) request: Option<Request>,
    pub(super) told: Told,
}

/// What the latest plan said: for people, and no part of a state.
#[derive(Clone, Debug, Default)]
pub(super) struct Told {
    pub(super) why: String,
    acts: Vec<Act>,
}

impl PartialEq for Told {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Told {}

impl Hash for Told {
    fn hash<H: Hasher>(&self, _: &mut H) {}
}

impl State {
    /// A cluster that serves: the primary is known, and under quorum its rule is in force.
    pub(super) fn new(setup: &Setup) -> Self {
        let mut world = World::new(setup.policy.has_agent(NodeId(0)));
        let mut record = Record::new(&setup.policy);
        record.epoch = 1;
        record.system = Some(7);
        record.primary = Some(NodeId(0));
        record.timeline = Timeline(1);
        record.phase = Phase::Steady;
        let longest = setup.longer_lease.unwrap_or(LEASE);
        world.servers[0].lease_until = longest;
        let longest_us = u64::from(longest) * TICK_US;
        record.leases.insert(NodeId(0), longest_us);
        match setup.fresh {
            true => world.servers[0].governed = false,
            false => record.governed = [NodeId(0)].into(),
        }
        if setup.is_quorum() {
            let rule = Some(CommitRule {
                needed: 1,
                members: [NodeId(1), NodeId(2)].into(),
            });
            world.servers[0].rule.clone_from(&rule);
            record.sync = SyncState {
                rules: vec![rule],
                barrier: None,
            };
        }
        if setup.policy.failsafe {
            let needed = if setup.is_quorum() { 1 } else { 2 };
            let agent = &mut world.servers[0];
            (agent.agent_epoch, agent.failsafe.lease_epoch) = (1, 1);
            if let Some(older) = &setup.older_rule {
                record.failsafe.want(NodeId(0), older.len(), members(older));
                agent.failsafe.rule = record.failsafe.wanted(NodeId(0)).cloned();
            }
            record.failsafe.want(NodeId(0), needed, members(&[1, 2]));
            if setup.older_rule.is_none() {
                agent.failsafe.rule = record.failsafe.wanted(NodeId(0)).cloned();
            }
        }
        let leads = |index: usize| Proxy::new((index == 0).then_some(0));
        let mut proxies: Vec<Proxy> = (0..setup.proxies).map(leads).collect();
        if setup.older_rule.is_some() {
            // It was renewed just before.
            Rc::make_mut(&mut proxies[0].facts[0]).renewal_us = Some(us(0));
        }
        let mut state = Self {
            world,
            record,
            proxies,
            faults: 0,
            request: None,
            told: Told::default(),
        };
        for action in &setup.before {
            state.act(setup, *action);
        }
        state
    }

    pub(super) fn actions(&self, setup: &Setup) -> Vec<Action> {
        let mut actions = Vec::new();
        let world = &self.world;
        for (index, proxy) in self.proxies.iter().enumerate() {
            if !proxy.queue.is_empty() {
                actions.push(Action::Run(index));
            } else if proxy.leads_since.is_some() {
                actions.push(Action::Think(index));
            }
            if proxy.late.is_some() {
                actions.push(Action::Late(index));
            }
        }
        for node in 0..NODES {
            if world.lives(node) && world.servers[node].primary && world.written < setup.writes {
                actions.push(Action::Write(node));
            }
            if world.streams(node) && !(node == 2 && self.twins()) {
                actions.push(Action::Stream(node));
            }
            if world.is_busy(node) {
                actions.push(Action::Complete(node));
            }
            if world.may_ask(node) {
                actions.extend([Action::Ask(node), Action::Confer(node)]);
            }
            let server = &world.servers[node];
            if server.obstructed && world.lives(node) {
                actions.push(Action::Unblock(node));
            }
            if server.failsafe.agent_down {
                actions.push(Action::StartAgent(node));
            }
            if server.run == Run::Frozen || server.host != Host::Up {
                actions.push(Action::Thaw(node));
            }
        }
        let arrives = (0..world.questions.len()).filter(|index| world.arrives(*index));
        actions.extend(arrives.map(Action::Deliver));
        if world.cut_proxy.contains(&true) || world.cut_peers.contains(&true) {
            actions.push(Action::Mend);
        }
        if world.now < setup.ticks {
            actions.push(Action::Tick);
        }
        if setup.switchover && self.request.is_none() {
            actions.push(Action::AskSwitchover);
        }
        if setup.failover && self.request.is_none() {
            actions.push(Action::AskFailover);
        }
        if self.faults < setup.faults {
            self.mishaps(setup, &mut actions);
        }
        actions
    }

    fn mishaps(&self, setup: &Setup, actions: &mut Vec<Action>) {
        for node in 0..NODES {
            if node == 2 && self.twins() {
                continue;
            }
            let lives = self.world.lives(node) || self.world.is_busy(node);
            let server = &self.world.servers[node];
            for kind in &setup.kinds {
                match kind {
                    Kind::Crash if lives => {
                        actions.extend([Action::Kill(node), Action::CrashHost(node)]);
                    }
                    Kind::Restart if lives && !server.primary => {
                        actions.push(Action::Restart(node));
                    }
                    Kind::Obstruct if lives && !server.primary && !server.obstructed => {
                        actions.push(Action::Obstruct(node));
                    }
                    Kind::Freeze if lives => {
                        actions.extend([Action::Freeze(node), Action::FreezeHost(node)]);
                    }
                    Kind::Cut => self.cuts(node, actions),
                    Kind::Agent if self.world.servers[node].host == Host::Up => {
                        actions.push(Action::RestartAgent(node));
                        // One that is killed beside a primary fences nobody: only the quorum covers that.
                        if !self.world.servers[node].primary {
                            actions.push(Action::KillAgent(node));
                        }
                    }
                    _ => {}
                }
            }
        }
        if setup.kinds.contains(&Kind::Proxy) {
            actions.push(Action::RestartProxy);
            let followers = self.proxies.iter().enumerate();
            let followers = followers.filter(|(_, proxy)| proxy.leads_since.is_none());
            actions.extend(followers.map(|(index, _)| Action::Elect(index)));
        }
    }

    /// The standbys differ in nothing: what happens to one need not be tried with the other.
    fn twins(&self) -> bool {
        let cuts = [self.world.cut_proxy, self.world.cut_peers];
        let alike = cuts.iter().all(|cut| cut[1] == cut[2]);
        self.record.phase == Phase::Steady
            && alike
            && self.world.questions.is_empty()
            && self.world.servers[1] == self.world.servers[2]
            && self.proxies.iter().all(|proxy| proxy.queue.is_empty())
    }

    fn cuts(&self, node: usize, actions: &mut Vec<Action>) {
        if !self.world.cut_proxy[node] {
            actions.extend([Action::CutFromProxies(node), Action::Isolate(node)]);
        }
        if !self.world.cut_peers[node] {
            actions.push(Action::CutPeers(node));
        }
    }

    pub(super) fn act(&mut self, setup: &Setup, action: Action) {
        let world = &mut self.world;
        let servers = &mut world.servers;

        match action {
            Action::Kill(node) => {
                servers[node].checkpoint = None;
                world.end(node);
            }
            Action::Obstruct(node) => servers[node].obstructed = true,
            Action::Restart(node) => {
                servers[node].receiver = None;
                servers[node].ordered = None;
                servers[node].replaying = true;
            }
            Action::Freeze(node) => servers[node].run = Run::Frozen,
            Action::FreezeHost(node) => servers[node].host = Host::Frozen,
            Action::CrashHost(node) => {
                servers[node].host = Host::Down;
                servers[node].checkpoint = None;
                world.end(node);
            }
            Action::CutFromProxies(node) => world.cut_proxy[node] = true,
            Action::Isolate(node) => {
                world.cut_proxy[node] = true;
                (0..NODES).filter(|other| *other != node).for_each(|pair| {
                    world.cut_peers[pair] = true;
                });
            }
            Action::CutPeers(pair) => world.cut_peers[pair] = true,
            Action::RestartAgent(node) => world.restart_agent(setup.mutant, node),
            Action::KillAgent(node) => world.servers[node].failsafe.agent_down = true,
            Action::RestartProxy => {
                let now = world.now;
                for proxy in &mut self.proxies {
                    if proxy.leads_since.is_some() {
                        *proxy = Proxy::new(Some(now));
                    }
                }
            }
            Action::Elect(to) => self.elect(to),
            _ => self.proceed(setup, action),
        }
        self.faults += u8::from(action.is_mishap());
        self.world.enforce(setup.mutant);
        self.world.notice();
        if setup.policy.failsafe {
            self.world.notice_strays();
        }
        for node in 0..NODES {
            if let Some(entry) = self.world.acknowledgeable(node) {
                self.world.acknowledge(node, entry);
            }
        }
        // Observation goes on all the time; what is planned on may be out of date all the same,
        // because plans are carried out command by command.
        for proxy in &mut self.proxies {
            proxy.look(&self.world);
        }
    }

    fn elect(&mut self, to: usize) {
        let now = self.world.now;
        for proxy in &mut self.proxies {
            if proxy.leads_since.take().is_some() {
                proxy.late = proxy.queue.pop_front();
                proxy.queue.clear();
            }
        }
        let late = self.proxies[to].late.take();
        self.proxies[to] = Proxy::new(Some(now));
        self.proxies[to].late = late;
    }

    fn proceed(&mut self, setup: &Setup, action: Action) {
        match action {
            Action::Tick => self.world.now += 1,
            Action::Think(index) => self.think(setup, index),
            Action::Run(index) => {
                let before = self.world.reigns;
                self.proxies[index].run_one(&mut self.world, setup.mutant);
                self.check(setup, before);
            }
            Action::Late(index) => {
                let before = self.world.reigns;
                self.proxies[index].run_late(&mut self.world, setup.mutant);
                self.check(setup, before);
            }
            Action::Write(node) => self.world.write(node),
            Action::Ask(node) => self.world.ask(node),
            Action::StartAgent(node) => {
                self.world.servers[node].failsafe.agent_down = false;
                self.world.restart_agent(setup.mutant, node);
            }
            Action::Confer(node) => self.world.confer(setup.mutant, node),
            Action::Deliver(index) => self.world.deliver(setup.mutant, index),
            Action::Complete(node) => self.world.complete(node),
            Action::Unblock(node) => {
                self.world.unblock(node);
                self.check(setup, u8::MAX);
            }
            // As far as it gets, and acknowledged as soon as it may be.
            Action::Stream(node) => while self.world.stream(node) {},
            Action::Thaw(node) => {
                let server = &mut self.world.servers[node];
                server.host = Host::Up;
                if server.run == Run::Frozen {
                    server.run = Run::Up;
                }
            }
            Action::Mend => {
                self.world.cut_proxy = [false; NODES];
                self.world.cut_peers = [false; NODES];
            }
            Action::AskSwitchover => {
                self.request = Some(Request {
                    id: 1,
                    to: None,
                    kind: RequestKind::Switchover,
                });
            }
            Action::AskFailover => {
                self.request = Some(Request {
                    id: 1,
                    to: Some(NodeId(2)),
                    kind: RequestKind::Failover,
                });
            }
            _ => {}
        }
    }

    fn think(&mut self, setup: &Setup, index: usize) {
        let several = self.proxies.len() > 1;
        let proxy = &mut self.proxies[index];
        let mut observation = proxy.observation(&self.world, &self.record, self.request);
        let mut policy = Cow::Borrowed(&setup.policy);
        if setup.mutant == Mutant::CountsLeasesShort {
            policy.to_mut().lease_us /= 2;
        }
        let mut before = self.record.clone();
        blind(setup.mutant, &mut observation, &mut before);
        let mut planned = plan(View {
            observation: &observation,
            policy: &policy,
            record: &before,
        });
        mutate(setup.mutant, &before, &mut planned, &observation, &policy);
        self.record = planned.next;
        let commands = planned.commands.iter();
        self.told = Told {
            why: planned.why,
            acts: commands.map(|command| command.act.clone()).collect(),
        };
        proxy.take(planned.commands, several, &mut self.world, setup.mutant);
        // What this process has just stored, it has seen.
        proxy.see(&self.world, &self.record);
    }

    /// After a promotion, or a way back: is everything that was acknowledged still there?
    fn check(&mut self, setup: &Setup, before: u8) {
        // What an operator accepts is no matter here.
        if self.world.reigns == before || self.record.accepts_loss() {
            return;
        }
        let newest = self.world.servers.iter().filter(|server| server.primary);
        let Some(newest) = newest.max_by_key(|server| server.reign).cloned() else {
            return;
        };
        let lost = |entry: &&Entry| !newest.wal.contains(entry);
        let lost: Vec<Entry> = self.world.acked.iter().filter(lost).copied().collect();
        // Asynchronously only what the failed one was known to have written is bounded: by 0 here.
        let (Phase::Promoting(failed, _, _) | Phase::Restoring(failed)) = &self.record.phase else {
            return;
        };
        let old_wal = &self.world.servers[usize::from(failed.node.0)].wal;
        let counted = lost.iter().filter(|entry| {
            let place = old_wal.iter().position(|held| held == *entry);
            setup.is_quorum() || place.is_some_and(|place| (place as u64) < failed.written.0)
        });
        let counted: Vec<_> = counted.copied().collect();
        if !counted.is_empty() {
            self.world.broken = Some(format!("a promotion has lost {counted:?}"));
        }
    }

    /// Everything is mended: within bounds a write must be acknowledged again.
    pub(super) fn heals(&self, setup: &Setup) -> Result<(), String> {
        let mut state = self.clone();
        state.world.cut_proxy = [false; NODES];
        state.world.cut_peers = [false; NODES];
        for node in 0..NODES {
            state.act(setup, Action::Thaw(node));
            state.act(setup, Action::StartAgent(node));
            // Somebody starts standbys that were down; without agents also primaries, as they were.
            let server = &mut state.world.servers[node];
            let started = !server.primary || !setup.policy.has_agent(NodeId(0));
            if server.run == Run::Down && started {
                server.run = Run::Up;
            }
        }
        // Who cannot lead stays so, where another can that holds as much, or that was stopped for a switchover.
        let goes_back = state.record.intact.is_some();
        for node in (0..NODES).filter(|_| !goes_back) {
            let servers = &state.world.servers;
            let server = &servers[node];
            let holds = |other: &Server| {
                !other.primary
                    && !other.obstructed
                    && other.timeline == server.timeline
                    && other.wal.starts_with(&server.wal)
            };
            if server.obstructed && !servers.iter().any(holds) {
                state.act(setup, Action::Unblock(node));
            }
        }
        // Old primaries that nobody can rejoin: no quorum lives.
        let standbys = |state: &Self| state.world.servers.iter().any(|server| !server.primary);
        for _ in 0..40 {
            if !self.world.agents && !standbys(&state) {
                return Ok(());
            }
            for _ in 0..3 {
                for index in 0..state.proxies.len() {
                    state.pump(setup, index);
                }
                for node in (0..NODES)
                    .filter(|node| state.world.is_busy(*node))
                    .collect::<Vec<_>>()
                {
                    state.act(setup, Action::Complete(node));
                }
                for node in 0..NODES {
                    while state.world.streams(node) {
                        state.act(setup, Action::Stream(node));
                    }
                }
            }
            if state.serves() {
                return Ok(());
            }
            if let Some(why) = &state.world.broken {
                return Err(format!("healing broke it: {why}"));
            }
            state.act(setup, Action::Tick);
        }
        Err(format!(
            "does not serve again: {}\n{:?}\n{:?}",
            state.told.why, state.record, state.world
        ))
    }

    fn pump(&mut self, setup: &Setup, index: usize) {
        if self.proxies[index].late.is_some() {
            self.act(setup, Action::Late(index));
        }
        if self.proxies[index].leads_since.is_some() {
            while !self.proxies[index].queue.is_empty() {
                self.act(setup, Action::Run(index));
            }
            self.act(setup, Action::Think(index));
        }
    }

    /// The recorded primary leads, and a write there is acknowledged.
    fn serves(&self) -> bool {
        let Some(primary) = self.record.serving().map(|node| usize::from(node.0)) else {
            return false;
        };
        let mut world = self.world.clone();
        if !world.lives(primary) || !world.servers[primary].primary {
            return false;
        }
        world.write(primary);
        (0..NODES).for_each(|node| while world.stream(node) {});
        let entry = Entry::Write(world.written - 1);
        let everybody =
            (0..NODES).all(|node| node == primary || world.servers[node].wal.contains(&entry));
        let acked = world.acked.contains(&entry) || world.acknowledgeable(primary) == Some(entry);
        let complete = everybody && self.record.quarantine.is_empty();
        acked && (complete || !world.agents)
    }

    /// What the latest plan wants done.
    pub(super) fn commands(&self, setup: &Setup) -> Vec<String> {
        let acts = self.told.acts.iter();
        acts.map(|act| act.describe(&setup.policy)).collect()
    }

    /// What to say of an action in a trace, with a line break at its end.
    pub(super) fn tell(&self, setup: &Setup, action: Action) -> String {
        let Action::Think(_) = action else {
            return format!("{action:?}\n");
        };
        let (epoch, phase) = (self.record.epoch, self.record.phase.label());
        let mut text = format!("{action:?} -> epoch {epoch}, {phase}: {}\n", self.told.why);
        for command in self.commands(setup) {
            text += &format!("    {command}\n");
        }
        text
    }
}
