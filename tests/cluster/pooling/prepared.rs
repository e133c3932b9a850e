//! Prepared statements: names are the session's own, wherever it runs.

use super::traffic::Busy;
use crate::cluster;
use crate::support::frames::{bind, close, describe, execute, parse, query, run, sync};
use crate::support::{Proxy, Wire, block_on, connect};

#[test]
fn writes_prepared_before_reads_still_write() {
    let busy = Busy::start();
    block_on(async {
        let client = connect(&busy.proxy.url()).await;
        client
            .batch_execute("CREATE TABLE mixed (n int)")
            .await
            .unwrap();
        let write = client
            .prepare("INSERT INTO mixed VALUES ($1)")
            .await
            .unwrap();
        let read = client
            .prepare("SELECT count(*) FROM mixed WHERE n = $1")
            .await
            .unwrap();
        for n in 0..100 {
            assert_eq!(client.execute(&write, &[&n]).await.unwrap(), 1);
            let row = client.query_one(&read, &[&n]).await.unwrap();
            assert_eq!(row.get::<_, i64>(0), 1, "its own write, at once");
        }
    });
    assert!(busy.proxy.reads_on_standbys() > 0);
}

#[test]
fn the_same_name_means_something_else_to_everyone() {
    let busy = Busy::start();
    std::thread::scope(|scope| {
        for session in 0..12 {
            let mut wire = busy.proxy.wire();
            scope.spawn(move || {
                let text = format!("SELECT '{session}-' || $1");
                wire.exchange(&[parse("stmt", &text), describe(b'S', "stmt"), sync()]);
                for round in 0..30 {
                    let answer = wire.exchange(&[run("stmt", &[&round.to_string()]), sync()]);
                    assert_eq!(answer, format!("2 D[{session}-{round}] C[SELECT 1] Z[I]"));
                }
            });
        }
    });
}

#[test]
fn the_unnamed_statement_stays_with_its_session() {
    let busy = Busy::start();
    let mut wire = busy.proxy.wire();
    for round in 0..50 {
        let text = format!("SELECT '{round} ' || $1::text");
        assert_eq!(wire.exchange(&[parse("", &text), sync()]), "1 Z[I]");
        // Bound later, most likely on another connection, and then replaced in the same breath.
        let answer = wire.exchange(&[
            bind("", "", &["a"]),
            execute("", 0),
            parse("", "SELECT 'new'"),
            bind("", "", &[]),
            execute("", 0),
            sync(),
        ]);
        assert_eq!(
            answer,
            format!("2 D[{round} a] C[SELECT 1] 1 2 D[new] C[SELECT 1] Z[I]")
        );
    }
}

#[test]
fn more_statements_than_a_connection_keeps() {
    let busy = Busy::with("pool: { size: 2, max_prepared: 5, wait_timeout: 20s }\n");
    let mut wire = busy.proxy.wire();
    for n in 0..40 {
        let text = format!("SELECT {n} + $1::int");
        assert_eq!(
            wire.exchange(&[parse(&format!("s{n}"), &text), sync()]),
            "1 Z[I]"
        );
    }
    for round in 0..3 {
        for n in 0..40 {
            let answer = wire.exchange(&[run(&format!("s{n}"), &[&round.to_string()]), sync()]);
            assert_eq!(answer, format!("2 D[{}] C[SELECT 1] Z[I]", n + round));
        }
    }
    // All of them in one pipeline.
    let mut all: Vec<Vec<u8>> = (0..40).map(|n| run(&format!("s{n}"), &["0"])).collect();
    all.push(sync());
    let answer = wire.exchange(&all);
    assert_eq!(answer.matches("C[SELECT 1]").count(), 40, "{answer}");
}

#[test]
fn an_error_before_a_statement_is_crowded_out_costs_nothing() {
    let proxy = Proxy::start(
        cluster(),
        "pool: { size: 1, max_prepared: 2 }\nrouting: { consistency: primary }\n",
    );
    let mut wire = proxy.wire();
    wire.exchange(&[
        parse("a", "SELECT 1 / $1::int"),
        parse("b", "SELECT 2 / $1::int"),
        sync(),
    ]);
    for _ in 0..5 {
        // The error makes the server skip whatever the proxy put behind it.
        let answer = wire.exchange(&[run("b", &["0"]), parse("c", "SELECT 3 / $1::int"), sync()]);
        assert_eq!(answer, "E[22012] Z[I]");
        for (name, value) in [("a", 1), ("b", 2)] {
            let answer = wire.exchange(&[run(name, &["1"]), sync()]);
            assert_eq!(answer, format!("2 D[{value}] C[SELECT 1] Z[I]"));
        }
        let answer = wire.exchange(&[
            parse("c", "SELECT 3 / $1::int"),
            run("c", &["1"]),
            close(b'S', "c"),
            sync(),
        ]);
        assert_eq!(answer, "1 2 D[3] C[SELECT 1] 3 Z[I]");
    }
}

