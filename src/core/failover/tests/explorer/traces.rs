//! Whole scripts as text, to be read like prose when they change.
//!
//! A trace that is out of date fails with what it should be.

use super::action::Action;
use super::setup::Setup;
use super::state::State;
use super::world::NODES;

use Action::{
    AskSwitchover, Complete, Confer, CrashHost, CutFromProxies, Freeze, FreezeHost, Isolate, Kill,
    Mend, RestartProxy, Thaw, Think, Tick, Write,
};

/// Plays a script; after each group of actions the proxy plans and runs commands until it only waits.
fn play(setup: &Setup, script: &[&[Action]]) -> String {
    play_at(setup, false, script)
}

fn play_at(setup: &Setup, slow: bool, script: &[&[Action]]) -> String {
    let mut state = State::new(setup);
    let mut text = String::new();
    for group in script {
        for action in *group {
            state.act(setup, *action);
            text += &state.tell(setup, *action);
        }
        settle(setup, slow, &mut state, &mut text);
    }
    assert_eq!(state.world.broken, None, "{text}");
    text
}

/// A clean stop, or a recovery, ends as soon as it has begun, unless it is `slow`.
fn settle(setup: &Setup, slow: bool, state: &mut State, text: &mut String) {
    let mut asked = Vec::new();
    for _ in 0..20 {
        let before = (state.record.clone(), state.told.why.clone());
        state.act(setup, Think(0));
        let told = state.tell(setup, Think(0));
        let news = (&state.record, &state.told.why) != (&before.0, &before.1);
        let busy = !state.proxies[0].queue.is_empty();
        // An errand is asked for until its end is seen.
        let commands = state.commands(setup);
        let again = !news && commands == asked;
        asked = commands;
        if news || busy && !again {
            *text += &told;
        }
        while !state.proxies[0].queue.is_empty() {
            state.act(setup, Action::Run(0));
        }
        (0..NODES).for_each(|node| state.act(setup, Action::Stream(node)));
        let busy_server = (0..NODES).find(|node| state.world.is_busy(*node) && !slow);
        if let Some(node) = busy_server {
            state.act(setup, Complete(node));
            *text += &state.tell(setup, Complete(node));
            continue;
        }
        if !news && (!busy || again) {
            return;
        }
    }
}

fn agrees(name: &str, expected: &str, text: &str) {
    assert!(expected == text, "{name} should be:\n<<<\n{text}>>>");
}

#[test]
fn a_dead_primary_asynchronously() {
    let script: [&[Action]; 4] = [&[Write(0)], &[Kill(0)], &[Tick], &[Tick]];
    let text = play(&Setup::asynchronous(), &script);
    agrees(
        "dead-async.txt",
        include_str!("traces/dead-async.txt"),
        &text,
    );
}

#[test]
fn a_hung_primary_whose_agent_lives() {
    let script: [&[Action]; 7] = [
        &[Write(0)],
        &[Freeze(0)],
        &[Tick],
        &[Tick],
        &[Tick],
        &[Thaw(0)],
        &[Tick],
    ];
    let text = play(&Setup::quorum(true), &script);
    agrees(
        "hung-quorum.txt",
        include_str!("traces/hung-quorum.txt"),
        &text,
    );
}

#[test]
fn a_host_that_stands_still_until_its_lease_is_over() {
    let script: [&[Action]; 7] = [
        &[Write(0)],
        &[FreezeHost(0)],
        &[Tick],
        &[Tick],
        &[Tick],
        &[Thaw(0)],
        &[Tick],
    ];
    let text = play(&Setup::asynchronous(), &script);
    agrees(
        "frozen-host-async.txt",
        include_str!("traces/frozen-host-async.txt"),
        &text,
    );
}

#[test]
fn a_primary_that_is_cut_off_under_quorum() {
    let script: [&[Action]; 7] = [
        &[Write(0)],
        &[Isolate(0)],
        &[Write(0)],
        &[Tick],
        &[Tick],
        &[Mend],
        &[Tick],
    ];
    let text = play(&Setup::quorum(true), &script);
    agrees(
        "isolated-quorum.txt",
        include_str!("traces/isolated-quorum.txt"),
        &text,
    );
}

