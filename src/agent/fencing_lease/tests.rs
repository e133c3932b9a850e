//! Leases, fences and promises by example.

use super::*;

const fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn new() -> Ledger {
    let remembered = Remembered {
        highest_epoch: 0,
        status: RememberedStatus::Ungoverned,
        stopped_in: None,
        failsafe: None,
        promise: None,
    };
    Ledger::restored(remembered, s(100))
}

fn ask(epoch: u64, holder: &str) -> Grant {
    Grant {
        epoch,
        holder: holder.to_owned(),
        ttl: s(3),
    }
}

fn leased(epoch: u64, at: Duration) -> Ledger {
    new().grant(ask(epoch, "a"), None, at, true).unwrap()
}

#[test]
fn without_a_lease_ever_the_server_is_left_alone() {
    assert!(!new().forbids_primary(s(100_000)));
    assert!(new().admit_primary(1, s(0)).is_ok());
}

#[test]
fn a_lease_ends_and_is_not_renewed_while_the_server_runs() {
    let ledger = leased(1, s(100));
    assert!(!ledger.forbids_primary(s(102)));
    assert!(ledger.forbids_primary(s(103)));
    let late = ledger.grant(ask(1, "a"), None, s(104), true);
    assert_eq!(late, Err(Denied::Expired));
    let higher = ledger.grant(ask(2, "a"), None, s(104), true);
    assert_eq!(higher, Err(Denied::Expired));
    let stopped = ledger.grant(ask(1, "a"), None, s(104), false).unwrap();
    assert!(!stopped.forbids_primary(s(106)));
}

#[test]
fn renewals_prolong_and_never_shorten() {
    let ledger = leased(1, s(100));
    let renewed = ledger.grant(ask(1, "a"), None, s(102), true).unwrap();
    assert_eq!(renewed.lease(s(102)).unwrap().1, s(3));
    let overtaken = renewed
        .grant(ask(1, "a"), Some(s(100)), s(102), true)
        .unwrap();
    assert_eq!(overtaken.lease(s(102)).unwrap().1, s(3));
}

#[test]
fn a_request_that_waited_ends_when_its_sender_reckons() {
    let ledger = leased(1, s(100));
    let waited = ledger
        .grant(ask(2, "b"), Some(s(100)), s(102), true)
        .unwrap();
    assert_eq!(waited.lease(s(102)).unwrap().1, s(1));
    let over = new().grant(ask(1, "a"), Some(s(100)), s(103), false);
    assert_eq!(over, Err(Denied::Late));
    // A clock from before a restart of the machine is ahead: it grants no more than the period.
    let ahead = new()
        .grant(ask(1, "a"), Some(s(900)), s(100), true)
        .unwrap();
    assert_eq!(ahead.lease(s(100)).unwrap().1, s(3));
}

#[test]
fn lower_epochs_are_refused_for_everything() {
    let ledger = leased(5, s(100));
    let stale = Denied::StaleEpoch {
        asked: 4,
        highest: 5,
    };
    let grant = ledger.grant(ask(4, "a"), None, s(101), true);
    assert_eq!(grant, Err(stale.clone()));
    assert_eq!(ledger.fence(4), Err(stale.clone()));
    assert_eq!(ledger.admit(4), Err(stale.clone()));
    assert_eq!(ledger.admit_primary(4, s(101)), Err(stale));
}

#[test]
fn one_holder_an_epoch() {
    let ledger = leased(5, s(100));
    let other = ledger.grant(ask(5, "b"), None, s(101), true);
    assert!(matches!(other, Err(Denied::OtherHolder { .. })));
    let next = ledger.grant(ask(6, "b"), None, s(101), true).unwrap();
    assert_eq!(next.lease(s(101)).unwrap().0.holder, "b");
}

