//! What is counted on, and what is not: positions, leases, records and orders that look better than they are.

use pgcauseway::core::failover::candidate::promotable;
use pgcauseway::core::failover::command::{Act, Event};
use pgcauseway::core::failover::facts::observation::{
    AgentLease, Attached, Postmaster, ReplicationRole, ServerAnswer,
};
use pgcauseway::core::failover::policy::Mode;
use pgcauseway::core::failover::record::{
    Cause, FenceProof, Phase, Record, Recovery, Request, RequestKind,
};
use pgcauseway::core::failover::renewal;
use pgcauseway::core::lsn::Lsn;
use pgcauseway::core::topology::NodeId;

use super::case::*;
use super::rows::{recovering, rows};

#[test]
fn a_standby_that_is_removed_may_have_acknowledged_and_is_waited_for_no_more() {
    // The record is of before; the primary still shows what it was told then.
    let mut case = Case::quorum();
    let mut fewer = case.policy.clone();
    fewer.nodes.remove(usize::from(PG3.0));
    case.record = case.record.renumbered(&fewer).unwrap();
    case.policy = fewer;
    case.seen.nodes.pop();
    case.answer(PG1).rule = None;
    // What pg3 alone has acknowledged is not known to be on pg2.
    assert!(!case.record.sync.met_by(&[PG2].into()));
    let plan = case.plan();
    let set = Act::SetSync {
        node: PG1,
        rule: rule(&[PG2]),
    };
    assert!(
        plan.commands.iter().any(|command| command.act == set),
        "{plan:?}"
    );
    let renews = |act: &Act| matches!(act, Act::RenewLease { node: PG1, .. });
    case.node(PG1).renewal_us = None;
    assert!(
        case.plan()
            .commands
            .iter()
            .any(|command| renews(&command.act))
    );
    // Until then an operator decides, and afterwards nobody must.
    let failing = |case: &Case, record: &Record| {
        let mut failing = case
            .clone()
            .with(|case| case.record = record.clone())
            .stopped(PG1, None);
        *failing.answer(PG2) = detached(1, 0x4000);
        let proof = FenceProof::AgentStopped;
        failing
            .phase(Phase::Discovering(failed(Cause::Dead), proof))
            .plan()
    };
    let plan = failing(&case, &case.record);
    assert_eq!(plan.next.phase.label(), "discovering", "{plan:?}");
    case = case.ordered(PG1, rule(&[PG2]), true);
    case.answer(PG1).rule = Some(rule(&[PG2]));
    let settled = case.plan().next;
    assert!(!settled.sync.changing(), "{:?}", settled.sync);
    assert_eq!(failing(&case, &settled).next.phase.label(), "promoting");
}

#[test]
fn what_was_ordered_for_a_node_that_is_removed_is_called_off() {
    let mut fewer = policy();
    fewer.nodes.remove(usize::from(PG3.0));
    for phase in [
        Phase::Checkpointing { to: PG3 },
        Phase::Draining { to: PG3 },
        Phase::Stopping { to: PG3 },
        Phase::CatchingUp {
            to: PG3,
            checkpoint: Lsn(0x4000),
        },
    ] {
        let mut case = Case::new().phase(phase.clone());
        let (kind, to) = (RequestKind::Switchover, Some(PG3));
        case.record.request = Some(Request { id: 9, to, kind });
        let record = case.record.renumbered(&fewer).unwrap();
        assert_eq!((record.request, record.answered_request), (None, Some(9)));
        let stopped = matches!(phase, Phase::Stopping { .. } | Phase::CatchingUp { .. });
        assert_eq!(
            matches!(record.phase, Phase::Restoring(_)),
            stopped,
            "{record:?}"
        );
        assert!(stopped || record.serving() == Some(PG1));
        assert!(record.epoch > case.record.epoch);
    }
}

