//! A candidate that answers and cannot be promoted: it is not chosen where that is known, and holds up nobody.

use pgcauseway::core::failover::command::{Act, Event};
use pgcauseway::core::failover::facts::observation::{Postmaster, ReplicationRole, Upstream};
use pgcauseway::core::failover::record::{
    Candidate, Cause, FailedPrimary, FenceProof, Phase, Recovery, RequestKind,
};
use pgcauseway::core::lsn::Lsn;
use pgcauseway::core::topology::NodeId;

use pgcauseway::core::failover::Plan;

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

/// pg1 was stopped for a switchover, pg2 holds everything and does not come to lead, pg3 holds less.
fn switching(case: Case) -> Case {
    let candidate = Candidate {
        node: PG2,
        end: Lsn(0x4000),
        complete: true,
    };
    let failed = failed(Cause::Switchover);
    let phase = Phase::Promoting(failed, FenceProof::AgentStopped, candidate);
    let case = case.stopped(PG1, Some(Lsn(0x3FF0))).detached().phase(phase);
    case.with(|case| {
        case.record.intact = Some(PG1);
        case.seen.phase_since_us = NOW - 10 * SECOND;
    })
}

/// A plan later, in which `node`'s agent says that it has stopped its server.
fn then_stopped(mut case: Case, node: NodeId) -> Case {
    case.record = case.plan().next;
    case.seen.phase_since_us = NOW;
    let epoch = case.record.epoch;
    case.stopped(node, None).with(|case| {
        case.node(node).agent.as_mut().unwrap().epoch = epoch;
    })
}

#[test]
fn a_switchover_whose_target_cannot_be_promoted_goes_back() {
    for case in [Case::new(), Case::quorum()] {
        let case = switching(case);
        let next = case.plan().next;
        let stuck = FailedPrimary {
            node: PG2,
            cause: Cause::CandidateGivenUp,
            written: Lsn(0x4000),
        };
        assert_eq!(next.phase, Phase::Fencing(stuck));
        // Not before the candidate is stopped: it may lead at any moment.
        let mut waiting = case.clone();
        waiting.record = next;
        assert_eq!(waiting.plan().next.phase.label(), "fencing");

        // It is started as a standby: whether the target has begun the next timeline is not known.
        let case = then_stopped(case, PG2);
        let plan = case.plan();
        assert_eq!(plan.next.phase.label(), "discovering");
        assert!(starts(&plan, PG1), "{plan:?}");
        let (node, why) = chosen(&back(case, PG1));
        assert_eq!(node, PG1);
        assert!(why.contains("nothing known is lost"), "{why}");
    }
}

/// A plan later, in which a node that was stopped answers as a standby of nobody.
fn back(mut case: Case, node: NodeId) -> Case {
    case.record = case.plan().next;
    let epoch = case.record.epoch;
    *case.node(node) = facts(detached(1, 0x4000), Postmaster::Standby);
    case.node(node).agent.as_mut().unwrap().epoch = epoch;
    case
}

fn starts(plan: &Plan, node: NodeId) -> bool {
    let primary = None;
    let start = Act::StartAsStandby { node, primary };
    plan.commands.iter().any(|command| command.act == start)
}

#[test]
fn whoever_led_before_a_switchover_leads_with_what_was_acknowledged() {
    // Nobody can be asked but pg1, which may not be promoted otherwise.
    let case = then_stopped(switching(Case::quorum()), PG2).silent(PG3, 3 * SECOND);
    let case = back(case, PG1).with(|case| case.policy.nodes[0].promote_priority = 0);
    assert_eq!(chosen(&case).0, PG1);
    let next = case.plan().next;
    let mut case = case;
    case.record = next;
    *case.node(PG1) = facts(primary(2, 0x5001), Postmaster::Primary);
    let next = case.plan().next;
    assert_eq!((next.serving(), next.intact), (Some(PG1), None));
    // Its timeline may have the number of the new one.
    let kept = next.quarantine.get(&PG2).map(|kept| kept.recovery);
    assert_eq!(kept, Some(Recovery::Copy));
    assert_eq!(next.quarantine.len(), 1);
}

