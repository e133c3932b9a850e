//! Plans that code has left in a server process have nothing of another session's in them: neither how it
//! reads literals, nor the time of its first call, nor what a function gave it that is called immutable.

use super::{apart, proxy};
use crate::support::frames::{parse, run, sync};
use crate::support::{Wire, eventually};

/// Defines what a test calls, and waits until the proxy has read it.
fn define(login: &impl Fn() -> Wire, definitions: &[&str]) {
    let mut owner = login();
    definitions.iter().for_each(|sql| owner.run(sql));
    owner.run("CREATE TABLE made_last (n int)");
    eventually("the catalogue is read", || {
        owner.run("TABLE made_last");
        let route = owner.value("SHOW causeway.last_route");
        !route.contains("catalogue")
    });
}

#[test]
fn literals_in_functions_are_read_for_their_caller() {
    let (proxy, login) = (proxy(), apart("plans_literals"));
    let login = || Wire::login(proxy.port, &login, &[]);
    let definitions = [
        "CREATE TABLE event (at timestamptz)",
        "INSERT INTO event VALUES ('2026-06-01 00:30+00')",
        "CREATE FUNCTION since_june() RETURNS bigint LANGUAGE plpgsql AS $$ BEGIN \
         RETURN (SELECT count(*) FROM event WHERE at >= '2026-06-01 00:00'); END $$",
        "CREATE FUNCTION due() RETURNS text LANGUAGE plpgsql AS $$ BEGIN \
         RETURN to_char('03/04/2026'::date, 'YYYY-MM-DD'); END $$",
        "CREATE FUNCTION moment() RETURNS timestamptz LANGUAGE plpgsql AS $$ BEGIN \
         RETURN 'now'::timestamptz; END $$",
        "CREATE FUNCTION dynamic(f text) RETURNS text LANGUAGE plpgsql AS $$ DECLARE r text; BEGIN \
         EXECUTE 'SELECT ' || f INTO r; RETURN r; END $$",
    ];
    define(&login, &definitions);
    for (setting, call, expected) in [
        ("timezone = 'America/New_York'", "since_june()", "0"),
        ("timezone = 'UTC'", "since_june()", "1"),
        (
            "timezone = 'America/New_York'",
            "dynamic('since_june()')",
            "0",
        ),
        ("timezone = 'UTC'", "since_june()", "1"),
        ("datestyle = 'ISO, DMY'", "due()", "2026-04-03"),
        ("datestyle = 'ISO, MDY'", "due()", "2026-03-04"),
    ] {
        let mut one = login();
        one.run(&format!("SET {setting}"));
        let found = one.value(&format!("SELECT {call}"));
        assert_eq!(found, expected, "{setting}: {call}");
    }
    // Also where another one has come between that left nothing there.
    let mut one = login();
    one.run("SET datestyle = 'ISO, DMY'");
    assert_eq!(one.value("SELECT due()"), "2026-04-03");
    let mut between = login();
    between.run("SET datestyle = 'ISO, DMY'");
    between.run("SELECT 1");
    assert_eq!(login().value("SELECT due()"), "2026-03-04");
    let first = login().value("SELECT moment()");
    let second = login().value("SELECT moment()");
    assert_ne!(first, second, "time stands still");
    proxy.assert_well();
}

#[test]
fn prepared_statements_are_there_when_plans_have_gone() {
    let (proxy, login) = (proxy(), apart("plans_prepared"));
    let login = || Wire::login(proxy.port, &login, &[]);
    let definitions = [
        "CREATE FUNCTION moment() RETURNS timestamptz LANGUAGE plpgsql AS $$ BEGIN \
         RETURN 'now'::timestamptz; END $$",
    ];
    define(&login, &definitions);
    let (mut one, mut two) = (login(), login());
    for wire in [&mut one, &mut two] {
        let answer = wire.exchange(&[parse("mine", "SELECT 7, moment() < now()"), sync()]);
        assert!(!answer.contains("E["), "{answer}");
    }
    for _ in 0..4 {
        for wire in [&mut one, &mut two] {
            let answer = wire.exchange(&[run("mine", &[]), sync()]);
            assert!(answer.contains("D[7,"), "{answer}");
        }
    }
    assert_eq!(one.ask("DEALLOCATE mine"), "C[DEALLOCATE] Z[I]");
    assert!(two.exchange(&[run("mine", &[]), sync()]).contains("D[7,"));
    proxy.assert_well();
}

