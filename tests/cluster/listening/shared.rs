//! What sharing a connection changes for nobody: order, senders, transactions; and what it saves.

use std::time::Duration;

use super::{PRIMARY, direct, listeners, next, note, one, payloads, pid, role, session};
use crate::support::frames::query;
use crate::support::{Proxy, Wire, eventually, http, summary};
use crate::{cluster, from_primary};

#[test]
fn an_idle_session_hears_at_once_in_order_and_once() {
    let proxy = one();
    let (mut ear, mut mouth) = (session(&proxy), session(&proxy));
    ear.run("LISTEN news");
    ear.run("LISTEN news");
    let sender = pid(&mouth);
    for n in 0..50 {
        mouth.run(&format!("NOTIFY news, '{n}'; NOTIFY elsewhere, '{n}'"));
        assert_eq!(next(&mut ear), format!("{sender} news {n}"));
    }
    mouth.run("BEGIN");
    for n in 0..50 {
        mouth.run(&format!("NOTIFY news, 'together {n}'"));
    }
    mouth.run("COMMIT");
    for n in 0..50 {
        assert_eq!(next(&mut ear), format!("{sender} news together {n}"));
    }
    assert_eq!(ear.ask("SELECT 1"), "D[1] C[SELECT 1] Z[I]");
}

#[test]
fn ones_own_notification_comes_before_the_end_of_the_answer() {
    let proxy = one();
    let (mut wire, mut other) = (session(&proxy), session(&proxy));
    let (own, others) = (pid(&wire), pid(&other));
    let check = |wire: &mut Wire, sql: &str, tags: &str, sender: i32, payload: &str| {
        let frames = wire.exchange_frames(&[query(sql)], 1);
        let shown: String = frames.iter().map(|frame| char::from(frame.tag)).collect();
        assert_eq!(shown, tags, "{sql}");
        let at = shown.find('A').unwrap();
        assert_eq!(
            note(&frames[at]),
            format!("{sender} mine {payload}"),
            "{sql}"
        );
    };
    check(
        &mut wire,
        "LISTEN mine; NOTIFY mine, 'at once'",
        "CCAZ",
        own,
        "at once",
    );
    check(&mut wire, "NOTIFY mine, 'later'", "CAZ", own, "later");
    check(
        &mut wire,
        "SELECT pg_notify('mine', 'function')",
        "TDCAZ",
        own,
        "function",
    );
    check(
        &mut wire,
        "DO $$ BEGIN NOTIFY mine, 'hidden'; END $$",
        "CAZ",
        own,
        "hidden",
    );
    for n in 0..10 {
        // By turns on the same server connection.
        other.run(&format!("NOTIFY mine, '{n}'"));
        assert_eq!(next(&mut wire), format!("{others} mine {n}"));
        check(
            &mut wire,
            &format!("NOTIFY mine, 'own {n}'"),
            "CAZ",
            own,
            &format!("own {n}"),
        );
    }
}

#[test]
fn a_transaction_hears_at_its_end() {
    let proxy = Proxy::start(cluster(), "pool: { size: 2 }\n");
    let (mut ear, mut mouth) = (session(&proxy), session(&proxy));
    ear.run("LISTEN told");
    ear.run("BEGIN");
    mouth.run("NOTIFY told, 'one'");
    assert_eq!(ear.ask("SELECT 1"), "D[1] C[SELECT 1] Z[T]");
    assert!(ear.is_silent(Duration::from_millis(50)));
    mouth.run("NOTIFY told, 'two'");
    let frames = ear.exchange_frames(&[query("COMMIT")], 1);
    assert_eq!(summary(&frames), "C[COMMIT] A A Z[I]");
    assert_eq!(payloads(&frames), ["told one", "told two"]);
    ear.run("BEGIN");
    assert_eq!(ear.ask("SELECT 1 / 0"), "E[22012] Z[E]");
    mouth.run("NOTIFY told, 'three'");
    assert!(ear.is_silent(Duration::from_millis(50)));
    let frames = ear.exchange_frames(&[query("ROLLBACK")], 1);
    assert_eq!(summary(&frames), "C[ROLLBACK] A Z[I]");
}

