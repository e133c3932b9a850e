//! A cluster of three as the planner sees it, and what a row may change of it.

use pgcauseway::core::failover::facts::observation::{
    AgentAnswer, AgentFailsafe, AgentPromise, Attempt, Leadership, LifeSign, NodeFacts,
    Observation, Postmaster, PrimaryFacts, Receiver, RejoinJob, ReplicationRole, RuleOrder,
    ServerAnswer, SignOfLife, StandbyFacts, Upstream,
};
use pgcauseway::core::failover::policy::{Durability, FailoverPolicy, Mode, NodePolicy};
use pgcauseway::core::failover::quorum::{CommitRule, SyncState};
use pgcauseway::core::failover::record::{
    Candidate, Cause, FailedPrimary, FenceProof, Phase, QuarantineReason, Quarantined, Record,
    Recovery, Request, RequestKind,
};
use pgcauseway::core::failover::{Plan, View, plan};
use pgcauseway::core::lsn::{Lsn, Timeline};
use pgcauseway::core::timeline::{TimelineHistory, TimelineSwitch};
use pgcauseway::core::topology::NodeId;

pub(super) const SECOND: u64 = 1_000_000;
pub(super) const NOW: u64 = 1_000 * SECOND;
pub(super) const PG1: NodeId = NodeId(0);
pub(super) const PG2: NodeId = NodeId(1);
pub(super) const PG3: NodeId = NodeId(2);

/// A cluster of three, well, with pg1 leading; each row changes what its condition says.
#[derive(Clone)]
pub(super) struct Case {
    pub(super) policy: FailoverPolicy,
    pub(super) record: Record,
    pub(super) seen: Observation,
}

pub(super) fn policy() -> FailoverPolicy {
    let node = |name: &str| NodePolicy {
        name: name.to_owned(),
        zone: None,
        promote_priority: 100,
        agent: true,
    };
    FailoverPolicy {
        mode: Mode::Automatic,
        durability: Durability::Async {
            max_lost_bytes: Some(1000),
        },
        timeout_us: 2 * SECOND,
        lease_us: 3 * SECOND,
        margin_us: SECOND / 2,
        settle_us: 0,
        checkpoint_us: 300 * SECOND,
        drain_us: 5 * SECOND,
        stop_us: 30 * SECOND,
        promote_us: 10 * SECOND,
        routing_lease_us: 0,
        fence_command: false,
        rejoin_command: false,
        unfenced_accepted: false,
        failsafe: true,
        zone: None,
        nodes: ["pg1", "pg2", "pg3"].map(node).to_vec(),
    }
}

pub(super) fn answer(timeline: u32, role: ReplicationRole) -> ServerAnswer {
    let history = (1..timeline).map(|ended| TimelineSwitch {
        timeline: Timeline(ended),
        end: Lsn(0x5000 + u64::from(ended)),
    });
    ServerAnswer {
        at_us: NOW - SECOND / 10,
        system: 7,
        timeline: Timeline(timeline),
        history: Some(TimelineHistory(history.collect())),
        rule: None,
        rule_since_us: 0,
        role,
    }
}

pub(super) fn primary(timeline: u32, flush: u64) -> ServerAnswer {
    let flush = Lsn(flush);
    answer(
        timeline,
        ReplicationRole::Primary(PrimaryFacts {
            flush,
            ..PrimaryFacts::default()
        }),
    )
}

pub(super) fn standby(timeline: u32, of: NodeId, received: u64) -> ServerAnswer {
    let receiver = Receiver {
        from: Some(of),
        streaming: true,
        timeline: Timeline(timeline),
        fresh_us: NOW - SECOND / 10,
        sender_at: Lsn(received),
    };
    let facts = StandbyFacts {
        received: Some(Lsn(received)),
        replayed_all: true,
        replayed: Lsn(received),
        upstream: Upstream::Node(of),
        receiver: Some(receiver),
        detached_since_us: None,
    };
    answer(timeline, ReplicationRole::Standby(facts))
}

pub(super) fn detached(timeline: u32, received: u64) -> ServerAnswer {
    let facts = StandbyFacts {
        received: Some(Lsn(received)),
        replayed: Lsn(received),
        detached_since_us: Some(NOW - SECOND),
        ..StandbyFacts::default()
    };
    answer(timeline, ReplicationRole::Standby(facts))
}

