//! The question what a session has left on its server connection, where locks, timeouts, an encoding or other
//! settings of the session stand in its way: the session goes on, with all that it has set, and nobody else
//! meets it.

use pgcauseway::rig::Login;

use super::{apart, proxy};
use crate::cluster;
use crate::support::frames::{parse, run, sync};
use crate::support::{Proxy, Wire, eventually, http};

/// Sessions of a database of their own, and a superuser beside them.
pub(super) struct Asked {
    pub(super) proxy: Proxy,
    login: Login,
    pub(super) superuser: Wire,
}

impl Asked {
    pub(super) fn start(database: &str) -> Self {
        let login = apart(database);
        let superuser = Login {
            database: database.to_owned(),
            ..cluster().credentials().superuser.clone()
        };
        Self {
            proxy: proxy(),
            login,
            superuser: Wire::login(cluster().primary().port(), &superuser, &[]),
        }
    }

    pub(super) fn session(&self) -> Wire {
        self.session_with(&[])
    }

    fn session_with(&self, parameters: &[(&str, &str)]) -> Wire {
        Wire::login(self.proxy.port, &self.login, parameters)
    }
}

const OWN: &str =
    "SELECT coalesce(current_setting('app.own', true), ''), current_setting('work_mem')";

#[test]
fn a_catalogue_that_somebody_has_locked_ends_no_session() {
    let mut asked = Asked::start("asked_locked");
    for (settings, catalogue) in [
        (&[("lock_timeout", "20ms")][..], "pg_depend"),
        (&[("statement_timeout", "20ms")], "pg_depend"),
        (
            &[("lock_timeout", "1h"), ("statement_timeout", "2h")],
            "pg_depend",
        ),
        (&[], "pg_depend"),
        (&[("lock_timeout", "20ms")], "pg_class"),
    ] {
        let mut wire = asked.session();
        // What the statement needs itself is known to the server then.
        wire.run("DO $$ BEGIN PERFORM set_config('app.own', 'first', false); END $$");
        for (name, value) in settings {
            wire.run(&format!("SET {name} = '{value}'"));
        }
        assert_eq!(wire.ask("SHOW work_mem"), "D[4MB] C[SHOW] Z[I]");
        asked.superuser.run("BEGIN");
        let lock = format!("LOCK TABLE pg_catalog.{catalogue} IN ACCESS EXCLUSIVE MODE");
        asked.superuser.run(&lock);
        let sets = "DO $$ BEGIN PERFORM set_config('app.own', 'second', false); END $$";
        assert_eq!(wire.ask(sets), "C[DO] Z[I]", "{catalogue} {settings:?}");
        for _ in 0..3 {
            assert_eq!(
                wire.ask("SHOW app.own"),
                "D[second] C[SHOW] Z[I]",
                "{catalogue} {settings:?}"
            );
        }
        asked.superuser.run("COMMIT");
        // What is left is found out by then, and the one connection is everybody's again.
        let mut other = asked.session();
        assert_eq!(other.ask(OWN), "D[,4MB] C[SELECT 1] Z[I]");
        drop(other);
        assert_eq!(wire.ask(OWN), "D[second,4MB] C[SELECT 1] Z[I]");
        for (name, value) in settings {
            assert_eq!(wire.value(&format!("SHOW {name}")), *value);
        }
    }
    asked.proxy.assert_well();
}

#[test]
fn a_session_of_which_nothing_could_be_asked_takes_all_with_it() {
    let mut asked = Asked::start("asked_left");
    let mut wire = asked.session();
    wire.run("DO $$ BEGIN PERFORM set_config('app.own', 'first', false); END $$");
    asked.superuser.run("BEGIN");
    asked
        .superuser
        .run("LOCK TABLE pg_catalog.pg_depend IN ACCESS EXCLUSIVE MODE");
    wire.run(
        "DO $$ BEGIN PERFORM set_config('work_mem', '7MB', false), pg_advisory_lock(4716); END $$",
    );
    assert_eq!(wire.value("SHOW work_mem"), "7MB");
    let reasons = http::status(asked.proxy.http)["pinned"]["reasons"].to_string();
    assert!(reasons.contains("unanswered"), "{reasons}");
    drop(wire);
    asked.superuser.run("COMMIT");
    let locks = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 4716";
    eventually("the lock is free", || asked.superuser.value(locks) == "0");
    assert_eq!(asked.session().ask(OWN), "D[,4MB] C[SELECT 1] Z[I]");
}