#[test]
fn a_hundred_listeners_share_one_server_connection() {
    let (login, proxy) = role("hundred", "");
    let wire = || Wire::login(proxy.port, &login, PRIMARY);
    let mut ears: Vec<Wire> = (0..100).map(|_| wire()).collect();
    for (n, ear) in ears.iter_mut().enumerate() {
        ear.run("LISTEN everybody");
        ear.run(&format!("LISTEN one_{n}"));
    }
    assert_eq!(listeners("hundred"), 1);
    let metrics = http::get(proxy.http, "/metrics").unwrap();
    assert!(
        metrics.contains("causeway_listening_sessions 100\n"),
        "{metrics}"
    );
    assert!(metrics.contains("causeway_listening_connections 1\n"));
    assert!(metrics.contains("causeway_pinned_sessions{reason=\"listen\"} 0\n"));
    let all = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'hundred'";
    assert_eq!(
        from_primary::<i64>(cluster(), all),
        2,
        "and one of the pool"
    );
    let mut mouth = wire();
    let sender = pid(&mouth);
    mouth.run("NOTIFY everybody, 'all'");
    for (n, ear) in ears.iter_mut().enumerate() {
        assert_eq!(next(ear), format!("{sender} everybody all"));
        mouth.run(&format!("NOTIFY one_{n}"));
        assert_eq!(next(ear), format!("{sender} one_{n} "));
    }
    for ear in &mut ears {
        ear.run("UNLISTEN *");
    }
    eventually("the connection is closed", || listeners("hundred") == 0);
    mouth.run("NOTIFY everybody, 'nobody'");
    for ear in &mut ears {
        assert_eq!(ear.ask("SELECT 1"), "D[1] C[SELECT 1] Z[I]");
    }
    ears[7].run("LISTEN everybody");
    mouth.run("NOTIFY everybody, 'again'");
    assert_eq!(next(&mut ears[7]), format!("{sender} everybody again"));
}

#[test]
fn those_who_leave_leave_nothing_behind() {
    let (login, proxy) = role("leaver", "");
    let wire = || Wire::login(proxy.port, &login, PRIMARY);
    let (mut stays, mut leaves) = (wire(), wire());
    stays.run("LISTEN left_a");
    leaves.run("LISTEN left_a; LISTEN left_b");
    leaves.vanish();
    let mut mouth = wire();
    mouth.run("NOTIFY left_b; NOTIFY left_a, 'x'");
    assert_eq!(next(&mut stays), format!("{} left_a x", pid(&mouth)));
    stays.vanish();
    eventually("nobody listens", || listeners("leaver") == 0);
    proxy.assert_well();
}

#[test]
fn users_hear_each_other_by_connections_of_their_own() {
    let (login, proxy) = role("neighbour", "");
    let mut other = Wire::login(proxy.port, &login, PRIMARY);
    let mut wire = session(&proxy);
    for ear in [&mut wire, &mut other] {
        ear.run("LISTEN twain");
    }
    assert_eq!(listeners("neighbour"), 1);
    let (one, two) = (pid(&wire), pid(&other));
    wire.run("NOTIFY twain, 'x'");
    assert_eq!(next(&mut other), format!("{one} twain x"));
    let frames = other.exchange_frames(&[query("NOTIFY twain, 'y'")], 1);
    assert_eq!(summary(&frames), "C[NOTIFY] A Z[I]");
    assert_eq!(next(&mut wire), format!("{two} twain y"));
}

