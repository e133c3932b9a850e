//! Clients that speak other encodings: their bytes mean to the proxy what they mean to the server.

use super::traffic::Busy;
use crate::support::frames::message;
use crate::support::{Wire, summary};

/// The answer to a query in the client's own bytes: the first value, or all in short.
fn ask(wire: &mut Wire, sql: &[u8]) -> Vec<u8> {
    let frames = wire.exchange_frames(&[message(b'Q', &[sql, b"\0"])], 1);
    match frames.iter().find(|frame| frame.tag == b'D') {
        // Two bytes for the columns, four for the length.
        Some(row) => row.body[6..].to_vec(),
        None => summary(&frames).into_bytes(),
    }
}

fn routed(wire: &mut Wire) -> String {
    let route = wire.value("SHOW causeway.last_route");
    route.split(' ').next().unwrap().to_owned()
}

#[test]
fn second_bytes_that_look_like_ascii() {
    let busy = Busy::start();
    busy.proxy.wire().run("CREATE SEQUENCE encoded");
    // Each of a character whose last byte is a backslash.
    for (encoding, character) in [
        ("SJIS", &b"\x95\x5c"[..]),
        ("SHIFT_JIS_2004", b"\x95\x5c"),
        ("BIG5", b"\xa5\x5c"),
        ("GBK", b"\x81\x5c"),
        ("GB18030", b"\x81\x5c"),
        ("GB18030", b"\x81\x39\xee\x39"),
        ("LATIN1", b"\xe9"),
    ] {
        let with =
            |before: &str, after: &str| [before.as_bytes(), character, after.as_bytes()].concat();
        let mut by_startup = busy.proxy.wire_with(&[("client_encoding", encoding)]);
        let mut by_set = busy.proxy.wire();
        by_set.run(&format!("SET client_encoding = '{encoding}'"));
        for wire in [&mut by_startup, &mut by_set] {
            // What is a read goes to a standby.
            assert_eq!(ask(wire, &with("SELECT '", "'")), character, "{encoding}");
            assert_eq!(routed(wire), "standby", "{encoding}");
            assert_eq!(ask(wire, &with("SELECT E'", "'")), character);
            // A quote that only seems to be escaped ends its string: what follows is seen.
            let hidden = with("SELECT E'", "' || nextval('encoded') || ''");
            assert!(ask(wire, &hidden).starts_with(character));
            assert_eq!(routed(wire), "primary", "{encoding}");
            // A setting in the client's bytes goes along.
            assert_eq!(ask(wire, &with("SET app.word = '", "'")), b"C[SET] Z[I]");
            assert_eq!(
                ask(wire, &with("SET search_path = \"", "\", public")),
                b"C[SET] Z[I]"
            );
            for _ in 0..10 {
                assert_eq!(ask(wire, b"SHOW app.word"), character, "{encoding}");
                let path = with("\"", "\", public");
                assert_eq!(ask(wire, b"SHOW search_path"), path, "{encoding}");
            }
            // Half a character is the server's to refuse.
            let broken = [b"SELECT '", &character[..1], b"'"].concat();
            if encoding != "LATIN1" {
                let refused = [&b"E[22021] Z[I]"[..], b"E[22P05] Z[I]"];
                assert!(refused.contains(&&*ask(wire, &broken)), "{encoding}");
            }
        }
    }
    assert_eq!(
        busy.proxy.wire().value("SHOW search_path"),
        "\"$user\", public"
    );
    busy.proxy.assert_well();
}