#[test]
fn what_the_clients_encoding_has_no_letters_for_is_kept() {
    let mut asked = Asked::start("asked_letters");
    for sql in [
        "DROP ROLE IF EXISTS \"\u{436}\"",
        "CREATE ROLE \"\u{436}\"",
        "GRANT \"\u{436}\" TO demo",
        "CREATE SCHEMA \"\u{436}\"",
        "GRANT ALL ON SCHEMA \"\u{436}\" TO PUBLIC",
    ] {
        asked.superuser.run(sql);
    }
    for (sets, asks, expected) in [
        (
            "set_config('app.own', chr(1078) || chr(92) || chr(39), false)",
            "SELECT ascii(current_setting('app.own')), length(current_setting('app.own'))",
            "D[1078,3]",
        ),
        (
            "set_config('role', chr(1078), false)",
            "SELECT ascii(current_user), 1",
            "D[1078,1]",
        ),
        (
            "set_config('search_path', chr(1078) || ', pg_catalog', false)",
            "SELECT ascii(current_schema()), 1",
            "D[1078,1]",
        ),
        (
            "set_config('application_name', 'latin', false), set_config('app.own', chr(1078), false)",
            "SELECT ascii(current_setting('app.own')), 1",
            "D[1078,1]",
        ),
    ] {
        let mut wire = asked.session_with(&[("client_encoding", "LATIN1")]);
        let mut other = asked.session();
        wire.run(&format!("DO $$ BEGIN PERFORM {sets}; END $$"));
        for _ in 0..3 {
            assert_eq!(
                wire.ask(asks),
                format!("{expected} C[SELECT 1] Z[I]"),
                "{sets}"
            );
            assert_eq!(wire.value("SHOW client_encoding"), "LATIN1");
            assert_eq!(other.ask(OWN), "D[,4MB] C[SELECT 1] Z[I]", "{sets}");
            assert_eq!(other.value("SHOW client_encoding"), "UTF8");
        }
        let prepared = wire.exchange(&[parse("mine", asks), run("mine", &[]), sync()]);
        assert_eq!(prepared, format!("1 2 {expected} C[SELECT 1] Z[I]"));
    }
    // Named by the server alone, and kept where they are.
    for (sets, unsets) in [
        (
            "EXECUTE format('CREATE TEMP TABLE %I (n int)', chr(1078))",
            "EXECUTE format('DROP TABLE %I', chr(1078))",
        ),
        (
            "EXECUTE format('LISTEN %I', chr(1078))",
            "EXECUTE format('UNLISTEN %I', chr(1078))",
        ),
    ] {
        let mut wire = asked.session_with(&[("client_encoding", "LATIN1")]);
        let code = |sql: &str| format!("DO $$ BEGIN {sql}; END $$");
        wire.run(&code(sets));
        let asks = "SELECT (SELECT count(*) FROM pg_listening_channels()) \
                    + (SELECT count(*) FROM pg_class WHERE relnamespace = pg_my_temp_schema())";
        for _ in 0..2 {
            assert_eq!(wire.ask(asks), "D[1] C[SELECT 1] Z[I]", "{sets}");
        }
        wire.run(&code(unsets));
        assert_eq!(wire.ask(asks), "D[0] C[SELECT 1] Z[I]", "{sets}");
        // What is put together at run time may have set anything.
        wire.run("RESET ALL");
        assert_eq!(
            asked.session().ask(OWN),
            "D[,4MB] C[SELECT 1] Z[I]",
            "{sets}"
        );
    }
    asked.proxy.assert_well();
}

#[test]
fn a_channel_that_the_next_encoding_has_no_letters_for_ends_no_session() {
    let asked = Asked::start("asked_channel");
    let mut wire = asked.session();
    wire.run("LISTEN \"\u{436}\"");
    wire.run("SET client_encoding = 'LATIN1'");
    for _ in 0..3 {
        assert_eq!(wire.value("SHOW client_encoding"), "LATIN1");
    }
    wire.run("SET client_encoding = 'UTF8'");
    assert_eq!(asked.session().ask(OWN), "D[,4MB] C[SELECT 1] Z[I]");
    asked.session().run("NOTIFY \"\u{436}\"");
    let heard = wire.until(b'A');
    assert!(heard.iter().any(|frame| frame.tag == b'A'), "{heard:?}");
    asked.proxy.assert_well();
}