#[test]
fn a_fence_stands_until_a_lease_of_its_epoch() {
    let fenced = leased(1, s(100)).fence(2).unwrap();
    assert!(fenced.forbids_primary(s(100)));
    assert_eq!(fenced.admit_primary(2, s(100)), Err(Denied::LeaseRequired));
    assert!(fenced.grant(ask(1, "a"), None, s(101), false).is_err());
    let again = fenced.grant(ask(2, "a"), None, s(101), false).unwrap();
    assert!(again.admit_primary(2, s(102)).is_ok());
    // Its own epoch repeated changes nothing.
    assert_eq!(fenced.fence(2), Ok(fenced));
}

#[test]
fn released_the_server_is_left_alone_and_an_older_renewal_changes_nothing() {
    let released = leased(4, s(100)).release(5).unwrap();
    assert!(!released.is_governed() && !released.forbids_primary(s(900)));
    assert!(released.grant(ask(4, "a"), None, s(101), true).is_err());
    let restored = Ledger::restored(released.to_remember(), s(500));
    assert!(!restored.is_governed() && restored.highest_epoch() == 5);
    let again = released.grant(ask(6, "a"), None, s(101), true).unwrap();
    assert!(again.forbids_primary(s(105)));
    assert!(leased(4, s(100)).release(3).is_err());
}

#[test]
fn a_renewal_that_comes_after_a_clean_stop_is_refused() {
    let stopping = leased(1, s(100)).admit(2).unwrap();
    let renewed = stopping.grant(ask(2, "a"), None, s(101), true).unwrap();
    let stopped = renewed.stopped(2).unwrap();
    assert!(stopped.forbids_primary(s(101)));
    let late = stopped.grant(ask(2, "a"), None, s(101), false);
    assert_eq!(late, Err(Denied::Stopped(2)));
    let back = Ledger::restored(stopped.to_remember(), s(101));
    assert_eq!(back.grant(ask(2, "a"), None, s(101), false), late);
    let next = stopped.grant(ask(3, "a"), None, s(101), false).unwrap();
    assert!(next.admit_primary(3, s(102)).is_ok());
}

fn rule(version: u64) -> PeerRule {
    PeerRule {
        version,
        needed: 1,
        peers: Vec::new(),
    }
}

#[test]
fn a_lease_in_force_is_prolonged_and_no_other() {
    let ledger = leased(4, s(100));
    let prolonged = ledger.prolong(4, s(105), s(102), false).unwrap();
    assert_eq!(prolonged.lease(s(102)).unwrap().1, s(3));
    assert!(prolonged.is_prolonged() && !ledger.is_prolonged());
    // Nothing is shortened.
    let shorter = prolonged.prolong(4, s(104), s(103), false).unwrap();
    assert_eq!(shorter.lease(s(103)).unwrap().1, s(2));
    assert_eq!(
        ledger.prolong(4, s(200), s(103), false),
        Err(Denied::Expired)
    );
    assert!(ledger.prolong(5, s(200), s(102), false).is_err());
    assert!(ledger.prolong(3, s(200), s(102), false).is_err());
    let higher = ledger.admit(5).unwrap();
    assert!(
        higher.prolong(4, s(200), s(102), false).is_err(),
        "something else is decided"
    );
    assert!(
        ledger
            .fence(4)
            .unwrap()
            .prolong(4, s(200), s(102), false)
            .is_err()
    );
    assert!(new().prolong(0, s(200), s(102), false).is_err());
    let renewed = prolonged.grant(ask(5, "b"), None, s(104), true).unwrap();
    assert!(!renewed.is_prolonged());
}

#[test]
fn who_has_promised_is_granted_nothing_until_then() {
    let promised = new().promise("pg1", 4, s(5), s(100)).unwrap();
    assert_eq!(promised.highest_epoch(), 4);
    for (epoch, leads) in [(4, false), (9, false), (9, true)] {
        let granted = promised.grant(ask(epoch, "a"), None, s(104), leads);
        assert!(
            matches!(granted, Err(Denied::Promised { .. })),
            "{granted:?}"
        );
    }
    assert!(promised.admit_primary(9, s(104)).is_err());
    assert!(promised.grant(ask(9, "a"), None, s(105), false).is_ok());
    assert!(promised.admit_primary(9, s(105)).is_ok());
    // Fenced, told of another epoch, or released: it stands.
    for changed in [promised.fence(9), promised.admit(9), promised.release(9)] {
        let granted = changed.unwrap().grant(ask(9, "a"), None, s(104), false);
        assert!(matches!(granted, Err(Denied::Promised { .. })));
    }
    let shorter = promised.promise("pg3", 5, s(1), s(102)).unwrap();
    assert!(shorter.promised(s(104)).is_some());
    let mut other_boot = shorter.to_remember();
    if let Some(promise) = &mut other_boot.promise {
        promise.ends = None;
    }
    let back = Ledger::restored(other_boot, s(7));
    assert!(back.promised(s(11)).is_some());
}

