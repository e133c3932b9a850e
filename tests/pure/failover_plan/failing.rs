//! The rows of the printed table that tell of a failover: fencing, finding out who has most, promoting.

use pgcauseway::core::failover::facts::observation::{Attempt, Postmaster, ServerAnswer};
use pgcauseway::core::failover::record::{Cause, FenceProof, Phase, RequestKind};

use super::case::*;

pub(super) fn fencing() -> Vec<(&'static str, Case)> {
    let fencing = |case: Case, cause| case.phase(Phase::Fencing(failed(cause)));
    let untold = |case: &mut Case| {
        for node in [PG2, PG3] {
            case.node(node).agent.as_mut().unwrap().epoch = 3;
        }
    };
    let ran_out = |case: &mut Case| case.node(PG1).renewal_us = Some(NOW - 4 * SECOND);
    let hung = || {
        fencing(
            Case::new().silent(PG1, 2 * SECOND).deaf(2 * SECOND),
            Cause::Hung,
        )
    };
    let begun_by_another = || {
        fencing(Case::new(), Cause::Hung)
            .without_agents()
            .with(|case| {
                case.policy.fence_command = true;
                case.record.fence_begun = Some(4);
            })
    };
    vec![
        (
            "its agent reports it stopped in this epoch",
            fencing(Case::new().stopped(PG1, None).detached(), Cause::Dead),
        ),
        (
            "its agent reports it stopped, and a primary answers at its address after that",
            fencing(Case::new().stopped(PG1, None).detached(), Cause::Operator).with(|case| {
                let answers = primary(1, 0x4000);
                case.node(PG1).answer = Some(ServerAnswer {
                    at_us: NOW,
                    ..answers
                });
                case.node(PG1).attempt = Attempt::Answered;
            }),
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
            "failsafe: its lease runs, and others have not confirmed the epoch",
            hung().failsafe().detached().with(untold),
        ),
        (
            "failsafe: its lease has run out, and all may have prolonged it",
            hung().failsafe().detached().with(untold).with(ran_out),
        ),
        (
            "failsafe: its lease has run out, and all have promised it more",
            hung()
                .failsafe()
                .detached()
                .promised(PG2, SECOND)
                .promised(PG3, 2 * SECOND)
                .with(ran_out),
        ),
        (
            "failsafe: its lease has run out, and one of those that are all needed promises nothing",
            hung()
                .failsafe()
                .detached()
                .promised(PG3, 2 * SECOND)
                .with(ran_out),
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
            "it answers again without an agent",
            fencing(Case::new(), Cause::Hung).without_agents(),
        ),
        (
            "it answers again while fence_command is under way",
            fencing(Case::new(), Cause::Hung)
                .without_agents()
                .with(|case| {
                    case.policy.fence_command = true;
                    case.seen.fence_command_under_way = Some((PG1, 4));
                }),
        ),
        (
            "it answers again, and fence_command has succeeded",
            fencing(Case::new(), Cause::Hung)
                .without_agents()
                .with(|case| {
                    case.policy.fence_command = true;
                    case.seen.fence_command_done = Some((PG1, 4));
                }),
        ),
        (
            "it answers again, and a process that is gone had begun fence_command",
            begun_by_another(),
        ),
        (
            "it answers again, and fence_command, begun by a process that is gone, has failed since",
            begun_by_another().with(|case| case.seen.fence_command_failed = Some((PG1, 4))),
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

pub(super) fn discovering() -> Vec<(&'static str, Case)> {
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
            "equally far, and one has replayed less of it: it is not chosen, whatever its priority",
            discovering(Case::new()).with(|case| {
                *case.answer(PG3) = detached(1, 0x4000);
                case.policy.nodes[1].promote_priority = 200;
                case.replayed(PG2, 0x3E00);
            }),
        ),
        (
            "one has received more, and replayed less",
            discovering(Case::new()).with(|case| case.replayed(PG2, 0x3E00)),
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

pub(super) fn promotion() -> Vec<(&'static str, Case)> {
    let base = |case: Case| case.stopped(PG1, None).detached().phase(promoting());
    let stands_for = |case: &mut Case, seconds: u64| {
        case.seen.phase_since_us = NOW - seconds * SECOND;
    };
    let leads = |case: &mut Case| *case.node(PG2) = facts(primary(2, 0x5001), Postmaster::Primary);
    let knows = |case: &mut Case| {
        case.record.sync.add(Some(rule(&[PG3])));
        case.answer(PG2).rule = Some(rule(&[PG3]));
    };
    vec![
        ("the candidate is in recovery", base(Case::new())),
        (
            "failsafe: the candidate has promised the old primary something",
            base(Case::new().promised(PG2, SECOND)),
        ),
        (
            "the candidate has not replayed all that it has received",
            base(Case::new()).with(|case| case.replayed(PG2, 0x3E00)),
        ),
        ("the candidate leads", base(Case::new()).with(leads)),
        (
            "the candidate's server has stopped",
            base(Case::new()).stopped(PG2, None),
        ),
        (
            "the candidate is not promoted in time, and another holds as much",
            base(Case::new()).with(|case| {
                *case.answer(PG3) = detached(1, 0x4000);
                stands_for(case, 10);
            }),
        ),
        (
            "the same, and it gets on with its replay",
            base(Case::new()).with(|case| {
                *case.answer(PG3) = detached(1, 0x4000);
                stands_for(case, 10);
                let agent = case.node(PG2).agent.as_mut();
                agent.unwrap().moved_us = Some(NOW - SECOND);
            }),
        ),
        (
            "the same, and its agent does not answer: nobody could stop it",
            base(Case::new()).with(|case| {
                *case.answer(PG3) = detached(1, 0x4000);
                stands_for(case, 10);
                case.node(PG2).agent = None;
            }),
        ),
        (
            "the candidate is not promoted in time, and no other holds as much",
            base(Case::new()).with(|case| stands_for(case, 10)),
        ),
        (
            "an operator names another",
            base(Case::new()).asked(RequestKind::Failover, Some(PG3)),
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
            "quorum: it shows it, and was told something else in between",
            base(Case::quorum()).with(knows),
        ),
        (
            "quorum: it does",
            base(Case::quorum())
                .with(knows)
                .ordered(PG2, rule(&[PG3]), false),
        ),
    ]
}
