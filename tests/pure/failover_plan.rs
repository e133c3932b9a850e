//! What the planner does in each phase, printed into docs/failover-plan.md from the planner itself.
//!
//! `CAUSEWAY_WRITE_DOCS=1 cargo test --test pure failover_plan` writes the file anew.

use std::fmt::Write as _;

use pgcauseway::core::failover::candidate::promotable;
use pgcauseway::core::failover::command::Act;
use pgcauseway::core::failover::facts::observation::{
    AgentAnswer, Attempt, Leadership, NodeFacts, Observation, Postmaster, PrimaryFacts, Receiver,
    RejoinJob, ReplicationRole, ServerAnswer, StandbyFacts, Upstream,
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

const FILE: &str = "docs/failover-plan.md";
const SECOND: u64 = 1_000_000;
const NOW: u64 = 1_000 * SECOND;
const PG1: NodeId = NodeId(0);
const PG2: NodeId = NodeId(1);
const PG3: NodeId = NodeId(2);

/// A cluster of three, well, with pg1 leading; each row changes what its condition says.
struct Case {
    policy: FailoverPolicy,
    record: Record,
    seen: Observation,
}

fn policy() -> FailoverPolicy {
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
        routing_lease_us: 0,
        fence_command: false,
        rejoin_command: false,
        unfenced_accepted: false,
        zone: None,
        nodes: ["pg1", "pg2", "pg3"].map(node).to_vec(),
    }
}

