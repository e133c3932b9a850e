//! What a session has left on a server connection goes no further than to itself, whether or not anybody
//! could have known of it: what is handed to another session is clean first.

use pgcauseway::rig::Login;

use super::{apart, proxy};
use crate::support::frames::{parse, run, sync};
use crate::support::{Wire, eventually};
use crate::{cluster, from_primary};

/// What a session finds that has done nothing yet.
fn found(wire: &mut Wire) -> String {
    wire.ask(
        "SELECT coalesce(current_setting('app.remains', true), ''), current_setting('work_mem'), \
         (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()), \
         (SELECT count(*) FROM pg_class WHERE relnamespace = pg_my_temp_schema())",
    )
}

const NOTHING: &str = "D[,4MB,0,0] C[SELECT 1] Z[I]";

const DEFINITIONS: &[&str] = &[
    "CREATE FUNCTION leave() RETURNS text LANGUAGE plpgsql AS $$ BEGIN \
     PERFORM set_config('app.remains', 'own', false), pg_advisory_lock(4711); RETURN 'x'; END $$",
    "CREATE TABLE person (id int)",
    "INSERT INTO person VALUES (1)",
    "CREATE FUNCTION tenant(person) RETURNS text LANGUAGE sql STABLE AS 'SELECT leave()'",
    "CREATE FUNCTION by_default(x text DEFAULT set_config('app.remains', 'own', false)) RETURNS text \
     LANGUAGE sql AS 'SELECT x'",
    "CREATE DOMAIN filled AS text DEFAULT leave()",
    "CREATE TABLE holds (a int, b filled)",
    "CREATE TYPE pair AS (a int)",
    "CREATE FUNCTION equal(pair, pair) RETURNS bool LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN \
     PERFORM leave(); RETURN ($1).a = ($2).a; END $$",
    "CREATE OPERATOR = (LEFTARG = pair, RIGHTARG = pair, FUNCTION = equal)",
    "CREATE OPERATOR >= (LEFTARG = pair, RIGHTARG = pair, FUNCTION = equal)",
    "CREATE OPERATOR <= (LEFTARG = pair, RIGHTARG = pair, FUNCTION = equal)",
    "CREATE TABLE pairs (c pair)",
    "INSERT INTO pairs VALUES (ROW(1))",
    "CREATE FUNCTION run(p text) RETURNS void LANGUAGE plpgsql AS \
     $$ BEGIN EXECUTE 'SELECT 1'; EXECUTE p; END $$",
    "CREATE FUNCTION in_doubt(p bool) RETURNS void LANGUAGE plpgsql AS \
     $$ BEGIN PERFORM set_config('app.remains', 'own', p IS NOT true); END $$",
    "CREATE FUNCTION by_carriage() RETURNS void LANGUAGE plpgsql AS \
     E'BEGIN -- says nothing\\r PERFORM set_config(''app.remains'', ''own'', false);\\r END'",
    "CREATE TABLE above (a int PRIMARY KEY)",
    "CREATE TABLE below (a int REFERENCES above)",
    "CREATE FUNCTION fires() RETURNS trigger LANGUAGE plpgsql AS \
     $$ BEGIN PERFORM leave(); RETURN NULL; END $$",
    "CREATE TRIGGER t AFTER TRUNCATE ON below FOR EACH STATEMENT EXECUTE FUNCTION fires()",
    "CREATE TABLE made_last (n int)",
];

/// Defines what the tests call, and waits until the proxy has read it.
fn define(login: &impl Fn() -> Wire) {
    let mut owner = login();
    DEFINITIONS.iter().for_each(|sql| owner.run(sql));
    eventually("the catalogue is read", || {
        owner.run("TABLE made_last");
        let route = owner.value("SHOW causeway.last_route");
        !route.contains("catalogue")
    });
}