#[test]
fn nothing_is_promised_to_a_lower_epoch_or_beside_a_lease() {
    let told = new().admit(5).unwrap();
    assert!(matches!(
        told.promise("pg1", 4, s(5), s(100)),
        Err(Denied::StaleEpoch { .. })
    ));
    assert!(told.promise("pg1", 5, s(5), s(100)).is_ok());
    let leads = leased(4, s(100));
    assert_eq!(leads.promise("pg1", 4, s(5), s(102)), Err(Denied::HasLease));
    assert!(leads.promise("pg1", 4, s(5), s(103)).is_ok());
}

#[test]
fn a_promise_outlives_the_agent_and_begins_anew_in_another_run_of_the_machine() {
    let promised = new().promise("pg1", 4, s(5), s(100)).unwrap();
    let back = Ledger::restored(promised.to_remember(), s(103));
    assert_eq!(back, promised);
    let mut other_boot = promised.to_remember();
    if let Some(promise) = &mut other_boot.promise {
        promise.ends = None;
    }
    let back = Ledger::restored(other_boot, s(7));
    assert!(back.promised(s(11)).is_some() && back.promised(s(12)).is_none());
}

#[test]
fn the_latest_rule_stays_and_outlives_the_agent() {
    let ledger = leased(4, s(100)).with_failsafe(Some(rule(3)));
    let late = ledger.clone().with_failsafe(Some(rule(2)));
    assert_eq!(late.failsafe().unwrap().version, 3);
    let next = ledger.clone().with_failsafe(Some(rule(4)));
    assert_eq!(next.failsafe().unwrap().version, 4);
    let back = Ledger::restored(next.to_remember(), s(101));
    assert_eq!(back.failsafe().unwrap().version, 4);
    assert_eq!(next.with_failsafe(None).failsafe(), None);
}

#[test]
fn a_restart_forgets_neither_epoch_nor_end() {
    let ledger = leased(7, s(100));
    let back = Ledger::restored(ledger.to_remember(), s(101));
    assert_eq!(back, ledger);
    // Away for longer than the lease, however often: it is over, and is not granted while the server runs.
    let mut back = ledger.clone();
    for away in [200, 201, 300] {
        back = Ledger::restored(back.to_remember(), s(away));
        assert!(back.lease(s(away)).is_none() && back.forbids_primary(s(away)));
        assert_eq!(
            back.grant(ask(7, "a"), None, s(away), true),
            Err(Denied::Expired)
        );
    }
    assert!(back.grant(ask(7, "a"), None, s(300), false).is_ok());
    // The machine started anew: its clock began again, and the old end means nothing.
    let mut other_boot = ledger.to_remember();
    if let RememberedStatus::Leased(_, ends) = &mut other_boot.status {
        *ends = None;
    }
    let back = Ledger::restored(other_boot, s(5));
    assert!(back.forbids_primary(s(5)));
    assert_eq!(back.highest_epoch(), 7);
    // A clock that has gone back stretches nothing.
    let back = Ledger::restored(ledger.to_remember(), s(10));
    assert!(back.forbids_primary(s(13)));
    let fenced = ledger.fence(8).unwrap();
    let back = Ledger::restored(fenced.to_remember(), s(300));
    assert!(back.forbids_primary(s(300)));
}

