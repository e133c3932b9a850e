//! Constants in prepared statements, where settings come from code, from `set_config` or stand in the
//! middle of a pipeline: each is read by what is in force where its text is parsed, and stays like that.

use super::proxy;
use crate::support::Wire;
use crate::support::frames::{flush, parse, run, sync};

/// A date that says which DateStyle it was read by; `number` makes it nobody else's text.
fn text(number: usize) -> String {
    format!("SELECT to_char(date '3/4/2026', 'YYYY-MM-DD'), $1::int + {number}")
}

const MDY: &str = "2026-03-04";
const DMY: &str = "2026-04-03";

/// What statement `name` says.
fn said(wire: &mut Wire, name: &str) -> String {
    let answer = wire.exchange(&[run(name, &["0"]), sync()]);
    let row = answer.split("D[").nth(1);
    let date = row.and_then(|row| row.split(',').next());
    date.unwrap_or(&answer).to_owned()
}

fn is_parsed(wire: &mut Wire, name: &str, number: usize) -> String {
    let answer = wire.exchange(&[parse(name, &text(number)), sync()]);
    assert!(answer.starts_with('1'), "{answer}");
    said(wire, name)
}

/// Whatever is prepared on the one connection is gone.
fn forgotten(proxy: &crate::support::Proxy) {
    proxy.wire().run("DEALLOCATE ALL");
}

#[test]
fn a_setting_that_no_set_has_made_is_heeded() {
    let proxy = proxy();
    let mut owner = proxy.wire();
    owner.run(
        "CREATE FUNCTION makes_dmy() RETURNS void LANGUAGE plpgsql AS \
         $$ BEGIN SET LOCAL datestyle = 'ISO, DMY'; END $$",
    );
    for (number, sets) in [
        "SELECT set_config('datestyle', 'ISO, DMY', true)",
        "SELECT set_config('Date' || 'Style', 'ISO, DMY', true)",
        "SELECT makes_dmy()",
        "DO $$ BEGIN PERFORM set_config('datestyle', 'ISO, DMY', true); END $$",
        "DO $$ BEGIN EXECUTE 'SET datestyle = DMY'; END $$",
        "SET LOCAL datestyle = 'ISO, DMY'",
    ]
    .into_iter()
    .enumerate()
    {
        let (mut one, mut other) = (proxy.wire(), proxy.wire());
        let (known, new) = (2 * number, 2 * number + 1);
        assert_eq!(is_parsed(&mut other, "known", known), MDY, "{sets}");
        one.run("BEGIN");
        one.run(sets);
        assert_eq!(
            is_parsed(&mut one, "known", known),
            DMY,
            "{sets}: known before"
        );
        assert_eq!(is_parsed(&mut one, "new", new), DMY, "{sets}: new");
        one.run("ROLLBACK");
        assert_eq!(is_parsed(&mut other, "new", new), MDY, "{sets}: of another");
        forgotten(&proxy);
        assert_eq!(said(&mut other, "known"), MDY, "{sets}");
        assert_eq!(said(&mut other, "new"), MDY, "{sets}");
        assert_eq!(said(&mut one, "known"), DMY, "{sets}: as it was parsed");
        assert_eq!(said(&mut one, "new"), DMY, "{sets}: as it was parsed");
    }
}

#[test]
fn what_was_parsed_before_a_setting_is_read_as_before_behind_it() {
    let proxy = proxy();
    let (mut wire, mut outside) = (proxy.wire(), proxy.wire());
    assert_eq!(is_parsed(&mut wire, "s", 100), MDY);
    for sets in [
        "SET datestyle = 'ISO, DMY'",
        "SELECT set_config('datestyle', 'ISO, DMY', false)",
    ] {
        outside.run("DEALLOCATE ALL");
        let answer = wire.exchange(&[parse("", sets), run("", &[]), run("s", &["0"]), sync()]);
        assert!(answer.contains(MDY), "{sets}: {answer}");
        wire.run("RESET datestyle");
    }
}

#[test]
fn behind_a_flush_it_is_read_as_it_was_parsed() {
    let proxy = proxy();
    let (mut wire, mut outside) = (proxy.wire(), proxy.wire());
    assert_eq!(is_parsed(&mut wire, "mdy", 200), MDY);
    wire.run("SET datestyle = 'ISO, DMY'");
    assert_eq!(is_parsed(&mut wire, "dmy", 201), DMY);
    for first in ["SELECT 1", "SET datestyle = 'ISO, YMD'", "BEGIN"] {
        outside.run("DEALLOCATE ALL");
        let begun = wire.exchange(&[parse("", first), run("", &[]), flush()]);
        assert_eq!(begun, "", "there is no Sync to wait for");
        wire.until(b'C');
        let answer = wire.exchange(&[run("mdy", &["0"]), run("dmy", &["0"]), sync()]);
        let (mdy, dmy) = (answer.find(MDY), answer.find(DMY));
        assert!(mdy.is_some() && mdy < dmy, "{first}: {answer}");
        // What was set for it is not in force.
        let shown = wire.value("SHOW datestyle");
        let expected = if first.starts_with("SET") {
            "ISO, YMD"
        } else {
            "ISO, DMY"
        };
        assert_eq!(shown, expected, "{first}");
        if first == "BEGIN" {
            wire.run("ROLLBACK");
        }
        wire.run("SET datestyle = 'ISO, DMY'");
    }
}
