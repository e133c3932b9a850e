//! Candidates that take an order to lead and do not follow it.

use super::action::Action;
use super::mutants::Mutant;
use super::setup::{Kind, Setup};
use super::state::State;
use super::{found_out, only, safe};
use crate::core::topology::NodeId;

/// pg2 has been chosen, and takes the order to lead without following it, for as long as it is waited for.
const OBSTRUCTED: &[Action] = &[
    Action::Think(0),
    Action::Obstruct(1),
    Action::Kill(0),
    Action::Think(0),
    Action::Run(0),
    Action::Run(0),
    Action::Run(0),
    Action::Think(0),
    Action::Run(0),
    Action::Think(0),
    Action::Run(0),
    Action::Tick,
    Action::Tick,
];

fn obstructed(setup: Setup, kinds: &[Kind]) -> Setup {
    let mut setup = only(setup, kinds);
    (setup.faults, setup.ticks, setup.writes) = (3, 6, 2);
    setup.before = OBSTRUCTED.to_vec();
    setup
}

#[test]
fn one_that_cannot_be_promoted_is_given_up_for_another() {
    for setup in [Setup::asynchronous(), Setup::quorum(true)] {
        let before = obstructed(setup.clone(), &[]);
        let mut state = State::new(&before);
        assert!(
            state.world.servers[1].ordered.is_some(),
            "{}",
            state.told.why
        );
        state.act(&before, Action::Think(0));
        assert!(
            state.record.given_up.contains_key(&NodeId(1)),
            "{}",
            state.told.why
        );
        for kinds in [
            [Kind::Crash, Kind::Proxy, Kind::Obstruct],
            [Kind::Freeze, Kind::Cut, Kind::Agent],
        ] {
            safe(&obstructed(setup.clone(), &kinds));
        }
    }
}

#[test]
fn another_may_be_ordered_while_one_is_being_promoted() {
    for setup in [Setup::asynchronous(), Setup::quorum(true)] {
        let kinds = [Kind::Crash, Kind::Cut, Kind::Proxy];
        let mut setup = obstructed(setup, &kinds);
        setup.before.truncate(OBSTRUCTED.len() - 2);
        setup.failover = true;
        safe(&setup);
    }
}

#[test]
fn standbys_that_cannot_be_promoted_may_be_any() {
    for setup in [Setup::asynchronous(), Setup::quorum(true)] {
        let mut setup = only(setup, &[Kind::Crash, Kind::Obstruct, Kind::Freeze]);
        (setup.faults, setup.ticks) = (2, 6);
        safe(&setup);
        setup.switchover = true;
        safe(&setup);
    }
}

#[test]
fn waiting_for_a_candidate_for_ever_is_found_out() {
    let setup = obstructed(Setup::asynchronous(), &[]);
    let mutant = Mutant::WaitsForTheCandidate;
    found_out(setup, mutant, &[Kind::Obstruct], "does not serve again");
}

#[test]
fn taking_one_that_is_given_up_for_harmless_is_found_out() {
    let setup = obstructed(Setup::asynchronous(), &[]);
    // Two that acknowledge, or nobody that does: whichever is met first.
    found_out(setup, Mutant::TrustsRecovery, &[Kind::Crash], "pg2");
}

#[test]
fn forgetting_who_was_given_up_is_found_out() {
    let setup = obstructed(Setup::quorum(true), &[]);
    let mutant = Mutant::ForgetsWhoWasGivenUp;
    found_out(setup, mutant, &[Kind::Obstruct], "does not serve again");
}

/// A switchover has stopped pg1, and neither standby follows an order to lead.
fn stopped_in_vain(setup: Setup) -> Setup {
    let mut setup = only(setup, &[]);
    (setup.faults, setup.ticks, setup.writes) = (4, 6, 2);
    setup.before = vec![
        Action::Think(0),
        Action::Obstruct(1),
        Action::Obstruct(2),
        Action::AskSwitchover,
    ];
    let mut state = State::new(&setup);
    // Time passes once the candidate has its order.
    while state
        .world
        .servers
        .iter()
        .all(|server| server.ordered.is_none())
    {
        let next =
            (0..3).find_map(|node| state.world.is_busy(node).then_some(Action::Complete(node)));
        let streams = (0..3)
            .find(|node| state.world.streams(*node))
            .map(Action::Stream);
        let runs = (!state.proxies[0].queue.is_empty()).then_some(Action::Run(0));
        // A plan that waits for something goes on a moment later.
        let thought = setup.before.last() == Some(&Action::Think(0));
        let waits = if thought {
            Action::Tick
        } else {
            Action::Think(0)
        };
        let action = runs.or(next).or(streams).unwrap_or(waits);
        state.act(&setup, action);
        setup.before.push(action);
        assert!(setup.before.len() < 60, "{}", state.told.why);
    }
    setup.before.extend([Action::Tick, Action::Tick]);
    setup.ticks += state.world.now;
    setup
}

#[test]
fn a_switchover_that_cannot_be_completed_goes_back() {
    for setup in [Setup::asynchronous(), Setup::quorum(true)] {
        let before = stopped_in_vain(setup);
        let mut state = State::new(&before);
        assert_eq!(state.record.intact, Some(NodeId(0)));
        state.act(&before, Action::Think(0));
        let label = state.record.phase.label();
        assert_eq!(label, "fencing", "{}", state.told.why);
        for kinds in [
            [Kind::Crash, Kind::Proxy, Kind::Obstruct],
            [Kind::Freeze, Kind::Cut, Kind::Agent],
        ] {
            safe(&only(before.clone(), &kinds));
        }
    }
}

#[test]
fn forgetting_who_is_intact_is_found_out() {
    let setup = stopped_in_vain(Setup::asynchronous());
    let mutant = Mutant::ForgetsWhoIsIntact;
    found_out(setup, mutant, &[Kind::Proxy], "does not serve again");
}

#[test]
fn going_back_before_the_other_is_stopped_is_found_out() {
    let setup = stopped_in_vain(Setup::asynchronous());
    found_out(setup, Mutant::GoesBackUnfenced, &[Kind::Crash], "pg2");
}
