//! Every order of events in a small cluster, to a bound, with the real planner.
//!
//! Our own breadth-first search rather than stateright: the model is a struct with a list of actions,
//! the search is a page, there is no dependency, and mutants and healing are ours to add.
//!
//! A few seconds of it run with the other tests. `CAUSEWAY_EXPLORE_STATES` goes deeper, and
//! `CAUSEWAY_EXPLORE_FAULTS` allows more mishaps in one run than one;
//! `CAUSEWAY_EXPLORE_WALKS` adds random walks.

mod proxy;
mod search;
mod state;
mod traces;
mod world;

use search::{Bounds, Explored, explore, wander};
use state::{Kind, Mutant, Setup};

fn number(name: &str) -> Option<usize> {
    std::env::var(name).ok()?.parse().ok()
}

fn run(setup: &Setup, states: usize) -> Result<Explored, String> {
    let mut setup = setup.clone();
    if let Some(faults) = number("CAUSEWAY_EXPLORE_FAULTS") {
        setup.faults = u8::try_from(faults).unwrap();
        setup.ticks += setup.faults - 1;
    }
    let bounds = Bounds {
        states: number("CAUSEWAY_EXPLORE_STATES").unwrap_or(states),
        heal_every: 53,
    };
    explore(&setup, bounds)
}

/// Deeper, but not everywhere: three mishaps in a walk.
fn walk(setup: &Setup, walks: usize) -> Result<Explored, String> {
    let mut setup = setup.clone();
    (setup.faults, setup.ticks, setup.writes) = (3, 12, 3);
    let walks = number("CAUSEWAY_EXPLORE_WALKS").unwrap_or(walks);
    wander(&setup, walks as u64, 100)
}

/// Nothing breaks, and from everywhere the cluster heals; promotions are among what was explored.
fn safe(setup: &Setup) {
    let mut promoted = 0;
    for explored in [run(setup, 12_000), walk(setup, 200)] {
        match explored {
            Ok(explored) => {
                assert!(
                    explored.healed > 20 && explored.states > 1_000,
                    "{explored:?}"
                );
                promoted += explored.promoted;
            }
            Err(trace) => panic!("{trace}"),
        }
    }
    assert!(promoted > 20, "only {promoted} promotions were seen");
}

/// A wrong planner is found out.
fn found_out(mut setup: Setup, mutant: Mutant, kinds: &[Kind], sign: &str) {
    setup.mutant = mutant;
    setup.kinds = kinds.to_vec();
    let found = walk(&setup, 3_000).and_then(|_| run(&setup, 20_000));
    match found {
        Ok(explored) => panic!("{mutant:?} was not noticed: {explored:?}"),
        Err(trace) => assert!(trace.contains(sign), "{trace}"),
    }
}

fn only(mut setup: Setup, kinds: &[Kind]) -> Setup {
    setup.kinds = kinds.to_vec();
    setup
}

#[test]
fn asynchronous_survives_crashes_and_restarts() {
    safe(&only(Setup::asynchronous(), &[Kind::Crash, Kind::Proxy]));
}

#[test]
fn asynchronous_survives_freezes_and_cuts() {
    safe(&only(Setup::asynchronous(), &[Kind::Freeze, Kind::Cut]));
}

#[test]
fn quorum_survives_crashes_and_restarts() {
    safe(&only(Setup::quorum(true), &[Kind::Crash, Kind::Proxy]));
}

#[test]
fn quorum_survives_freezes_and_cuts() {
    safe(&only(Setup::quorum(true), &[Kind::Freeze, Kind::Cut]));
}

#[test]
fn quorum_without_agents_is_safe() {
    safe(&Setup::quorum(false));
}

#[test]
fn two_proxies_do_not_quarrel() {
    let mut setup = only(Setup::quorum(true), &[Kind::Crash, Kind::Proxy]);
    setup.proxies = 2;
    setup.faults = 2;
    safe(&setup);
}

#[test]
fn agents_that_have_heard_of_no_lease_are_not_relied_on() {
    let mut setup = only(Setup::asynchronous(), &[Kind::Freeze, Kind::Cut]);
    setup.fresh = true;
    safe(&setup);
}

#[test]
fn believing_in_leases_that_nobody_gave_is_found_out() {
    let mut setup = Setup::asynchronous();
    setup.fresh = true;
    let sign = "pg1 acknowledged";
    found_out(setup, Mutant::BelievesInLeases, &[Kind::Cut], sign);
}

#[test]
fn a_switchover_may_fail_anywhere() {
    let mut setup = Setup::asynchronous();
    setup.switchover = true;
    safe(&setup);
}

#[test]
fn skipping_the_fence_is_found_out() {
    let (freeze, cut) = (Kind::Freeze, Kind::Cut);
    let sign = "pg1 acknowledged";
    found_out(
        Setup::asynchronous(),
        Mutant::SkipsTheFence,
        &[freeze, cut],
        sign,
    );
}

#[test]
fn promoting_the_first_is_found_out() {
    let sign = "a promotion has lost";
    found_out(
        Setup::quorum(true),
        Mutant::PromotesTheFirst,
        &[Kind::Crash],
        sign,
    );
}

#[test]
fn a_quorum_that_does_not_intersect_is_found_out() {
    let mut setup = Setup::quorum(true);
    setup.faults = 2;
    let sign = "a promotion has lost";
    found_out(setup, Mutant::TrustsAnyone, &[Kind::Crash], sign);
}

#[test]
fn forgetting_rules_is_found_out() {
    let mut setup = Setup::quorum(true);
    setup.faults = 3;
    let sign = "a promotion has lost";
    found_out(setup, Mutant::ForgetsRules, &[Kind::Crash], sign);
}

#[test]
fn counting_leases_short_is_found_out() {
    let sign = "pg1 acknowledged";
    found_out(
        Setup::asynchronous(),
        Mutant::CountsLeasesShort,
        &[Kind::Cut],
        sign,
    );
}
