//! A candidate that answers and cannot be promoted: it is not chosen where that is known, and holds up nobody.

use pgcauseway::core::failover::command::{Act, Event};
use pgcauseway::core::failover::facts::observation::{Postmaster, ReplicationRole, Upstream};
use pgcauseway::core::failover::record::{Cause, FailedPrimary, FenceProof, Phase, RequestKind};
use pgcauseway::core::lsn::Lsn;
use pgcauseway::core::topology::NodeId;

use super::case::*;

/// pg1 is stopped, pg2 and pg3 have received as much.
fn discovering(case: Case) -> Case {
    let phase = Phase::Discovering(failed(Cause::Dead), FenceProof::AgentStopped);
    let case = case.stopped(PG1, None).detached().phase(phase);
    case.with(|case| *case.answer(PG3) = detached(1, 0x4000))
}

/// Who is chosen, and what is said of that.
fn chosen(case: &Case) -> (NodeId, String) {
    let plan = case.plan();
    let event = plan.commands.iter().find_map(|command| match &command.act {
        Act::Report(event @ Event::Chosen { node, .. }) => Some((*node, event)),
        _ => None,
    });
    let (node, event) = event.unwrap_or_else(|| panic!("{plan:?}"));
    (node, event.describe(&case.policy))
}

#[test]
fn of_those_who_hold_the_same_one_whose_replay_stands_comes_last() {
    let (node, why) = chosen(&discovering(Case::new()));
    assert_eq!(node, PG2, "by its name");
    assert!(!why.contains("pg3"), "{why}");
    for case in [Case::new(), Case::quorum()] {
        let stands = discovering(case).with(|case| {
            case.policy.nodes[1].promote_priority = 200;
            case.replayed(PG2, 0x3E00);
        });
        let (node, why) = chosen(&stands);
        assert_eq!(node, PG3);
        let said = "pg2 holds as much, and has replayed it only up to 0/3E00";
        assert!(why.contains(said), "{why}");
        // What would be lost decides all the same.
        let holds_more = stands.with(|case| *case.answer(PG3) = detached(1, 0x3F00));
        assert_eq!(chosen(&holds_more).0, PG2);
    }
}

fn ends_readers(case: &Case) -> Vec<NodeId> {
    let acts = case.plan().commands.into_iter().map(|command| command.act);
    let nodes = acts.filter_map(|act| match act {
        Act::EndReaders(node) => Some(node),
        _ => None,
    });
    nodes.collect()
}

#[test]
fn readers_give_way_to_a_promotion_and_to_nothing_before_it() {
    let stands = |case: Case| {
        case.with(|case| {
            case.replayed(PG2, 0x3E00);
            case.replayed(PG3, 0x3E00);
        })
    };
    let promoted = |case: Case| stands(discovering(case).phase(promoting()));
    assert_eq!(ends_readers(&promoted(Case::new())), [PG2]);
    assert_eq!(ends_readers(&promoted(Case::quorum())), [PG2]);
    let promised = promoted(Case::new().promised(PG2, SECOND));
    assert_eq!(ends_readers(&promised), [PG2], "it leads as soon as it may");
    assert_eq!(
        ends_readers(&discovering(Case::new()).phase(promoting())),
        []
    );
    // While a primary may come back nobody is ended.
    assert_eq!(ends_readers(&stands(Case::new())), []);
    let fencing = stands(Case::new().silent(PG1, 3 * SECOND).detached());
    let fencing = fencing.phase(Phase::Fencing(failed(Cause::Hung)));
    assert_eq!(ends_readers(&fencing), []);
    // Without a replay that goes on it neither turns away from the old primary nor knows what it holds.
    let attached = |upstream: Upstream, received: Option<Lsn>| {
        let case = discovering(Case::quorum()).with(|case| {
            *case.answer(PG2) = standby(1, PG1, 0x4000);
            if let ReplicationRole::Standby(facts) = &mut case.answer(PG2).role {
                facts.upstream = upstream;
                (facts.received, facts.replayed_all) = (received, false);
            }
        });
        stands(case)
    };
    let told = Upstream::Nowhere;
    let all = Some(Lsn(0x4000));
    assert_eq!(ends_readers(&attached(told, all)), [PG2]);
    assert_eq!(ends_readers(&attached(told, None)), [PG2]);
    // It may well turn away as soon as it is told to.
    assert_eq!(ends_readers(&attached(Upstream::Node(PG1), all)), []);
}

