//! What statements bring about that do not say so: by operators, casts, domains, SQL that is put together
//! at run time. Nothing of it reaches another session.

use super::{apart, proxy};
use crate::cluster;
use crate::support::frames::{parse, run, sync};
use crate::support::{Wire, eventually};

/// What a session finds that has done nothing yet: settings, locks, temporary relations.
fn found(mut wire: Wire) -> String {
    wire.ask(
        "SELECT coalesce(current_setting('app.hidden', true), ''), current_setting('work_mem'), \
         (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()), \
         (SELECT count(*) FROM pg_class WHERE relnamespace = pg_my_temp_schema())",
    )
}

const NOTHING: &str = "D[,4MB,0,0] C[SELECT 1] Z[I]";

#[test]
fn what_no_word_tells_reaches_nobody() {
    let (proxy, login) = (proxy(), apart("hidden"));
    let login = || Wire::login(proxy.port, &login, &[]);
    let mut owner = login();
    for sql in [
        "CREATE SCHEMA concealed",
        "CREATE FUNCTION concealed.sets(a int, b int) RETURNS bool LANGUAGE plpgsql AS \
         $$ BEGIN PERFORM set_config('app.hidden', 'own', false); RETURN true; END $$",
        "CREATE FUNCTION concealed.lies(a int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS \
         $$ BEGIN PERFORM set_config('app.hidden', 'own', false); RETURN 1; END $$",
        "CREATE FUNCTION concealed.locks() RETURNS void LANGUAGE plpgsql AS \
         $$ BEGIN PERFORM pg_advisory_lock(4711); END $$",
        "CREATE OPERATOR concealed.=== (LEFTARG = int, RIGHTARG = int, FUNCTION = concealed.sets)",
        "CREATE TYPE concealed.pair AS (a int)",
        "CREATE FUNCTION concealed.told(concealed.pair) RETURNS text LANGUAGE plpgsql AS \
         $$ BEGIN PERFORM concealed.sets(1, 2); RETURN 'x'; END $$",
        "CREATE CAST (concealed.pair AS text) WITH FUNCTION concealed.told(concealed.pair)",
        "CREATE DOMAIN concealed.checked AS int CHECK (concealed.sets(value, 1))",
        "CREATE TABLE concealed.plain (n int)",
        "INSERT INTO concealed.plain VALUES (1)",
        "CREATE TABLE concealed.holds (n int, c concealed.checked)",
        "CREATE TABLE concealed.indexed (n int)",
        "CREATE INDEX ON concealed.indexed (concealed.lies(n))",
        "CREATE VIEW concealed.shown AS SELECT concealed.lies(n) FROM concealed.plain",
        "CREATE VIEW concealed.compared AS SELECT n OPERATOR(concealed.===) 2 FROM concealed.plain",
        "CREATE FUNCTION concealed.run(q text) RETURNS text LANGUAGE plpgsql AS \
         $$ DECLARE r text; BEGIN EXECUTE 'SELECT ' || q INTO r; RETURN r; END $$",
        "CREATE FUNCTION concealed.call(f text) RETURNS void LANGUAGE plpgsql AS \
         $$ BEGIN EXECUTE format('SELECT concealed.%I()', f); END $$",
        "CREATE FUNCTION concealed.make(kind text) RETURNS void LANGUAGE plpgsql AS \
         $$ BEGIN EXECUTE format('CREATE %s TABLE made (n int)', kind); END $$",
        "CREATE FUNCTION concealed.makes() RETURNS void LANGUAGE plpgsql AS \
         $$ BEGIN CREATE TABLE made (n int); END $$",
        "CREATE TABLE concealed.made_last (n int)",
    ] {
        owner.run(sql);
    }
    read_by(&mut owner, "concealed.made_last");
    drop(owner);
    for statements in [
        &["SELECT 1 OPERATOR(concealed.===) 2"][..],
        &["SELECT * FROM concealed.compared"],
        &["SELECT ROW(1)::concealed.pair::text"],
        &["SELECT 5::concealed.checked"],
        &["INSERT INTO concealed.holds VALUES (1, 2)"],
        &["SELECT * FROM json_to_record('{\"c\": 3}') AS r (c concealed.checked)"],
        &["DO $$ DECLARE c concealed.checked; BEGIN c := 1; END $$"],
        &["INSERT INTO concealed.indexed VALUES (1)"],
        &["SELECT concealed.run($$set_config('app.hidden', 'own', false)$$)"],
        &["SELECT concealed.run('concealed.locks()')"],
        &["SELECT concealed.call('locks')"],
        &["SELECT concealed.make('TEMPORARY')"],
        &["DO $$ BEGIN EXECUTE 'CREATE' || ' TEMP TABLE made (n int)'; END $$"],
        &[
            "SET search_path = pg_temp, public",
            "SELECT concealed.makes()",
        ],
        &["SELECT table_to_xml('concealed.shown', true, true, '')"],
        &["UPDATE pg_settings SET setting = '7MB' WHERE name = 'work_mem'"],
    ] {
        let mut wire = login();
        for sql in statements {
            let answer = wire.ask(sql);
            assert!(
                answer.ends_with("Z[I]") && !answer.contains("E["),
                "{sql}: {answer}"
            );
        }
        drop(wire);
        assert_eq!(found(login()), NOTHING, "{statements:?}");
    }
    proxy.assert_well();
}

