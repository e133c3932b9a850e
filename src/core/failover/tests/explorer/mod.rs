//! Every order of events in a small cluster, to a bound, with the real planner.
//!
//! Our own breadth-first search rather than stateright: the model is a struct with a list of actions,
//! the search is a page, there is no dependency, and mutants and healing are ours to add.
//!
//! A few seconds of it run with the other tests. `CAUSEWAY_EXPLORE_STATES` goes deeper, and
//! `CAUSEWAY_EXPLORE_FAULTS` allows more mishaps in one run than one;
//! `CAUSEWAY_EXPLORE_WALKS` adds random walks.

mod action;
mod agents;
mod mutants;
mod obstructed;
mod proxy;
mod search;
mod setup;
mod state;
mod traces;
mod world;

use action::Action;
use mutants::Mutant;
use search::{Bounds, Explored, explore, wander};
use setup::{Kind, Setup};
use state::State;

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

#[test]
fn a_restarted_standby_may_hold_more_than_it_has_replayed() {
    let mut setup = only(Setup::quorum(true), &[Kind::Crash, Kind::Restart]);
    setup.faults = 2;
    safe(&setup);
}

#[test]
fn taking_what_is_replayed_for_all_is_found_out() {
    let mut setup = Setup::quorum(true);
    setup.faults = 2;
    let sign = "a promotion has lost";
    let kinds = [Kind::Crash, Kind::Restart];
    found_out(setup, Mutant::TakesReplayForAll, &kinds, sign);
}

#[test]
fn a_lease_that_another_proxy_made_longer_is_waited_for() {
    let mut setup = only(Setup::asynchronous(), &[Kind::Cut, Kind::Freeze]);
    setup.longer_lease = Some(3);
    setup.ticks = 4;
    safe(&setup);
    let sign = "pg1 acknowledged";
    found_out(setup, Mutant::ForgetsLongerLeases, &[Kind::Cut], sign);
}

#[test]
fn failsafe_asynchronously_survives_crashes_and_restarts() {
    let kinds = [Kind::Crash, Kind::Proxy, Kind::Agent];
    safe(&only(Setup::asynchronous().failsafe(), &kinds));
}

#[test]
fn failsafe_asynchronously_survives_freezes_and_cuts() {
    let kinds = [Kind::Freeze, Kind::Cut, Kind::Agent];
    safe(&only(Setup::asynchronous().failsafe(), &kinds));
}

#[test]
fn failsafe_with_a_quorum_survives_crashes_and_restarts() {
    let kinds = [Kind::Crash, Kind::Proxy, Kind::Agent];
    safe(&only(Setup::quorum(true).failsafe(), &kinds));
}

#[test]
fn failsafe_with_a_quorum_survives_freezes_and_cuts() {
    let kinds = [Kind::Freeze, Kind::Cut, Kind::Agent];
    safe(&only(Setup::quorum(true).failsafe(), &kinds));
}

#[test]
fn failsafe_with_two_proxies_is_safe() {
    let mut setup = only(Setup::asynchronous(), &[Kind::Cut, Kind::Proxy]).failsafe();
    setup.proxies = 2;
    setup.faults = 2;
    safe(&setup);
}

#[test]
fn a_failsafe_whose_members_change_is_safe() {
    for older in [1, 2] {
        let mut setup = only(Setup::asynchronous(), &[Kind::Freeze, Kind::Cut]).failsafe();
        setup.older_rule = Some(vec![older]);
        safe(&setup);
    }
}

#[test]
fn a_switchover_with_failsafe_may_fail_anywhere() {
    let mut setup = Setup::asynchronous().failsafe();
    setup.switchover = true;
    safe(&setup);
}

#[test]
fn a_switchover_to_one_that_has_promised_may_fail_anywhere() {
    for setup in [Setup::asynchronous(), Setup::quorum(true)] {
        let mut setup = setup.failsafe();
        setup.switchover = true;
        setup.before = [PROLONGED, &[Action::Mend, Action::AskSwitchover]].concat();
        setup.faults = 2;
        safe(&setup);
    }
}

