//! What a session makes in its temporary schema, of whatever kind, pins it, is gone with it, and is met by
//! nobody else.

use crate::cluster;
use crate::support::{Proxy, Wire, eventually};

const PRIMARY: &[(&str, &str)] = &[("options", "-c causeway.consistency=primary")];

/// Objects in the temporary schema of whichever server connection answers.
const COUNT: &str = "SELECT count(*) FROM pg_depend \
    WHERE refclassid = 'pg_namespace'::regclass AND refobjid = pg_my_temp_schema()";

/// Definitions in the schema `{}`, which is named or not.
const DEFINITIONS: &[&str] = &[
    "CREATE STATISTICS {}mine ON a, b FROM temporary_of",
    "CREATE COLLATION {}mine FROM \"C\"",
    "CREATE TEXT SEARCH DICTIONARY {}mine (TEMPLATE = simple)",
    "CREATE TEXT SEARCH CONFIGURATION {}mine (COPY = simple)",
    "CREATE OPERATOR {}=== (FUNCTION = texteq, LEFTARG = text, RIGHTARG = text)",
    "CREATE CONVERSION {}mine FOR 'UTF8' TO 'LATIN1' FROM utf8_to_iso8859_1",
    "CREATE AGGREGATE {}mine (int) (SFUNC = int4pl, STYPE = int)",
    "CREATE TYPE {}mine AS ENUM ('a')",
    "CREATE DOMAIN {}mine AS int",
    "CREATE FUNCTION {}mine() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "CREATE TABLE {}mine (a int)",
    "CREATE VIEW {}mine AS SELECT 1",
    "CREATE SEQUENCE {}mine",
];

fn session(proxy: &Proxy) -> Wire {
    proxy.wire_with(PRIMARY)
}

/// Two server connections, which many sessions take in turn.
fn proxy() -> Proxy {
    let proxy = Proxy::start(cluster(), "pool: { size: 2, wait_timeout: 20s }\n");
    session(&proxy).run("CREATE TABLE IF NOT EXISTS temporary_of (a int, b int)");
    proxy
}

/// The session has something there, and keeps it; others have nothing, then and after it has left.
fn stays_with_its_session(proxy: &Proxy, mut owner: Wire, what: &str) {
    for _ in 0..3 {
        assert_eq!(session(proxy).value(COUNT), "0", "beside {what}");
        assert_ne!(owner.value(COUNT), "0", "{what} is its own");
    }
    owner.vanish();
    // Both connections.
    let (mut one, mut other) = (session(proxy), session(proxy));
    for wire in [&mut one, &mut other] {
        wire.run("BEGIN");
    }
    for wire in [&mut one, &mut other] {
        assert_eq!(wire.value(COUNT), "0", "after {what}");
        wire.run("COMMIT");
    }
}

#[test]
fn what_is_defined_in_pg_temp() {
    let proxy = proxy();
    for definition in DEFINITIONS {
        let text = definition.replace("{}", "pg_temp.");
        let mut owner = session(&proxy);
        owner.run(&text);
        stays_with_its_session(&proxy, owner, &text);
    }
}

#[test]
fn what_goes_there_by_search_path() {
    let proxy = proxy();
    for definition in DEFINITIONS {
        let text = definition.replace("{}", "");
        let mut owner = session(&proxy);
        owner.run("SET search_path = pg_temp, public");
        owner.run(&text);
        stays_with_its_session(&proxy, owner, &text);
    }
}

#[test]
fn what_code_defines_there() {
    let proxy = proxy();
    let inside = |text: &str| text.replace('\'', "''");
    for definition in DEFINITIONS {
        for schema in ["pg_temp.", ""] {
            let text = definition.replace("{}", schema);
            let mut owner = session(&proxy);
            owner.run("SET search_path = pg_temp, public");
            owner.run(&format!(
                "DO $code$ BEGIN EXECUTE '{}'; END $code$",
                inside(&text)
            ));
            stays_with_its_session(&proxy, owner, &format!("DO: {text}"));
        }
    }
    // Defined by another session, so that the catalogue knows it.
    let mut definer = session(&proxy);
    definer.run(
        "CREATE OR REPLACE FUNCTION public.defines_a_collation() RETURNS void LANGUAGE plpgsql AS \
         $$ BEGIN CREATE COLLATION mine FROM \"C\"; END $$",
    );
    let mut owner = session(&proxy);
    owner.run("SET search_path = pg_temp, public");
    eventually("the function is known", || {
        owner.run("EXPLAIN SELECT public.defines_a_collation()");
        let route = owner.value("SHOW causeway.last_route");
        !route.contains("not known yet")
    });
    owner.run("SELECT public.defines_a_collation()");
    stays_with_its_session(&proxy, owner, "a function");
}

#[test]
fn nothing_is_kept_once_it_is_dropped() {
    let proxy = Proxy::start(cluster(), "pool: { size: 1, wait_timeout: 20s }\n");
    let mut owner = session(&proxy);
    for (create, drop) in [
        (
            "CREATE COLLATION pg_temp.mine FROM \"C\"",
            "DROP COLLATION pg_temp.mine",
        ),
        (
            "CREATE TEXT SEARCH DICTIONARY pg_temp.mine (TEMPLATE = simple)",
            "DISCARD TEMP",
        ),
        (
            "BEGIN; CREATE COLLATION pg_temp.mine FROM \"C\"",
            "ROLLBACK",
        ),
    ] {
        owner.run(create);
        assert_ne!(owner.value(COUNT), "0", "{create}");
        owner.run(drop);
        // The only server connection is free for another.
        assert_eq!(session(&proxy).value(COUNT), "0", "{drop}");
    }
}
