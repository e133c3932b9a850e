//! What a session sets, prepares, listens to or leaves half done, another on the same server connection
//! neither meets nor can reach: each of these once was otherwise.

use crate::cluster;
use crate::support::frames::{Frame, bind, describe, execute, message, parse, query, run, sync};
use crate::support::{Proxy, Wire, summary};

const PRIMARY: &[(&str, &str)] = &[("options", "-c causeway.consistency=primary")];

/// One server connection for all.
fn one() -> Proxy {
    Proxy::start(cluster(), "pool: { size: 1, wait_timeout: 20s }\n")
}

fn session(proxy: &Proxy) -> Wire {
    proxy.wire_with(PRIMARY)
}

fn direct() -> Wire {
    Wire::login(cluster().primary().port(), cluster().application(), &[])
}

/// What a stranger finds of a custom setting.
fn strangers_see_nothing(proxy: &Proxy, setting: &str) {
    let sql = format!("SELECT coalesce(current_setting('{setting}', true), '')");
    assert_eq!(session(proxy).value(&sql), "", "{setting}");
}

/// A session that keeps the server connection that was used last, so that the others get another one.
fn blocker(proxy: &Proxy) -> Wire {
    let mut wire = session(proxy);
    wire.run("BEGIN; LOCK TABLE pg_catalog.pg_am IN ACCESS SHARE MODE");
    wire
}

#[test]
fn statements_of_others_cannot_be_named() {
    let proxy = one();
    let (mut owner, mut other) = (session(&proxy), session(&proxy));
    assert_eq!(
        owner.exchange(&[parse("own", "SELECT 'secret'"), sync()]),
        "1 Z[I]"
    );
    assert_eq!(
        owner.exchange(&[run("own", &[]), sync()]),
        "2 D[secret] C[SELECT 1] Z[I]"
    );
    assert_eq!(
        other.value("SELECT count(*) FROM pg_prepared_statements"),
        "0"
    );
    for name in ["own", "causeway_1", "causeway_0000000000000000_1"] {
        for sql in [
            format!("EXECUTE \"{name}\""),
            format!("DEALLOCATE \"{name}\""),
        ] {
            assert_eq!(other.ask(&sql), "E[26000] Z[I]", "{sql}");
        }
        let answer = other.exchange(&[bind("", name, &[]), execute("", 0), sync()]);
        assert_eq!(answer, "E[26000] Z[I]", "{name}");
        let answer = other.exchange(&[describe(b'S', name), sync()]);
        assert_eq!(answer, "E[26000] Z[I]", "{name}");
    }
    assert_eq!(
        owner.exchange(&[run("own", &[]), sync()]),
        "2 D[secret] C[SELECT 1] Z[I]"
    );
}

#[test]
fn an_error_does_not_end_what_a_setting_is_pinned_for() {
    let proxy = Proxy::start(cluster(), "pool: { size: 2 }\n");
    let mut wire = session(&proxy);
    wire.run("DO $$ BEGIN PERFORM set_config('app.' || 'made_up', 'own', false); END $$");
    assert_eq!(wire.ask("SELECT 1 / 0"), "E[22012] Z[I]");
    assert_eq!(wire.ask("BEGIN; SELECT 1 / 0"), "C[BEGIN] E[22012] Z[E]");
    wire.run("ROLLBACK");
    for _ in 0..3 {
        strangers_see_nothing(&proxy, "app.made_up");
        assert_eq!(wire.value("SELECT current_setting('app.made_up')"), "own");
    }
    wire.vanish();
    for _ in 0..3 {
        strangers_see_nothing(&proxy, "app.made_up");
    }
}

#[test]
fn long_texts_set_nothing_for_others() {
    let proxy = one();
    for (at, size) in [70_000, 200_000, 1_100_000].into_iter().enumerate() {
        let name = format!("app.long_{at}");
        let comment = "x".repeat(size);
        let mut wire = session(&proxy);
        wire.run(&format!("SET {name} = 'own' /* {comment} */"));
        strangers_see_nothing(&proxy, &name);
        assert_eq!(
            wire.value(&format!("SELECT current_setting('{name}')")),
            "own"
        );
        let set = [
            parse("", &format!("SET {name} = 'again' /* {comment} */")),
            run("", &[]),
            sync(),
        ];
        assert_eq!(wire.exchange(&set), "1 2 C[SET] Z[I]");
        strangers_see_nothing(&proxy, &name);
        assert_eq!(
            wire.value(&format!("SELECT current_setting('{name}')")),
            "again"
        );
    }
}

