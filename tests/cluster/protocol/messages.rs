//! What a logged-in client may send wrongly.

use crate::cluster;
use crate::support::frames::{
    self, bind, close, copy_data, copy_done, copy_fail, describe, execute,
};
use crate::support::frames::{message, parse, query, run, sync};
use std::time::Duration;

use crate::support::{Proxy, Wire, summary};

/// What a session hears after these bytes, until it is closed.
fn last_words(proxy: &Proxy, bytes: &[u8]) -> String {
    let mut wire = proxy.wire();
    wire.send(bytes);
    summary(&wire.until_closed())
}

#[test]
fn impossible_messages_end_the_session() {
    let proxy = Proxy::start(cluster(), "pool: { size: 2 }\n");
    let mut other = proxy.wire();
    for bytes in [
        b"\0\0\0\0\x04".to_vec(),
        b"!\0\0\0\x04".to_vec(),
        b"z\0\0\0\x08abcd".to_vec(),
        b"p\0\0\0\x08abcd".to_vec(),
        b"Q\0\0\0\0".to_vec(),
        b"Q\0\0\0\x03".to_vec(),
        b"Q\x80\0\0\0".to_vec(),
        b"Q\xff\xff\xff\xff".to_vec(),
        b"P\x80\0\0\0".to_vec(),
        b"S\x80\0\0\0".to_vec(),
        b"d\xff\xff\xff\xff".to_vec(),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(),
    ] {
        assert_eq!(last_words(&proxy, &bytes), "E[08P01]", "{bytes:?}");
        assert_eq!(other.value("SELECT 1"), "1");
    }
    proxy.assert_well();
}

#[test]
fn what_the_server_finds_wrong_is_an_error_of_its_own() {
    let proxy = Proxy::start(cluster(), "pool: { size: 2 }\n");
    let direct = |bytes: &[u8]| {
        let mut wire = Wire::login(cluster().primary().port(), cluster().application(), &[]);
        wire.send(&[bytes, &sync()].concat());
        summary(&wire.until(b'Z'))
    };
    for bytes in [
        message(b'Q', &[b"SELECT 1"]),
        message(b'P', &[b"name"]),
        message(b'P', &[b"name\0SELECT 1"]),
        message(b'B', &[b"portal"]),
        message(b'B', &[b"portal\0name"]),
        message(b'D', &[]),
        message(b'D', &[b"S"]),
        message(b'D', &[b"Sname"]),
        message(b'C', &[]),
        message(b'S', &[b"more"]),
        message(b'H', &[b"more"]),
        message(b'E', &[]),
        [
            parse("", "SELECT 1"),
            bind("", "", &[]),
            execute("", 0),
            message(b'S', &[b"more"]),
        ]
        .concat(),
        [query("BEGIN"), message(b'Q', &[])].concat(),
        message(b'P', &[b"\0SELECT 1\0"]),
        message(b'P', &[b"\0SELECT 1\0\0\x05\0\0"]),
        [parse("", "SELECT 1"), message(b'B', &[b"\0\0"])].concat(),
        [
            parse("", "SELECT $1::int"),
            message(b'B', &[b"\0\0\0\0\0\x01\0\0\0\x04ab"]),
        ]
        .concat(),
        [
            parse("", "SELECT 1"),
            message(b'B', &[b"\0\0\xff\xff\xff\xff\xff\xff"]),
        ]
        .concat(),
        message(b'D', &[b"x\0"]),
        message(b'D', &[b"xname\0"]),
        message(b'C', &[b"x\0"]),
        message(b'E', &[b"\0"]),
        message(b'E', &[b"nothing\0\0\0\0\0"]),
        bind("", "unknown", &[]),
        describe(b'S', "unknown"),
        describe(b'P', "unknown"),
        execute("unknown", 0),
        close(b'S', "unknown"),
        close(b'P', "unknown"),
        message(b'F', &[b"\0\0"]),
    ] {
        let mut wire = proxy.wire();
        wire.send(&[&bytes[..], &sync()].concat());
        assert_eq!(summary(&wire.until(b'Z')), direct(&bytes), "{bytes:?}");
        // The session goes on.
        wire.send(&[sync(), query("ROLLBACK; SELECT 7")].concat());
        let rest = std::iter::repeat_with(|| wire.frame().unwrap());
        assert!(rest.take(50).any(|frame| frame.tag == b'D'), "{bytes:?}");
    }
    proxy.assert_well();
}

#[test]
fn statement_names_are_checked_as_the_server_does() {
    let proxy = Proxy::start(cluster(), "pool: { size: 2 }\n");
    let mut wire = proxy.wire();
    let answer = wire.exchange(&[bind("", "nobody", &[]), execute("", 0), sync()]);
    assert_eq!(answer, "E[26000] Z[I]");
    let twice = [parse("s", "SELECT 1"), parse("s", "SELECT 2"), sync()];
    assert_eq!(wire.exchange(&twice), "1 E[42P05] Z[I]");
    // The first one failed with its implicit transaction, but statements are not transactional.
    assert_eq!(
        wire.exchange(&[run("s", &[]), sync()]),
        "2 D[1] C[SELECT 1] Z[I]"
    );
    assert_eq!(
        wire.exchange(&[parse("s", "SELECT 2"), sync()]),
        "E[42P05] Z[I]"
    );
    assert_eq!(
        wire.exchange(&[
            close(b'S', "s"),
            parse("s", "SELECT 3"),
            run("s", &[]),
            sync()
        ]),
        "3 1 2 D[3] C[SELECT 1] Z[I]"
    );
    // A Parse that fails takes no name.
    assert_eq!(
        wire.exchange(&[parse("bad", "SELEC"), sync()]),
        "E[42601] Z[I]"
    );
    assert_eq!(
        wire.exchange(&[parse("bad", "SELECT 4"), run("bad", &[]), sync()]),
        "1 2 D[4] C[SELECT 1] Z[I]"
    );
    proxy.assert_well();
}

