//! The scripts that are played both ways.

use super::{Step, compare};
use crate::support::frames::{
    bind, close, copy_data, copy_done, copy_fail, describe, execute, message,
};
use crate::support::frames::{parse, query, run, sync};

/// Everything in one write; Syncs, queries and function calls end answers.
fn step(messages: &[Vec<u8>]) -> Step {
    let ready = messages
        .iter()
        .filter(|message| matches!(message.first(), Some(b'S' | b'Q' | b'F')));
    Step {
        ready: ready.count(),
        bytes: messages.concat(),
    }
}

fn sql(texts: &[&str]) -> Vec<Step> {
    texts.iter().map(|text| step(&[query(text)])).collect()
}

#[test]
fn simple_queries() {
    compare(
        "simple",
        &sql(&[
            "SELECT 1 AS one, NULL AS nothing, 'text' AS \"Some Name\", 1.5::numeric(5,2), now() - now(), ARRAY[1,2]",
            "CREATE TABLE t (id serial PRIMARY KEY, v text NOT NULL, n numeric)",
            "INSERT INTO t (v, n) VALUES ('a', 1), ('b', 2.5), (E'tab\\tnew\\nline', NULL) RETURNING *",
            "SELECT * FROM t ORDER BY id",
            "UPDATE t SET n = n + 1 WHERE id < 3",
            "DELETE FROM t WHERE id = 1 RETURNING v",
            "SELECT count(*), sum(n) FROM t",
            "SELECT * FROM t WHERE false",
            "SELECT FROM t",
            "",
            ";",
            "SELECT 'ünïcödé 漢字', repeat('x', 100000)",
            "EXPLAIN (COSTS OFF) SELECT * FROM t",
            "SHOW work_mem",
            "VALUES (1), (2)",
            "TABLE t",
            "CREATE INDEX ON t (v)",
            "VACUUM t",
            "DROP TABLE t",
        ]),
    );
}

#[test]
fn errors_and_notices() {
    compare(
        "errors",
        &sql(&[
            "SELECT nothing",
            "SELEC 1",
            "SELECT 1/0",
            "SELECT * FROM no_such_table",
            "CREATE TABLE t (id int PRIMARY KEY, n int CHECK (n > 0))",
            "INSERT INTO t VALUES (1, 1)",
            "INSERT INTO t VALUES (1, 1)",
            "INSERT INTO t VALUES (2, -1)",
            "INSERT INTO t VALUES ('x', 1)",
            "DROP TABLE IF EXISTS no_such_table",
            "DO $$ BEGIN RAISE NOTICE 'a notice'; RAISE WARNING 'a warning' USING HINT = 'a hint', DETAIL = 'a detail'; END $$",
            "DO $$ BEGIN RAISE NOTICE 'first'; RAISE EXCEPTION 'failed: %', 42 USING ERRCODE = 'P0042'; END $$",
            "BEGIN",
            "BEGIN",
            "SELECT 1/0",
            "SELECT 1",
            "COMMIT",
            "COMMIT",
            "ROLLBACK",
            "BEGIN; SAVEPOINT a; SELECT 1/0; SELECT 2",
            "ROLLBACK TO a",
            "SELECT 3",
            "ROLLBACK",
            "SET LOCAL work_mem = '1MB'",
            "LOCK TABLE t",
            "DECLARE c CURSOR FOR SELECT 1",
            "FETCH c",
            "SELECT pg_terminate_backend(0)",
        ]),
    );
}

#[test]
fn several_statements() {
    compare(
        "several",
        &sql(&[
            "SELECT 1; SELECT 2; SELECT 3",
            "CREATE TABLE t (n int); INSERT INTO t VALUES (1); SELECT * FROM t",
            "INSERT INTO t VALUES (2); SELECT 1/0; INSERT INTO t VALUES (3)",
            "SELECT * FROM t",
            "BEGIN; INSERT INTO t VALUES (4); COMMIT; SELECT * FROM t ORDER BY n",
            "INSERT INTO t VALUES (5); BEGIN; INSERT INTO t VALUES (6); ROLLBACK; SELECT * FROM t ORDER BY n",
            "BEGIN; SELECT 1; COMMIT AND CHAIN; SELECT 2",
            "ROLLBACK",
            ";;SELECT 1;;",
            "SELECT 1; SELEC; SELECT 2",
        ]),
    );
}

#[test]
fn settings() {
    compare(
        "settings",
        &sql(&[
            "SET application_name = 'other'",
            "SHOW application_name",
            "SET TimeZone = 'Asia/Tokyo'",
            "SET DateStyle = 'German'",
            "SELECT '2024-02-29'::date, '2024-02-29 12:00+00'::timestamptz",
            "SET client_encoding = 'LATIN1'",
            "SELECT 'x'",
            "RESET client_encoding",
            "SET standard_conforming_strings = off",
            r"SELECT 'a\\b'",
            "RESET standard_conforming_strings",
            "BEGIN; SET application_name = 'inner'",
            "ROLLBACK",
            "SET LOCAL application_name = 'nothing'",
            "SET application_name = 'a'; SELECT 1/0",
            "SHOW application_name",
            "SET no_such = 1",
            "SET my.own = 'x'",
            "SHOW my.own",
            "RESET TimeZone",
            "RESET ALL",
            "DISCARD ALL",
            "SHOW application_name",
            "SELECT set_config('application_name', 'by function', false)",
            "SHOW application_name",
            "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
            "CREATE TABLE forbidden (n int)",
            "SHOW transaction_read_only",
        ]),
    );
}