#[test]
fn if_the_old_primary_does_not_start_the_target_is_asked_once_more() {
    let waits = |ago: u64| {
        let case = then_stopped(switching(Case::new()), PG2);
        let mut case = case.with(|case| case.record = case.plan().next);
        case.seen.phase_since_us = NOW - ago;
        case
    };
    let case = waits(9 * SECOND);
    assert!(starts(&case.plan(), PG1) && !starts(&case.plan(), PG2));
    // What pg3 lacks is within what may be lost only where somebody is promoted unasked.
    let mut case = waits(11 * SECOND);
    assert_eq!(chosen(&case).0, PG3);
    case.record.paused = true;
    let plan = case.plan();
    assert_eq!(plan.next.phase.label(), "promoting");
    assert!(starts(&plan, PG2), "{plan:?}");
    // So it is at an operator's word.
    let asked = waits(3 * SECOND).asked(RequestKind::Failover, Some(PG2));
    let plan = asked.plan();
    assert_eq!(plan.next.phase.label(), "promoting");
    assert!(starts(&plan, PG2), "{plan:?}");
}

#[test]
fn a_target_that_does_not_start_or_is_gone_is_not_waited_for_either() {
    let stops = switching(Case::new()).stopped(PG2, None);
    let gone = switching(Case::new()).silent(PG2, 3 * SECOND);
    for case in [stops, gone] {
        let next = case.plan().next;
        let lost = FailedPrimary {
            node: PG2,
            cause: Cause::CandidateLost,
            written: Lsn(0x4000),
        };
        assert_eq!(next.phase, Phase::Fencing(lost));
        let case = then_stopped(case, PG2);
        assert!(starts(&case.plan(), PG1));
        assert_eq!(chosen(&back(case, PG1)).0, PG1);
    }
}

#[test]
fn nobody_goes_back_to_one_that_is_not_whole_or_was_not_stopped_for_this() {
    let label = |change: &dyn Fn(&mut Case)| {
        let case = switching(Case::new()).with(|case| change(case));
        case.plan().next.phase.label()
    };
    assert_eq!(label(&|_| {}), "fencing");
    assert_eq!(label(&|case| case.record.intact = None), "promoting");
    assert_eq!(label(&|case| case.node(PG1).agent = None), "promoting");
    assert_eq!(
        label(&|case| case.seen.phase_since_us = NOW - 9 * SECOND),
        "promoting"
    );
    let named = |to: NodeId| {
        move |case: &mut Case| {
            let (kind, to) = (RequestKind::Failover, Some(to));
            case.record.request =
                Some(pgcauseway::core::failover::record::Request { id: 8, to, kind });
        }
    };
    assert_eq!(label(&named(PG2)), "promoting");
    assert_eq!(label(&named(PG1)), "fencing");
}

#[test]
fn an_operator_may_have_the_old_primary_back_at_once() {
    let asked = switching(Case::new()).asked(RequestKind::Failover, Some(PG1));
    let case = asked.with(|case| case.seen.phase_since_us = NOW - SECOND);
    let mut case = back(then_stopped(case, PG2), PG1);
    case.record = case.plan().next;
    *case.node(PG1) = facts(primary(2, 0x5001), Postmaster::Primary);
    let says = |case: &Case, event: Event| {
        let plan = case.plan();
        let act = Act::Report(event);
        let said = plan.commands.iter().any(|command| command.act == act);
        assert!(said, "{plan:?}");
    };
    says(&case, Event::Done { request: 9 });
    // If the target leads after all, that is not what was asked for.
    let asked = switching(Case::new()).asked(RequestKind::Failover, Some(PG1));
    let asked = asked.with(|case| {
        case.record = case.plan().next;
        *case.node(PG2) = facts(primary(2, 0x5001), Postmaster::Primary);
    });
    let why = "pg2 leads".to_owned();
    says(&asked, Event::Refused { request: 9, why });
    // Another may be had as well, with what it lacks lost.
    let other = switching(Case::new()).asked(RequestKind::Failover, Some(PG3));
    let (node, _) = chosen(&then_stopped(other, PG2));
    assert_eq!(node, PG3);
}
