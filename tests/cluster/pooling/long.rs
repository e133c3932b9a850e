//! Texts too long to be parsed are looked at as they pass: what they leave stays with their session, and
//! they pin it for that alone.

use std::fmt::Write as _;

use super::traffic::Busy;
use crate::support::frames::query;
use crate::support::{Proxy, eventually, http, summary};

/// Statements that make a text long.
fn filler(table: &str) -> String {
    let mut text = String::new();
    for n in 0..30_000 {
        let _ = writeln!(
            text,
            "INSERT INTO {table} VALUES ({n}, 'a set of things: set ''it'' %, /* load */ it''s from here');"
        );
    }
    assert!(text.len() > 2 * 1024 * 1024);
    text
}

fn pins(proxy: &Proxy) -> String {
    http::status(proxy.http)["pinned"]["reasons"].to_string()
}

#[test]
fn a_long_script_pins_nobody_and_its_settings_stay_with_its_session() {
    let busy = Busy::start();
    let mut wire = busy.proxy.wire();
    wire.run("CREATE TABLE long_script (n serial, t text)");
    let head = "SET app.tenant = 'mine'; SET /* of app.of */ work_mem = '9MB'; DO $$ BEGIN PERFORM set_config('app.body', 'too', false); END $$;";
    for _ in 0..2 {
        wire.run(&format!("{head}{}", filler("long_script")));
        for _ in 0..10 {
            assert_eq!(wire.value("SHOW app.tenant"), "mine");
            assert_eq!(wire.value("SHOW app.body"), "too");
            assert_eq!(wire.value("SHOW work_mem"), "9MB");
            let mut other = busy.proxy.wire();
            assert_eq!(other.value("SHOW work_mem"), "4MB");
            for name in ["app.tenant", "app.body"] {
                let asked = format!("SELECT coalesce(current_setting('{name}', true), '')");
                assert_eq!(other.value(&asked), "");
            }
        }
        assert_eq!(pins(&busy.proxy), "{}");
    }
    assert_eq!(wire.value("SELECT count(*) FROM long_script"), "60000");
    // A failure takes back all of it.
    let answer = wire.ask(&format!(
        "SET app.tenant = 'lost'; {} SELECT 1/0",
        filler("long_script")
    ));
    assert!(
        answer.ends_with("E[22012] Z[I]"),
        "{}",
        &answer[answer.len() - 40..]
    );
    assert_eq!(wire.value("SHOW app.tenant"), "mine");
    assert_eq!(pins(&busy.proxy), "{}");
}

#[test]
fn what_a_long_script_leaves_on_the_server_pins_for_that() {
    let busy = Busy::start();
    let mut wire = busy.proxy.wire();
    wire.run(&format!(
        "CREATE TEMP TABLE long_temp (n int, t text); {} SELECT pg_advisory_lock(4715)",
        filler("long_temp")
    ));
    eventually("it is pinned", || {
        pins(&busy.proxy) == r#"{"advisory_lock":1,"temporary_object":1}"#
    });
    assert_eq!(wire.value("SELECT count(*) FROM long_temp"), "30000");
    wire.run("DROP TABLE long_temp; SELECT pg_advisory_unlock(4715)");
    eventually("it is free", || pins(&busy.proxy) == "{}");
    // Statements of others that it drops are prepared again.
    let mut other = busy.proxy.wire();
    let parse = crate::support::frames::parse("mine", "SELECT 6 + $1::int");
    let sync = crate::support::frames::sync;
    other.exchange(&[parse, sync()]);
    wire.run("CREATE TABLE long_plain (n int, t text)");
    for _ in 0..3 {
        wire.run(&format!("{} DEALLOCATE ALL", filler("long_plain")));
        for _ in 0..10 {
            let run = crate::support::frames::run("mine", &["1"]);
            assert_eq!(other.exchange(&[run, sync()]), "2 D[7] C[SELECT 1] Z[I]");
        }
    }
}

#[test]
fn a_long_script_that_is_broken_off_harms_nobody() {
    let busy = Busy::start();
    busy.proxy
        .wire()
        .run("CREATE TABLE long_broken (n int, t text)");
    let whole = query(&format!("SET app.broken = 'x'; {}", filler("long_broken")));
    for part in [whole.len() / 2, whole.len() - 1] {
        let mut wire = busy.proxy.wire();
        wire.send(&whole[..part]);
        wire.vanish();
    }
    let mut wire = busy.proxy.wire();
    for _ in 0..20 {
        let asked = "SELECT coalesce(current_setting('app.broken', true), '')";
        assert_eq!(wire.value(asked), "");
    }
    assert_eq!(wire.value("SELECT count(*) FROM long_broken"), "0");
    // One that does not parse as a whole does nothing, and says so.
    let answer =
        summary(&wire.exchange_frames(&[query(&format!("{} SELEC", filler("long_broken")))], 1));
    assert_eq!(answer, "E[42601] Z[I]");
    busy.proxy.assert_well();
}