#[test]
fn the_extended_protocol() {
    compare(
        "extended",
        &[
            step(&[query("CREATE TABLE t (id int PRIMARY KEY, v text)")]),
            step(&[
                parse("", "INSERT INTO t VALUES ($1, $2) RETURNING id, v"),
                describe(b'S', ""),
                bind("", "", &["1", "one"]),
                describe(b'P', ""),
                execute("", 0),
                sync(),
            ]),
            step(&[
                parse("ins", "INSERT INTO t VALUES ($1, $2)"),
                describe(b'S', "ins"),
                sync(),
            ]),
            step(&[
                run("ins", &["2", "two"]),
                run("ins", &["3", "three"]),
                sync(),
            ]),
            step(&[
                parse("sel", "SELECT * FROM t WHERE id >= $1 ORDER BY id"),
                sync(),
            ]),
            step(&[
                run("sel", &["2"]),
                describe(b'S', "sel"),
                run("sel", &["1"]),
                sync(),
            ]),
            // A portal in parts, in a transaction.
            step(&[query("BEGIN")]),
            step(&[
                bind("p", "sel", &["1"]),
                describe(b'P', "p"),
                execute("p", 2),
                sync(),
            ]),
            step(&[execute("p", 2), execute("p", 2), close(b'P', "p"), sync()]),
            step(&[execute("p", 2), sync()]),
            step(&[query("ROLLBACK")]),
            // In parts without a transaction: the portal goes with the Sync.
            step(&[
                bind("p", "sel", &["1"]),
                execute("p", 1),
                sync(),
                execute("p", 1),
                sync(),
            ]),
            step(&[parse("", ""), describe(b'S', ""), run("", &[]), sync()]),
            step(&[close(b'S', "sel"), sync()]),
            step(&[
                close(b'S', "sel"),
                close(b'S', "never"),
                close(b'P', "never"),
                sync(),
            ]),
            step(&[describe(b'S', "ins"), sync()]),
            step(&[sync(), sync(), sync()]),
            step(&[
                parse("dup", "SELECT 1"),
                close(b'S', "dup"),
                parse("dup", "SELECT 2"),
                run("dup", &[]),
                sync(),
            ]),
            step(&[
                query("DEALLOCATE ALL"),
                parse("ins", "SELECT 'another'"),
                run("ins", &[]),
                sync(),
            ]),
            // length(now()::text), by FunctionCall: oid of length(text), text formats, one argument.
            step(&[message(
                b'F',
                &[
                    &1317u32.to_be_bytes(),
                    &[0, 0, 0, 1, 0, 0, 0, 5],
                    b"abcde",
                    &[0, 0],
                ],
            )]),
        ],
    );
}

#[test]
fn pipelines() {
    compare(
        "pipelines",
        &[
            step(&[
                query("CREATE TABLE t (n int PRIMARY KEY)"),
                query("SELECT 1"),
                query("SELECT nothing"),
                query("SELECT 2"),
            ]),
            step(&[
                parse("i", "INSERT INTO t VALUES ($1)"),
                run("i", &["1"]),
                run("i", &["2"]),
                run("i", &["1"]),
                run("i", &["3"]),
                sync(),
                run("i", &["4"]),
                sync(),
            ]),
            step(&[query("SELECT * FROM t ORDER BY n")]),
            step(&[
                parse("a", "SELECT 1"),
                parse("b", "SELEC"),
                parse("c", "SELECT 3"),
                sync(),
                run("a", &[]),
                sync(),
            ]),
            step(&[run("c", &[]), sync()]),
            step(&[
                parse("", "BEGIN"),
                run("", &[]),
                parse("", "INSERT INTO t VALUES (9)"),
                run("", &[]),
                parse("", "COMMIT"),
                run("", &[]),
                sync(),
                query("SELECT * FROM t ORDER BY n"),
            ]),
            step(&[
                parse("", "SELECT 1/0"),
                run("", &[]),
                sync(),
                parse("", "SELECT 1"),
                run("", &[]),
                sync(),
                query("SELECT 2"),
                parse("", "SELECT 3"),
                run("", &[]),
                sync(),
            ]),
            step(&[
                parse("", "BEGIN"),
                run("", &[]),
                parse("", "SELECT 1/0"),
                run("", &[]),
                sync(),
                query("SELECT 1"),
                parse("", "ROLLBACK"),
                run("", &[]),
                sync(),
            ]),
        ],
    );
}

#[test]
fn copies() {
    compare(
        "copies",
        &[
            step(&[query("CREATE TABLE t (n int, v text)")]),
            step(&[
                query("COPY t FROM STDIN"),
                copy_data("1\tone\n2\ttwo\n"),
                copy_data("3\t\\N\n"),
                copy_done(),
            ]),
            step(&[
                query("COPY t TO STDOUT"),
                query("COPY t TO STDOUT (FORMAT csv, HEADER)"),
                query("COPY (SELECT n FROM t) TO STDOUT (FORMAT binary)"),
            ]),
            step(&[query("COPY t FROM STDIN"), copy_data("x\ty\n"), copy_done()]),
            step(&[
                query("COPY t FROM STDIN"),
                copy_data("4\tfour\n"),
                copy_fail("enough"),
            ]),
            step(&[query("SELECT count(*) FROM t")]),
            step(&[
                query("COPY t FROM STDIN; SELECT 1; COPY t TO STDOUT"),
                copy_data("5\tfive\n"),
                copy_done(),
            ]),
            step(&[parse("", "COPY t TO STDOUT"), run("", &[]), sync()]),
            step(&[
                parse("", "COPY t FROM STDIN"),
                run("", &[]),
                copy_data("6\tsix\n"),
                copy_done(),
                sync(),
            ]),
            step(&[query("COPY no_such FROM STDIN")]),
            step(&[query("COPY t FROM PROGRAM 'true'")]),
            step(&[query("SELECT * FROM t ORDER BY n")]),
        ],
    );
}
