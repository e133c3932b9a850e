//! What a server process keeps although a session has left it, and although everything was discarded: the
//! seed of its random numbers, settings that are still in force while they are taken away.

use std::time::{Duration, Instant};

use super::{apart, proxy};
use crate::cluster;
use crate::support::frames::{bind, execute, flush, message, parse, query, sync};
use crate::support::{Proxy, Wire, eventually, summary};

#[test]
fn a_seed_is_nobody_elses() {
    let (proxy, login) = (proxy(), apart("left_seed"));
    let login = || Wire::login(proxy.port, &login, &[]);
    login().run(
        "CREATE FUNCTION run(p text) RETURNS void LANGUAGE plpgsql AS $$ BEGIN EXECUTE p; END $$",
    );
    let mut numbers = Vec::new();
    for statements in [
        &["SELECT setseed(0.25)"][..],
        &["SELECT setseed(0.25)", "DISCARD ALL"],
        &["SET seed = 0.25"],
        &["SELECT set_config('seed', '0.25', false)"],
        &["DO $$ BEGIN PERFORM setseed(0.25); END $$"],
        &["SELECT run('select set' || 'seed(0.25)')"],
        &["SELECT query_to_xml('select set' || 'seed(0.25)', true, true, '')"],
    ] {
        let mut one = login();
        statements.iter().for_each(|sql| one.run(sql));
        drop(one);
        numbers.push(login().value("SELECT random()"));
    }
    let mut alike = numbers.clone();
    alike.sort();
    alike.dedup();
    assert_eq!(alike.len(), numbers.len(), "{numbers:?}");
    // The session itself has its own numbers.
    let mut one = login();
    for _ in 0..2 {
        one.run("SELECT setseed(0.25)");
        one.run("DISCARD ALL");
        numbers.push(one.value("SELECT random()"));
    }
    let [.., first, second] = &numbers[..] else {
        panic!("{numbers:?}");
    };
    assert_eq!(first, second);
}

#[test]
fn what_is_taken_away_does_not_govern_its_taking() {
    let (proxy, login) = (proxy(), apart("left_deferrable"));
    let wire = |name| Wire::login(proxy.port, &login, &[("application_name", name)]);
    wire("setup").run("CREATE TABLE busy (n int)");
    let mut open = Wire::login(cluster().primary().port(), &login, &[]);
    open.run("BEGIN ISOLATION LEVEL SERIALIZABLE");
    open.run("INSERT INTO busy VALUES (1)");
    for code in ["SELECT 1", "DO $$ BEGIN END $$"] {
        let mut one = wire("one");
        one.run(
            "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL SERIALIZABLE, READ WRITE",
        );
        one.run(code);
        one.run(
            "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL SERIALIZABLE, READ ONLY, \
             DEFERRABLE",
        );
        drop(one);
        let began = Instant::now();
        wire("other").run("INSERT INTO busy VALUES (2)");
        // A snapshot that is safe there is not before the open transaction ends.
        assert!(began.elapsed() < Duration::from_secs(8), "{code}");
    }
    open.run("ROLLBACK");
}

#[test]
fn a_serializable_session_leaves_standbys_fit_for_others() {
    let proxy = Proxy::start(
        cluster(),
        "pool: { size: 1, wait_timeout: 20s }\nrouting: { consistency: eventual }\n",
    );
    let read = "SELECT count(*) FROM pg_class";
    let is_on_standby = |wire: &mut Wire| {
        wire.run(read);
        let route = wire.value("SHOW causeway.last_route");
        route.starts_with("standby ")
    };
    let mut other = proxy.wire_with(&[("application_name", "other")]);
    eventually("standbys serve", || is_on_standby(&mut other));
    for _ in 0..6 {
        let mut one = proxy.wire();
        one.run("SET default_transaction_isolation = 'serializable'");
        one.run(read);
    }
    for _ in 0..6 {
        assert!(is_on_standby(&mut other));
    }
}

/// Waits until the proxy has read what was defined.
fn read(login: &impl Fn() -> Wire) {
    let mut owner = login();
    owner.run("CREATE TABLE made_last (n int)");
    eventually("the catalogue is read", || {
        owner.run("TABLE made_last");
        let route = owner.value("SHOW causeway.last_route");
        !route.contains("catalogue")
    });
}

#[test]
fn numbers_are_asked_for_in_vain_by_any_way() {
    let (proxy, login) = (proxy(), apart("left_numbers"));
    let login = || Wire::login(proxy.port, &login, &[]);
    let mut owner = login();
    for sql in [
        "CREATE TABLE orders (id serial PRIMARY KEY, x int)",
        "CREATE FUNCTION run(p text) RETURNS text LANGUAGE plpgsql AS \
         $$ DECLARE r text; BEGIN EXECUTE p INTO r; RETURN r; END $$",
    ] {
        owner.run(sql);
    }
    drop(owner);
    read(&login);
    let run = || [bind("", "", &[]), execute("", 0)].concat();
    let lastval = 2559_u32.to_be_bytes();
    let ways: [&[Vec<u8>]; 4] = [
        &[query(
            "SELECT query_to_xml('SELECT lastval()', true, true, '')",
        )],
        &[query("SELECT run('select last' || 'val()')")],
        &[message(b'F', &[&lastval, &[0, 0, 0, 0, 0, 0]])],
        &[
            query("BEGIN"),
            query("SELECT run('select last' || 'val()')"),
        ],
    ];
    for way in ways {
        login().run("INSERT INTO orders (x) VALUES (1)");
        let mut other = login();
        let answers: Vec<_> = way
            .iter()
            .map(|one| summary(&other.exchange_frames(std::slice::from_ref(one), 1)))
            .collect();
        let last = answers.last().unwrap();
        assert!(last.contains("E[55000]"), "{way:?}: {last}");
    }
    // Behind a Flush.
    login().run("INSERT INTO orders (x) VALUES (1)");
    let mut other = login();
    for part in [parse("", "SELECT 1 FROM orders LIMIT 1"), run(), flush()] {
        other.send(&part);
    }
    other.until(b'C');
    let last = other.exchange(&[parse("", "SELECT lastval()"), run(), sync()]);
    assert!(last.contains("E[55000]"), "{last}");
    proxy.assert_well();
}

#[test]
fn temporary_tables_of_others_do_not_settle_the_size_of_buffers() {
    let (proxy, login) = (proxy(), apart("left_buffers"));
    let login = || Wire::login(proxy.port, &login, &[]);
    let spoil = || {
        let mut one = login();
        one.run("CREATE TEMP TABLE t (n int)");
        one.run("INSERT INTO t VALUES (1)");
    };
    spoil();
    let mut sets = login();
    sets.run("SET temp_buffers = '16MB'");
    assert_eq!(sets.value("SHOW temp_buffers"), "16MB");
    for code in ["SELECT 1", "DO $$ BEGIN END $$"] {
        spoil();
        sets.run(code);
        assert_eq!(sets.value("SHOW temp_buffers"), "16MB", "{code}");
    }
    // It keeps the connection that it has worn itself.
    let process = sets.value("SELECT pg_backend_pid()");
    sets.run("DO $$ BEGIN END $$");
    assert_eq!(sets.value("SELECT pg_backend_pid()"), process);
    assert_eq!(login().value("SHOW temp_buffers"), "8MB");
    proxy.assert_well();
}
