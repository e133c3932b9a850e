//! Which statements are known to run no code of users.

use super::super::catalog::{Dependency, DependencyRow, FunctionRow, Rows};
use super::super::{Catalog, Classifier};
use super::{function, own, rows};

fn may_run_code(rows: &Rows, text: &str) -> bool {
    let catalog = Catalog::from_rows(1, rows);
    let found = Classifier::new(16).classify(text.as_bytes(), &catalog, true);
    found.may_run_code
}

#[test]
fn what_is_made_of_plain_tables_runs_none() {
    let rows = rows();
    for text in [
        "SELECT a, count(*) FROM t WHERE b BETWEEN 1 AND $1 GROUP BY a ORDER BY lower(a)",
        "SELECT (t).a, u.b FROM t JOIN u USING (id) WHERE t.c IN (SELECT c FROM v)",
        "INSERT INTO orders (a) VALUES (1) ON CONFLICT DO NOTHING RETURNING a",
        "UPDATE pgbench_accounts SET abalance = abalance + $1 WHERE aid = $2",
        "DELETE FROM t WHERE now() > a",
        "INSERT INTO numbered VALUES (DEFAULT)",
        "SELECT nextval('s')",
        "WITH w AS (SELECT 1) SELECT * FROM w",
        "COPY t FROM STDIN",
        "BEGIN; SET LOCAL app.tenant = 'a'; SELECT 1; COMMIT",
        "SHOW work_mem",
        "DISCARD ALL",
        "LISTEN a",
        "LOCK TABLE t",
    ] {
        assert!(!may_run_code(&rows, text), "{text}");
    }
}

#[test]
fn what_is_not_proved_may_run_some() {
    let rows = rows();
    for text in [
        "SELECT t.app_tenant FROM t",
        "SELECT (t).app_tenant FROM t",
        "SELECT app_read(1)",
        "SELECT app_constant()",
        "SELECT unheard_of()",
        "SELECT * FROM unheard_of",
        "SELECT * FROM elsewhere.unheard_of",
        "SELECT * FROM pg_temp.t",
        "INSERT INTO triggered VALUES (1)",
        "INSERT INTO unheard_of VALUES (1)",
        "SELECT a INTO x FROM t",
        "SELECT set_config('a.b', 'c', false)",
        "TRUNCATE t",
        "CREATE TABLE x (a int)",
        "COMMENT ON TABLE t IS 'a'",
        "ALTER TABLE t VALIDATE CONSTRAINT c",
        "DO $$ BEGIN END $$",
        "CALL app_procedure()",
        "PREPARE p AS SELECT 1",
        "EXECUTE p",
        "EXPLAIN ANALYZE EXECUTE p",
        "REFRESH MATERIALIZED VIEW m",
        "not SQL",
    ] {
        assert!(may_run_code(&rows, text), "{text}");
    }
    let found = Classifier::new(16).classify(b"SELECT 1", &Catalog::empty(), true);
    assert!(found.may_run_code, "nothing is known yet");
}

#[test]
fn where_something_calls_functions_unseen_no_query_is_proved() {
    let compiled = |immutable| FunctionRow {
        language: "c".into(),
        immutable,
        ..function("compiled", 20100, !immutable)
    };
    for (called, hides) in [
        (own("checks", 20100, "BEGIN RETURN true; END"), true),
        (function("nextval", 1574, true), true),
        (function("set_config", 2078, true), true),
        (function("length", 1317, false), false),
        // What the types of an extension need.
        (compiled(true), false),
        (compiled(false), false),
    ] {
        let mut rows = rows();
        rows.dependencies.push(DependencyRow {
            kind: Dependency::Hidden,
            of: 0,
            on_function: true,
            on: called.oid,
        });
        rows.functions.push(called.clone());
        assert_eq!(may_run_code(&rows, "SELECT a FROM t"), hides, "{called:?}");
        assert!(!may_run_code(&rows, "COMMIT"));
    }
    for immutable in [true, false] {
        let mut rows = rows();
        rows.functions.push(compiled(immutable));
        assert_eq!(may_run_code(&rows, "SELECT compiled(1)"), !immutable);
    }
}
