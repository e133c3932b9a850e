//! Sessions that keep a server connection hold up no operator: a pause and the proxy's end tell them
//! 57P01, once a transaction of theirs has ended. A pin whose reason is gone ends by itself.

use std::sync::mpsc;

use pgcauseway::rig::Login;

use super::{Console, admin, alone, cluster, prepare};
use crate::support::{BOUND, Proxy, Wire, block_on, eventually, http, summary};

fn start(more: &str) -> Proxy {
    prepare();
    Proxy::start(cluster(), &format!("{}{more}", admin()))
}

/// What a session is told at its end.
fn end(wire: &mut Wire) -> String {
    summary(&wire.until_closed())
}

#[test]
fn a_pause_ends_what_is_kept_and_lets_transactions_end() {
    let _alone = alone();
    for mode in ["", "pool: { mode: session }\n"] {
        let proxy = start(mode);
        let console = Console::open(&proxy);
        let (mut idle, mut open, mut plain) = (proxy.wire(), proxy.wire(), proxy.wire());
        idle.run("SELECT pg_advisory_lock(4712)");
        open.run("CREATE TEMP TABLE kept (n int)");
        open.run("BEGIN");
        open.run("INSERT INTO kept VALUES (1)");
        plain.run("SELECT 1");
        let other = Console::open(&proxy);
        let (tell, told) = mpsc::channel();
        let pausing =
            std::thread::spawn(move || tell.send(other.rows("PAUSE").map(|_| ())).unwrap());
        assert_eq!(end(&mut idle), "E[57P01]");
        assert_eq!(open.value("SELECT n FROM kept"), "1");
        assert!(told.try_recv().is_err(), "a transaction is open");
        assert_eq!(open.ask("COMMIT"), "C[COMMIT] Z[I]");
        assert_eq!(end(&mut open), "E[57P01]");
        told.recv_timeout(BOUND).unwrap().unwrap();
        pausing.join().unwrap();
        console.shown("RESUME");
        match mode {
            "" => assert_eq!(plain.value("SELECT 2"), "2"),
            _ => assert_eq!(end(&mut plain), "E[57P01]"),
        }
        let mut next = proxy.wire();
        assert_eq!(next.value("SELECT pg_try_advisory_lock(4712)"), "t");
        proxy.assert_well();
    }
}

#[test]
fn the_end_of_the_proxy_waits_for_no_idle_session() {
    let _alone = alone();
    for mode in ["", "pool: { mode: session }\n"] {
        let proxy = start(mode);
        let (mut idle, mut open) = (proxy.wire(), proxy.wire());
        idle.run("SELECT pg_advisory_lock(4713)");
        open.run("PREPARE kept AS SELECT 3");
        open.run("BEGIN");
        let ending = std::thread::spawn(move || drop(proxy));
        assert_eq!(end(&mut idle), "E[57P01]");
        assert_eq!(open.value("EXECUTE kept"), "3");
        assert_eq!(open.ask("COMMIT"), "C[COMMIT] Z[I]");
        assert_eq!(end(&mut open), "E[57P01]");
        ending.join().unwrap();
    }
}

#[test]
fn a_pin_whose_reason_is_gone_by_other_means_ends() {
    let _alone = alone();
    let proxy = start("");
    let pinned = || http::status(proxy.http)["pinned"]["sessions"].clone();
    let mut wire = proxy.wire();
    wire.run("SET idle_session_timeout = '1h'");
    wire.run("CREATE TEMP TABLE taken_away (n int)");
    eventually("it is pinned", || pinned() == 1);
    let superuser = Login {
        database: cluster().application().database.clone(),
        ..cluster().credentials().superuser.clone()
    };
    block_on(async {
        let client = cluster().primary().connect(&superuser).await.unwrap();
        let asked = "SELECT oid::regclass::text FROM pg_class WHERE relname = 'taken_away'";
        let table: String = client.query_one(asked, &[]).await.unwrap().get(0);
        client
            .batch_execute(&format!("DROP TABLE {table}"))
            .await
            .unwrap();
    });
    eventually("the pin ends while the session is idle", || pinned() == 0);
    assert_eq!(wire.value("SHOW idle_session_timeout"), "1h");
    assert_eq!(wire.ask("SELECT n FROM taken_away"), "E[42P01] Z[I]");
}

#[test]
fn questions_to_an_idle_session_do_not_prolong_its_silence() {
    let _alone = alone();
    let proxy = start("");
    let mut wire = proxy.wire();
    // Later than the first question, and sooner than that much after it.
    wire.run("SET idle_session_timeout = '7s'");
    wire.run("SELECT pg_advisory_lock(4714)");
    let began = std::time::Instant::now();
    assert_eq!(end(&mut wire), "E[57P05]");
    let silent = began.elapsed().as_secs();
    assert!(silent >= 6, "{silent} s");
    // At the server it would be 5 s and 7 s.
    let asked = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 4714";
    assert_eq!(crate::from_primary::<i64>(cluster(), asked), 0);
}
