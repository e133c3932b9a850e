//! The conditions of the printed table, phase by phase, and the facts that make each of them so.

use pgcauseway::core::failover::facts::observation::{
    Attempt, LifeSign, NodeFacts, Postmaster, RejoinJob, ReplicationRole,
};
use pgcauseway::core::failover::failsafe::FailsafeState;
use pgcauseway::core::failover::policy::Mode;
use pgcauseway::core::failover::record::{
    Cause, Phase, QuarantineReason, Record, Recovery, Request, RequestKind,
};
use pgcauseway::core::lsn::{Lsn, Timeline};

use super::case::*;
use super::failing::{discovering, fencing, promotion};

/// Phase by phase: the condition, and the facts that make it so.
pub(super) fn rows() -> Vec<(&'static str, Case)> {
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
            "one node leads, and clients here have gone by epoch 40 already",
            new().with(|case| case.seen.ruled_epoch = 40),
        ),
        (
            "two nodes lead on one timeline",
            new().with(|case| *case.answer(PG2) = primary(1, 0x4000)),
        ),
    ]
}

fn steady() -> Vec<(&'static str, Case)> {
    let parted = |case: Case| case.detached();
    let changing = |case: &mut Case| {
        let new = Some(rule(&[PG2, PG3]));
        case.record.sync.rules = vec![Some(rule(&[PG2])), new];
    };
    vec![
        ("all is well", Case::new()),
        (
            "all is well, and a quarter of the lease is gone",
            Case::new().with(|case| case.node(PG1).renewal_us = Some(NOW - SECOND)),
        ),
        (
            "failsafe: agents can ask each other, and a quarter of the lease is gone",
            Case::new().failsafe().with(|case| {
                case.record.failsafe = FailsafeState::default();
                case.agent_failsafe(PG1).rule = None;
                case.node(PG1).renewal_us = Some(NOW - SECOND);
            }),
        ),
        (
            "failsafe: no answer for the timeout, most standbys receive nothing",
            Case::new()
                .failsafe()
                .silent(PG1, 2 * SECOND)
                .deaf(2 * SECOND),
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
            "no answer for long, connections are taken, most standbys receive nothing",
            Case::new()
                .silent(PG1, 60 * SECOND)
                .lives(PG1, SECOND, LifeSign::TakesConnections)
                .deaf(60 * SECOND),
        ),
        (
            "no answer for long, it refuses the monitoring role, most standbys receive nothing",
            Case::new()
                .silent(PG1, 60 * SECOND)
                .lives(
                    PG1,
                    SECOND / 2,
                    LifeSign::Refuses("too many clients".to_owned()),
                )
                .deaf(60 * SECOND),
        ),
        (
            "no answer for long, connections were taken until the timeout ago, most standbys receive nothing",
            Case::new()
                .silent(PG1, 60 * SECOND)
                .lives(PG1, 2 * SECOND, LifeSign::TakesConnections)
                .deaf(60 * SECOND),
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
            "another node claims to lead on the same timeline",
            Case::new().with(|case| *case.answer(PG2) = primary(1, 0x4000)),
        ),
        (
            "another node claims to lead on a newer timeline",
            Case::new().with(|case| *case.answer(PG3) = primary(2, 0x6000)),
        ),
        (
            "a server of another cluster claims to lead at another node",
            Case::new().with(|case| {
                *case.answer(PG3) = primary(1, 0x4000);
                case.answer(PG3).system = 8;
            }),
        ),
        (
            "a server of another cluster answers at the primary's address",
            Case::new().with(|case| {
                case.answer(PG1).system = 8;
                case.answer(PG1).timeline = Timeline(2);
            }),
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
            "a crashed standby was asked to start five times, and its server ends each time",
            crashed().with(|case| {
                let why = out(QuarantineReason::Crashed, Recovery::Start);
                case.record.quarantine.insert(PG3, why);
                case.record.starts.insert(PG3, 5);
                case.node(PG3).start_us = Some(NOW - 3 * SECOND);
            }),
        ),
        (
            "a former primary of which the record does not know has crashed, on an older timeline",
            forgotten(1),
        ),
        (
            "a former primary of which the record does not know has crashed, on a timeline of the same number",
            forgotten(2),
        ),
        (
            "a crashed standby was started a moment ago and recovers; the phase has lasted for days",
            recovering(Some(NOW - SECOND / 2)),
        ),
        (
            "a crashed standby recovers, and this process has not started it",
            recovering(None),
        ),
        (
            "a crashed standby was started 30 s ago, and does not stream",
            recovering(Some(NOW - 30 * SECOND)),
        ),
        (
            "a crashed standby was started an hour ago, and gets on with its recovery",
            recovering(Some(0)).with(|case| {
                case.node(PG3).agent.as_mut().unwrap().moved_us = Some(NOW - SECOND);
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
            "quorum: the setting shows the new rule, and this process has not set it",
            Case::quorum().with(changing),
        ),
        (
            "quorum: the new rule has been set, and the setting shows it",
            Case::quorum()
                .with(changing)
                .ordered(PG1, rule(&[PG2, PG3]), false),
        ),
        (
            "quorum: the new rule is in force, and its standbys hold the barrier",
            Case::quorum()
                .with(changing)
                .ordered(PG1, rule(&[PG2, PG3]), true),
        ),
        (
            "quorum: two receivers bear the name of one standby",
            Case::quorum()
                .with(|case| {
                    if let ReplicationRole::Primary(facts) = &mut case.answer(PG1).role {
                        facts.doubled = [PG3].into();
                    }
                })
                .ordered(PG1, rule(&[PG2, PG3]), true),
        ),
        (
            "quorum: another hand has emptied synchronous_standby_names",
            Case::quorum().with(|case| case.answer(PG1).rule = None),
        ),
    ]
}

/// pg2 leads on timeline 2, and PG1, which wrote this one, is down.
fn forgotten(wrote: u32) -> Case {
    Case::new()
        .pg2_leads()
        .silent(PG1, 3 * SECOND)
        .stopped(PG1, None)
        .with(|case| {
            let agent = case.node(PG1).agent.as_mut().unwrap();
            agent.crashed_primary = Some(Timeline(wrote));
        })
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

/// PG3's server has crashed, was asked to start then, and does not answer yet.
pub(super) fn recovering(start_us: Option<u64>) -> Case {
    crashed().with(|case| {
        let why = out(QuarantineReason::Crashed, Recovery::Start);
        case.record.quarantine.insert(PG3, why);
        case.seen.phase_since_us = 0;
        case.node(PG3).start_us = start_us;
        case.node(PG3).agent.as_mut().unwrap().postmaster = Postmaster::Standby;
    })
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
            "the old primary streams and is still being rejoined",
            following(Recovery::Rewind).with(|case| {
                let streams = facts(standby(2, PG2, 0x6000), Postmaster::Standby);
                let job = RejoinJob::Running;
                *case.node(PG1) = NodeFacts { job, ..streams };
            }),
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
    let ended = || checkpointing().with(|case| case.seen.checkpoint_ended = Some((PG1, 4)));
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
            "failsafe: an operator asks for SWITCHOVER TO a standby that has promised something",
            Case::new()
                .promised(PG2, SECOND)
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
        ("the checkpoint has ended", ended()),
        (
            "the checkpoint has not ended, and the time is up",
            checkpointing().with(late(300 * SECOND)),
        ),
        (
            "failsafe: the checkpoint has ended, and the candidate has promised something",
            ended().promised(PG2, SECOND),
        ),
        (
            "failsafe: the candidate has promised something still, and the time is up",
            ended().promised(PG2, SECOND).with(late(300 * SECOND)),
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
        (
            "failsafe: the candidate promises something meanwhile",
            draining().promised(PG2, SECOND),
        ),
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

pub(super) fn other_modes() -> Vec<(&'static str, Case)> {
    let mode = |mode, mut case: Case| {
        case.policy.mode = mode;
        case
    };
    let pause = |case: &mut Case| case.record.paused = true;
    let ordered = |phase| {
        Case::new().phase(phase).with(|case| {
            let (kind, to) = (RequestKind::Switchover, Some(PG2));
            case.record.request = Some(Request { id: 9, to, kind });
        })
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
            "failover is paused: the primary dies during the checkpoint of a switchover",
            ordered(Phase::Checkpointing { to: PG2 })
                .stopped(PG1, None)
                .with(pause),
        ),
        (
            "mode manual: the primary dies while transactions end",
            mode(
                Mode::Manual,
                ordered(Phase::Draining { to: PG2 }).stopped(PG1, None),
            ),
        ),
        (
            "failover is paused: the primary crashes instead of stopping",
            ordered(Phase::Stopping { to: PG2 })
                .stopped(PG1, None)
                .with(pause),
        ),
        (
            "mode manual: the agent does not answer since it was to stop its server",
            mode(
                Mode::Manual,
                ordered(Phase::Stopping { to: PG2 }).silent(PG1, 2 * SECOND),
            )
            .with(|case| case.seen.phase_since_us = NOW - 2 * SECOND),
        ),
        (
            "mode manual: it was to be started again, and does not come",
            mode(
                Mode::Manual,
                Case::new()
                    .stopped(PG1, None)
                    .phase(Phase::Restoring(failed(Cause::Switchover))),
            )
            .with(|case| case.seen.phase_since_us = NOW - 30 * SECOND),
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