#[test]
fn long_values_stay_with_their_session() {
    let proxy = Proxy::start(cluster(), "pool: { size: 2 }\n");
    let mut wire = session(&proxy);
    wire.run("SELECT set_config('app.value', repeat('x', 300000), false)");
    let length = "SELECT length(current_setting('app.value'))";
    assert_eq!(wire.value(length), "300000");
    strangers_see_nothing(&proxy, "app.value");
    let _blocker = blocker(&proxy);
    assert_eq!(wire.value(length), "300000", "whoever else is served");
}

#[test]
fn nobody_is_told_what_another_listened_to() {
    let proxy = Proxy::start(cluster(), "pool: { size: 2 }\n");
    for listen in [
        "LISTEN gossip",
        "DO $$ BEGIN EXECUTE 'LISTEN gossip'; END $$",
    ] {
        let mut listener = session(&proxy);
        listener.run(listen);
        listener.vanish();
        let mut teller = session(&proxy);
        let mut other = session(&proxy);
        for round in 0..5 {
            teller.run(&format!("NOTIFY gossip, 'round {round}'"));
            assert_eq!(other.ask("SELECT 1"), "D[1] C[SELECT 1] Z[I]");
            assert_eq!(teller.ask("SELECT 2"), "D[2] C[SELECT 1] Z[I]");
        }
    }
}

#[test]
fn deallocate_all_counts_from_its_place_in_a_pipeline() {
    let proxy = one();
    let pipeline = [
        parse("one", "SELECT 1"),
        parse("all", "DEALLOCATE ALL"),
        run("one", &[]),
        run("all", &[]),
        parse("two", "SELECT 2"),
        run("two", &[]),
        sync(),
        run("two", &[]),
        sync(),
        run("one", &[]),
        sync(),
        parse("one", "SELECT 'new'"),
        run("one", &[]),
        sync(),
    ];
    let expected = direct().exchange(&pipeline);
    for _ in 0..3 {
        assert_eq!(session(&proxy).exchange(&pipeline), expected);
    }
}

#[test]
fn a_shared_text_is_read_in_each_clients_encoding() {
    let proxy = one();
    let with = |encoding| {
        let mut wire = session(&proxy);
        wire.run(&format!("SET client_encoding = '{encoding}'"));
        wire
    };
    // The same bytes: one letter in UTF-8, two in LATIN1.
    let prepared = [parse("letters", "SELECT length('\u{e9}')"), sync()];
    let (mut one, mut two) = (with("UTF8"), with("LATIN1"));
    for wire in [&mut one, &mut two] {
        assert_eq!(wire.exchange(&prepared), "1 Z[I]");
    }
    for _ in 0..2 {
        for (wire, letters) in [(&mut one, 1), (&mut two, 2)] {
            let answer = wire.exchange(&[run("letters", &[]), sync()]);
            assert_eq!(answer, format!("2 D[{letters}] C[SELECT 1] Z[I]"));
        }
    }
}

#[test]
fn a_portal_is_what_the_server_has_bound() {
    let proxy = Proxy::start(cluster(), "pool: { size: 2 }\n");
    let play = |wire: &mut Wire| {
        [
            wire.exchange(&[
                parse("set", "SET app.portal = 'own'"),
                parse("read", "SELECT 1"),
                sync(),
            ]),
            wire.ask("BEGIN"),
            wire.exchange(&[bind("p", "set", &[]), sync()]),
            wire.ask("SAVEPOINT s"),
            // Skipped, since an error comes before it.
            wire.exchange(&[bind("", "nobody", &[]), bind("p", "read", &[]), sync()]),
            wire.ask("ROLLBACK TO s"),
            wire.exchange(&[execute("p", 0), sync()]),
            wire.ask("COMMIT"),
            wire.ask("SELECT current_setting('app.portal', true)"),
        ]
    };
    let expected = play(&mut direct());
    let mut wire = session(&proxy);
    assert_eq!(play(&mut wire), expected);
    strangers_see_nothing(&proxy, "app.portal");
    assert_eq!(wire.value("SELECT current_setting('app.portal')"), "own");
}

