//! Cancel requests: they end what the session runs now, and nothing else ever.

use std::time::Duration;

use crate::cluster;
use crate::support::frames::{cancel_request, query};
use crate::support::{Proxy, Wire, eventually, summary};

fn cancel(proxy: &Proxy, key: &(Vec<u8>, Vec<u8>)) {
    let mut wire = Wire::open(proxy.port);
    wire.send(&cancel_request(&key.0, &key.1));
    assert!(
        wire.until_closed().is_empty(),
        "a cancel request is never answered"
    );
}

#[test]
fn a_running_statement_ends() {
    let proxy = Proxy::start(cluster(), "pool: { size: 2 }\n");
    for level in ["session", "primary"] {
        for minor in [0, 2] {
            let mut wire = Wire::open(proxy.port);
            wire.send(&crate::support::frames::startup(
                3,
                minor,
                &[("user", "demo")],
            ));
            wire.authenticate("demo", "demo").unwrap();
            wire.run(&format!("SET causeway.consistency = '{level}'"));
            let key = wire.cancel_key();
            wire.send(&query("SELECT pg_sleep(60)"));
            // However early it comes, it may find nothing yet; psql's user presses Ctrl-C again.
            let mut answer = None;
            eventually("the statement has ended", || {
                cancel(&proxy, &key);
                if !wire.is_silent(Duration::from_millis(100)) {
                    answer = Some(summary(&wire.until(b'Z')));
                }
                answer.is_some()
            });
            let answer = answer.unwrap();
            assert!(
                answer.ends_with("E[57014] Z[I]"),
                "{level} 3.{minor}: {answer}"
            );
            assert_eq!(wire.value("SELECT 1"), "1");
        }
    }
    proxy.assert_well();
}

#[test]
fn wrong_keys_and_unknown_sessions_do_nothing() {
    let proxy = Proxy::start(cluster(), "");
    let mut wire = proxy.wire();
    let (process, key) = wire.cancel_key();
    wire.send(&query("SELECT pg_sleep(1)"));
    let mut wrong = key.clone();
    wrong[0] ^= 1;
    for _ in 0..20 {
        cancel(&proxy, &(process.clone(), wrong.clone()));
        cancel(&proxy, &(process.clone(), vec![0; 32]));
        cancel(&proxy, &(vec![0x7f, 0xff, 0xff, 0xff], key.clone()));
        cancel(&proxy, &(vec![0, 0, 0, 0], key.clone()));
    }
    assert_eq!(summary(&wire.until(b'Z')), "T D[] C[SELECT 1] Z[I]");
}

#[test]
fn a_late_cancel_hits_nobody() {
    let proxy = Proxy::start(cluster(), "pool: { size: 1, wait_timeout: 20s }\n");
    let mut victim = proxy.wire();
    victim.run("CREATE TABLE late_cancel (n int); INSERT INTO late_cancel VALUES (0)");
    let mut canceller = proxy.wire();
    let key = canceller.cancel_key();
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        // A storm of requests for a session whose statements are all but over when it is hit,
        let storm = scope.spawn(|| {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                cancel(&proxy, &key);
            }
        });
        // and another session on the same single server connection.
        let other = scope.spawn(|| {
            for round in 1..=300 {
                let answer = victim.ask("UPDATE late_cancel SET n = n + 1");
                assert_eq!(answer, "C[UPDATE 1] Z[I]", "round {round}");
            }
        });
        for _ in 0..300 {
            // Its own statement may well be cancelled.
            canceller.ask("UPDATE late_cancel SET n = n");
        }
        let outcome = other.join();
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        storm.join().unwrap();
        outcome.unwrap();
    });
    assert_eq!(victim.value("SELECT n FROM late_cancel"), "300");
    proxy.assert_well();
}

#[test]
fn a_cancelled_transaction_can_be_rolled_back() {
    let proxy = Proxy::start(cluster(), "");
    let mut wire = proxy.wire();
    wire.run("CREATE TABLE cancelled (n int)");
    wire.run("BEGIN");
    wire.run("INSERT INTO cancelled VALUES (1)");
    wire.send(&query("SELECT pg_sleep(61)"));
    eventually("it sleeps", || {
        crate::from_primary(
            cluster(),
            "SELECT exists (SELECT FROM pg_stat_activity WHERE state = 'active' AND query = 'SELECT pg_sleep(61)')",
        )
    });
    cancel(&proxy, &wire.cancel_key());
    assert_eq!(summary(&wire.until(b'Z')), "T E[57014] Z[E]");
    assert_eq!(wire.ask("SELECT 1"), "E[25P02] Z[E]");
    assert_eq!(wire.ask("ROLLBACK"), "C[ROLLBACK] Z[I]");
    assert_eq!(wire.value("SELECT count(*) FROM cancelled"), "0");
}