fn answer(timeline: u32, role: ReplicationRole) -> ServerAnswer {
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

fn primary(timeline: u32, flush: u64) -> ServerAnswer {
    let flush = Lsn(flush);
    answer(
        timeline,
        ReplicationRole::Primary(PrimaryFacts {
            flush,
            attached: Vec::new(),
        }),
    )
}

fn standby(timeline: u32, of: NodeId, received: u64) -> ServerAnswer {
    let receiver = Receiver {
        from: Some(of),
        streaming: true,
        timeline: Timeline(timeline),
        fresh_us: NOW - SECOND / 10,
        sender_at: Lsn(received),
    };
    let facts = StandbyFacts {
        received: Some(Lsn(received)),
        replayed: Lsn(received),
        upstream: Upstream::Node(of),
        receiver: Some(receiver),
        detached_since_us: None,
    };
    answer(timeline, ReplicationRole::Standby(facts))
}

fn detached(timeline: u32, received: u64) -> ServerAnswer {
    let facts = StandbyFacts {
        received: Some(Lsn(received)),
        replayed: Lsn(received),
        detached_since_us: Some(NOW - SECOND),
        ..StandbyFacts::default()
    };
    answer(timeline, ReplicationRole::Standby(facts))
}

fn facts(answer: ServerAnswer, postmaster: Postmaster) -> NodeFacts {
    NodeFacts {
        answer: Some(answer),
        attempt: Attempt::Answered,
        agent: Some(AgentAnswer {
            at_us: NOW - SECOND / 10,
            epoch: 4,
            postmaster,
            governed: true,
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
    fn new() -> Self {
        let policy = policy();
        let mut record = Record::new(&policy);
        record.epoch = 4;
        record.system = Some(7);
        record.primary = Some(PG1);
        record.timeline = Timeline(1);
        record.phase = Phase::Steady;
        record.governed = [PG1, PG2, PG3].into();
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
            nodes,
            request: None,
            open_transactions: 0,
            holding: false,
            fence_command_done: None,
            checkpoint_ended: None,
            heartbeat_us: Some(NOW - SECOND / 10),
        };
        Self {
            policy,
            record,
            seen,
        }
    }

    fn without_agents(mut self) -> Self {
        let nodes = self.policy.nodes.iter_mut();
        nodes.for_each(|node| node.agent = false);
        let nodes = self.seen.nodes.iter_mut();
        nodes.for_each(|node| node.agent = None);
        self
    }

    fn quorum() -> Self {
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

    fn drained(self, node: NodeId) -> Self {
        self.with(|case| case.node(node).drained = true)
    }

    fn node(&mut self, node: NodeId) -> &mut NodeFacts {
        &mut self.seen.nodes[usize::from(node.0)]
    }

    fn answer(&mut self, node: NodeId) -> &mut ServerAnswer {
        self.node(node).answer.as_mut().unwrap()
    }

    /// Its server, and unless told otherwise its agent, has not answered for so long.
    fn silent(mut self, node: NodeId, for_us: u64) -> Self {
        self.node(node).attempt = Attempt::TimedOut;
        self.answer(node).at_us = NOW - for_us;
        if let Some(agent) = &mut self.node(node).agent {
            agent.at_us = NOW - for_us;
        }
        self
    }

    fn stopped(mut self, node: NodeId, checkpoint: Option<Lsn>) -> Self {
        self.node(node).attempt = Attempt::Refused;
        self.node(node).agent = Some(AgentAnswer {
            at_us: NOW - SECOND / 10,
            epoch: 4,
            postmaster: Postmaster::Stopped {
                checkpoint,
                crashed: false,
            },
            governed: true,
        });
        self
    }

    /// The standbys have received nothing for so long.
    fn deaf(mut self, for_us: u64) -> Self {
        for node in [PG2, PG3] {
            if let ReplicationRole::Standby(facts) = &mut self.answer(node).role {
                facts.receiver.as_mut().unwrap().fresh_us = NOW - for_us;
            }
        }
        self
    }

    fn detached(mut self) -> Self {
        *self.answer(PG2) = detached(1, 0x4000);
        *self.answer(PG3) = detached(1, 0x3F00);
        self
    }

    fn phase(mut self, phase: Phase) -> Self {
        self.record.phase = phase;
        self.seen.holding = self.record.holds();
        self
    }

    /// pg2 leads, pg3 follows it.
    fn pg2_leads(mut self) -> Self {
        self.record.primary = Some(PG2);
        self.record.timeline = Timeline(2);
        *self.node(PG2) = facts(primary(2, 0x6000), Postmaster::Primary);
        *self.answer(PG3) = standby(2, PG2, 0x6000);
        self
    }

    fn asked(mut self, kind: RequestKind, to: Option<NodeId>) -> Self {
        self.seen.request = Some(Request { id: 9, to, kind });
        self
    }

    fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    fn view(&self) -> View<'_, '_> {
        View {
            observation: &self.seen,
            policy: &self.policy,
            record: &self.record,
        }
    }

    fn plan(&self) -> Plan {
        let planned = plan(self.view());
        let again = plan(self.view());
        assert_eq!(planned, again, "the same facts, the same plan");
        planned
    }
}

fn rule(members: &[NodeId]) -> CommitRule {
    CommitRule {
        needed: 1,
        members: members.iter().copied().collect(),
    }
}

fn failed(cause: Cause) -> FailedPrimary {
    FailedPrimary {
        node: PG1,
        cause,
        written: Lsn(0x4000),
    }
}

fn promoting() -> Phase {
    let candidate = Candidate {
        node: PG2,
        end: Lsn(0x4000),
        complete: false,
    };
    Phase::Promoting(failed(Cause::Dead), FenceProof::AgentStopped, candidate)
}

fn out(reason: QuarantineReason, recovery: Recovery) -> Quarantined {
    Quarantined { reason, recovery }
}

/// Phase by phase: the condition, and the facts that make it so.
fn rows() -> Vec<(&'static str, Case)> {
    let mut rows = looking();
    rows.extend(steady());
    rows.extend(fencing());
    rows.extend(discovering());
    rows.extend(promotion());
    rows.extend(serving());
    rows.extend(switching());
    rows.extend(other_modes());
    rows
}

fn looking() -> Vec<(&'static str, Case)> {
    let new = || {
        let mut case = Case::new();
        case.record = Record::new(&case.policy);
        case
    };
    vec![
        ("one node leads, everybody has answered", new()),
        (
            "one node leads, another has not answered yet",
            new().silent(PG3, SECOND),
        ),
        (
            "two nodes lead on one timeline",
            new().with(|case| *case.answer(PG2) = primary(1, 0x4000)),
        ),
    ]
}

fn steady() -> Vec<(&'static str, Case)> {
    let parted = |case: Case| case.detached();
    vec![
        ("all is well", Case::new()),
        (
            "all is well, and a quarter of the lease is gone",
            Case::new().with(|case| case.node(PG1).renewal_us = Some(NOW - SECOND)),
        ),
        (
            "the agent reports no server",
            Case::new().stopped(PG1, None),
        ),
        (
            "connections are refused, there is no agent, no standby is connected",
            parted(Case::new())
                .without_agents()
                .with(|case| case.node(PG1).attempt = Attempt::Refused),
        ),
        (
            "connections are refused, there is no agent, a standby still receives",
            Case::new()
                .without_agents()
                .with(|case| case.node(PG1).attempt = Attempt::Refused),
        ),
        (
            "no answer for less than the timeout",
            Case::new().silent(PG1, SECOND),
        ),
        (
            "no answer for the timeout, most standbys receive nothing",
            Case::new().silent(PG1, 2 * SECOND).deaf(2 * SECOND),
        ),
        (
            "no answer for the timeout, the standbys still receive",
            Case::new().silent(PG1, 2 * SECOND),
        ),
        (
            "no answer for the timeout, no standby answers either",
            [PG1, PG2, PG3]
                .into_iter()
                .fold(Case::new(), |case, node| case.silent(node, 2 * SECOND)),
        ),
        (
            "another node claims to lead on an older timeline",
            Case::new()
                .pg2_leads()
                .with(|case| *case.answer(PG1) = primary(1, 0x4000)),
        ),
        (
            "another node claims to lead on a newer timeline",
            Case::new().with(|case| *case.answer(PG3) = primary(2, 0x6000)),
        ),
        (
            "a standby on the old timeline, within the fork, follows somebody else",
            Case::new().pg2_leads().stopped(PG1, None).with(|case| {
                *case.answer(PG3) = standby(1, PG1, 0x4000);
                case.record
                    .quarantine
                    .insert(PG1, out(QuarantineReason::OldPrimary, Recovery::Operator));
            }),
        ),
        (
            "a standby has gone beyond the fork, and reports `streaming`",
            Case::new().pg2_leads().stopped(PG1, None).with(|case| {
                *case.answer(PG3) = standby(1, PG2, 0x5800);
                case.record
                    .quarantine
                    .insert(PG1, out(QuarantineReason::OldPrimary, Recovery::Operator));
            }),
        ),
        (
            "async, and quorum before: commits still wait",
            Case::new().with(|case| {
                case.record.sync_managed = true;
                case.answer(PG1).rule = Some(rule(&[PG2, PG3]));
            }),
        ),
        ("a standby has crashed", crashed()),
        (
            "a standby has crashed, and was asked to start a moment ago",
            crashed().with(|case| {
                let why = out(QuarantineReason::Crashed, Recovery::Start);
                case.record.quarantine.insert(PG3, why);
                case.node(PG3).start_us = Some(NOW - SECOND / 2);
            }),
        ),
        (
            "a standby has been shut down by hand",
            crashed().stopped(PG3, None),
        ),
        (
            "quorum: a standby that commits wait for has been away for the timeout",
            Case::quorum().silent(PG3, 2 * SECOND),
        ),
        (
            "quorum: the new rule is in force, and its standbys hold the barrier",
            Case::quorum().with(|case| {
                let new = Some(rule(&[PG2, PG3]));
                case.record.sync.rules = vec![Some(rule(&[PG2])), new];
            }),
        ),
        (
            "quorum: another hand has emptied synchronous_standby_names",
            Case::quorum().with(|case| case.answer(PG1).rule = None),
        ),
    ]
}

/// PG3's server has ended without shutting down.
fn crashed() -> Case {
    Case::new()
        .silent(PG3, 3 * SECOND)
        .stopped(PG3, None)
        .with(|case| {
            let agent = case.node(PG3).agent.as_mut().unwrap();
            agent.postmaster = Postmaster::Stopped {
                checkpoint: None,
                crashed: true,
            };
        })
}

fn fencing() -> Vec<(&'static str, Case)> {
    let fencing = |case: Case, cause| case.phase(Phase::Fencing(failed(cause)));
    let hung = || {
        fencing(
            Case::new().silent(PG1, 2 * SECOND).deaf(2 * SECOND),
            Cause::Hung,
        )
    };
    vec![
        (
            "its agent reports it stopped in this epoch",
            fencing(Case::new().stopped(PG1, None).detached(), Cause::Dead),
        ),
        (
            "its agent reports it stopped, and has not heard of this epoch",
            fencing(Case::new().stopped(PG1, None).detached(), Cause::Dead).with(|case| {
                case.node(PG1).agent.as_mut().unwrap().epoch = 3;
            }),
        ),
        (
            "its agent does not answer, its lease runs",
            hung().detached(),
        ),
        (
            "its agent does not answer, its lease has run out",
            hung()
                .detached()
                .with(|case| case.node(PG1).renewal_us = Some(NOW - 4 * SECOND)),
        ),
        (
            "its agent does not answer, and was never known to keep a lease",
            hung().detached().with(|case| {
                case.node(PG1).renewal_us = Some(NOW - 4 * SECOND);
                case.record.governed.clear();
            }),
        ),
        ("standbys are still attached", hung()),
        (
            "it answers again, and nothing was done to it",
            fencing(Case::new(), Cause::Hung).with(|case| {
                case.node(PG1).agent.as_mut().unwrap().epoch = 3;
            }),
        ),
        (
            "no agent and no fence_command",
            hung().detached().without_agents(),
        ),
        (
            "no agent, fence_command has not run",
            hung()
                .detached()
                .without_agents()
                .with(|case| case.policy.fence_command = true),
        ),
        (
            "no agent, fence_command succeeded",
            hung().detached().without_agents().with(|case| {
                case.policy.fence_command = true;
                case.seen.fence_command_done = Some((PG1, 4));
            }),
        ),
        (
            "no agent, `fencing: routing_only`",
            hung()
                .detached()
                .without_agents()
                .with(|case| case.policy.unfenced_accepted = true),
        ),
        (
            "quorum: too few standbys are left to acknowledge",
            fencing(
                Case::quorum().silent(PG1, 2 * SECOND).detached(),
                Cause::Hung,
            ),
        ),
        (
            "quorum: one standby that counts cannot be asked",
            fencing(
                Case::quorum().silent(PG1, 2 * SECOND).detached(),
                Cause::Hung,
            )
            .silent(PG3, 2 * SECOND),
        ),
    ]
}

fn discovering() -> Vec<(&'static str, Case)> {
    let discovering = |case: Case| {
        let phase = Phase::Discovering(failed(Cause::Dead), FenceProof::AgentStopped);
        case.stopped(PG1, None).detached().phase(phase)
    };
    let late = |case: &mut Case| case.seen.phase_since_us = NOW - 2 * SECOND;
    vec![
        ("every standby is detached", discovering(Case::new())),
        (
            "equally far: priority decides",
            discovering(Case::new()).with(|case| {
                *case.answer(PG3) = detached(1, 0x4000);
                case.policy.nodes[2].promote_priority = 200;
            }),
        ),
        (
            "an operator has drained the one that is furthest",
            discovering(Case::new()).drained(PG2),
        ),
        (
            "an operator has drained the only one that answers",
            discovering(Case::new())
                .silent(PG3, 2 * SECOND)
                .drained(PG2),
        ),
        (
            "quorum: an operator has drained the one that is furthest",
            discovering(Case::quorum()).drained(PG2),
        ),
        (
            "a standby has not answered yet",
            discovering(Case::new()).silent(PG3, SECOND),
        ),
        (
            "async: more than max_lost_bytes would be lost",
            discovering(Case::new())
                .with(|case| *case.answer(PG2) = detached(1, 0x3A00))
                .silent(PG3, 2 * SECOND),
        ),
        (
            "the same, for the timeout: the old primary can be started",
            discovering(Case::new())
                .with(|case| *case.answer(PG2) = detached(1, 0x3A00))
                .silent(PG3, 2 * SECOND)
                .with(late),
        ),
        (
            "the same, and an operator asks for FAILOVER",
            discovering(Case::new())
                .with(|case| *case.answer(PG2) = detached(1, 0x3A00))
                .silent(PG3, 2 * SECOND)
                .asked(RequestKind::Failover, None),
        ),
        (
            "quorum: the standbys that answer do not meet every quorum",
            discovering(Case::quorum()).silent(PG3, 2 * SECOND),
        ),
        ("quorum: they do", discovering(Case::quorum())),
    ]
}

fn promotion() -> Vec<(&'static str, Case)> {
    let base = |case: Case| case.stopped(PG1, None).detached().phase(promoting());
    let leads = |case: &mut Case| *case.node(PG2) = facts(primary(2, 0x5001), Postmaster::Primary);
    vec![
        ("the candidate is in recovery", base(Case::new())),
        ("the candidate leads", base(Case::new()).with(leads)),
        (
            "the candidate's server has stopped",
            base(Case::new()).stopped(PG2, None),
        ),
        (
            "the candidate has not answered for the timeout",
            base(Case::new()).silent(PG2, 2 * SECOND).with(|case| {
                case.seen.phase_since_us = NOW - 2 * SECOND;
            }),
        ),
        (
            "quorum: the candidate does not know yet whom it will wait for",
            base(Case::quorum()).with(|case| case.record.sync.add(Some(rule(&[PG3])))),
        ),
        (
            "quorum: it does",
            base(Case::quorum()).with(|case| {
                case.record.sync.add(Some(rule(&[PG3])));
                case.answer(PG2).rule = Some(rule(&[PG3]));
            }),
        ),
    ]
}

fn serving() -> Vec<(&'static str, Case)> {
    let old = |recovery| out(QuarantineReason::OldPrimary, recovery);
    let following = |recovery| {
        let case = Case::new().pg2_leads().phase(Phase::Following);
        case.with(|case| {
            case.record.quarantine.insert(PG1, old(recovery));
        })
    };
    let restoring = |case: Case| case.detached().phase(Phase::Restoring(failed(Cause::Dead)));
    vec![
        (
            "a standby still follows the old primary",
            following(Recovery::Rewind).stopped(PG1, None).with(|case| {
                *case.answer(PG3) = standby(1, PG1, 0x4000);
                case.seen.holding = true;
            }),
        ),
        (
            "the old primary runs again",
            following(Recovery::Rewind).with(|case| *case.answer(PG1) = primary(1, 0x4000)),
        ),
        (
            "the old primary is stopped",
            following(Recovery::Rewind).stopped(PG1, None),
        ),
        (
            "the old primary stopped cleanly in a switchover",
            following(Recovery::Start).stopped(PG1, None),
        ),
        (
            "the old primary is being rejoined",
            following(Recovery::Rewind)
                .stopped(PG1, None)
                .with(|case| case.node(PG1).job = RejoinJob::Running),
        ),
        (
            "the old primary streams on the new timeline",
            following(Recovery::Rewind)
                .with(|case| *case.node(PG1) = facts(standby(2, PG2, 0x6000), Postmaster::Standby)),
        ),
        (
            "the old primary is stopped",
            restoring(Case::new().stopped(PG1, None)),
        ),
        ("the old primary leads again", restoring(Case::new())),
    ]
}

fn switching() -> Vec<(&'static str, Case)> {
    let checkpointing = || Case::new().phase(Phase::Checkpointing { to: PG2 });
    let draining = || Case::new().phase(Phase::Draining { to: PG2 });
    let stopping = || Case::new().phase(Phase::Stopping { to: PG2 });
    let at = Lsn(0x4000);
    let catching = || {
        let case = Case::new().stopped(PG1, Some(at));
        case.phase(Phase::CatchingUp {
            to: PG2,
            checkpoint: at,
        })
    };
    let late = |us: u64| move |case: &mut Case| case.seen.phase_since_us = NOW - us;
    vec![
        (
            "an operator asks for SWITCHOVER",
            Case::new().asked(RequestKind::Switchover, None),
        ),
        (
            "an operator asks for SWITCHOVER TO a standby that does not stream",
            Case::new()
                .detached()
                .asked(RequestKind::Switchover, Some(PG3)),
        ),
        (
            "an operator asks for SWITCHOVER, and has drained pg2",
            Case::new()
                .drained(PG2)
                .asked(RequestKind::Switchover, None),
        ),
        (
            "an operator asks for SWITCHOVER TO a drained standby",
            Case::new()
                .drained(PG2)
                .asked(RequestKind::Switchover, Some(PG2)),
        ),
        (
            "an operator asks for SWITCHOVER TO the primary",
            Case::new().asked(RequestKind::Switchover, Some(PG1)),
        ),
        (
            "an operator asks for SWITCHOVER, and the primary's agent does not answer",
            Case::new()
                .asked(RequestKind::Switchover, None)
                .with(|case| case.node(PG1).agent = None),
        ),
        (
            "an operator asks for FAILOVER",
            Case::new().asked(RequestKind::Failover, None),
        ),
        ("the checkpoint is under way", checkpointing()),
        (
            "the checkpoint has ended",
            checkpointing().with(|case| case.seen.checkpoint_ended = Some((PG1, 4))),
        ),
        (
            "the checkpoint has not ended, and the time is up",
            checkpointing().with(late(300 * SECOND)),
        ),
        ("the primary dies", checkpointing().stopped(PG1, None)),
        (
            "transactions are open",
            draining().with(|case| case.seen.open_transactions = 3),
        ),
        (
            "transactions are open, and the time is up",
            draining()
                .with(|case| case.seen.open_transactions = 3)
                .with(late(5 * SECOND)),
        ),
        ("none is open", draining()),
        ("the primary dies", draining().stopped(PG1, None)),
        ("it is stopping", stopping()),
        (
            "it has stopped cleanly",
            stopping().stopped(PG1, Some(Lsn(0x3FFF))),
        ),
        ("it has crashed instead", stopping().stopped(PG1, None)),
        ("the candidate lacks the rest", catching()),
        (
            "the candidate holds everything",
            catching().with(|case| *case.answer(PG2) = standby(1, PG1, 0x4078)),
        ),
        (
            "the candidate lacks the rest, and the time is up",
            catching().with(late(2 * SECOND)),
        ),
    ]
}

fn other_modes() -> Vec<(&'static str, Case)> {
    let mode = |mode, mut case: Case| {
        case.policy.mode = mode;
        case
    };
    vec![
        (
            "failover is paused: the primary is dead",
            Case::new().stopped(PG1, None).with(|case| {
                case.record.paused = true;
                case.node(PG1).renewal_us = Some(NOW - SECOND);
            }),
        ),
        (
            "an operator asks for PAUSE FAILOVER",
            Case::new().asked(RequestKind::Pause, None),
        ),
        (
            "mode manual: the primary is dead",
            mode(Mode::Manual, Case::new().stopped(PG1, None)),
        ),
        (
            "mode manual: the primary is dead, an operator asks for FAILOVER",
            mode(
                Mode::Manual,
                Case::new()
                    .stopped(PG1, None)
                    .asked(RequestKind::Failover, None),
            ),
        ),
        (
            "mode observe: the primary is gone",
            mode(Mode::Observe, Case::new().stopped(PG1, None)),
        ),
        (
            "mode observe: another hand has promoted pg2, the old primary still believes it leads",
            mode(
                Mode::Observe,
                Case::new().with(|case| *case.answer(PG2) = primary(2, 0x6000)),
            ),
        ),
        (
            "mode observe: only the old primary answers, on a lower timeline",
            mode(Mode::Observe, Case::new().pg2_leads().stopped(PG2, None)),
        ),
        (
            "another proxy decides",
            Case::new()
                .stopped(PG1, None)
                .with(|case| case.seen.leadership.until_us = None),
        ),
    ]
}

fn render() -> String {
    let mut text = String::from(
        "# What the failover planner does\n\n\
         Printed by `tests/pure/failover_plan.rs` from the planner itself; do not edit. Three nodes, pg1 \
         led (epoch 4) unless a row says otherwise, `timeout` 2 s, `lease` 3 s, agents everywhere, \
         `durability: async` with `max_lost_bytes` 1000 unless a row says otherwise. A dash: \
         nothing.\n\n\
         | phase | condition | next phase | commands, in order | what the operator reads |\n\
         |---|---|---|---|---|\n",
    );
    for (condition, case) in rows() {
        let planned = case.plan();
        let epoch = planned.next.epoch - case.record.epoch;
        let (before, after) = (case.record.phase.label(), planned.next.phase.label());
        let after = if before == after {
            "-".to_owned()
        } else {
            after.to_owned()
        };
        let raised = if epoch > 0 { ", new epoch" } else { "" };
        let acts: Vec<String> = planned
            .commands
            .iter()
            .map(|c| c.act.describe(&case.policy))
            .collect();
        let acts = if acts.is_empty() {
            "-".to_owned()
        } else {
            acts.join("; ")
        };
        let why = &planned.why;
        writeln!(
            text,
            "| {before} | {condition} | {after}{raised} | {acts} | {why} |"
        )
        .unwrap();
    }
    text
}

#[test]
fn the_printed_plan_is_up_to_date() {
    let text = render();
    if std::env::var_os("CAUSEWAY_WRITE_DOCS").is_some() {
        std::fs::write(FILE, &text).unwrap();
    }
    let file = std::fs::read_to_string(FILE).unwrap_or_default();
    assert!(
        file == text,
        "{FILE} is stale: CAUSEWAY_WRITE_DOCS=1 cargo test --test pure failover_plan"
    );
}

#[test]
fn no_command_touches_a_server_in_observe_mode_or_without_leadership() {
    let mut observed = Case::new();
    observed.policy.mode = Mode::Observe;
    let plan = observed.plan();
    let released = |node| {
        plan.commands
            .iter()
            .any(|c| c.act == Act::ReleaseLease(node))
    };
    assert!([PG1, PG2, PG3].into_iter().all(released) && plan.next.governed.is_empty());
    assert_eq!(
        plan.next.to_release,
        [PG1, PG2, PG3].into(),
        "until they confirm it"
    );
    for (condition, mut case) in rows() {
        case.policy.mode = Mode::Observe;
        for command in case.plan().commands {
            // An agent that is to let its server be does nothing to it.
            let own = matches!(
                command.act,
                Act::Hold
                    | Act::Release
                    | Act::CloseBackends(_)
                    | Act::Report(_)
                    | Act::ReleaseLease(_)
            );
            assert!(own, "{condition}: {command:?}");
        }
        case.policy.mode = Mode::Automatic;
        case.seen.leadership.until_us = None;
        assert_eq!(case.plan().commands, [], "{condition}");
    }
}

#[test]
fn who_observes_releases_only_whom_it_has_governed() {
    let releases = |case: &Case| {
        let acts = case.plan().commands.into_iter().map(|command| command.act);
        let released = acts.filter_map(|act| match act {
            Act::ReleaseLease(node) => Some(node),
            _ => None,
        });
        released.collect::<Vec<_>>()
    };
    let mut case = Case::new();
    case.policy.mode = Mode::Observe;
    case.record.to_release = std::mem::take(&mut case.record.governed);
    assert_eq!(releases(&case), [PG1, PG2, PG3], "asked for again");
    case.node(PG2).agent.as_mut().unwrap().governed = false;
    assert_eq!(releases(&case), [PG1, PG3], "it has confirmed it");
    assert_eq!(case.plan().next.to_release, [PG1, PG3].into());

    // Agents that a proxy with another record governs.
    case.record.to_release.clear();
    assert_eq!(releases(&case), []);
    assert_eq!(case.plan().next.governed, [].into());

    // One that led, and might again.
    let mut fallen = Case::new().silent(PG1, SECOND);
    fallen.policy.mode = Mode::Observe;
    let why = out(QuarantineReason::OldPrimary, Recovery::Rewind);
    fallen.record.quarantine.insert(PG1, why);
    fallen.record.primary = Some(PG2);
    *fallen.answer(PG2) = primary(1, 0x4000);
    assert_eq!(releases(&fallen), [PG2, PG3]);
}

#[test]
fn a_record_survives_being_written_and_renumbered() {
    for (condition, case) in rows() {
        let text = serde_json::to_string(&case.plan().next).unwrap();
        let read: Record = serde_json::from_str(&text).unwrap();
        assert_eq!(read, case.plan().next, "{condition}");
        let mut turned = case.policy.clone();
        turned.nodes.reverse();
        assert!(!read.fits(&turned));
        let there = read.renumbered(&turned).unwrap();
        assert!(there.fits(&turned));
        assert_eq!(there.renumbered(&case.policy).unwrap(), read, "{condition}");
    }
}

#[test]
fn a_record_that_names_a_removed_node_is_not_guessed_at() {
    let case = Case::new();
    let mut fewer = case.policy.clone();
    fewer.nodes.remove(0);
    assert_eq!(case.record.renumbered(&fewer), Err("pg1".to_owned()));
    let view = View {
        policy: &fewer,
        ..case.view()
    };
    assert_eq!(plan(view).commands, []);
}

#[test]
fn a_lease_of_an_older_epoch_is_none_to_lead_by() {
    let mut case = Case::new().stopped(PG1, None).detached().phase(promoting());
    let renews = |case: &Case| {
        let acts = case.plan().commands.into_iter().map(|command| command.act);
        let acts: Vec<_> = acts.collect();
        assert!(acts.contains(&Act::Promote(PG2)), "{acts:?}");
        acts.contains(&Act::RenewLease(PG2))
    };
    assert!(!renews(&case), "one was asked for a moment ago");
    case.node(PG2).agent.as_mut().unwrap().epoch = 3;
    assert!(renews(&case), "it led a moment ago, in another epoch");
}

#[test]
fn promotable_is_who_an_election_would_choose() {
    let able = |case: &Case| promotable(case.view());
    let healthy = Case::new;
    assert_eq!(able(&healthy()), [PG2, PG3]);
    assert_eq!(able(&healthy().silent(PG2, 9 * SECOND)), [PG3]);
    let unfit = healthy().with(|case| case.policy.nodes[1].promote_priority = 0);
    assert_eq!(able(&unfit), [PG3]);
    let without_agent = healthy().with(|case| case.node(PG3).agent.as_mut().unwrap().at_us = 0);
    assert_eq!(able(&without_agent), [PG2]);
    let behind = healthy().with(|case| {
        case.policy.durability = Durability::Async {
            max_lost_bytes: Some(0),
        };
    });
    assert_eq!(able(&behind), [PG2], "pg3 would lose 0x100 bytes");
    let astray = healthy().with(|case| *case.answer(PG2) = standby(2, PG1, 0x4000));
    assert_eq!(able(&astray), [PG3]);
    assert_eq!(able(&Case::quorum()), [PG2], "pg3 lacks what pg2 holds");
    let missing = Case::quorum().silent(PG2, 9 * SECOND).with(|case| {
        let rule = rule(&[PG2]);
        case.record.sync.rules = vec![Some(rule)];
    });
    assert_eq!(
        able(&missing),
        [],
        "pg2 alone may hold what was acknowledged"
    );
}