pub(super) fn facts(answer: ServerAnswer, postmaster: Postmaster) -> NodeFacts {
    NodeFacts {
        answer: Some(answer),
        attempt: Attempt::Answered,
        sign: None,
        agent: Some(AgentAnswer {
            at_us: NOW - SECOND / 10,
            epoch: 4,
            postmaster,
            crashed_primary: None,
            moved_us: None,
            governed: true,
            lease: None,
            failsafe: None,
        }),
        renewal_us: Some(NOW - SECOND / 10),
        release_us: None,
        start_us: None,
        job: RejoinJob::None,
        drained: false,
        stale_connections: 0,
    }
}

impl Case {
    pub(super) fn new() -> Self {
        let policy = policy();
        let mut record = Record::new(&policy);
        record.epoch = 4;
        record.system = Some(7);
        record.primary = Some(PG1);
        record.timeline = Timeline(1);
        record.phase = Phase::Steady;
        record.governed = [PG1, PG2, PG3].into();
        record.leases = [PG1, PG2, PG3].map(|node| (node, policy.lease_us)).into();
        let nodes = vec![
            facts(primary(1, 0x4000), Postmaster::Primary),
            facts(standby(1, PG1, 0x4000), Postmaster::Standby),
            facts(standby(1, PG1, 0x3F00), Postmaster::Standby),
        ];
        let seen = Observation {
            now_us: NOW,
            leadership: Leadership {
                since_us: SECOND,
                until_us: Some(NOW + 3 * SECOND),
            },
            phase_since_us: NOW - SECOND,
            ruled_epoch: 0,
            nodes,
            request: None,
            open_transactions: 0,
            holding: false,
            fence_command_done: None,
            fence_command_failed: None,
            fence_command_under_way: None,
            checkpoint_ended: None,
            heartbeat_us: Some(NOW - SECOND / 10),
            rule_order: None,
        };
        Self {
            policy,
            record,
            seen,
        }
    }

    pub(super) fn without_agents(mut self) -> Self {
        let nodes = self.policy.nodes.iter_mut();
        nodes.for_each(|node| node.agent = false);
        let nodes = self.seen.nodes.iter_mut();
        nodes.for_each(|node| node.agent = None);
        self
    }

    pub(super) fn quorum() -> Self {
        let mut case = Self::new();
        case.policy.durability = Durability::Quorum { standbys: 1 };
        let rule = rule(&[PG2, PG3]);
        case.record.sync = SyncState {
            rules: vec![Some(rule.clone())],
            barrier: None,
        };
        case.answer(PG1).rule = Some(rule);
        case
    }

    /// This rule was set on a node a while ago; whether it is in force is known, or not yet.
    pub(super) fn ordered(self, node: NodeId, rule: CommitRule, in_force: bool) -> Self {
        self.with(|case| {
            case.seen.rule_order = Some(RuleOrder {
                node,
                epoch: 4,
                rule,
                set_us: NOW - SECOND,
                in_force_us: in_force.then_some(NOW - SECOND / 2),
            });
        })
    }

    /// Agents can ask each other, and pg1's goes by the rule that both others promise.
    pub(super) fn failsafe(mut self) -> Self {
        for node in [PG1, PG2, PG3] {
            self.node(node).agent.as_mut().unwrap().failsafe = Some(AgentFailsafe::default());
        }
        self.record.failsafe.want(PG1, 2, [PG2, PG3].into());
        let rule = self.record.failsafe.wanted(PG1).cloned();
        self.agent_failsafe(PG1).rule = rule;
        self
    }

    pub(super) fn agent_failsafe(&mut self, node: NodeId) -> &mut AgentFailsafe {
        let agent = self.node(node).agent.as_mut().unwrap();
        agent.failsafe.get_or_insert_default()
    }

    /// A node's agent has promised pg1 something for so long from now.
    pub(super) fn promised(mut self, node: NodeId, for_us: u64) -> Self {
        self.agent_failsafe(node).promise = Some(AgentPromise {
            to: "pg1".to_owned(),
            until_us: NOW + for_us,
        });
        self
    }