#[test]
fn what_was_overlooked_reaches_nobody() {
    let (proxy, login) = (proxy(), apart("handed_over"));
    let login = || Wire::login(proxy.port, &login, &[]);
    define(&login);
    for sql in [
        "SELECT p.tenant FROM person p",
        "SELECT (p).tenant FROM person p",
        "SELECT by_default()",
        "INSERT INTO holds (a) VALUES (1)",
        "SELECT CASE c WHEN ROW(2)::pair THEN 1 ELSE 2 END FROM pairs",
        "SELECT c IN (SELECT c FROM pairs) FROM pairs",
        "SELECT c NOT IN (SELECT c FROM pairs) FROM pairs",
        "SELECT count(*) FROM pairs a JOIN pairs b USING (c)",
        "SELECT count(*) FROM pairs a NATURAL JOIN pairs b",
        "SELECT count(*) FROM pairs WHERE c BETWEEN ROW(0)::pair AND ROW(9)::pair",
        "SELECT run('se' || 't app.remains = ''own''')",
        "SELECT in_doubt(true)",
        "SELECT by_carriage()",
        "TRUNCATE above CASCADE",
    ] {
        let mut one = login();
        let answer = one.ask(sql);
        assert!(
            answer.ends_with("Z[I]") && !answer.contains("E["),
            "{sql}: {answer}"
        );
        drop(one);
        assert_eq!(found(&mut login()), NOTHING, "{sql}");
    }
    proxy.assert_well();
}

#[test]
fn what_has_just_been_defined_reaches_nobody() {
    let (proxy, login) = (proxy(), apart("handed_young"));
    let login = || Wire::login(proxy.port, &login, &[]);
    define(&login);
    // A trigger on a table that was plain when its statement was parsed, at once and in one transaction.
    let trigger =
        "CREATE TRIGGER t BEFORE INSERT ON person FOR EACH STATEMENT EXECUTE FUNCTION fires()";
    for statements in [
        &[trigger, "INSERT INTO person VALUES (2)"][..],
        &["DROP TRIGGER t ON person"],
        &["BEGIN", trigger, "INSERT INTO person VALUES (3)", "COMMIT"],
        &[
            "CREATE FUNCTION young() RETURNS text LANGUAGE sql AS 'SELECT leave()'",
            "SELECT young()",
        ],
    ] {
        let mut one = login();
        statements.iter().for_each(|sql| one.run(sql));
        drop(one);
        assert_eq!(found(&mut login()), NOTHING, "{statements:?}");
    }
    proxy.assert_well();
}

#[test]
fn a_hidden_number_is_nobody_elses() {
    let (proxy, login) = (proxy(), apart("handed_numbers"));
    let login = || Wire::login(proxy.port, &login, &[]);
    for sql in [
        "CREATE SEQUENCE s",
        "CREATE FUNCTION draws(x bigint DEFAULT nextval('s')) RETURNS bigint LANGUAGE sql AS 'SELECT x'",
        "CREATE DOMAIN numbered AS bigint DEFAULT nextval('s')",
        "CREATE TABLE holds (a int, b numbered)",
        "CREATE TABLE made_last (n int)",
    ] {
        login().run(sql);
    }
    eventually("the catalogue is read", || {
        let mut wire = login();
        wire.run("TABLE made_last");
        let route = wire.value("SHOW causeway.last_route");
        !route.contains("catalogue")
    });
    for sql in ["SELECT draws()", "INSERT INTO holds (a) VALUES (1)"] {
        let mut one = login();
        one.run(sql);
        let answer = login().ask("SELECT lastval()");
        assert!(answer.contains("55000"), "{sql}: {answer}");
    }
}

#[test]
fn prepared_statements_outlive_the_cleaning_and_do_not_pass_for_others() {
    let (proxy, login) = (proxy(), apart("handed_prepared"));
    let login = || Wire::login(proxy.port, &login, &[]);
    define(&login);
    let prepared = |wire: &mut Wire| {
        wire.exchange(&[
            parse("same", "SELECT current_setting('work_mem')"),
            run("same", &[]),
            sync(),
        ])
    };
    let (mut one, mut two) = (login(), login());
    one.run("SET work_mem = '7MB'");
    assert!(prepared(&mut one).contains("D[7MB]"));
    assert!(prepared(&mut two).contains("D[4MB]"));
    for sql in [
        "SELECT run('dea' || 'llocate all')",
        "SELECT run('prep' || 'are same as select 1')",
    ] {
        login().run(sql);
        let again = |wire: &mut Wire| wire.exchange(&[run("same", &[]), sync()]);
        assert!(again(&mut one).contains("D[7MB]"), "{sql}");
        assert!(again(&mut two).contains("D[4MB]"), "{sql}");
        assert_eq!(
            login().ask("PREPARE same AS SELECT 2"),
            "C[PREPARE] Z[I]",
            "{sql}"
        );
    }
    proxy.assert_well();
}

