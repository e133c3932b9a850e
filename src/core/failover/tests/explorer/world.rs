//! A cluster in the small: servers with WAL, agents with leases, a network that can be cut.
//!
//! WAL is a list of entries, each written once; a position is a length. Time is in ticks, and every
//! tick is one `timeout`. What PostgreSQL does not check (that two histories of one timeline number
//! are the same) is not checked here either, but noticed.

use std::collections::BTreeSet;

use super::agents::{Failsafe, Question};
use super::mutants::Mutant;
use crate::core::failover::command::{Act, Command, Stop};
use crate::core::failover::quorum::CommitRule;
use crate::core::lsn::{Lsn, Timeline};
use crate::core::topology::NodeId;

pub(super) const NODES: usize = 3;
/// Ticks that a lease lasts.
pub(super) const LEASE: u8 = 2;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Run {
    Up,
    /// SIGSTOP of the server; its agent lives.
    Frozen,
    /// A clean stop that has begun: no client is served, standbys still receive.
    Stopping,
    /// A start that has begun: it recovers from a crash.
    Starting,
    /// Its agent, which was away as the lease ran out, lets it stand still until it knows more.
    Held,
    Down,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Host {
    Up,
    /// Server and agent stand still together.
    Frozen,
    Down,
}

/// An entry of WAL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Entry {
    Write(u8),
    /// The beginning of a timeline, by which node and as which promotion.
    Begin(u8, u8),
    Shutdown(u8),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Server {
    pub(super) run: Run,
    pub(super) host: Host,
    pub(super) primary: bool,
    pub(super) timeline: u32,
    pub(super) history: Vec<(u32, usize)>,
    pub(super) wal: Vec<Entry>,
    pub(super) upstream: Option<usize>,
    pub(super) receiver: Option<usize>,
    pub(super) heard: u8,
    pub(super) rule: Option<CommitRule>,
    /// The tick at which the agent stops a primary.
    pub(super) lease_until: u8,
    /// And whether it does.
    pub(super) governed: bool,
    /// The agent does nothing at present.
    pub(super) away: bool,
    /// The tick at which a server that is held began to stand still.
    pub(super) held_since: u8,
    pub(super) agent_epoch: u64,
    pub(super) control_epoch: u64,
    pub(super) checkpoint: Option<usize>,
    /// Which promotion made it a primary.
    pub(super) reign: u8,
    pub(super) failsafe: Failsafe,
    /// Started as a standby, it replays what it holds, and does not know how much that is.
    pub(super) replaying: bool,
    /// It takes an order to lead and does not follow it: whatever keeps it from that outlasts a restart.
    pub(super) obstructed: bool,
    /// As which promotion it leads as soon as nothing keeps it from that. A restart forgets it.
    pub(super) ordered: Option<u8>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct World {
    pub(super) now: u8,
    pub(super) servers: Vec<Server>,
    /// Nodes that no proxy reaches.
    pub(super) cut_proxy: [bool; NODES],
    /// Pairs of nodes that do not reach each other, by the number of the third.
    pub(super) cut_peers: [bool; NODES],
    pub(super) acked: BTreeSet<Entry>,
    pub(super) written: u8,
    pub(super) reigns: u8,
    /// The tick at which the latest promotion was.
    pub(super) reign_since: u8,
    /// Between agents, on their way.
    pub(super) questions: Vec<Question>,
    pub(super) agents: bool,
    /// What went wrong.
    pub(super) broken: Option<String>,
}

impl World {
    pub(super) fn new(agents: bool) -> Self {
        let server = |index: usize| Server {
            run: Run::Up,
            host: Host::Up,
            primary: index == 0,
            timeline: 1,
            history: Vec::new(),
            wal: Vec::new(),
            upstream: (index > 0).then_some(0),
            receiver: (index > 0).then_some(0),
            heard: 0,
            rule: None,
            lease_until: LEASE,
            governed: index == 0,
            away: false,
            held_since: 0,
            agent_epoch: 0,
            control_epoch: 0,
            checkpoint: None,
            reign: 0,
            failsafe: Failsafe::default(),
            replaying: false,
            obstructed: false,
            ordered: None,
        };
        Self {
            now: 0,
            servers: (0..NODES).map(server).collect(),
            cut_proxy: [false; NODES],
            cut_peers: [false; NODES],
            acked: BTreeSet::new(),
            written: 0,
            reigns: 0,
            reign_since: 0,
            questions: Vec::new(),
            agents,
            broken: None,
        }
    }

    pub(super) fn peers_cut(&self, a: usize, b: usize) -> bool {
        self.cut_peers[3 - a - b]
    }

    /// Whether a server does anything.
    pub(super) fn lives(&self, node: usize) -> bool {
        let server = &self.servers[node];
        server.run == Run::Up && server.host == Host::Up
    }

    /// Whether a proxy can speak to the server.
    pub(super) fn answers(&self, node: usize) -> bool {
        self.lives(node) && !self.cut_proxy[node]
    }

    /// Whether a proxy can speak to the agent.
    pub(super) fn agent_answers(&self, node: usize) -> bool {
        let server = &self.servers[node];
        let up = server.host == Host::Up && !server.failsafe.agent_down;
        self.agents && up && !self.cut_proxy[node]
    }

    pub(super) fn linked(&self, standby: usize, from: usize) -> bool {
        let server = &self.servers[from];
        let sends = server.host == Host::Up && matches!(server.run, Run::Up | Run::Stopping);
        self.lives(standby) && sends && !self.peers_cut(standby, from)
    }

    /// Whether a standby's connection stands, for all that it can tell.
    pub(super) fn attached(&self, standby: usize, from: usize) -> bool {
        let held = self.servers[from].host == Host::Up && self.servers[from].run == Run::Held;
        let stands = held && self.lives(standby) && !self.peers_cut(standby, from);
        stands || self.linked(standby, from)
    }

    /// A primary writes; with no rule it acknowledges at once.
    pub(super) fn write(&mut self, node: usize) {
        let entry = Entry::Write(self.written);
        self.written += 1;
        self.servers[node].wal.push(entry);
        if self.servers[node].rule.is_none() {
            self.acknowledge(node, entry);
        }
    }

    /// The latest write of a primary that its rule allows to be acknowledged.
    pub(super) fn acknowledgeable(&self, node: usize) -> Option<Entry> {
        let server = &self.servers[node];
        let rule = server.rule.as_ref()?;
        if !self.lives(node) || !server.primary {
            return None;
        }
        let holds = |place: usize, member: &NodeId| {
            let member = usize::from(member.0);
            member != node
                && self.servers[member].receiver == Some(node)
                && self.linked(member, node)
                && self.servers[member].timeline == server.timeline
                && self.servers[member].wal.len() > place
        };
        let found = server.wal.iter().enumerate().rev().find(|(place, entry)| {
            let enough = rule.members.iter().filter(|m| holds(*place, m)).count();
            matches!(entry, Entry::Write(_)) && enough >= rule.needed
        });
        let (_, entry) = found?;
        (!self.acked.contains(entry)).then_some(*entry)
    }

    pub(super) fn acknowledge(&mut self, node: usize, entry: Entry) {
        let reign = self.servers[node].reign;
        if reign < self.reigns {
            self.broken = Some(format!(
                "pg{} acknowledged {entry:?} in reign {reign}, after reign {} had begun",
                node + 1,
                self.reigns
            ));
        }
        self.acked.insert(entry);
    }

    /// From where a standby can receive anything.
    fn source(&self, standby: usize) -> Option<usize> {
        let from = self.servers[standby].upstream?;
        if self.servers[standby].replaying {
            return None;
        }
        let sends = self.linked(standby, from) && !self.servers[standby].primary;
        (sends && from != standby && self.may_follow(standby, from)).then_some(from)
    }

    /// Whether `stream` would change anything.
    pub(super) fn streams(&self, standby: usize) -> bool {
        let Some(from) = self.source(standby) else {
            return false;
        };
        let (server, upstream) = (&self.servers[standby], &self.servers[from]);
        server.receiver != Some(from)
            || server.wal.len() < upstream.wal.len()
            || server.timeline != upstream.timeline
    }

    /// A standby connects, or receives one entry.
    pub(super) fn stream(&mut self, standby: usize) -> bool {
        let Some(from) = self.source(standby) else {
            return false;
        };
        let upstream = self.servers[from].clone();
        let now = self.now;
        let server = &mut self.servers[standby];
        if server.receiver != Some(from) {
            server.receiver = Some(from);
            server.heard = now;
            return true;
        }
        let place = server.wal.len();
        let Some(entry) = upstream.wal.get(place) else {
            let late = server.timeline != upstream.timeline;
            server.timeline = upstream.timeline;
            server.history = upstream.history;
            return late;
        };
        server.wal.push(*entry);
        server.heard = now;
        // It replays the switch of timeline as it gets there.
        let ended = upstream.history.iter().rev().find(|(_, end)| *end <= place);
        if ended.is_none_or(|_| upstream.history.iter().all(|(_, end)| *end <= place)) {
            server.timeline = upstream.timeline;
            server.history.clone_from(&upstream.history);
        }
        if server.wal[..place] != upstream.wal[..place] {
            self.broken = Some(format!(
                "pg{} follows pg{} with another history",
                standby + 1,
                from + 1
            ));
        }
        true
    }

    /// What PostgreSQL checks: the timeline and the position.
    fn may_follow(&self, standby: usize, from: usize) -> bool {
        let (server, upstream) = (&self.servers[standby], &self.servers[from]);
        if server.timeline == upstream.timeline {
            return server.wal.len() <= upstream.wal.len();
        }
        let end = upstream.history.iter().find(|(t, _)| *t == server.timeline);
        end.is_some_and(|(_, end)| server.wal.len() <= *end)
    }

    /// Receivers notice what a kernel tells them: a server that is gone, not one that is silent.
    pub(super) fn notice(&mut self) {
        for standby in 0..NODES {
            let Some(from) = self.servers[standby].receiver else {
                continue;
            };
            let told = self.servers[from].host == Host::Up && !self.peers_cut(standby, from);
            let gone = told && self.servers[from].run == Run::Down;
            let server = &mut self.servers[standby];
            if server.run == Run::Down || server.primary {
                server.receiver = None;
            } else if server.run == Run::Up && server.host == Host::Up {
                let repointed = server.upstream != Some(from);
                if gone || repointed {
                    server.receiver = None;
                }
            }
        }
    }

    /// Agents stop primaries whose lease has run out, or have them stand still where they were away; one
    /// that thaws does so before its server runs on. What has found no lease in that very tick is stopped.
    pub(super) fn enforce(&mut self, mutant: Mutant) {
        let (agents, now) = (self.agents, self.now);
        for server in &mut self.servers {
            let acts = server.host == Host::Up && !server.failsafe.agent_down;
            if !agents || !acts {
                server.away = true;
                continue;
            }
            let was_away = std::mem::take(&mut server.away);
            let due = server.primary && server.governed && server.lease_until <= now;
            let undecided = server.failsafe.lease_epoch == server.agent_epoch;
            match server.run {
                Run::Held if !due => server.run = Run::Up,
                Run::Held if undecided && server.held_since == now => {}
                Run::Up if due && was_away && mutant == Mutant::LeavesOnePeriodMore => {
                    server.lease_until = now + LEASE;
                }
                Run::Up if due && was_away && undecided => {
                    server.run = Run::Held;
                    server.held_since = now;
                }
                run if due && run != Run::Down => {
                    server.run = Run::Down;
                    server.checkpoint = None;
                }
                _ => {}
            }
        }
    }

    /// Runs a command; false if it fails. `answered` is the tick of the agent's answer that the
    /// plan had read.
    pub(super) fn run(&mut self, command: &Command, answered: u8, mutant: Mutant) -> bool {
        let epoch = command.epoch;
        let done = match &command.act {
            Act::Detach(node) => self.control(*node, epoch, |server| server.upstream = None),
            Act::Follow { standby, primary } => self.control(*standby, epoch, |server| {
                server.upstream = Some(usize::from(primary.0));
            }),
            Act::SetSync { node, rule } => {
                self.control(*node, epoch, |server| server.rule = Some(rule.clone()))
            }
            Act::Heartbeat(node) => self.heartbeat(usize::from(node.0)),
            Act::Promote(node) | Act::StartAsPrimary(node) | Act::RenewLease { node, .. }
                if self.has_promised(*node, mutant) =>
            {
                false
            }
            Act::RenewLease { node, .. } if self.is_too_old(*node, answered) => false,
            Act::Promote(node) => self.promote(usize::from(node.0), epoch),
            Act::Announce(node) => self.agent(*node, epoch, |_| {}),
            Act::Stop { node, how } => self.stop(usize::from(node.0), *how, epoch),
            Act::RenewLease { node, failsafe } => self.agent(*node, epoch, |server| {
                server.governed = true;
                // In a later epoch it takes the place of the one before, which may have been longer.
                let before = match server.failsafe.lease_epoch == epoch {
                    true => server.lease_until,
                    false => 0,
                };
                server.failsafe.granted(epoch, failsafe.clone());
                server.lease_until = before.max(answered + LEASE);
            }),
            Act::StartAsPrimary(node) => self.start_as_primary(*node, epoch),
            Act::StartAsStandby { node, primary } => self.agent(*node, epoch, |server| {
                if server.run == Run::Down {
                    server.run = Run::Up;
                    server.primary = false;
                    server.upstream = primary.map(|node| usize::from(node.0));
                }
            }),
            Act::Rejoin { node, primary, .. } => self.rejoin(*node, *primary, epoch),
            _ => true,
        };
        self.enforce(mutant);
        self.notice();
        done
    }

    fn has_promised(&self, node: NodeId, mutant: Mutant) -> bool {
        let until = self.servers[usize::from(node.0)].failsafe.promised_until;
        self.agents && until > self.now && mutant != Mutant::PromotesDespitePromises
    }

    /// A renewal that was planned before its server began to stand still.
    fn is_too_old(&self, node: NodeId, answered: u8) -> bool {
        let server = &self.servers[usize::from(node.0)];
        server.run == Run::Held && answered < server.held_since
    }

    fn control(&mut self, node: NodeId, epoch: u64, set: impl FnOnce(&mut Server)) -> bool {
        let index = usize::from(node.0);
        if !self.answers(index) || self.servers[index].control_epoch > epoch {
            return false;
        }
        self.servers[index].control_epoch = epoch;
        set(&mut self.servers[index]);
        true
    }

    fn agent(&mut self, node: NodeId, epoch: u64, set: impl FnOnce(&mut Server)) -> bool {
        let index = usize::from(node.0);
        if !self.agent_answers(index) || self.servers[index].agent_epoch > epoch {
            return false;
        }
        self.servers[index].agent_epoch = epoch;
        set(&mut self.servers[index]);
        true
    }

    fn heartbeat(&mut self, node: usize) -> bool {
        if !self.answers(node) || !self.servers[node].primary {
            return false;
        }
        for standby in 0..NODES {
            let heard = standby != node && self.servers[standby].receiver == Some(node);
            if heard && self.linked(standby, node) {
                self.servers[standby].heard = self.now;
            }
        }
        true
    }

    fn promote(&mut self, index: usize, epoch: u64) -> bool {
        let node = NodeId(u16::try_from(index).unwrap_or_default());
        let reached = if self.agents {
            self.agent(node, epoch, |_| {}) && self.lives(index)
        } else {
            self.control(node, epoch, |_| {})
        };
        let server = &self.servers[index];
        if !reached || server.primary || server.ordered.is_some() {
            return reached;
        }
        self.reigns += 1;
        self.reign_since = self.now;
        match server.obstructed {
            true => self.servers[index].ordered = Some(self.reigns),
            false => self.lead(index, self.reigns),
        }
        true
    }

    /// It leads again; after another may have, that is a reign of its own.
    fn start_as_primary(&mut self, node: NodeId, epoch: u64) -> bool {
        let index = usize::from(node.0);
        let starts = self.servers[index].run == Run::Down;
        let done = self.agent(node, epoch, |server| {
            if starts {
                server.run = Run::Starting;
            }
        });
        if done && starts && self.servers[index].reign < self.reigns {
            self.reigns += 1;
            self.reign_since = self.now;
            self.servers[index].reign = self.reigns;
        }
        done
    }

    /// What kept a server from leading is over.
    pub(super) fn unblock(&mut self, index: usize) {
        self.servers[index].obstructed = false;
        if let Some(reign) = self.servers[index].ordered.take() {
            self.lead(index, reign);
        }
    }

    fn lead(&mut self, index: usize, reign: u8) {
        let server = &mut self.servers[index];
        server.primary = true;
        server.replaying = false;
        server.reign = reign;
        server.upstream = None;
        server.receiver = None;
        server.history.push((server.timeline, server.wal.len()));
        server.timeline += 1;
        let number = u8::try_from(index).unwrap_or_default();
        server.wal.push(Entry::Begin(number, reign));
    }

    fn stop(&mut self, index: usize, how: Stop, epoch: u64) -> bool {
        let node = NodeId(u16::try_from(index).unwrap_or_default());
        if !self.agent(node, epoch, |_| {}) {
            return false;
        }
        let server = &self.servers[index];
        if server.run == Run::Down || !server.primary && how == Stop::Fast {
            return true;
        }
        if how == Stop::Fast {
            // It ends when it does, and is told what is under way already.
            match server.run {
                Run::Frozen | Run::Held => return false,
                Run::Up => self.servers[index].run = Run::Stopping,
                _ => {}
            }
            return true;
        }
        self.end(index);
        true
    }

    /// A server's processes are gone, and with them what they were told.
    pub(super) fn end(&mut self, index: usize) {
        let server = &mut self.servers[index];
        server.run = Run::Down;
        server.ordered = None;
    }

    /// What takes its time is done: a clean stop, or a crash's recovery.
    pub(super) fn complete(&mut self, index: usize) {
        if self.servers[index].run == Run::Starting {
            self.servers[index].run = Run::Up;
            return;
        }
        if self.servers[index].replaying {
            self.servers[index].replaying = false;
            return;
        }
        let place = self.servers[index].wal.len();
        self.servers[index].wal.push(Entry::Shutdown(self.reigns));
        for standby in 0..NODES {
            if self.servers[standby].receiver == Some(index) {
                while self.servers[standby].wal.len() <= place && self.stream(standby) {}
            }
        }
        self.servers[index].checkpoint = Some(place);
        self.servers[index].run = Run::Down;
    }

    /// Whether something takes its time there.
    pub(super) fn is_busy(&self, node: usize) -> bool {
        let server = &self.servers[node];
        let busy = matches!(server.run, Run::Stopping | Run::Starting);
        server.host == Host::Up && (busy || server.replaying && server.run == Run::Up)
    }

    fn rejoin(&mut self, node: NodeId, primary: NodeId, epoch: u64) -> bool {
        let source = self.servers[usize::from(primary.0)].clone();
        let (a, b) = (usize::from(node.0), usize::from(primary.0));
        if self.peers_cut(a, b) || !self.lives(b) || !source.primary {
            return false;
        }
        self.agent(node, epoch, |server| {
            server.run = Run::Up;
            server.primary = false;
            server.replaying = false;
            server.ordered = None;
            server.wal = source.wal;
            server.timeline = source.timeline;
            server.history = source.history;
            server.upstream = Some(usize::from(primary.0));
            server.receiver = None;
            server.checkpoint = None;
        })
    }
}

pub(super) fn lsn(place: usize) -> Lsn {
    Lsn(place as u64)
}

pub(super) fn timeline(number: u32) -> Timeline {
    Timeline(number)
}