#[test]
fn an_error_message_of_a_name_speaks_of_the_clients_name() {
    let proxy = Proxy::start(cluster(), "");
    let mut wire = proxy.wire();
    let twice = [
        parse("my_name", "SELECT 1"),
        parse("my_name", "SELECT 2"),
        sync(),
    ];
    let frames = wire.exchange_frames(&twice, 1);
    let said = frames[1].field(b'M').unwrap();
    assert_eq!(said, "prepared statement \"my_name\" already exists");
}

#[test]
fn messages_cut_in_the_middle_leave_nothing_behind() {
    let proxy = Proxy::start(cluster(), "pool: { size: 2, wait_timeout: 1s }\n");
    let whole = [
        query("SELECT 1"),
        parse("s", "SELECT $1::text"),
        bind("", "s", &["x"]),
        describe(b'P', ""),
        execute("", 0),
        sync(),
        query("BEGIN"),
        query("COPY (SELECT 1) TO STDOUT"),
    ]
    .concat();
    for cut in 0..whole.len() {
        let mut wire = proxy.wire();
        wire.send(&whole[..cut]);
        wire.vanish();
    }
    proxy.assert_well();
}

#[test]
fn messages_may_arrive_byte_by_byte() {
    let proxy = Proxy::start(cluster(), "");
    let mut wire = proxy.wire();
    let all = [
        query("SELECT 1"),
        parse("s", "SELECT $1::text"),
        bind("", "s", &["x"]),
        execute("", 0),
        sync(),
    ];
    for byte in all.concat() {
        wire.send(&[byte]);
    }
    let answer = [wire.until(b'Z'), wire.until(b'Z')].concat();
    assert_eq!(
        summary(&answer),
        "T D[1] C[SELECT 1] Z[I] 1 2 D[x] C[SELECT 1] Z[I]"
    );
}

#[test]
fn a_copy_that_fails_fails_alone() {
    let proxy = Proxy::start(cluster(), "pool: { size: 2 }\n");
    let mut wire = proxy.wire();
    wire.run("CREATE TABLE copy_fail (n int)");
    for _ in 0..10 {
        // The client gives up.
        wire.send(
            &[
                query("COPY copy_fail FROM STDIN"),
                copy_data("1\n"),
                copy_fail("no more"),
            ]
            .concat(),
        );
        assert_eq!(summary(&wire.until(b'Z')), "G E[57014] Z[I]");
        // The server does, and the client has sent on meanwhile.
        let data: Vec<Vec<u8>> = (0..100).map(|_| copy_data("not a number\n")).collect();
        wire.send(
            &[
                query("COPY copy_fail FROM STDIN"),
                data.concat(),
                copy_done(),
            ]
            .concat(),
        );
        assert_eq!(summary(&wire.until(b'Z')), "G E[22P02] Z[I]");
        assert_eq!(
            wire.ask("SELECT count(*) FROM copy_fail"),
            "D[0] C[SELECT 1] Z[I]"
        );
        // Stray data outside of any COPY is ignored, as by a server.
        wire.send(&[copy_data("stray"), copy_done(), copy_fail("stray")].concat());
        assert_eq!(wire.value("SELECT 2"), "2");
    }
    // A message that has no place in a COPY.
    wire.send(&[query("COPY copy_fail FROM STDIN"), query("SELECT 1")].concat());
    let answer = summary(&wire.until_closed());
    assert_eq!(answer, "G E[08P01] E[08P01]");
    proxy.assert_well();
}

#[test]
fn garbage_after_login_is_survived() {
    let proxy = Proxy::start(cluster(), "pool: { size: 2, wait_timeout: 1s }\n");
    // Reproducible: the same garbage every time (a linear congruential generator).
    let mut state = 20_240_229u64;
    let mut next = move || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 33) as u8
    };
    let tags = b"QPBDECSHFdcfX";
    for round in 0..150 {
        let mut bytes = Vec::new();
        for _ in 0..8 {
            let size = usize::from(next() % 40);
            let body: Vec<u8> = (0..size).map(|_| next() % 8 * (next() % 32)).collect();
            bytes.extend(message(tags[usize::from(next()) % tags.len()], &[&body]));
        }
        bytes.extend(frames::sync());
        let mut wire = proxy.wire();
        wire.send(&bytes);
        wire.stream.shutdown(std::net::Shutdown::Write).unwrap();
        wire.patience(Duration::from_secs(5));
        // A hang shows as a panic here, with what brought it about.
        let outcome =
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| wire.until_closed()));
        assert!(
            outcome.is_ok(),
            "round {round} hangs: {:?}",
            String::from_utf8_lossy(&bytes)
        );
        if round % 50 == 0 {
            proxy.assert_well();
        }
    }
    proxy.assert_well();
}