#[test]
fn what_is_stored_justifies_a_renewal_whatever_cannot_be_stored() {
    let due = |case: Case| {
        let mut case = case;
        case.node(PG1).renewal_us = Some(NOW - SECOND);
        let renewed = renewal(case.view()).map(|command| (command.epoch, command.act));
        let failsafe = case.record.failsafe.wanted(PG1).cloned();
        let expected = Act::RenewLease {
            node: PG1,
            failsafe,
        };
        match renewed {
            Some((4, act)) if act == expected => true,
            None => false,
            other => panic!("{other:?}"),
        }
    };
    assert!(due(Case::new()) && due(Case::new().failsafe()));
    assert!(due(Case::new().phase(Phase::Stopping { to: PG2 })));
    // Another rule is planned, and cannot be had.
    let failsafe = Case::new().failsafe().silent(PG3, 9 * SECOND);
    assert_ne!(failsafe.plan().next, failsafe.record);
    assert!(due(failsafe));
    assert!(!due(Case::new().phase(Phase::Fencing(failed(Cause::Dead)))));
    assert!(
        !due(Case::new().with(|case| case.record.leases.clear())),
        "a longer one is stored first"
    );
    assert!(!due(
        Case::new().with(|case| case.seen.leadership.until_us = None)
    ));
    let mut observes = Case::new();
    observes.policy.mode = Mode::Observe;
    assert!(!due(observes));
}

#[test]
fn every_order_is_answered_at_once_whatever_is_being_done() {
    use RequestKind::{Failover, Pause, Resume, Switchover};
    for (condition, case) in rows() {
        // As after a restart, or through another proxy: whatever was under way before.
        for kind in [Pause, Resume, Switchover, Failover] {
            let mut asked = case.clone();
            if asked.seen.leadership.until_us.is_none() {
                continue;
            }
            asked.seen.request = Some(Request {
                id: 99,
                to: None,
                kind,
            });
            let mut answered = None;
            // What gives way to it does so first.
            for _ in 0..2 {
                let plan = asked.plan();
                let taken = plan.next.request.is_some_and(|request| request.id == 99);
                let told = plan.commands.iter().find_map(|command| match &command.act {
                    Act::Report(Event::Done { request: 99 }) => Some(Ok(())),
                    Act::Report(Event::Refused { request: 99, why }) => Some(Err(why.clone())),
                    _ => None,
                });
                if taken || told.is_some() {
                    answered = Some(told.unwrap_or(Ok(())));
                    break;
                }
                asked.record = plan.next;
            }
            let phase = case.record.phase.label();
            let Some(answer) = answered else {
                panic!("{kind:?} in {phase}, {condition}, is not answered");
            };
            if kind == Resume && case.policy.mode != Mode::Observe {
                assert_eq!(answer, Ok(()), "{phase}, {condition}");
            }
            if kind == Pause && matches!(case.record.phase, Phase::Promoting(..)) {
                assert!(answer.is_err(), "{condition}");
            }
        }
    }
}

#[test]
fn a_failover_is_ordered_instead_of_a_switchover_that_has_stopped_the_primary() {
    let stopped = Case::new().stopped(PG1, Some(Lsn(0x4000)));
    let to = PG3;
    let checkpoint = Lsn(0x4000);
    let case = stopped.phase(Phase::CatchingUp { to, checkpoint });
    let mut case = case.asked(RequestKind::Failover, None);
    let (kind, to) = (RequestKind::Switchover, Some(PG3));
    case.record.request = Some(Request { id: 8, to, kind });
    let plan = case.plan();
    assert_eq!(plan.next.phase.label(), "fencing");
    assert_eq!(plan.next.request.map(|request| request.id), Some(9));
    let refused = |act: &Act| matches!(act, Act::Report(Event::Refused { request: 8, .. }));
    assert!(plan.commands.iter().any(|command| refused(&command.act)));
}