#[test]
fn without_any_proxy_the_primary_goes_on_and_cut_off_from_everybody_it_stops() {
    for setup in [Setup::asynchronous(), Setup::quorum(true)] {
        let setup = setup.failsafe();
        let mut state = State::new(&setup);
        let pass = |state: &mut State| {
            for action in [Action::Confer(0), Action::Tick, Action::Write(0)] {
                state.act(&setup, action);
            }
        };
        for _ in 0..20 {
            pass(&mut state);
            assert!(state.world.lives(0));
        }
        state.act(&setup, Action::Isolate(0));
        pass(&mut state);
        pass(&mut state);
        assert!(!state.world.lives(0));
    }
}

/// The primary is cut off from the proxies, and goes on by what the others have promised.
const PROLONGED: &[Action] = &[
    Action::Think(0),
    Action::CutFromProxies(0),
    Action::Tick,
    Action::Confer(0),
];

/// The primary's machine stands still for longer than its lease, and nobody has planned anything yet.
const STOOD_STILL: &[Action] = &[
    Action::Think(0),
    Action::FreezeHost(0),
    Action::Tick,
    Action::Tick,
    Action::Tick,
];

/// It is to be replaced, and what is told of that has arrived.
const FENCED: &[Action] = &[
    Action::Think(0),
    Action::Run(0),
    Action::Run(0),
    Action::Run(0),
    Action::Run(0),
];

#[test]
fn a_lease_that_was_prolonged_is_waited_for() {
    for setup in [Setup::asynchronous(), Setup::quorum(true)] {
        let mut setup = only(setup, &[Kind::Cut, Kind::Agent, Kind::Proxy]).failsafe();
        setup.faults = 3;
        setup.before = PROLONGED.to_vec();
        safe(&setup);
    }
}

/// With failsafe, a wrong planner or agent is found out: searched for from where it can do harm.
fn failsafe_found_out(setup: Setup, mutant: Mutant, before: &[&[Action]], sign: &str) {
    let mut setup = setup.failsafe();
    setup.faults = 4;
    setup.before = before.concat();
    found_out(setup, mutant, &[Kind::Agent], sign);
}

#[test]
fn forgetting_promises_is_found_out() {
    let before = [PROLONGED, FENCED, &[Action::RestartAgent(1), Action::Tick]];
    let sign = "pg1 acknowledged";
    failsafe_found_out(
        Setup::asynchronous(),
        Mutant::ForgetsPromises,
        &before,
        sign,
    );
}

#[test]
fn counting_promises_from_their_answer_is_found_out() {
    let asked = [
        Action::Think(0),
        Action::CutFromProxies(0),
        Action::Ask(0),
        Action::Deliver(0),
        Action::Deliver(1),
        Action::Tick,
    ];
    let answered = [Action::Deliver(0), Action::Deliver(0)];
    let before: [&[Action]; 3] = [&asked, &answered, FENCED];
    let mutant = Mutant::CountsFromTheAnswer;
    failsafe_found_out(Setup::asynchronous(), mutant, &before, "pg1 acknowledged");
}

#[test]
fn promising_without_following_is_found_out() {
    // The agent of pg3 hears nothing of pg2's promotion, of which its server is told.
    let before = [
        Action::Think(0),
        Action::CutFromProxies(0),
        Action::KillAgent(2),
        Action::Tick,
        Action::Think(0),
        Action::Run(0),
        Action::Run(0),
        Action::Run(0),
        Action::Think(0),
        Action::Run(0),
        Action::StartAgent(2),
        Action::Confer(0),
    ];
    let mutant = Mutant::PromisesWithoutFollowing;
    failsafe_found_out(Setup::quorum(true), mutant, &[&before], "pg1 runs on");
}