    pub(super) fn drained(self, node: NodeId) -> Self {
        self.with(|case| case.node(node).drained = true)
    }

    pub(super) fn node(&mut self, node: NodeId) -> &mut NodeFacts {
        &mut self.seen.nodes[usize::from(node.0)]
    }

    pub(super) fn answer(&mut self, node: NodeId) -> &mut ServerAnswer {
        self.node(node).answer.as_mut().unwrap()
    }

    /// Its server, and unless told otherwise its agent, has not answered for so long.
    pub(super) fn silent(mut self, node: NodeId, for_us: u64) -> Self {
        self.node(node).attempt = Attempt::TimedOut;
        self.answer(node).at_us = NOW - for_us;
        if let Some(agent) = &mut self.node(node).agent {
            agent.at_us = NOW - for_us;
        }
        self
    }

    /// It has given another sign of life so long ago.
    pub(super) fn lives(mut self, node: NodeId, ago_us: u64, kind: LifeSign) -> Self {
        let at_us = NOW - ago_us;
        self.node(node).sign = Some(SignOfLife { at_us, kind });
        self
    }

    pub(super) fn stopped(mut self, node: NodeId, checkpoint: Option<Lsn>) -> Self {
        self.node(node).attempt = Attempt::Refused;
        self.node(node).agent = Some(AgentAnswer {
            at_us: NOW - SECOND / 10,
            epoch: 4,
            postmaster: Postmaster::Stopped {
                checkpoint,
                crashed: false,
            },
            crashed_primary: None,
            moved_us: None,
            governed: true,
            lease: None,
            failsafe: None,
        });
        self
    }

    /// The standbys have received nothing for so long.
    pub(super) fn deaf(mut self, for_us: u64) -> Self {
        for node in [PG2, PG3] {
            if let ReplicationRole::Standby(facts) = &mut self.answer(node).role {
                facts.receiver.as_mut().unwrap().fresh_us = NOW - for_us;
            }
        }
        self
    }

    pub(super) fn detached(mut self) -> Self {
        *self.answer(PG2) = detached(1, 0x4000);
        *self.answer(PG3) = detached(1, 0x3F00);
        self
    }

    pub(super) fn phase(mut self, phase: Phase) -> Self {
        self.record.phase = phase;
        self.seen.holding = self.record.holds();
        self
    }

    /// A standby has replayed only so far.
    pub(super) fn replayed(&mut self, node: NodeId, up_to: u64) {
        if let ReplicationRole::Standby(facts) = &mut self.answer(node).role {
            facts.replayed = Lsn(up_to);
        }
    }

    /// pg2 leads, pg3 follows it.
    pub(super) fn pg2_leads(mut self) -> Self {
        self.record.primary = Some(PG2);
        self.record.timeline = Timeline(2);
        *self.node(PG2) = facts(primary(2, 0x6000), Postmaster::Primary);
        *self.answer(PG3) = standby(2, PG2, 0x6000);
        self
    }

    pub(super) fn asked(mut self, kind: RequestKind, to: Option<NodeId>) -> Self {
        self.seen.request = Some(Request { id: 9, to, kind });
        self
    }

    pub(super) fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    pub(super) fn view(&self) -> View<'_, '_> {
        View {
            observation: &self.seen,
            policy: &self.policy,
            record: &self.record,
        }
    }

    pub(super) fn plan(&self) -> Plan {
        let planned = plan(self.view());
        let again = plan(self.view());
        assert_eq!(planned, again, "the same facts, the same plan");
        planned
    }
}

pub(super) fn rule(members: &[NodeId]) -> CommitRule {
    CommitRule {
        needed: 1,
        members: members.iter().copied().collect(),
    }
}

pub(super) fn failed(cause: Cause) -> FailedPrimary {
    FailedPrimary {
        node: PG1,
        cause,
        written: Lsn(0x4000),
    }
}

pub(super) fn promoting() -> Phase {
    let candidate = Candidate {
        node: PG2,
        end: Lsn(0x4000),
        complete: false,
    };
    Phase::Promoting(failed(Cause::Dead), FenceProof::AgentStopped, candidate)
}

pub(super) fn out(reason: QuarantineReason, recovery: Recovery) -> Quarantined {
    Quarantined { reason, recovery }
}