#[test]
fn a_message_that_does_not_go_on_gives_its_connection_back() {
    let proxy = Proxy::start(cluster(), "pool: { size: 1, wait_timeout: 100s }\n");
    let mut half = session(&proxy);
    let answer = half.exchange(&[parse("s", "SELECT length($1)"), sync()]);
    assert_eq!(answer, "1 Z[I]");
    let large = bind("", "s", &["x".repeat(2_000_000).as_str()]);
    half.send(&large[..1_900_000]);
    // It waits behind that for as long as a client may pause.
    let mut other = session(&proxy);
    assert_eq!(other.ask("SELECT 1"), "D[1] C[SELECT 1] Z[I]");
    assert_eq!(summary(&half.until_closed()), "E[08P01]");
}

#[test]
fn a_description_that_comes_in_parts_is_no_other_shape() {
    let proxy = Proxy::start(cluster(), "pool: { size: 2 }\n");
    let column =
        |at| format!("{at} AS a_name_that_is_as_long_as_names_may_be_in_postgresql_{at:04}");
    let columns: Vec<_> = (1..=1600).map(column).collect();
    let text = format!("SELECT {}", columns.join(", "));
    let mut wire = session(&proxy);
    let described =
        wire.exchange_frames(&[parse("wide", &text), describe(b'S', "wide"), sync()], 1);
    let shape = |frames: &[Frame]| frames.iter().find(|frame| frame.tag == b'T').cloned();
    assert!(shape(&described).unwrap().body.len() > 100_000);
    let ran = |wire: &mut Wire| {
        let frames = wire.exchange_frames(&[run("wide", &[]), sync()], 1);
        let row = frames.iter().find(|frame| frame.tag == b'D');
        row.map_or(0, |row| row.columns().len())
    };
    assert_eq!(ran(&mut wire), 1600);
    let _blocker = blocker(&proxy);
    assert_eq!(ran(&mut wire), 1600, "on another server connection");
}

#[test]
fn settings_are_replayed_as_they_were_read() {
    let proxy = Proxy::start(cluster(), "pool: { size: 2 }\n");
    // A backslash is an escape here, and means another value where it is none.
    let mut wire = session(&proxy);
    wire.run("SET standard_conforming_strings = off");
    wire.run(r"SET app.path = 'C:\\dir\\it''s\x41'");
    wire.run("DO $$ BEGIN PERFORM set_config('app.made', E'a\\\\b''c', false); END $$");
    // In SJIS a letter's second byte is a backslash.
    let mut japanese = session(&proxy);
    japanese.run("SET client_encoding = 'SJIS'");
    let set = message(b'Q', &[b"SET app.letter = '\x95\x5c'\0"]);
    japanese.send(&set);
    assert_eq!(summary(&japanese.until(b'Z')), "C[SET] Z[I]");
    let read = |wire: &mut Wire, japanese: &mut Wire| {
        let own = "SELECT current_setting('app.path'), current_setting('app.made')";
        let own = wire.ask(own);
        let frames = japanese.exchange_frames(&[query("SHOW app.letter")], 1);
        let letter = frames.into_iter().find(|frame| frame.tag == b'D');
        (own, letter.map(|frame| frame.body))
    };
    let first = read(&mut wire, &mut japanese);
    assert_eq!(first.1.as_deref(), Some(&b"\0\x01\0\0\0\x02\x95\x5c"[..]));
    let _blocker = blocker(&proxy);
    assert_eq!(read(&mut wire, &mut japanese), first);
    assert!(first.0.starts_with(r"D[C:\dir\it'sA,"), "{}", first.0);
    for setting in ["app.path", "app.made", "app.letter"] {
        strangers_see_nothing(&proxy, setting);
    }
}

#[test]
fn a_call_by_the_fast_path_leaves_nothing() {
    let proxy = one();
    let mut wire = session(&proxy);
    let function = "SELECT 'set_config(text,text,bool)'::regprocedure::oid";
    let function: u32 = wire.value(function).parse().unwrap();
    let text = |value: &str| [&(value.len() as u32).to_be_bytes(), value.as_bytes()].concat();
    let call = message(
        b'F',
        &[
            &function.to_be_bytes(),
            &[0, 0, 0, 3],
            &text("app.fast"),
            &text("own"),
            &text("f"),
            &[0, 0],
        ],
    );
    wire.send(&call);
    assert_eq!(summary(&wire.until(b'Z')), "V Z[I]");
    strangers_see_nothing(&proxy, "app.fast");
    proxy.assert_well();
}