#[test]
fn promising_to_an_older_epoch_is_found_out() {
    // The server of pg3 stands still while its agent is told, and streams on afterwards.
    let mut setup = Setup::asynchronous();
    setup.older_rule = Some(vec![2]);
    let before = [
        Action::Think(0),
        Action::CutFromProxies(0),
        Action::Freeze(2),
        Action::Tick,
        Action::Think(0),
        Action::Run(0),
        Action::Run(0),
        Action::Run(0),
        Action::CutFromProxies(2),
        Action::Thaw(2),
    ];
    let mutant = Mutant::PromisesToOldEpochs;
    failsafe_found_out(setup, mutant, &[&before], "pg1 acknowledged");
}

#[test]
fn asking_too_few_is_found_out() {
    let before: [&[Action]; 3] = [&[Action::CutPeers(2)], PROLONGED, FENCED];
    let (mutant, sign) = (Mutant::AsksTooFew, "pg1 acknowledged");
    failsafe_found_out(Setup::asynchronous(), mutant, &before, sign);
}

#[test]
fn leaving_one_period_more_is_found_out() {
    let mut setup = only(Setup::asynchronous(), &[Kind::Freeze]);
    (setup.faults, setup.ticks) = (2, 6);
    setup.before = STOOD_STILL.to_vec();
    let sign = "pg1 acknowledged";
    found_out(setup, Mutant::LeavesOnePeriodMore, &[Kind::Freeze], sign);
}

#[test]
fn what_stood_still_asks_whether_it_still_leads() {
    for setup in [Setup::asynchronous(), Setup::quorum(true)] {
        let mut setup = only(setup, &[Kind::Freeze, Kind::Cut, Kind::Agent]).failsafe();
        (setup.faults, setup.ticks) = (3, 6);
        setup.before = STOOD_STILL.to_vec();
        safe(&setup);
        // With nobody to tell it otherwise it runs on, and cut off from the others it does not.
        for cut in [false, true] {
            let mut state = State::new(&setup);
            if cut {
                state.act(&setup, Action::CutPeers(1));
                state.act(&setup, Action::CutPeers(2));
            }
            state.act(&setup, Action::Thaw(0));
            assert!(!state.world.lives(0));
            state.act(&setup, Action::Confer(0));
            assert_eq!(state.world.lives(0), !cut);
            state.act(&setup, Action::Tick);
            assert_eq!(state.world.lives(0), !cut);
        }
    }
}

#[test]
fn promoting_despite_promises_is_found_out() {
    let mutant = Mutant::PromotesDespitePromises;
    let before = [PROLONGED, FENCED];
    failsafe_found_out(Setup::asynchronous(), mutant, &before, "pg1 acknowledged");
}

#[test]
fn forgetting_failsafe_rules_is_found_out() {
    let mut setup = Setup::asynchronous();
    setup.older_rule = Some(vec![1]);
    let before: [&[Action]; 3] = [PROLONGED, &[Action::CutFromProxies(1)], FENCED];
    let mutant = Mutant::ForgetsFailsafeRules;
    failsafe_found_out(setup, mutant, &before, "pg1 acknowledged");
}

/// The same beginnings, with nothing wrong.
#[test]
fn from_where_mutants_are_found_out_all_is_safe() {
    for older in [None, Some(vec![1]), Some(vec![2])] {
        for end in [
            Action::CutFromProxies(1),
            Action::RestartAgent(1),
            Action::Freeze(2),
        ] {
            let mut setup = only(Setup::asynchronous(), &[Kind::Cut, Kind::Agent]).failsafe();
            setup.faults = 3;
            setup.older_rule.clone_from(&older);
            setup.before = [PROLONGED, &[end], FENCED].concat();
            for explored in [run(&setup, 4_000), walk(&setup, 50)] {
                if let Err(trace) = explored {
                    panic!("{older:?}, {end:?}: {trace}");
                }
            }
        }
    }
}
