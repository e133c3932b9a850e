//! Statements that are parsed while code has made settings for its transaction alone, of which no text tells:
//! what they mean is nobody else's.

use super::{apart, proxy};
use crate::support::Wire;
use crate::support::frames::{parse, run, sync};

/// Whether `1 = NULL` was read as `1 IS NULL`; `number` makes it nobody else's text.
fn text(number: usize) -> String {
    format!("SELECT (1 = NULL) IS NULL, $1::int + {number}")
}

const PLAIN: &str = "t";
const TRANSFORMED: &str = "f";

fn said(answer: &str) -> &str {
    let row = answer.split("D[").nth(1);
    row.and_then(|row| row.split(',').next()).unwrap_or(answer)
}

fn is_parsed(wire: &mut Wire, number: usize) -> String {
    let answer = wire.exchange(&[parse("s", &text(number)), run("s", &["0"]), sync()]);
    said(&answer).to_owned()
}

#[test]
fn what_is_parsed_behind_code_that_sets_for_its_transaction_is_shared_with_nobody() {
    let (proxy, login) = (proxy(), apart("within_code"));
    let login = || Wire::login(proxy.port, &login, &[]);
    let mut owner = login();
    for sql in [
        "CREATE FUNCTION transforms() RETURNS void LANGUAGE plpgsql AS \
         $$ BEGIN PERFORM set_config('transform_null_equals', 'on', true); END $$",
        "CREATE FUNCTION also() RETURNS void LANGUAGE plpgsql AS \
         $$ BEGIN SET LOCAL transform_null_equals = on; END $$",
        "CREATE FUNCTION by_another() RETURNS void LANGUAGE sql AS 'SELECT transforms()'",
        "CREATE TABLE triggering (n int)",
        "CREATE FUNCTION fires() RETURNS trigger LANGUAGE plpgsql AS \
         $$ BEGIN PERFORM set_config('transform_null_equals', 'on', true); RETURN new; END $$",
        "CREATE TRIGGER fires BEFORE INSERT ON triggering FOR EACH ROW EXECUTE FUNCTION fires()",
        "CREATE TABLE made_last (n int)",
    ] {
        owner.run(sql);
    }
    super::hidden::read_by(&mut owner, "made_last");
    for (number, sets) in [
        "DO $$ BEGIN PERFORM set_config('transform_null_equals', 'on', true); END $$",
        "DO $$ BEGIN SET LOCAL transform_null_equals = on; END $$",
        "DO $$ BEGIN EXECUTE 'SET LOCAL transform_null_equals = on'; END $$",
        "SELECT transforms()",
        "SELECT also()",
        "SELECT by_another()",
        "INSERT INTO triggering VALUES (1)",
    ]
    .into_iter()
    .enumerate()
    {
        // In one pipeline, which is a transaction up to its end.
        let (mut one, mut other) = (login(), login());
        let (piped, later) = (2 * number, 2 * number + 1);
        let answer = one.exchange(&[
            parse("", sets),
            run("", &[]),
            parse("s", &text(piped)),
            run("s", &["0"]),
            sync(),
        ]);
        assert!(
            answer.ends_with("Z[I]") && !answer.contains("E["),
            "{sets}: {answer}"
        );
        let own = answer.rsplit("1 2 D[").next().unwrap_or_default();
        assert!(own.starts_with(TRANSFORMED), "{sets}: {answer}");
        assert_eq!(is_parsed(&mut other, piped), PLAIN, "{sets}: of another");
        // In a transaction of several.
        let (mut one, mut other) = (login(), login());
        one.run("BEGIN");
        one.run(sets);
        assert_eq!(is_parsed(&mut one, later), TRANSFORMED, "{sets}: its own");
        one.run("COMMIT");
        assert_eq!(is_parsed(&mut other, later), PLAIN, "{sets}: of another");
    }
    proxy.assert_well();
}
