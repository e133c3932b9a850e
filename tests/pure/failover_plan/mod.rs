//! What the planner does in each phase, printed into docs/failover-plan.md from the planner itself.
//!
//! `CAUSEWAY_WRITE_DOCS=1 cargo test --test pure failover_plan` writes the file anew.

use std::fmt::Write as _;

use pgcauseway::core::failover::candidate::promotable;
use pgcauseway::core::failover::command::Act;
use pgcauseway::core::failover::facts::observation::{Postmaster, RejoinJob};
use pgcauseway::core::failover::policy::{Durability, Mode};
use pgcauseway::core::failover::record::{Phase, QuarantineReason, Record, Recovery};
use pgcauseway::core::failover::{Plan, View, plan};
use pgcauseway::core::topology::NodeId;

mod case;
mod failing;
mod guards;
mod rows;
mod unable;

use case::*;
use rows::rows;

const FILE: &str = "docs/failover-plan.md";

fn render() -> String {
    let mut text = String::from(
        "# What the failover planner does\n\n\
         Printed by `tests/pure/failover_plan` from the planner itself; do not edit. Three nodes, pg1 \
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
        acts.contains(&Act::RenewLease {
            node: PG2,
            failsafe: None,
        })
    };
    assert!(!renews(&case), "one was asked for a moment ago");
    case.node(PG2).agent.as_mut().unwrap().epoch = 3;
    assert!(renews(&case), "it led a moment ago, in another epoch");
}

#[test]
fn a_rule_that_was_ordered_may_still_come_into_force() {
    // pg2 and pg3 were waited for, then pg2 alone was ordered, and before that showed both again.
    let mut case = Case::quorum();
    let both = rule(&[PG2, PG3]);
    case.record.sync.add(Some(rule(&[PG2])));
    case.record.sync.add(Some(both.clone()));
    let sets = |plan: &Plan| {
        let set = Act::SetSync {
            node: PG1,
            rule: both.clone(),
        };
        plan.commands.iter().any(|command| command.act == set)
    };
    let plan = case.plan();
    assert!(plan.next.sync.changing() && sets(&plan), "{plan:?}");

    // Set again: what was on its way is no more. That commits wait for them is to be seen yet.
    let proves = |plan: &Plan| {
        let acts = plan.commands.iter().map(|command| &command.act);
        acts.filter(|act| matches!(act, Act::ProveSync { .. }))
            .count()
    };
    case = case.ordered(PG1, both.clone(), false);
    let plan = case.plan();
    assert!(plan.next.sync.changing() && !sets(&plan) && proves(&plan) == 1);
    case = case.ordered(PG1, both.clone(), true);
    assert!(!case.plan().next.sync.changing());

    // In another epoch somebody else may have decided in between.
    case.record.epoch = 5;
    let plan = case.plan();
    assert!(plan.next.sync.changing() && sets(&plan), "{plan:?}");
}

#[test]
fn what_a_new_primary_shows_is_not_yet_what_it_does() {
    let mut case = Case::quorum()
        .stopped(PG1, None)
        .detached()
        .phase(promoting());
    *case.node(PG2) = facts(primary(2, 0x5001), Postmaster::Primary);
    case.answer(PG2).rule = Some(rule(&[PG2, PG3]));
    let plan = case.plan();
    assert_eq!(plan.next.primary, Some(PG2));
    assert!(plan.next.sync.rules.contains(&None), "{plan:?}");
}

#[test]
fn a_switchover_promotes_nobody_else_where_nobody_is_promoted_unasked() {
    for (condition, case) in rows::other_modes() {
        let before = case.record.request.is_some();
        if before {
            let plan = case.plan();
            assert_eq!(plan.next.request, None, "{condition}");
            let leads = matches!(plan.next.phase, Phase::Following | Phase::Restoring(_));
            assert!(leads, "{condition}: {plan:?}");
        }
    }
}

#[test]
fn what_is_of_another_cluster_is_let_be() {
    let touches = |plan: &Plan, node: NodeId| {
        let acts = plan.commands.iter().map(|command| &command.act);
        acts.filter(|act| match act {
            Act::Stop { node: at, .. } | Act::Rejoin { node: at, .. } | Act::Fence(at) => {
                *at == node
            }
            Act::Follow { standby: at, .. } | Act::Promote(at) => *at == node,
            _ => false,
        })
        .count()
    };
    for answer in [
        primary(1, 0x4000),
        primary(2, 0x4000),
        standby(1, PG1, 0x4000),
        standby(3, PG1, 0x4000),
    ] {
        for fallen in [false, true] {
            let mut case = Case::new();
            *case.answer(PG3) = answer.clone();
            case.answer(PG3).system = 8;
            if fallen {
                let why = out(QuarantineReason::OldPrimary, Recovery::Rewind);
                case.record.quarantine.insert(PG3, why);
            }
            let leads = case.answer(PG3).primary().is_some();
            if leads {
                case.node(PG3).agent.as_mut().unwrap().postmaster = Postmaster::Primary;
            }
            let plan = case.plan();
            assert_eq!(touches(&plan, PG3), 0, "{plan:?}");
            let why = plan.next.quarantine[&PG3];
            assert_eq!(why.recovery, Recovery::Operator, "{plan:?}");
        }
    }
}

#[test]
fn a_record_that_was_lost_begins_beyond_what_clients_have_gone_by() {
    let mut case = Case::new().without_agents();
    case.record = Record::new(&case.policy);
    case.seen.ruled_epoch = 40;
    assert!(case.plan().next.epoch > 40);
    case.policy.mode = Mode::Observe;
    assert!(case.plan().next.epoch > 40);
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
    let rejoined = healthy().with(|case| case.node(PG2).job = RejoinJob::Running);
    assert_eq!(able(&rejoined), [PG3], "its agent may stop it");
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
