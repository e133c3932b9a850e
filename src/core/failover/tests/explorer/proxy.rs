//! A proxy in the small: it looks, plans, stores, and runs commands one by one.

use std::collections::VecDeque;
use std::rc::Rc;

use super::mutants::Mutant;
use super::world::{NODES, Run, World, lsn, timeline};
use crate::core::failover::command::{Act, Command};
use crate::core::failover::facts::observation::{
    AgentAnswer, AgentFailsafe, AgentLease, AgentPromise, Attached, Attempt, EarlyCommits,
    Leadership, NodeFacts, Observation, Postmaster, PrimaryFacts, Receiver, ReplicationRole,
    RuleOrder, ServerAnswer, StandbyFacts, Upstream,
};
use crate::core::failover::policy::FailoverPolicy;
use crate::core::failover::record::{Record, Request};
use crate::core::timeline::{TimelineHistory, TimelineSwitch};
use crate::core::topology::NodeId;

/// One tick, in microseconds; the timeout too.
pub(super) const TICK_US: u64 = 1_000_000;
/// So that no time is 0.
const START_US: u64 = 100 * TICK_US;

pub(super) fn us(tick: u8) -> u64 {
    START_US + u64::from(tick) * TICK_US
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Proxy {
    /// Shared by the states that differ in something else: most do.
    pub(super) facts: Vec<Rc<NodeFacts>>,
    /// The tick at which each agent's latest answer was given.
    pub(super) answered: [u8; NODES],
    pub(super) queue: VecDeque<Command>,
    /// Sent by a proxy that no longer leads, and still on its way.
    pub(super) late: Option<Command>,
    pub(super) leads_since: Option<u8>,
    pub(super) seen: Option<(u64, &'static str, u8)>,
    pub(super) holding: bool,
    pub(super) heartbeat: Option<u8>,
    pub(super) checkpoint: Option<(NodeId, u64)>,
    pub(super) rule_order: Option<RuleOrder>,
}

impl Proxy {
    pub(super) fn new(leads_since: Option<u8>) -> Self {
        Self {
            facts: vec![Rc::default(); NODES],
            answered: [0; NODES],
            queue: VecDeque::new(),
            late: None,
            leads_since,
            seen: None,
            holding: false,
            heartbeat: None,
            checkpoint: None,
            rule_order: None,
        }
    }

    /// Asks every node.
    pub(super) fn look(&mut self, world: &World) {
        for node in 0..NODES {
            let known = &mut self.facts[node];
            let answered = world.answers(node).then(|| answer(world, node));
            let told = !world.cut_proxy[node] && world.servers[node].run == Run::Down;
            let told = told && world.servers[node].host == super::world::Host::Up;
            let attempt = match (&answered, told) {
                (Some(_), _) => Attempt::Answered,
                (None, true) => Attempt::Refused,
                (None, false) => Attempt::TimedOut,
            };
            let agent = world.agent_answers(node).then(|| agent(world, node));
            if agent.is_some() {
                self.answered[node] = world.now;
            }
            let news = known.attempt != attempt
                || answered.is_some() && known.answer != answered
                || agent.is_some() && known.agent != agent;
            if news {
                let facts = Rc::make_mut(known);
                facts.attempt = attempt;
                facts.answer = answered.or_else(|| facts.answer.take());
                facts.agent = agent.or_else(|| facts.agent.take());
            }
        }
    }

    pub(super) fn observation(
        &mut self,
        world: &World,
        record: &Record,
        request: Option<Request>,
    ) -> Observation {
        self.see(world, record);
        let since = self.seen.map_or(world.now, |(_, _, since)| since);
        Observation {
            now_us: us(world.now),
            leadership: Leadership {
                since_us: us(self.leads_since.unwrap_or(world.now)),
                until_us: self.leads_since.map(|_| u64::MAX),
            },
            phase_since_us: us(since),
            ruled_epoch: 0,
            nodes: self.facts.iter().map(|facts| (**facts).clone()).collect(),
            request,
            open_transactions: 0,
            holding: self.holding,
            fence_command_done: None,
            fence_command_failed: None,
            fence_command_under_way: None,
            checkpoint_ended: self.checkpoint,
            heartbeat_us: self.heartbeat.map(us),
            rule_order: self.rule_order.clone(),
        }
    }

    /// Notes since when the record is in its phase.
    pub(super) fn see(&mut self, world: &World, record: &Record) {
        let (epoch, label) = (record.epoch, record.phase.label());
        match self.seen {
            Some((e, l, _)) if (e, l) == (epoch, label) => {}
            _ => self.seen = Some((epoch, label, world.now)),
        }
    }

    /// Takes a plan's commands; what concerns only this proxy is done at once.
    pub(super) fn take(
        &mut self,
        commands: Vec<Command>,
        several: bool,
        world: &mut World,
        mutant: Mutant,
    ) {
        for command in commands {
            match command.act {
                // Alone in its class, and harmless at any moment: no order to explore.
                Act::Heartbeat(_) => {
                    self.heartbeat = Some(world.now);
                    world.run(&command, 0, mutant);
                }
                // A renewal that comes late matters only if somebody else leads by then.
                Act::RenewLease { .. } if !several => {
                    let answered = self.note(&command, world);
                    world.run(&command, answered, mutant);
                }
                Act::Hold => self.holding = true,
                Act::Release => self.holding = false,
                // A rule is in force as soon as it is set here.
                Act::ProveSync { node, .. } => {
                    if let Some(order) = self.rule_order.as_mut().filter(|o| o.node == node) {
                        order.in_force_us = Some(us(world.now));
                    }
                }
                Act::Checkpoint(node) => self.checkpoint = Some((node, command.epoch)),
                Act::CloseBackends(_) | Act::EndReaders(_) | Act::Report(_) => {}
                _ => self.queue.push_back(command),
            }
        }
    }

    /// Runs the first command.
    pub(super) fn run_one(&mut self, world: &mut World, mutant: Mutant) {
        let Some(command) = self.queue.pop_front() else {
            return;
        };
        let answered = self.note(&command, world);
        let done = world.run(&command, answered, mutant);
        if let Act::SetSync { node, rule } = &command.act {
            self.rule_order = done.then(|| RuleOrder {
                node: *node,
                epoch: command.epoch,
                rule: rule.clone(),
                set_us: us(world.now),
                in_force_us: None,
            });
        }
    }

    pub(super) fn run_late(&mut self, world: &mut World, mutant: Mutant) {
        if let Some(command) = self.late.take() {
            let answered = self.note(&command, world);
            world.run(&command, answered, mutant);
        }
    }

    fn note(&mut self, command: &Command, world: &World) -> u8 {
        match command.act {
            Act::RenewLease { node, .. } => {
                let node = usize::from(node.0);
                Rc::make_mut(&mut self.facts[node]).renewal_us = Some(us(world.now));
                self.answered[node]
            }
            Act::StartAsStandby { node, .. } => {
                Rc::make_mut(&mut self.facts[usize::from(node.0)]).start_us = Some(us(world.now));
                0
            }
            _ => 0,
        }
    }
}

fn id(node: usize) -> NodeId {
    NodeId(u16::try_from(node).unwrap_or_default())
}

fn agent(world: &World, node: usize) -> AgentAnswer {
    let server = &world.servers[node];
    let checkpoint = server.checkpoint.map(lsn);
    AgentAnswer {
        at_us: us(world.now),
        epoch: server.agent_epoch,
        crashed_primary: (server.run == Run::Down && server.primary && checkpoint.is_none())
            .then(|| timeline(server.timeline)),
        moved_us: None,
        governed: server.governed,
        // How much is left of it is not relied on here: what was told may be long ago.
        lease: (world.now < server.lease_until).then_some(AgentLease {
            epoch: server.failsafe.lease_epoch,
            until_us: 0,
            prolonged: false,
            renewed_us: None,
        }),
        failsafe: Some(AgentFailsafe {
            unable: None,
            rule: server.failsafe.rule.clone(),
            promise: (server.failsafe.promised_until > world.now).then(|| AgentPromise {
                to: "pg1".to_owned(),
                until_us: us(server.failsafe.promised_until),
            }),
        }),
        postmaster: match server.run {
            Run::Down => Postmaster::Stopped {
                checkpoint,
                crashed: !server.primary && checkpoint.is_none(),
            },
            _ if server.primary => Postmaster::Primary,
            _ => Postmaster::Standby,
        },
    }
}

fn answer(world: &World, node: usize) -> ServerAnswer {
    let server = &world.servers[node];
    let history = server.history.iter().map(|(number, end)| TimelineSwitch {
        timeline: timeline(*number),
        end: lsn(*end),
    });
    ServerAnswer {
        at_us: us(world.now),
        system: 7,
        timeline: timeline(server.timeline),
        history: Some(TimelineHistory(history.collect())),
        rule: server.rule.clone(),
        rule_since_us: 0,
        role: if server.primary {
            let attached = (0..NODES).filter(|n| world.servers[*n].receiver == Some(node));
            ReplicationRole::Primary(PrimaryFacts {
                flush: lsn(server.wal.len()),
                attached: attached
                    .map(|n| Attached {
                        name: String::new(),
                        node: Some(id(n)),
                        confirmed_us: match world.linked(n, node) {
                            true => us(world.now),
                            false => 0,
                        },
                    })
                    .collect(),
                doubled: std::collections::BTreeSet::new(),
                early: EarlyCommits::default(),
            })
        } else {
            ReplicationRole::Standby(standby(world, node))
        },
    }
}

fn standby(world: &World, node: usize) -> StandbyFacts {
    let server = &world.servers[node];
    let receiver = server.receiver.map(|from| Receiver {
        from: Some(id(from)),
        streaming: true,
        timeline: timeline(server.timeline),
        fresh_us: us(server.heard),
        sender_at: lsn(server.wal.len()),
    });
    StandbyFacts {
        received: (!server.replaying).then(|| lsn(server.wal.len())),
        replayed_all: false,
        replayed: match server.replaying {
            true => lsn(0),
            false => lsn(server.wal.len()),
        },
        upstream: server
            .upstream
            .map_or(Upstream::Nowhere, |from| Upstream::Node(id(from))),
        detached_since_us: (receiver.is_none() && server.upstream.is_none()).then_some(0),
        receiver,
    }
}

/// A policy for three nodes, `pg1` to `pg3`.
pub(super) fn policy(agents: bool) -> FailoverPolicy {
    use crate::core::failover::policy::{Durability, Mode, NodePolicy};
    let node = |index: usize| NodePolicy {
        name: format!("pg{}", index + 1),
        zone: None,
        promote_priority: 100,
        agent: agents,
    };
    FailoverPolicy {
        mode: Mode::Automatic,
        durability: Durability::Async {
            max_lost_bytes: Some(0),
        },
        timeout_us: TICK_US,
        lease_us: u64::from(super::world::LEASE) * TICK_US,
        margin_us: 0,
        settle_us: 0,
        checkpoint_us: 2 * TICK_US,
        drain_us: TICK_US,
        stop_us: 2 * TICK_US,
        promote_us: 2 * TICK_US,
        routing_lease_us: 0,
        fence_command: false,
        rejoin_command: false,
        unfenced_accepted: false,
        failsafe: false,
        zone: None,
        nodes: (0..NODES).map(node).collect(),
    }
}