/// pg2 was being promoted, both hold as much, and it is given up.
fn given_up(case: Case) -> Case {
    let case = case.stopped(PG1, None).detached().phase(promoting());
    let mut case = case.with(|case| {
        *case.answer(PG3) = detached(1, 0x4000);
        case.seen.phase_since_us = NOW - 10 * SECOND;
    });
    case.record = case.plan().next;
    let phase = &case.record.phase;
    let expected = FailedPrimary {
        node: PG2,
        ..failed(Cause::CandidateGivenUp)
    };
    assert_eq!(*phase, Phase::Fencing(expected));
    assert_eq!(case.record.given_up.get(&PG2), Some(&Lsn(0x4000)));
    case.seen.phase_since_us = NOW;
    case
}

#[test]
fn a_candidate_that_is_given_up_is_stopped_before_another_is_promoted() {
    for case in [Case::new(), Case::quorum()] {
        let case = given_up(case);
        // That it stands by proves nothing: it may follow its order at any moment.
        let plan = case.plan();
        assert_eq!(plan.next.phase.label(), "fencing");
        let stops = |command: &pgcauseway::core::failover::Command| {
            matches!(command.act, Act::Stop { node: PG2, .. })
        };
        assert!(plan.commands.iter().any(stops), "{plan:?}");
        let epoch = case.record.epoch;
        let stopped = case.stopped(PG2, None).with(|case| {
            case.node(PG2).agent.as_mut().unwrap().epoch = epoch;
        });
        let (node, why) = chosen(&stopped);
        assert_eq!(node, PG3);
        assert!(why.contains("nothing known is lost"), "{why}");
    }
}

#[test]
fn one_that_leads_after_all_before_it_is_stopped_leads() {
    let case = given_up(Case::new()).with(|case| {
        *case.node(PG2) = facts(primary(2, 0x5001), Postmaster::Primary);
    });
    let next = case.plan().next;
    assert_eq!((next.serving(), next.given_up.len()), (Some(PG2), 0));
}

#[test]
fn nobody_is_given_up_for_one_that_holds_less_or_may_not_lead() {
    let stuck = |change: &dyn Fn(&mut Case)| {
        let case = discovering(Case::new()).phase(promoting());
        let case = case.with(|case| {
            case.seen.phase_since_us = NOW - 10 * SECOND;
            change(case);
        });
        case.plan().next.phase.label() == "promoting"
    };
    assert!(!stuck(&|_| {}));
    assert!(stuck(&|case| *case.answer(PG3) = detached(1, 0x3FFF)));
    assert!(stuck(&|case| *case.answer(PG3) = standby(1, PG1, 0x4000)));
    assert!(stuck(&|case| case.replayed(PG3, 0x3E00)));
    assert!(stuck(&|case| case.policy.nodes[2].promote_priority = 0));
    assert!(stuck(&|case| case.seen.phase_since_us = NOW - 9 * SECOND));
    // An operator has named the one that is stuck.
    assert!(stuck(&|case| {
        let (kind, to) = (RequestKind::Failover, Some(PG2));
        case.record.request = Some(pgcauseway::core::failover::record::Request { id: 9, to, kind });
    }));
}

#[test]
fn one_that_was_given_up_is_asked_again_when_the_other_fails_too() {
    let case = given_up(Case::quorum());
    let epoch = case.record.epoch;
    let mut case = case.stopped(PG2, None).with(|case| {
        case.node(PG2).agent.as_mut().unwrap().epoch = epoch;
    });
    case.record = case.plan().next;
    assert_eq!(case.record.phase.label(), "promoting");
    case.seen.phase_since_us = NOW - 10 * SECOND;
    let acts: Vec<Act> = case.plan().commands.into_iter().map(|c| c.act).collect();
    let (node, primary) = (PG2, None);
    assert!(
        acts.contains(&Act::StartAsStandby { node, primary }),
        "{acts:?}"
    );
}