#[test]
fn each_hears_in_its_own_encoding() {
    let proxy = one();
    let mut mouth = session(&proxy);
    let mut latin = proxy.wire_with(&[("client_encoding", "LATIN1"), PRIMARY[0]]);
    let mut utf8 = session(&proxy);
    latin.send(&query_of(b"LISTEN \"gr\xfc\xdfe\""));
    assert_eq!(summary(&latin.until(b'Z')), "C[LISTEN] Z[I]");
    utf8.run("LISTEN \"grüße\"");
    mouth.run("NOTIFY \"grüße\", 'schön'");
    let heard = |wire: &mut Wire| wire.frame().unwrap().body[4..].to_vec();
    assert_eq!(heard(&mut latin), b"gr\xfc\xdfe\0sch\xf6n\0");
    assert_eq!(heard(&mut utf8), "grüße\0schön\0".as_bytes());
    // It goes on in another one.
    let answer = utf8.ask("SET client_encoding = 'LATIN1'");
    assert_eq!(answer, "C[SET] Z[I]");
    mouth.run("NOTIFY \"grüße\", 'schön'");
    assert_eq!(heard(&mut utf8), b"gr\xfc\xdfe\0sch\xf6n\0");
    assert_eq!(heard(&mut latin), b"gr\xfc\xdfe\0sch\xf6n\0");
}

fn query_of(text: &[u8]) -> Vec<u8> {
    crate::support::frames::message(b'Q', &[text, b"\0"])
}

#[test]
fn a_read_on_a_standby_is_answered_behind_what_was_said_before_it() {
    let proxy = Proxy::start(cluster(), "");
    let (mut ear, mut mouth) = (proxy.wire(), proxy.wire());
    ear.run("LISTEN read");
    ear.run("SET causeway.consistency = eventual");
    for n in 0..20 {
        mouth.run(&format!("NOTIFY read, '{n}'"));
        // Whether it was idle or not when it came.
        let frames = ear.exchange_frames(&[query("SELECT 1")], 1);
        assert_eq!(payloads(&frames), [format!("read {n}")]);
    }
    let route = ear.value("SHOW causeway.last_route");
    assert!(route.starts_with("standby"), "{route}");
}

#[test]
fn who_shares_a_connection_is_shown() {
    let proxy = one();
    let mut ear = session(&proxy);
    ear.run("LISTEN left_a; LISTEN left_b");
    let shown = http::status(proxy.http);
    assert_eq!(shown["pinned"]["sessions"], 0, "{shown}");
    let metrics = http::get(proxy.http, "/metrics").unwrap();
    assert!(metrics.contains("causeway_listening_sessions 1\n"));
    ear.run("DISCARD ALL");
    let metrics = http::get(proxy.http, "/metrics").unwrap();
    assert!(metrics.contains("causeway_listening_sessions 0\n"));
}

#[test]
fn what_listens_unseen_is_heard_from_its_answer_on() {
    let proxy = one();
    let mut mouth = direct();
    mouth.run("CREATE OR REPLACE FUNCTION hears() RETURNS void LANGUAGE plpgsql AS 'BEGIN EXECUTE ''LISTEN unseen''; END'");
    let hidden = [
        "DO $$ BEGIN EXECUTE 'LISTEN unseen'; END $$",
        "SELECT hears()",
    ];
    for round in 0..20 {
        let mut ear = session(&proxy);
        if round % 3 == 0 {
            ear.run("BEGIN");
        }
        ear.run(hidden[round % 2]);
        if round % 3 == 0 {
            ear.run("COMMIT");
        }
        for n in 0..3 {
            mouth.run(&format!("NOTIFY unseen, '{round} {n}'"));
        }
        let heard: Vec<_> = (0..3).map(|_| ear.frame().unwrap()).collect();
        let expected = (0..3).map(|n| format!("unseen {round} {n}"));
        assert_eq!(payloads(&heard), expected.collect::<Vec<_>>());
        assert_eq!(ear.ask("SELECT 1"), "D[1] C[SELECT 1] Z[I]");
    }
}