#[test]
fn what_a_failed_pipeline_did_not_reach_did_not_happen() {
    let busy = Busy::start();
    let mut wire = busy.proxy.wire();
    wire.exchange(&[parse("keep", "SELECT 'kept'"), sync()]);
    let answer = wire.exchange(&[
        parse("", "SELECT 1/0"),
        run("", &[]),
        close(b'S', "keep"),
        parse("lost", "SELECT 1"),
        sync(),
    ]);
    assert_eq!(answer, "1 E[22012] Z[I]");
    assert_eq!(
        wire.exchange(&[run("keep", &[]), sync()]),
        "2 D[kept] C[SELECT 1] Z[I]"
    );
    assert_eq!(wire.exchange(&[run("lost", &[]), sync()]), "E[26000] Z[I]");
}

#[test]
fn definitions_change_under_a_prepared_statement() {
    let busy = Busy::start();
    let mut wire = busy.proxy.wire();
    wire.run("CREATE TABLE shape (a int); INSERT INTO shape VALUES (1)");
    wire.exchange(&[
        parse("star", "SELECT * FROM shape"),
        parse("count", "SELECT count(*) FROM shape"),
        sync(),
    ]);
    let star = [run("star", &[]), sync()];
    for _ in 0..20 {
        assert_eq!(wire.exchange(&star), "2 D[1] C[SELECT 1] Z[I]");
    }
    wire.run("ALTER TABLE shape ADD COLUMN b text DEFAULT 'x'");
    let mut refused = 0;
    for _ in 0..30 {
        // What does not change its result never fails.
        let count = wire.exchange(&[run("count", &[]), sync()]);
        assert_eq!(count, "2 D[1] C[SELECT 1] Z[I]");
        match wire.exchange(&star).as_str() {
            "2 D[1,x] C[SELECT 1] Z[I]" => {}
            // The server's own refusal, which every driver knows.
            "E[0A000] Z[I]" => refused += 1,
            other => panic!("{other}"),
        }
    }
    assert!(refused <= 1, "it did not heal: {refused} refusals");
}

/// asyncpg prepares again by itself when it hears 0A000, and fails when a row does not fit.
#[test]
fn rows_never_have_another_shape_than_was_described() {
    let proxy = Proxy::start(
        cluster(),
        "pool: { size: 3 }\nrouting: { consistency: primary }\n",
    );
    let mut wire = proxy.wire();
    wire.run("CREATE TABLE described (a int); INSERT INTO described VALUES (1)");
    wire.exchange(&[
        parse("star", "SELECT * FROM described"),
        describe(b'S', "star"),
        sync(),
    ]);
    wire.run("ALTER TABLE described ADD COLUMN b text DEFAULT 'x'");
    // Others hold the connection that knows the statement, so that it moves to one that does not.
    let mut others = [proxy.wire(), proxy.wire()];
    for other in &mut others {
        other.run("BEGIN; LOCK TABLE pg_catalog.pg_am IN ACCESS SHARE MODE");
        assert_eq!(wire.exchange(&[run("star", &[]), sync()]), "E[0A000] Z[I]");
    }
    // It is an error like any other: a transaction does not survive it.
    wire.run("BEGIN");
    assert_eq!(wire.exchange(&[run("star", &[]), sync()]), "E[0A000] Z[E]");
    assert_eq!(wire.ask("SELECT 1"), "E[25P02] Z[E]");
    wire.run("ROLLBACK");
    // Prepared again, it answers as described again.
    let again = [
        close(b'S', "star"),
        parse("star", "SELECT * FROM described"),
        run("star", &[]),
        sync(),
    ];
    let answer = wire.exchange(&again);
    assert!(answer.ends_with("D[1,x] C[SELECT 1] Z[I]"), "{answer}");
}

