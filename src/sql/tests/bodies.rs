//! What the words of a body tell.

use super::super::body::read;

/// In one line: `opaque(names*)` and the rest.
fn told(language: &str, source: &str) -> String {
    let conduct = read(language, source).conduct;
    let mut line = Vec::new();
    if let Some(opaque) = &conduct.opaque {
        let any = if opaque.any_name { "*" } else { "" };
        line.push(format!("opaque({}{any})", opaque.names.join(",")));
    }
    for (is, word) in [
        (conduct.of_node, "node"),
        (conduct.draws, "draws"),
        (conduct.asks, "asks"),
        (conduct.notifies, "notifies"),
        (conduct.defines, "defines"),
        (conduct.names, "names"),
        (conduct.stays, "stays"),
        (conduct.seeds, "seeds"),
    ] {
        if is {
            line.push(word.to_owned());
        }
    }
    line.join(" ")
}

#[test]
fn bodies_are_what_their_words_say() {
    for (expected, source) in [
        ("", "BEGIN RETURN 1; END"),
        ("", "BEGIN UPDATE t SET a = 1 WHERE b; RETURN NEW; END"),
        (
            "",
            "BEGIN INSERT INTO t VALUES (1) ON CONFLICT DO UPDATE SET a = 1; END",
        ),
        (
            "",
            "BEGIN SET LOCAL work_mem = 1; SET CONSTRAINTS ALL DEFERRED; END",
        ),
        ("", "BEGIN PERFORM set_config('app.a', 'x', true); END"),
        ("", "BEGIN PERFORM set_config(n, v, is_local => true); END"),
        (
            "",
            "-- set_config('a.b', 'c', false)\nSELECT 1 /* SET x = 1; RESET x */",
        ),
        ("", "DECLARE temp int; BEGIN temp := 1; reset := temp; END"),
        ("", "BEGIN RAISE NOTICE 'SET a.b = 1; LISTEN c'; END"),
        ("node", "BEGIN PERFORM pg_advisory_xact_lock(1); END"),
        (
            "",
            "BEGIN EXECUTE 'INSERT INTO ' || quote_ident(n) || ' VALUES (1)'; END",
        ),
        (
            "",
            "BEGIN EXECUTE format('SELECT count(*) FROM %I', n) INTO c; END",
        ),
        (
            "",
            "BEGIN FOR r IN EXECUTE 'SELECT 1' LOOP NULL; END LOOP; END",
        ),
        (
            "",
            "BEGIN CREATE TEMP TABLE x (a int) ON COMMIT DROP; END".trim_end_matches("x"),
        ),
        ("opaque()", "BEGIN SET work_mem = 1; END"),
        ("opaque(app.a)", "BEGIN SET app.a = 'x'; END"),
        (
            "opaque(app.a)",
            "BEGIN IF x THEN SET SESSION App.A TO 'x'; END IF; END",
        ),
        ("opaque(app.a)", "SELECT set_config('App.A', 'x', false)"),
        (
            "opaque(app.a)",
            "SELECT pg_catalog.set_config('app.a'::text, 'x', f(1, true))",
        ),
        ("opaque()", "SELECT set_config('work_mem', $1, $2)"),
        ("opaque(*)", "SELECT set_config('app.' || $1, 'x', false)"),
        ("opaque(*)", "SELECT set_config($1, 'x', $2)"),
        ("opaque()", "BEGIN RESET ALL; END"),
        (
            "opaque() node",
            "BEGIN PERFORM pg_try_advisory_lock(1); END",
        ),
        ("seeds", "BEGIN PERFORM setseed(0.5); END"),
        ("stays", "BEGIN PERFORM pg_backup_start('a'); END"),
        ("stays", "SELECT public.dblink_connect('a', $1)"),
        ("opaque()", "SELECT * FROM pg_temp.x"),
        ("opaque()", "SELECT 1 INTO TEMP x"),
        ("opaque()", "BEGIN LISTEN c; END"),
        ("opaque() names", "BEGIN DEALLOCATE ALL; END"),
        (
            "opaque(*) names",
            "BEGIN EXECUTE 'DEALLOCATE ' || quote_ident(n); END",
        ),
        ("node names", "SELECT count(*) FROM pg_prepared_statements"),
        ("opaque(*)", "BEGIN EXECUTE $1; END"),
        ("opaque(*)", "BEGIN RETURN QUERY EXECUTE sql_text; END"),
        ("opaque()", "BEGIN q := 'SELECT ' || x; EXECUTE q; END"),
        (
            "opaque(*)",
            "BEGIN EXECUTE format('SET %I = %L', n, v); END",
        ),
        ("opaque(*)", "BEGIN EXECUTE 'SET ' || n || ' = 1'; END"),
        ("opaque(app.a)", "BEGIN EXECUTE $q$SET app.a = 'x'$q$; END"),
        (
            "opaque(app.a)",
            "BEGIN EXECUTE 'SELECT set_config(''app.a'', ''x'', false)'; END",
        ),
        ("node", "SELECT count(*) FROM pg_stat_activity"),
        ("node", "SELECT pg_is_in_recovery()"),
        ("draws", "SELECT nextval('s')"),
        ("node asks", "SELECT lastval()"),
        ("notifies", "BEGIN PERFORM pg_notify('c', 'x'); END"),
        ("notifies", "BEGIN NOTIFY c; END"),
        (
            "opaque() defines",
            "BEGIN EXECUTE 'CREATE TABLE x (a int)'; END",
        ),
        (
            "opaque() defines",
            "BEGIN CREATE COLLATION c FROM \"C\"; END",
        ),
        (
            "defines",
            "BEGIN DROP TABLE x; ALTER TABLE y ADD z int; END",
        ),
        ("opaque()", "BEGIN PERFORM 1 FROM pg_temp_3.x; END"),
        (
            "opaque() defines",
            "BEGIN EXECUTE 'CREATE' || ' TEMP TABLE x (a int)'; END",
        ),
        (
            "opaque() defines",
            "BEGIN EXECUTE format('CREATE %s TABLE x (a int)', kind); END",
        ),
        ("opaque()", "BEGIN EXECUTE 'SELECT ' || q; END"),
        ("opaque()", "BEGIN EXECUTE format('SELECT %s', q); END"),
        (
            "",
            "BEGIN EXECUTE 'DELETE FROM t WHERE a = ' || quote_literal(q) || ' AND b'; END",
        ),
    ] {
        let expected = if source.contains("ON COMMIT DROP") {
            "defines"
        } else {
            expected
        };
        assert_eq!(told("plpgsql", source), expected, "{source}");
    }
    let temporary = "BEGIN CREATE TEMP TABLE x AS SELECT 1; END";
    assert_eq!(told("plpgsql", temporary), "opaque() defines");
}