/// Waits until the proxy has read the definitions of now.
pub(super) fn read_by(wire: &mut Wire, made_last: &str) {
    eventually("the catalogue is read", || {
        wire.run(&format!("TABLE {made_last}"));
        let route = wire.value("SHOW causeway.last_route");
        !route.contains("catalogue")
    });
}

#[test]
fn a_short_timeout_does_not_end_the_session() {
    let proxy = proxy();
    let mut wire = proxy.wire();
    // In force from the next statement on, which is the proxy's own.
    let sql = "DO $$ BEGIN PERFORM set_config('statement_timeout', '1ms', false); END $$";
    assert_eq!(wire.ask(sql), "C[DO] Z[I]");
    eventually("an answer within 1 ms", || {
        wire.ask("SHOW statement_timeout") == "D[1ms] C[SHOW] Z[I]"
    });
    wire.run("RESET statement_timeout");
    assert_eq!(wire.value("SHOW statement_timeout"), "0");
}

#[test]
fn types_of_a_name_that_is_known_are_not_taken_for_it() {
    let proxy = proxy();
    let mut wire = proxy.wire();
    for sql in [
        "CREATE SCHEMA misleading",
        "CREATE DOMAIN misleading.text AS int",
        "CREATE DOMAIN misleading.bool AS int",
        "SET search_path = misleading, pg_catalog",
        "DO $$ BEGIN PERFORM set_config('work_mem', '7MB', false); END $$",
    ] {
        wire.run(sql);
    }
    assert_eq!(wire.value("SHOW work_mem"), "7MB");
    wire.run("DROP SCHEMA misleading CASCADE");
}

/// A prepared statement that every session has under the same name.
fn prepared(wire: &mut Wire, text: &str) -> String {
    wire.exchange(&[parse("same", text), run("same", &[]), sync()])
}

#[test]
fn the_present_is_that_of_the_session_that_asks() {
    let proxy = proxy();
    let text = "SELECT 'now'::timestamptz::text";
    let first = prepared(&mut proxy.wire(), text);
    assert!(first.starts_with("1 2 D["), "{first}");
    assert_ne!(prepared(&mut proxy.wire(), text), first);
}

#[test]
fn a_function_that_was_made_past_the_proxy_may_define_something() {
    let proxy = proxy();
    proxy.wire().run(
        "DROP SCHEMA IF EXISTS nearer CASCADE; CREATE SCHEMA nearer; \
         CREATE TABLE public.twice AS SELECT 'far' AS n",
    );
    let look = || {
        let mut wire = proxy.wire();
        wire.run("SET search_path = nearer, public");
        prepared(&mut wire, "SELECT n FROM twice")
    };
    assert_eq!(look(), "1 2 D[far] C[SELECT 1] Z[I]");
    let mut past = Wire::login(cluster().primary().port(), cluster().application(), &[]);
    past.run(
        "CREATE FUNCTION nearer.comes() RETURNS void LANGUAGE plpgsql AS \
         $$ BEGIN CREATE TABLE nearer.twice AS SELECT 'near' AS n; END $$",
    );
    proxy.wire().run("SELECT nearer.comes()");
    assert_eq!(look(), "1 2 D[near] C[SELECT 1] Z[I]");
}