#[test]
fn how_the_sessions_transactions_begin_is_not_how_the_question_is_asked() {
    let mut asked = Asked::start("asked_deferred");
    let mut wire = asked.session();
    // A transaction that is SERIALIZABLE, READ ONLY and DEFERRABLE waits for others to end.
    asked
        .superuser
        .run("CREATE TABLE public.waited_for (n int)");
    asked.superuser.run("BEGIN ISOLATION LEVEL SERIALIZABLE");
    asked
        .superuser
        .run("INSERT INTO public.waited_for VALUES (1)");
    wire.run(
        "DO $$ BEGIN PERFORM set_config('default_transaction_isolation', 'serializable', false), \
         set_config('default_transaction_read_only', 'on', false), \
         set_config('default_transaction_deferrable', 'on', false); END $$",
    );
    wire.run("SET app.own = 'mine'");
    assert_eq!(wire.value("SHOW default_transaction_deferrable"), "on");
    assert_eq!(wire.value("SHOW transaction_isolation"), "serializable");
    asked.superuser.run("COMMIT");
    assert_eq!(asked.session().ask(OWN), "D[,4MB] C[SELECT 1] Z[I]");
    assert_eq!(wire.value("SHOW app.own"), "mine");
}

#[test]
fn timeouts_that_are_the_databases_stay_the_databases() {
    let mut asked = Asked::start("asked_default");
    asked.superuser.run(
        "ALTER DATABASE asked_default SET lock_timeout = '90s'; \
         ALTER DATABASE asked_default SET statement_timeout = '60000'",
    );
    let mut wire = asked.session();
    wire.run("DO $$ BEGIN PERFORM set_config('work_mem', '7MB', false); END $$");
    let by = "SELECT string_agg(name || ' ' || setting || ' ' || source, ',' ORDER BY name) \
              FROM pg_settings WHERE name IN ('lock_timeout', 'statement_timeout', 'work_mem')";
    let expected =
        "lock_timeout 90000 database,statement_timeout 60000 database,work_mem 7168 session";
    for _ in 0..2 {
        assert_eq!(wire.value(by), expected);
        asked.session().run("SELECT 1");
    }
    wire.run("DO $$ BEGIN PERFORM set_config('lock_timeout', '0', false); END $$");
    asked.session().run("SELECT 1");
    assert_eq!(wire.value("SHOW lock_timeout"), "0");
    wire.run("RESET lock_timeout");
    asked.session().run("SELECT 1");
    assert_eq!(wire.value("SHOW lock_timeout"), "90s");
}

#[test]
fn what_is_prepared_before_the_server_has_answered_is_nobody_elses() {
    let mut asked = Asked::start("asked_prepared");
    let mut wire = asked.session();
    asked.superuser.run("BEGIN");
    let lock = "LOCK TABLE pg_catalog.pg_depend IN ACCESS EXCLUSIVE MODE";
    asked.superuser.run(lock);
    wire.run("DO $$ BEGIN PERFORM set_config('TimeZone', 'Asia/Tokyo', false); END $$");
    // The constant is one of the setting under which it is parsed.
    let sql = "SELECT extract(epoch FROM '2020-01-01 12:00'::timestamptz)";
    let prepared = [parse("noon", sql), run("noon", &[]), sync()];
    assert!(wire.exchange(&prepared).contains("D[1577847600.000000]"));
    asked.superuser.run("COMMIT");
    eventually("the session is free", || {
        wire.ask("SELECT 1");
        let status = http::status(asked.proxy.http);
        !status["pinned"]["reasons"]
            .to_string()
            .contains("unanswered")
    });
    wire.run("RESET TimeZone");
    drop(wire);
    let mut other = asked.session();
    let prepared = [parse("noon", sql), run("noon", &[]), sync()];
    assert!(other.exchange(&prepared).contains("D[1577880000.000000]"));
    asked.proxy.assert_well();
}