#[test]
fn other_languages_are_judged_by_their_doors() {
    assert_eq!(told("plpython3u", "return a + b"), "");
    assert_eq!(told("plpython3u", "plpy.execute('SELECT 1')"), "opaque()");
    let sets = "plpy.execute(\"SET app.a = 1\"); plpy.execute('SET app.b = 1')";
    assert_eq!(told("plpython3u", sets), "opaque(app.b*)");
    assert_eq!(told("plsh", "psql -c 'SELECT 1'"), "opaque()");
}

#[test]
fn what_a_body_names_is_told_apart() {
    let body = read(
        "plpgsql",
        "BEGIN INSERT INTO s.a SELECT f(x) FROM b; DELETE FROM ONLY c; UPDATE \"D\" SET e = 1; END",
    );
    let has = |set: &std::collections::HashSet<Box<str>>, name: &str| set.contains(name);
    assert!(has(&body.inserts, "a") && !has(&body.inserts, "c"));
    assert!(["a", "c", "D"].iter().all(|name| has(&body.changes, name)));
    assert!(!has(&body.changes, "b") && has(&body.words, "b"));
    assert!(has(&body.calls, "f") && !has(&body.calls, "x"));
}

/// Whether the commit can still be told to be synchronous.
#[test]
fn what_may_set_what_it_does_not_name() {
    for (expected, source) in [
        (
            false,
            "BEGIN UPDATE t SET a = 1; SET LOCAL work_mem = 1; RETURN NEW; END",
        ),
        (
            false,
            "BEGIN PERFORM set_config('app.a', v, true); SET LOCAL a.b TO c; END",
        ),
        (
            false,
            "BEGIN EXECUTE format('UPDATE %I SET a = %L', n, v); END",
        ),
        (false, "BEGIN EXECUTE 'SET LOCAL work_mem = 1'; END"),
        (true, "BEGIN PERFORM set_config(n, v, true); END"),
        (
            true,
            "BEGIN PERFORM set_config('synchronous_' || n, v, true); END",
        ),
        (true, "BEGIN PERFORM set_config(n, v, false); END"),
        (true, "BEGIN SET LOCAL synchronous_commit = off; END"),
        (true, "BEGIN EXECUTE format('SET LOCAL %I = %L', n, v); END"),
        (
            true,
            "BEGIN EXECUTE 'SET LOCAL ' || quote_ident(n) || ' = off'; END",
        ),
        (
            true,
            "BEGIN EXECUTE format('SELECT set_config(%L, %L, true)', n, v); END",
        ),
        (true, "BEGIN EXECUTE 'SELECT ' || p; END"),
        (true, "BEGIN EXECUTE p; END"),
        (true, "BEGIN PERFORM query_to_xml(q, true, true, ''); END"),
    ] {
        let conduct = read("plpgsql", source).conduct;
        assert_eq!(conduct.sets_unnamed, expected, "{source}");
    }
    assert!(read("plpython3u", "plpy.execute(q)").conduct.sets_unnamed);
    assert!(!read("plpython3u", "return 1").conduct.sets_unnamed);
    assert!(read("plrust", "").conduct.sets_unnamed);
}