#[test]
fn deallocate_in_sql_and_prepare_in_sql() {
    let busy = Busy::start();
    let mut wire = busy.proxy.wire();
    wire.exchange(&[parse("p", "SELECT 1"), sync()]);
    assert_eq!(
        wire.ask("DEALLOCATE p"),
        "C[DEALLOCATE] Z[I]",
        "as psycopg does"
    );
    assert_eq!(wire.exchange(&[run("p", &[]), sync()]), "E[26000] Z[I]");
    assert_eq!(
        wire.exchange(&[parse("p", "SELECT 2"), run("p", &[]), sync()]),
        "1 2 D[2] C[SELECT 1] Z[I]"
    );
    assert_eq!(wire.ask("DEALLOCATE ALL"), "C[DEALLOCATE ALL] Z[I]");
    assert_eq!(wire.exchange(&[run("p", &[]), sync()]), "E[26000] Z[I]");

    let mut wire = busy.proxy.wire();
    wire.run("PREPARE q AS SELECT 3");
    for _ in 0..10 {
        assert_eq!(wire.ask("EXECUTE q"), "D[3] C[SELECT 1] Z[I]");
    }
    wire.run("DEALLOCATE q");
    assert_eq!(wire.ask("EXECUTE q"), "E[26000] Z[I]");
}

/// A server shows a session its own statements, and lets it drop no other's.
#[test]
fn statements_of_others_are_neither_seen_nor_dropped() {
    let busy = Busy::start();
    let mut wire = busy.proxy.wire();
    for _ in 0..20 {
        let seen = "SELECT count(*) FROM pg_prepared_statements";
        assert_eq!(wire.value(seen), "0");
        wire.run("DISCARD ALL");
    }
}

/// What EXECUTE returns is settled when it is parsed, and by the statement that the client means.
#[test]
fn an_execute_that_is_itself_prepared_finds_the_clients_name() {
    let busy = Busy::start();
    let mut other = busy.proxy.wire();
    other.exchange(&[parse("q", "SELECT 'another', 2"), sync()]);
    let mut wire = busy.proxy.wire();
    wire.exchange(&[parse("q", "SELECT 1 + 2"), sync()]);
    for mut each in [wire, other] {
        let expected = match each.value("EXECUTE q") {
            one if one == "3" => "2 D[3] C[SELECT 1] Z[I]",
            _ => "2 D[another,2] C[SELECT 1] Z[I]",
        };
        for round in 0..5 {
            let name = format!("e{round}");
            let told = each.exchange(&[parse(&name, "EXECUTE q"), describe(b'S', &name), sync()]);
            assert_eq!(told, "1 t T Z[I]");
            for _ in 0..3 {
                assert_eq!(each.exchange(&[run(&name, &[]), sync()]), expected);
            }
        }
    }
}

/// One server connection for all, and every statement on the primary's.
fn one() -> Proxy {
    Proxy::start(
        cluster(),
        "pool: { size: 1, wait_timeout: 20s }\nrouting: { consistency: primary }\n",
    )
}

fn direct() -> Wire {
    Wire::login(cluster().primary().port(), cluster().application(), &[])
}