/// A standby that was restarted, and has replayed so much of what it holds.
fn replaying(timeline: u32, replayed: u64) -> ServerAnswer {
    let mut answer = detached(timeline, replayed);
    if let ReplicationRole::Standby(facts) = &mut answer.role {
        (facts.received, facts.replayed_all) = (None, false);
    }
    answer
}

fn replayed_all(case: &mut Case, node: NodeId) {
    if let ReplicationRole::Standby(facts) = &mut case.answer(node).role {
        facts.replayed_all = true;
    }
}

#[test]
fn a_standby_that_does_not_know_yet_how_much_it_holds_decides_no_election() {
    let discovering = |case: Case| {
        let (failed, proof) = (failed(Cause::Dead), FenceProof::AgentStopped);
        let case = case.stopped(PG1, None).detached();
        let case = case.phase(Phase::Discovering(failed, proof));
        case.with(|case| {
            *case.answer(PG2) = replaying(1, 0x3000);
            case.seen.phase_since_us = NOW - 60 * SECOND;
            // The old primary cannot be started again.
            case.node(PG1).agent = None;
        })
    };
    // Under quorum pg2 may hold what pg3 lacks, for however long it replays.
    let mut case = discovering(Case::quorum());
    let plan = case.plan();
    assert_eq!(plan.next.phase.label(), "discovering", "{plan:?}");
    assert!(
        plan.why.contains("pg2 must first have replayed"),
        "{}",
        plan.why
    );
    assert_eq!(
        promotable(
            Case::quorum()
                .with(|case| *case.answer(PG2) = replaying(1, 0x3000))
                .view()
        ),
        []
    );
    replayed_all(&mut case, PG2);
    assert_eq!(case.plan().next.phase.label(), "promoting");
    // Asynchronously it is waited for as for one that does not answer.
    let mut case = discovering(Case::new());
    assert_eq!(case.plan().next.phase.label(), "promoting");
    case.seen.phase_since_us = NOW - SECOND;
    let plan = case.plan();
    assert_eq!(plan.next.phase.label(), "discovering", "{plan:?}");
    // Alone it is waited for; an operator who accepts losses does not.
    case = case.silent(PG3, 9 * SECOND);
    case.seen.phase_since_us = NOW - 60 * SECOND;
    case.node(PG1).agent = None;
    let plan = case.plan();
    assert_eq!(plan.next.phase.label(), "discovering", "{plan:?}");
    case = case.asked(RequestKind::Failover, None);
    assert_eq!(case.plan().next.phase.label(), "promoting");
}

#[test]
fn a_lease_lasts_as_long_as_it_was_granted_for() {
    let fencing = |granted_us: u64| {
        Case::new()
            .silent(PG1, 9 * SECOND)
            .detached()
            .phase(Phase::Fencing(failed(Cause::Hung)))
            .with(|case| {
                case.seen.leadership.since_us = NOW - 10 * SECOND;
                case.node(PG1).renewal_us = None;
                case.record.leases = [(PG1, granted_us)].into();
            })
    };
    // Ours is of 3 s, the one before us granted 20 s.
    let waits = |case: &Case| case.plan().next.phase.label() == "fencing";
    assert!(!waits(&fencing(3 * SECOND)));
    assert!(waits(&fencing(20 * SECOND)));
    // Also where the record was lost and the agent says so.
    let mut told = fencing(3 * SECOND);
    let lease = |epoch, left_us| AgentLease {
        epoch,
        until_us: NOW + left_us,
        prolonged: false,
        renewed_us: None,
    };
    told.node(PG1).agent.as_mut().unwrap().lease = Some(lease(4, SECOND));
    assert!(waits(&told));

    // It is written down before it is granted, and is shorter only once a shorter one has taken its place.
    let renewing = |longest_us: u64| {
        Case::new().with(|case| {
            case.node(PG1).renewal_us = Some(NOW - SECOND);
            case.record.leases = [(PG1, longest_us)].into();
        })
    };
    let longest = |case: &Case| case.plan().next.leases[&PG1];
    assert_eq!(longest(&renewing(SECOND)), 3 * SECOND);
    let mut shortened = renewing(20 * SECOND);
    assert_eq!(longest(&shortened), 20 * SECOND);
    shortened.node(PG1).agent.as_mut().unwrap().lease = Some(lease(3, SECOND));
    assert_eq!(longest(&shortened), 20 * SECOND, "of an older epoch");
    shortened.node(PG1).agent.as_mut().unwrap().lease = Some(lease(4, SECOND));
    assert_eq!(longest(&shortened), 3 * SECOND);
}