#[test]
fn what_is_called_immutable_and_is_not_shows_nobody_anothers_rows() {
    let (proxy, login) = (proxy(), apart("plans_immutable"));
    let login = || Wire::login(proxy.port, &login, &[]);
    let definitions = [
        "CREATE FUNCTION tenant() RETURNS text LANGUAGE sql IMMUTABLE AS \
         $$ SELECT current_setting('app.tenant', true) $$",
        "CREATE TABLE tenant_now (t text)",
        "CREATE FUNCTION chosen() RETURNS text LANGUAGE plpgsql IMMUTABLE AS \
         $$ BEGIN RETURN (SELECT t FROM tenant_now); END $$",
        "INSERT INTO tenant_now VALUES ('a')",
        "CREATE TABLE docs (tenant text, body text)",
        "INSERT INTO docs VALUES ('a', 'of a'), ('b', 'of b')",
        "CREATE VIEW seen AS SELECT body FROM docs WHERE tenant = tenant()",
        "CREATE FUNCTION found() RETURNS text LANGUAGE plpgsql STABLE AS \
         $$ BEGIN RETURN (SELECT body FROM docs WHERE tenant = tenant()); END $$",
    ];
    define(&login, &definitions);
    for sql in [
        "SELECT body FROM docs WHERE tenant = tenant()",
        "SELECT body FROM seen",
        "SELECT found()",
    ] {
        let (mut one, mut two) = (login(), login());
        one.run("SET app.tenant = 'a'");
        two.run("SET app.tenant = 'b'");
        for (wire, expected) in [(&mut one, "D[of a]"), (&mut two, "D[of b]")] {
            wire.exchange(&[parse("s", sql), sync()]);
            let answer = wire.exchange(&[run("s", &[]), sync()]);
            assert!(answer.contains(expected), "{sql}: {answer}");
        }
        let again = one.exchange(&[run("s", &[]), sync()]);
        assert!(again.contains("D[of a]"), "{sql}: {again}");
    }
    let sql = "SELECT body FROM docs WHERE tenant = chosen()";
    let (mut one, mut two) = (login(), login());
    one.exchange(&[parse("s", sql), sync()]);
    assert!(one.exchange(&[run("s", &[]), sync()]).contains("D[of a]"));
    one.run("UPDATE tenant_now SET t = 'b'");
    two.exchange(&[parse("s", sql), sync()]);
    assert!(two.exchange(&[run("s", &[]), sync()]).contains("D[of b]"));
    proxy.assert_well();
}

/// What has no text to read, what is called without parentheses, and what a conversion makes of a value.
#[test]
fn what_is_called_immutable_is_not_taken_at_its_word_however_it_is_written() {
    let (proxy, login) = (proxy(), apart("plans_claims"));
    let login = || Wire::login(proxy.port, &login, &[]);
    let definitions = [
        "CREATE FUNCTION tenant() RETURNS text LANGUAGE sql IMMUTABLE \
         RETURN current_setting('app.tenant', true)",
        "CREATE TABLE docs (tenant text, body text)",
        "INSERT INTO docs VALUES ('a', 'of a'), ('b', 'of b')",
        "CREATE FUNCTION found() RETURNS text LANGUAGE plpgsql STABLE AS \
         $$ BEGIN RETURN (SELECT body FROM docs WHERE tenant = tenant()); END $$",
        "CREATE TYPE pair AS (a int)",
        "CREATE FUNCTION owner(pair) RETURNS text LANGUAGE sql IMMUTABLE AS \
         $$ SELECT current_setting('app.tenant', true) $$",
        "CREATE FUNCTION noted() RETURNS text LANGUAGE plpgsql STABLE AS \
         $$ BEGIN RETURN (row(NULL)::pair).owner; END $$",
        "CREATE FUNCTION written(d date) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT $1::text'",
        "CREATE FUNCTION day() RETURNS text LANGUAGE plpgsql STABLE AS \
         $$ BEGIN RETURN written(make_date(2026, 3, 4)); END $$",
        "CREATE FUNCTION words(t text) RETURNS tsvector LANGUAGE sql IMMUTABLE AS 'SELECT to_tsvector(t)'",
        "CREATE FUNCTION dogs() RETURNS text LANGUAGE plpgsql STABLE AS \
         $$ BEGIN RETURN words('dogs'); END $$",
    ];
    define(&login, &definitions);
    for (call, settings) in [
        (
            "found()",
            [("app.tenant = 'a'", "of a"), ("app.tenant = 'b'", "of b")],
        ),
        (
            "noted()",
            [("app.tenant = 'a'", "a"), ("app.tenant = 'b'", "b")],
        ),
        (
            "day()",
            [
                ("datestyle = 'ISO'", "2026-03-04"),
                ("datestyle = 'German'", "04.03.2026"),
            ],
        ),
        (
            "dogs()",
            [
                ("default_text_search_config = 'english'", "'dog':1"),
                ("default_text_search_config = 'simple'", "'dogs':1"),
            ],
        ),
    ] {
        for (setting, expected) in settings {
            let mut one = login();
            one.run(&format!("SET {setting}"));
            let found = one.value(&format!("SELECT {call}"));
            assert_eq!(found, expected, "{setting}: {call}");
        }
    }
    for (tenant, expected) in [("a", "D[of a]"), ("b", "D[of b]")] {
        let mut one = login();
        one.run(&format!("SET app.tenant = '{tenant}'"));
        one.exchange(&[
            parse("s", "SELECT body FROM docs WHERE tenant = tenant()"),
            sync(),
        ]);
        let answer = one.exchange(&[run("s", &[]), sync()]);
        assert!(answer.contains(expected), "{answer}");
    }
    proxy.assert_well();
}