/// SQL finds the session's statements under its own names, each once, in the order in which they were
/// prepared, also in the pipeline that prepares them.
#[test]
fn a_pipeline_finds_its_own_statements() {
    let look = "SELECT string_agg(name || '=' || statement, ',' ORDER BY prepare_time) \
                FROM pg_prepared_statements";
    let seen = || vec![parse("", look), run("", &[])];
    let play = |wire: &mut Wire| {
        let mut told = Vec::new();
        let names = ["n7", "n2", "n9", "n1", "n5"];
        let mut prepared: Vec<_> = names
            .iter()
            .map(|name| parse(name, &format!("SELECT '{name}'")))
            .collect();
        prepared.push(sync());
        told.push(wire.exchange(&prepared));
        told.push(wire.ask(look));
        let pipeline = [
            vec![parse("x", "SELECT 1"), describe(b'S', "x")],
            seen(),
            vec![run("x", &[]), run("n2", &[]), close(b'S', "n2")],
            seen(),
            vec![parse("n2", "SELECT 'again'"), run("n2", &[])],
            seen(),
            vec![
                close(b'S', "n1"),
                parse("n1", "SELECT 'n1'"),
                run("n1", &[]),
            ],
            seen(),
            vec![sync()],
        ];
        told.push(wire.exchange(&pipeline.concat()));
        // What was not reached did not happen.
        let failing = [
            vec![parse("y", "SELECT 2"), close(b'S', "n9")],
            seen(),
            vec![parse("", "SELECT 1 / 0"), run("", &[])],
            vec![parse("z", "SELECT 3"), close(b'S', "y"), sync()],
        ];
        told.push(wire.exchange(&failing.concat()));
        for name in ["y", "z", "n9", "n5"] {
            told.push(wire.exchange(&[run(name, &[]), sync()]));
        }
        told.push(wire.ask(look));
        // A name that is taken, and one that is dropped in SQL.
        let others = [
            seen(),
            vec![parse("", "DEALLOCATE n5"), run("", &[])],
            seen(),
            vec![parse("x", "SELECT 4"), sync()],
        ];
        told.push(wire.exchange(&others.concat()));
        told.push(wire.ask(look));
        told.push(wire.exchange(&[run("n5", &[]), sync()]));
        let all = [
            seen(),
            vec![parse("", "DEALLOCATE ALL"), run("", &[])],
            vec![parse("n5", "SELECT 'new'"), run("n5", &[])],
            seen(),
            vec![sync()],
        ];
        told.push(wire.exchange(&all.concat()));
        told.push(wire.ask(look));
        told
    };
    let expected = play(&mut direct());
    let proxy = one();
    let mut other = proxy.wire();
    other.exchange(&[parse("n7", "SELECT 'of another'"), sync()]);
    for _ in 0..3 {
        let mut wire = proxy.wire();
        assert_eq!(play(&mut wire), expected);
        let answer = other.exchange(&[run("n7", &[]), sync()]);
        assert_eq!(answer, "2 D[of another] C[SELECT 1] Z[I]");
    }
}

/// Code that drops statements drops the session's own, and takes nothing from others on the connection.
#[test]
fn code_that_deallocates_harms_nobody_else() {
    let proxy = one();
    let mut other = proxy.wire();
    other.exchange(&[parse("s", "SELECT 'of another'"), sync()]);
    let mut wire = proxy.wire();
    let each = "DO $$ DECLARE r record; BEGIN FOR r IN SELECT name FROM pg_prepared_statements LOOP \
                EXECUTE 'DEALLOCATE ' || quote_ident(r.name); END LOOP; END $$";
    let all = "DO $$ BEGIN EXECUTE 'DEALLOCATE ALL'; END $$";
    // Nobody can tell this from its text.
    let hidden = "DO $$ BEGIN EXECUTE concat('DEALL', 'OCATE ALL'); END $$";
    for code in [each, all, hidden] {
        wire.exchange(&[parse("own", "SELECT 'own'"), sync()]);
        wire.run(code);
        if code != hidden {
            assert_eq!(wire.exchange(&[run("own", &[]), sync()]), "E[26000] Z[I]");
        }
        wire.run("RESET ALL");
        wire.exchange(&[close(b'S', "own"), sync()]);
        for _ in 0..2 {
            let answer = other.exchange(&[run("s", &[]), sync()]);
            assert_eq!(answer, "2 D[of another] C[SELECT 1] Z[I]", "{code}");
        }
    }
    proxy.assert_well();
}

#[test]
fn constants_are_read_as_they_were_at_parse() {
    let proxy = Proxy::start(
        cluster(),
        "pool: { size: 1, max_prepared: 1, wait_timeout: 20s }\n",
    );
    let mut direct = Wire::login(cluster().primary().port(), cluster().application(), &[]);
    let mut others = proxy.wire();
    // Nothing stays prepared for long where others are.
    let mut drive_out = |round: usize| {
        for n in 0..3 {
            let text = format!("SELECT {round} * {n} * $1::int");
            let name = format!("{round}_{n}");
            others.exchange(&[parse(&name, &text), run(&name, &["1"]), sync()]);
        }
    };
    let day = "SELECT '01/02/2020'::date::text";
    let noon = "SELECT ('2020-01-02 12:00'::timestamptz AT TIME ZONE 'UTC')::text";
    let mut script = |wire: &mut Wire| {
        let mut said = Vec::new();
        let mut ask = |wire: &mut Wire, name: &str, round| {
            drive_out(round);
            said.push(wire.exchange(&[run(name, &[]), sync()]));
        };
        wire.run("SET DateStyle = 'ISO, DMY'; SET TIME ZONE 'Asia/Tokyo'");
        wire.exchange(&[parse("day", day), parse("noon", noon), sync()]);
        ask(wire, "day", 0);
        wire.run("SET DateStyle = 'ISO, MDY'; RESET TIME ZONE");
        ask(wire, "day", 1);
        ask(wire, "noon", 2);
        wire.run("BEGIN; SET LOCAL DateStyle = 'ISO, YMD'");
        ask(wire, "day", 3);
        wire.exchange(&[parse("local", day), run("local", &[]), sync()]);
        said.push(wire.ask("SHOW DateStyle"));
        wire.run("COMMIT");
        said.push(wire.ask("SHOW DateStyle"));
        // A text that is parsed now means something else, and what is found elsewhere is parsed anew.
        wire.exchange(&[parse("new", day), sync()]);
        let mut ask = |wire: &mut Wire, name: &str, round| {
            drive_out(round);
            said.push(wire.exchange(&[run(name, &[]), sync()]));
        };
        ask(wire, "new", 4);
        ask(wire, "day", 5);
        wire.run("SET search_path = pg_catalog");
        ask(wire, "day", 6);
        wire.run("SET DateStyle = 'ISO, DMY'");
        ask(wire, "day", 7);
        said
    };
    let expected = script(&mut direct);
    assert_eq!(script(&mut proxy.wire()), expected);
    // What another session means by the same text is not what this one has made of it.
    assert_eq!(script(&mut proxy.wire()), expected);
}

