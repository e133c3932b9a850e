//! Clients that are gone in the middle: locks are released, and no server connection is lost.

use std::time::{Duration, Instant};

use crate::cluster;
use crate::support::frames::{copy_data, parse, query, run, sync};
use crate::support::{Proxy, eventually, http, summary};

const SMALL: &str = "pool: { size: 2, wait_timeout: 2s }\n";

fn busy(proxy: &Proxy) -> u64 {
    let status = http::status(proxy.http);
    let nodes = status["nodes"].as_array().unwrap();
    let count = |node: &serde_json::Value| node["transactions_in_flight"].as_u64().unwrap();
    nodes.iter().map(count).sum()
}

#[test]
fn in_the_middle_of_a_transaction() {
    let proxy = Proxy::start(cluster(), SMALL);
    proxy.wire().run(
        "CREATE TABLE gone_in_transaction (n int); INSERT INTO gone_in_transaction VALUES (0)",
    );
    for round in 0..50 {
        let mut wire = proxy.wire();
        wire.run("BEGIN");
        wire.run("UPDATE gone_in_transaction SET n = n + 1");
        if round % 2 == 0 {
            wire.vanish()
        } else {
            drop(wire)
        }
        // The row would stay locked.
        let mut next = proxy.wire();
        next.run("SET lock_timeout = '5s'");
        assert_eq!(
            next.ask("UPDATE gone_in_transaction SET n = n"),
            "C[UPDATE 1] Z[I]"
        );
    }
    // Another session may see an earlier state, unless it asks the primary.
    let count = "/* causeway: consistency=primary */ SELECT n FROM gone_in_transaction";
    assert_eq!(proxy.wire().value(count), "0");
    proxy.assert_well();
}

#[test]
fn in_the_middle_of_a_query() {
    let proxy = Proxy::start(cluster(), SMALL);
    for round in 0..50 {
        let mut wire = proxy.wire();
        // A long read and a large one, on standbys and on the primary.
        wire.send(&match round % 4 {
            0 => query("SELECT pg_sleep(30) /* gone in a query */"),
            1 => query("SELECT repeat('x', 1000) FROM generate_series(1, 200000)"),
            2 => [
                parse("s", "SELECT pg_sleep(30) /* gone in a query */"),
                run("s", &[]),
                sync(),
            ]
            .concat(),
            _ => query(
                "SET causeway.consistency = 'primary'; SELECT pg_sleep(30) /* gone in a query */",
            ),
        });
        if round % 4 == 1 {
            wire.frame().unwrap();
        }
        wire.vanish();
        assert_eq!(proxy.wire().value("SELECT 1"), "1");
    }
    eventually("nothing is in use", || busy(&proxy) == 0);
    proxy.assert_well();
}

#[test]
fn in_the_middle_of_a_copy() {
    let proxy = Proxy::start(cluster(), SMALL);
    proxy.wire().run("CREATE TABLE gone_in_copy (t text)");
    for round in 0..50 {
        let mut wire = proxy.wire();
        if round % 2 == 0 {
            wire.send(&query("COPY gone_in_copy FROM STDIN"));
            assert_eq!(wire.frame().unwrap().tag, b'G');
            wire.send(&copy_data("some\n").repeat(100));
        } else {
            wire.send(&query(
                "COPY (SELECT repeat('x', 1000) FROM generate_series(1, 100000)) TO STDOUT",
            ));
            assert_eq!(wire.frame().unwrap().tag, b'H');
        }
        wire.vanish();
    }
    eventually("nothing is in use", || busy(&proxy) == 0);
    let mut wire = proxy.wire();
    wire.run("SET lock_timeout = '5s'");
    wire.run("LOCK TABLE gone_in_copy IN ACCESS EXCLUSIVE MODE; SELECT 1");
    assert_eq!(wire.value("SELECT count(*) FROM gone_in_copy"), "0");
    proxy.assert_well();
}

#[test]
fn while_waiting_for_a_connection() {
    let proxy = Proxy::start(cluster(), "pool: { size: 2, wait_timeout: 20s }\n");
    let mut holders = [proxy.wire(), proxy.wire()];
    holders
        .iter_mut()
        .for_each(|wire| wire.run("BEGIN; LOCK TABLE pg_catalog.pg_am IN ACCESS SHARE MODE"));
    for _ in 0..20 {
        let mut wire = proxy.wire();
        wire.send(&query("CREATE TABLE never (n int)"));
        wire.vanish();
    }
    // The queue is fair: what comes after the departed is served as soon as there is room.
    let mut patient = proxy.wire();
    patient.send(&query("CREATE TABLE in_the_end (n int)"));
    assert!(
        patient.is_silent(Duration::from_millis(200)),
        "there was no room yet"
    );
    holders.iter_mut().for_each(|wire| wire.run("COMMIT"));
    assert_eq!(summary(&patient.until(b'Z')), "C[CREATE TABLE] Z[I]");
    proxy.assert_well();
}

#[test]
fn exhaustion_is_said_after_the_configured_wait() {
    let proxy = Proxy::start(cluster(), "pool: { size: 2, wait_timeout: 500ms }\n");
    let mut holders = [proxy.wire(), proxy.wire()];
    holders
        .iter_mut()
        .for_each(|wire| wire.run("BEGIN; LOCK TABLE pg_catalog.pg_am IN ACCESS SHARE MODE"));
    let mut wire = proxy.wire();
    let began = Instant::now();
    assert_eq!(wire.ask("CREATE TABLE no_room (n int)"), "E[53300] Z[I]");
    let waited = began.elapsed();
    assert!(waited >= Duration::from_millis(500), "{waited:?}");
    let answer = wire.exchange(&[
        parse("", "CREATE TABLE no_room (n int)"),
        run("", &[]),
        sync(),
    ]);
    assert_eq!(answer, "E[53300] Z[I]");
    // The session goes on as soon as there is room.
    holders[0].run("COMMIT");
    assert_eq!(
        wire.ask("CREATE TABLE no_room (n int)"),
        "C[CREATE TABLE] Z[I]"
    );
    proxy.assert_well();
}

#[test]
fn abandoned_writes_end_as_without_a_proxy() {
    let proxy = Proxy::start(cluster(), SMALL);
    proxy.wire().run("CREATE TABLE abandoned (n int)");
    let mut wire = proxy.wire();
    wire.send(&query("INSERT INTO abandoned SELECT 1 FROM pg_sleep(0.3)"));
    eventually("it runs", || {
        crate::from_primary::<bool>(
            cluster(),
            "SELECT exists (SELECT FROM pg_stat_activity WHERE state = 'active' AND query LIKE 'INSERT INTO abandoned%')",
        )
    });
    wire.vanish();
    // Another session has no claim on what this one wrote, unless it asks the primary.
    let mut other = proxy.wire_with(&[("options", "-c causeway.consistency=primary")]);
    eventually("it has committed", || {
        other.value("SELECT count(*) FROM abandoned") == "1"
    });
    proxy.assert_well();
}