fn attached(name: &str, node: Option<NodeId>, confirmed_us: u64) -> Attached {
    let name = name.to_owned();
    Attached {
        name,
        node,
        confirmed_us,
    }
}

fn receives(case: &mut Case, attached: Attached) {
    if let ReplicationRole::Primary(facts) = &mut case.answer(PG1).role {
        facts.attached = vec![attached];
    }
}

#[test]
fn a_clean_stop_is_not_ordered_while_somebody_confirms_nothing() {
    let asked = || Case::new().asked(RequestKind::Switchover, Some(PG2));
    let mut case = asked();
    receives(&mut case, attached("pg3", Some(PG3), NOW - 3 * SECOND));
    let plan = case.plan();
    let refused = plan.commands.iter().find_map(|command| match &command.act {
        Act::Report(Event::Refused { why, .. }) => Some(why.clone()),
        _ => None,
    });
    assert!(
        refused.unwrap().starts_with("pg3 receives from pg1"),
        "{plan:?}"
    );
    // What was written before says nothing.
    let ended = |confirmed_us: u64| {
        let mut case = Case::new().phase(Phase::Checkpointing { to: PG2 });
        case.seen.checkpoint_ended = Some((PG1, 4));
        receives(&mut case, attached("archive", None, confirmed_us));
        case
    };
    let began = ended(0).seen.phase_since_us;
    assert_eq!(ended(began).plan().next.phase.label(), "draining");
    let mut waits = ended(began - 1);
    let plan = waits.plan();
    assert_eq!(plan.next.phase.label(), "checkpointing");
    assert!(
        plan.why.starts_with("archive receives from pg1"),
        "{}",
        plan.why
    );
    waits.seen.phase_since_us = NOW - 15 * SECOND;
    receives(&mut waits, attached("archive", None, 0));
    assert_eq!(waits.plan().next.serving(), Some(PG1));
    let goes_on = |case: &Case| matches!(case.plan().next.phase, Phase::Steady | Phase::Following);
    assert!(goes_on(&waits));
    // A standby that falls silent while transactions end.
    let mut draining = Case::new().phase(Phase::Draining { to: PG2 });
    receives(&mut draining, attached("pg3", Some(PG3), NOW - SECOND));
    assert_eq!(draining.plan().next.phase.label(), "stopping");
    receives(&mut draining, attached("pg3", Some(PG3), NOW - 2 * SECOND));
    assert!(goes_on(&draining));
}

#[test]
fn a_server_that_ends_each_time_is_started_five_times() {
    let mut case = recovering(None).with(|case| {
        let agent = case.node(PG3).agent.as_mut().unwrap();
        agent.postmaster = Postmaster::Stopped {
            checkpoint: None,
            crashed: true,
        };
    });
    let mut started = 0;
    let rejoined = (0..20).any(|_| {
        let plan = case.plan();
        let acts = plan.commands.iter().map(|command| &command.act);
        let starts = acts.filter(|act| matches!(act, Act::StartAsStandby { .. }));
        started += starts.count();
        // Asked long enough ago.
        case.node(PG3).start_us = Some(NOW - 3 * SECOND);
        case.record = plan.next;
        let mut acts = plan.commands.iter().map(|command| &command.act);
        acts.any(|act| {
            matches!(
                act,
                Act::Rejoin {
                    node: PG3,
                    copy: false,
                    ..
                }
            )
        })
    });
    assert!(rejoined && started == 5, "{started}");
    assert!(case.record.starts.is_empty());
}