#[test]
fn what_is_being_rejoined_is_granted_nothing_and_what_has_a_lease_is_not_rejoined() {
    let standby = new().admit(2).unwrap();
    let changing = standby.begin_rejoin(2, s(100), false).unwrap();
    for epoch in [2, 3] {
        let granted = changing.grant(ask(epoch, "a"), None, s(100), false);
        assert_eq!(granted, Err(Denied::Rejoining));
        assert_eq!(
            changing.admit_primary(epoch, s(100)),
            Err(Denied::Rejoining)
        );
    }
    let back = changing.end_rejoin();
    let leads = back.grant(ask(3, "a"), None, s(100), false).unwrap();
    // The job of an older decision, or of the same one, has no right any more.
    let stale = leads.begin_rejoin(2, s(101), true);
    assert!(matches!(stale, Err(Denied::StaleEpoch { .. })));
    for leading in [false, true] {
        assert_eq!(
            leads.begin_rejoin(3, s(101), leading),
            Err(Denied::HasLease)
        );
    }
    assert_eq!(leads.begin_rejoin(4, s(101), true), Err(Denied::HasLease));
    assert!(leads.begin_rejoin(4, s(103), true).is_ok());
    // An earlier lease of a server that does not lead ends.
    let former = leads.begin_rejoin(4, s(101), false).unwrap().end_rejoin();
    assert!(former.lease(s(101)).is_none() && former.forbids_primary(s(101)));
    let told = back.admit(3).unwrap();
    assert!(told.begin_rejoin(2, s(101), false).is_err());
}

#[test]
fn a_former_primary_that_has_become_a_standby_stays_governed_and_no_lease_has_run_out() {
    let ledger = leased(1, s(100));
    assert!(ledger.forbids_primary(s(104)) && ledger.has_run_out());
    let standby = ledger.stands_by(2, s(104)).unwrap();
    assert!(standby.is_governed() && standby.forbids_primary(s(104)));
    assert!(!standby.has_run_out());
    assert_eq!(standby.admit_primary(2, s(104)), Err(Denied::LeaseRequired));
    let promoted = standby.grant(ask(3, "a"), None, s(105), false).unwrap();
    assert!(!promoted.forbids_primary(s(106)));

    // What was fenced stays so; what was never governed is not; a lease in force stays.
    let fenced = new().fence(1).unwrap();
    assert_eq!(fenced.stands_by(1, s(100)), Ok(fenced.clone()));
    assert!(!new().stands_by(1, s(100)).unwrap().is_governed());
    assert!(
        leased(1, s(100))
            .stands_by(1, s(101))
            .unwrap()
            .lease(s(101))
            .is_some()
    );
    assert!(fenced.stands_by(0, s(100)).is_err());
}

#[test]
fn a_server_that_stands_still_runs_on_only_by_what_came_after() {
    let lapsed = leased(4, s(100));
    assert!(lapsed.lapsed(s(102), s(103)).is_some());
    assert!(lapsed.lapsed(s(102), s(102)).is_none() && lapsed.lapsed(s(103), s(104)).is_none());
    let held = Runs::Held(s(110));
    for sent in [None, Some(s(109))] {
        let before = lapsed.grant(ask(4, "a"), sent, s(111), held);
        assert_eq!(before, Err(Denied::Expired));
    }
    let after = lapsed.grant(ask(4, "a"), Some(s(110)), s(111), held);
    assert_eq!(after.unwrap().lease(s(111)).unwrap().1, s(2));

    let promised = lapsed.prolong(4, s(113), s(111), true).unwrap();
    assert!(promised.is_prolonged() && promised.lease(s(111)).unwrap().1 == s(2));
    assert!(lapsed.prolong(4, s(111), s(111), true).is_err());
    // Of another decision nobody asks whether it still holds.
    let told = lapsed.admit(5).unwrap();
    assert!(told.lapsed(s(102), s(103)).is_none());
    assert!(told.prolong(4, s(113), s(111), true).is_err());
    let fenced = lapsed.fence(4).unwrap();
    assert!(fenced.lapsed(s(102), s(103)).is_none());
    assert!(fenced.prolong(4, s(113), s(111), true).is_err());
}