#[test]
fn a_proxy_that_is_cut_off_itself() {
    let script: [&[Action]; 3] = [
        &[
            CutFromProxies(0),
            Tick,
            Write(0),
            Action::Stream(1),
            Action::Stream(2),
        ],
        &[Mend],
        &[Tick],
    ];
    let text = play(&Setup::asynchronous(), &script);
    agrees(
        "cut-off-proxy.txt",
        include_str!("traces/cut-off-proxy.txt"),
        &text,
    );
}

#[test]
fn a_primary_that_goes_on_by_promises_and_then_dies() {
    let script: [&[Action]; 6] = [
        &[Write(0)],
        &[CutFromProxies(0), Tick, Confer(0)],
        &[CrashHost(0)],
        &[Tick],
        &[Tick],
        &[Mend, Thaw(0)],
    ];
    let text = play(&Setup::asynchronous().failsafe(), &script);
    agrees("prolonged.txt", include_str!("traces/prolonged.txt"), &text);
}

#[test]
fn a_standby_first_and_then_the_primary() {
    let script: [&[Action]; 8] = [
        &[Write(0)],
        &[CrashHost(1)],
        &[Tick],
        &[Write(0)],
        &[Kill(0)],
        &[Tick],
        &[Thaw(1)],
        &[Tick],
    ];
    let text = play(&Setup::quorum(true), &script);
    agrees(
        "standby-first-quorum.txt",
        include_str!("traces/standby-first-quorum.txt"),
        &text,
    );
}

#[test]
fn a_proxy_killed_in_the_middle() {
    let script: [&[Action]; 3] = [
        &[Write(0)],
        &[Kill(0), Think(0), Action::Run(0), RestartProxy],
        &[Tick],
    ];
    let text = play(&Setup::quorum(true), &script);
    agrees(
        "restarted-proxy.txt",
        include_str!("traces/restarted-proxy.txt"),
        &text,
    );
}

#[test]
fn a_switchover() {
    let mut setup = Setup::quorum(true);
    setup.switchover = true;
    let script: [&[Action]; 4] = [&[Write(0)], &[AskSwitchover], &[Tick], &[Write(1)]];
    let text = play(&setup, &script);
    agrees(
        "switchover.txt",
        include_str!("traces/switchover.txt"),
        &text,
    );
}

#[test]
fn a_switchover_to_one_that_has_promised() {
    let mut setup = Setup::asynchronous().failsafe();
    setup.switchover = true;
    let script: [&[Action]; 5] = [
        &[Write(0)],
        &[CutFromProxies(0), Tick, Confer(0), Mend, AskSwitchover],
        &[Tick],
        &[Tick],
        &[Tick],
    ];
    let text = play(&setup, &script);
    agrees(
        "switchover-promised.txt",
        include_str!("traces/switchover-promised.txt"),
        &text,
    );
}

#[test]
fn a_switchover_whose_clean_stop_outlasts_the_lease() {
    let mut setup = Setup::quorum(true);
    setup.switchover = true;
    setup.policy.stop_us *= 4;
    let script: [&[Action]; 8] = [
        &[Write(0)],
        &[AskSwitchover],
        &[Tick],
        &[Tick],
        &[Tick],
        &[Tick],
        &[Complete(0)],
        &[Write(1)],
    ];
    let text = play_at(&setup, true, &script);
    agrees("slow-stop.txt", include_str!("traces/slow-stop.txt"), &text);
}

#[test]
fn a_recovery_that_outlasts_the_lease() {
    let setup = Setup::quorum(true);
    let script: [&[Action]; 9] = [
        &[Write(0)],
        &[CrashHost(1), CrashHost(2)],
        &[Kill(0)],
        &[Tick],
        &[Tick],
        &[Tick],
        &[Tick],
        &[Complete(0)],
        &[Thaw(1), Thaw(2)],
    ];
    let text = play_at(&setup, true, &script);
    agrees(
        "slow-recovery.txt",
        include_str!("traces/slow-recovery.txt"),
        &text,
    );
}