#[test]
fn a_lock_does_not_outlive_its_session() {
    let (proxy, login) = (proxy(), apart("handed_locks"));
    let login = || Wire::login(proxy.port, &login, &[]);
    define(&login);
    let held = || {
        from_primary::<i64>(
            cluster(),
            "SELECT count(*) FROM pg_locks l JOIN pg_database d ON d.oid = l.database \
             WHERE l.locktype = 'advisory' AND d.datname = 'handed_locks'",
        )
    };
    let mut one = login();
    one.run("SELECT p.tenant FROM person p");
    assert_eq!(held(), 1, "it was overlooked");
    drop(one);
    eventually("the lock is gone", || held() == 0);
}

#[test]
fn what_a_server_process_keeps_goes_with_it() {
    let (proxy, login) = (proxy(), apart("handed_process"));
    let login = || Wire::login(proxy.port, &login, &[]);
    let setup = "pg_catalog.pg_replication_origin_session_setup";
    let is_setup = "pg_catalog.pg_replication_origin_session_is_setup";
    let superuser = Login::new("postgres", "postgres", "handed_process");
    let mut past = Wire::login(cluster().primary().port(), &superuser, &[]);
    for sql in [
        &format!("GRANT EXECUTE ON FUNCTION {setup}(text), {is_setup}() TO demo"),
        "SELECT pg_replication_origin_drop(roname) FROM pg_replication_origin WHERE roname = 'handed'",
        "SELECT pg_replication_origin_create('handed')",
    ] {
        past.run(sql);
    }
    login().run(&format!(
        "CREATE FUNCTION origin() RETURNS void LANGUAGE plpgsql AS \
         $$ BEGIN PERFORM {setup}('handed'); END $$"
    ));
    for sql in [
        &format!("SELECT {setup}('handed')"),
        &format!("DO $$ BEGIN PERFORM {setup}('handed'); END $$"),
    ] {
        let mut one = login();
        // The process that had it before may not have ended yet.
        eventually("the origin is free", || !one.ask(sql).contains("E["));
        assert_eq!(one.value(&format!("SELECT {is_setup}()")), "t", "{sql}");
        drop(one);
        let other = login().value(&format!("SELECT {is_setup}()"));
        assert_eq!(other, "f", "{sql}");
    }
}

#[test]
fn a_strangers_operator_keeps_nobody_on_a_connection() {
    let (proxy, login) = (proxy(), apart("handed_homonym"));
    let login = || Wire::login(proxy.port, &login, &[]);
    let mut stranger = login();
    for sql in [
        "CREATE SCHEMA strange",
        "CREATE TYPE strange.k AS (a int)",
        "CREATE FUNCTION strange.eq(strange.k, strange.k) RETURNS bool IMMUTABLE LANGUAGE plpgsql AS \
         $$ DECLARE n text := 'app.' || random(); BEGIN \
         PERFORM set_config(n, 'x', false); RETURN true; END $$",
        "CREATE OPERATOR strange.= (LEFTARG = strange.k, RIGHTARG = strange.k, FUNCTION = strange.eq)",
        "CREATE TABLE clean (a int)",
    ] {
        stranger.run(sql);
    }
    eventually("the catalogue is read", || {
        stranger.run("TABLE clean");
        !stranger
            .value("SHOW causeway.last_route")
            .contains("catalogue")
    });
    drop(stranger);
    // One connection for all of them.
    let mut sessions = [login(), login(), login()];
    for one in &mut sessions {
        assert_eq!(one.value("SELECT count(*) FROM clean WHERE a = 1"), "0");
    }
}