#[test]
fn where_nobody_waits_for_a_standby_no_rule_counts() {
    let mut case = Case::quorum();
    let early = |case: &mut Case, server: bool| {
        if let ReplicationRole::Primary(facts) = &mut case.answer(PG1).role {
            facts.early.server = server;
        }
    };
    early(&mut case, true);
    let plan = case.plan();
    assert!(plan.next.sync.rules.contains(&None) && plan.next.sync.changing());
    // Whatever is proved by a commit of our own.
    case.record = plan.next;
    case = case.ordered(PG1, rule(&[PG2, PG3]), true);
    assert_eq!(case.plan().next, case.record);
    early(&mut case, false);
    assert!(!case.plan().next.sync.changing());
}

#[test]
fn a_record_that_is_older_than_what_agents_know_is_not_gone_by() {
    // It was put back from a copy: pg2 has been promoted since.
    let mut case = Case::new().pg2_leads();
    case.record = Case::new().record;
    for node in [PG1, PG2, PG3] {
        case.node(node).agent.as_mut().unwrap().epoch = 31;
    }
    *case.answer(PG1) = standby(2, PG2, 0x6000);
    for phase in [
        Phase::Steady,
        promoting(),
        Phase::Fencing(failed(Cause::Dead)),
    ] {
        let mut case = case.clone().phase(phase);
        let plan = case.plan();
        assert_eq!(
            (plan.next.primary, plan.next.epoch),
            (Some(PG2), 32),
            "{plan:?}"
        );
        assert_eq!(plan.next.phase, Phase::Following);

        // Not while another proxy renews a lease by another record, nor before that would be seen.
        let lease = |renewed_us| AgentLease {
            epoch: 31,
            until_us: NOW + SECOND,
            prolonged: false,
            renewed_us,
        };
        case.node(PG2).agent.as_mut().unwrap().lease = Some(lease(None));
        let plan = case.plan();
        assert_eq!((plan.next.epoch, &plan.next.phase), (4, &Phase::Looking));
        case.record = plan.next;
        case.node(PG2).agent.as_mut().unwrap().lease = Some(lease(Some(NOW - SECOND)));
        let plan = case.plan();
        assert!(plan.why.starts_with("another proxy renews"), "{}", plan.why);
        // What agents prolong among themselves says that nobody does.
        let agent = case.node(PG2).agent.as_mut().unwrap();
        agent.lease.as_mut().unwrap().prolonged = true;
        assert_eq!(case.plan().next.epoch, 32);
    }
}

#[test]
fn a_crashed_standby_has_its_time_from_when_it_was_started() {
    let escalates = |start_us, foreign: bool| {
        let case = recovering(start_us).with(|case| {
            if foreign {
                *case.node(PG3) = facts(standby(2, PG1, 0x5800), Postmaster::Standby);
                case.node(PG3).start_us = start_us;
            }
        });
        case.plan().next.quarantine[&PG3].recovery == Recovery::Rewind
    };
    // The phase has lasted for a thousand seconds, and it has 30.
    assert!(!escalates(Some(NOW - SECOND / 10), false));
    assert!(!escalates(Some(NOW - 29 * SECOND), false));
    assert!(escalates(Some(NOW - 30 * SECOND), false));
    assert!(!escalates(None, false), "nobody knows since when it runs");
    assert!(escalates(Some(NOW - SECOND / 10), true), "it cannot follow");

    // It recovers for an hour and gets on, and stands still only then.
    let moved = |ago_us| {
        let case = recovering(Some(0)).with(|case| {
            case.node(PG3).agent.as_mut().unwrap().moved_us = Some(NOW - ago_us);
        });
        case.plan().next.quarantine[&PG3].recovery
    };
    assert_eq!(moved(29 * SECOND), Recovery::Start);
    assert_eq!(moved(30 * SECOND), Recovery::Rewind);
}