/// The answers to scripts, each of several messages that are sent at once.
fn answers(mut wire: Wire, script: &[Vec<Vec<u8>>]) -> Vec<String> {
    let mut answer = |messages: &Vec<Vec<u8>>| wire.exchange(messages);
    script.iter().map(&mut answer).collect()
}

#[test]
fn names_are_taken_and_given_up_as_by_a_server() {
    let proxy = Proxy::start(cluster(), "pool: { size: 2, wait_timeout: 20s }\n");
    let direct = || Wire::login(cluster().primary().port(), cluster().application(), &[]);
    let unnamed = || vec![parse("", "SELECT 7"), sync()];
    let again = || vec![run("", &[]), sync()];
    let broken = |name: &str| parse(name, "SELEC");
    let in_sql = |sql: &str| vec![query(sql)];
    for script in [
        // A simple query drops the unnamed statement, and so does a Parse of it that fails.
        vec![unnamed(), in_sql("SELECT 1"), again()],
        vec![unnamed(), in_sql("SELEC"), again()],
        vec![unnamed(), in_sql(""), again()],
        vec![
            in_sql("BEGIN"),
            unnamed(),
            in_sql("SELECT 1"),
            again(),
            in_sql("ROLLBACK"),
        ],
        vec![unnamed(), vec![broken(""), sync()], again()],
        vec![
            unnamed(),
            vec![broken("x"), parse("", "SELECT 8"), sync()],
            again(),
        ],
        // What drops all names does not.
        vec![
            unnamed(),
            vec![parse("d", "DEALLOCATE ALL"), run("d", &[]), sync()],
            again(),
        ],
        // A Close behind an error has not happened.
        vec![unnamed(), vec![close(b'S', ""), sync()], again()],
        vec![
            unnamed(),
            vec![broken("x"), close(b'S', ""), sync()],
            again(),
        ],
        vec![
            unnamed(),
            vec![
                parse("x", "SELECT 1/0"),
                run("x", &[]),
                close(b'S', ""),
                sync(),
            ],
            again(),
        ],
        // Names in SQL and in the protocol are the same.
        vec![
            in_sql("PREPARE p AS SELECT 1"),
            vec![parse("p", "SELECT 2"), sync()],
            vec![run("p", &[]), sync()],
            in_sql("EXECUTE p"),
            in_sql("DEALLOCATE p"),
            vec![parse("p", "SELECT 3"), run("p", &[]), sync()],
        ],
        vec![
            vec![
                parse("", "PREPARE p AS SELECT 1"),
                run("", &[]),
                parse("p", "SELECT 2"),
                sync(),
            ],
            vec![run("p", &[]), sync()],
            in_sql("DEALLOCATE ALL"),
            vec![parse("p", "SELECT 3"), run("p", &[]), sync()],
        ],
        vec![
            vec![parse("p", "SELECT 1"), sync()],
            in_sql("PREPARE p AS SELECT 2"),
            in_sql("EXECUTE p"),
        ],
        vec![vec![
            parse("p", "SELECT 5"),
            parse("", "EXECUTE p"),
            run("", &[]),
            sync(),
        ]],
    ] {
        assert_eq!(answers(proxy.wire(), &script), answers(direct(), &script));
    }
    proxy.assert_well();
}
