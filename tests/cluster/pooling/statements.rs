//! Single statements that need care: functions that write, several statements in one text, read-only
//! transactions, nothing at all, a great deal.

use super::traffic::Busy;
use crate::support::frames::{close, parse, query, run, sync};
use crate::support::{eventually, summary};

#[test]
fn several_statements_in_one_text_are_atomic() {
    let busy = Busy::start();
    let mut wire = busy.proxy.wire();
    wire.run("CREATE TABLE several (n int)");
    for _ in 0..20 {
        let answer = wire.ask("INSERT INTO several VALUES (1); SELECT count(*) FROM several; SELECT 1/0; INSERT INTO several VALUES (2)");
        assert_eq!(answer, "C[INSERT 0 1] D[1] C[SELECT 1] E[22012] Z[I]");
        assert_eq!(wire.value("SELECT count(*) FROM several"), "0");
    }
    assert_eq!(
        wire.ask("BEGIN; INSERT INTO several VALUES (1); COMMIT; INSERT INTO several VALUES (1/0)"),
        "C[BEGIN] C[INSERT 0 1] C[COMMIT] E[22012] Z[I]"
    );
    assert_eq!(wire.value("SELECT count(*) FROM several"), "1");
}

#[test]
fn read_only_transactions_run_on_a_standby() {
    let busy = Busy::start();
    let mut wire = busy.proxy.wire();
    let mut standbys = 0;
    for begin in [
        "BEGIN READ ONLY",
        "START TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY",
    ] {
        for _ in 0..10 {
            wire.run(begin);
            wire.value("SELECT count(*) FROM pg_class");
            if wire
                .value("SHOW causeway.last_route")
                .starts_with("standby")
            {
                standbys += 1;
            }
            assert_eq!(wire.ask("CREATE TABLE forbidden (n int)"), "E[25006] Z[E]");
            assert_eq!(wire.ask("COMMIT"), "C[ROLLBACK] Z[I]");
        }
    }
    assert!(standbys > 0, "no read-only transaction ran on a standby");
}

#[test]
fn nothing_is_answered_with_nothing() {
    let busy = Busy::start();
    let mut wire = busy.proxy.wire();
    for _ in 0..10 {
        for text in ["", ";", "  -- only a comment", "/* another */"] {
            assert_eq!(wire.ask(text), "I Z[I]", "{text:?}");
            assert_eq!(
                wire.exchange(&[parse("", text), run("", &[]), sync()]),
                "1 2 I Z[I]"
            );
        }
        assert_eq!(wire.exchange(&[sync()]), "Z[I]");
        wire.run("BEGIN");
        assert_eq!(wire.exchange(&[sync()]), "Z[T]");
        assert_eq!(wire.ask(""), "I Z[T]");
        wire.run("COMMIT");
    }
}

#[test]
fn a_large_result_comes_whole() {
    let busy = Busy::start();
    let mut wire = busy.proxy.wire();
    for sql in [
        "SELECT n, repeat('x', n % 300) FROM generate_series(1, 100000) n",
        "SELECT n, repeat('x', 200000 + n) FROM generate_series(1, 50) n",
    ] {
        wire.send(&query(sql));
        let frames = wire.until(b'Z');
        let rows = frames.iter().filter(|frame| frame.tag == b'D');
        for (expected, row) in (1..).zip(rows) {
            let columns = row.columns();
            assert_eq!(columns[0].parse::<usize>().unwrap(), expected);
        }
        assert_eq!(summary(&frames[frames.len() - 1..]), "Z[I]");
    }
}

#[test]
fn a_standbys_refusal_stays_unseen() {
    let busy = Busy::start();
    let mut wire = busy.proxy.wire();
    wire.run("CREATE TABLE refused (n int)");
    // Declared to change nothing, and calls what does; behind an operator, where nobody looks.
    wire.run(
        "CREATE FUNCTION writes() RETURNS void LANGUAGE plpgsql VOLATILE AS
         $$ BEGIN INSERT INTO refused VALUES (1); END $$;
         CREATE FUNCTION lies(int, int) RETURNS int LANGUAGE plpgsql STABLE AS
         $$ BEGIN PERFORM writes(); RETURN 1; END $$;
         CREATE OPERATOR %#% (LEFTARG = int, RIGHTARG = int, FUNCTION = lies)",
    );
    let before = busy.proxy.replays("read_only");
    for _ in 0..20 {
        assert_eq!(wire.ask("SELECT 1 %#% 0 AS n"), "D[1] C[SELECT 1] Z[I]");
        let text = "SELECT n FROM (SELECT 1 %#% 0 AS n) t WHERE n > $1::int";
        for name in ["", "innocent"] {
            let mut batch = vec![close(b'S', name), parse(name, text)];
            batch.extend([run(name, &["0"]), sync()]);
            assert_eq!(wire.exchange(&batch), "3 1 2 D[1] C[SELECT 1] Z[I]");
        }
    }
    let replays = busy.proxy.replays("read_only") - before;
    assert!(replays > 0, "no standby was ever asked");
    assert!(
        replays <= 12,
        "what was refused once was tried again: {replays} times"
    );
    // Under a view it is evaluated more than once a row.
    let written: u32 = wire.value("SELECT count(*) FROM refused").parse().unwrap();
    assert!(written >= 60, "{written}");
}

/// Where a text begins several transactions, the strictest decides.
#[test]
fn a_text_that_goes_on_to_write() {
    let busy = Busy::start();
    let mut wire = busy.proxy.wire();
    wire.run("CREATE TABLE goes_on (n int)");
    for text in [
        "BEGIN READ ONLY; SELECT 1; COMMIT; BEGIN; INSERT INTO goes_on VALUES (1); COMMIT",
        "BEGIN READ ONLY; COMMIT; BEGIN",
        "BEGIN READ ONLY; SET TRANSACTION READ WRITE",
        "BEGIN READ ONLY; SET transaction_read_only = off",
    ] {
        wire.run(text);
        wire.run("INSERT INTO goes_on VALUES (1)");
        wire.ask("COMMIT");
    }
    assert_eq!(wire.value("SELECT count(*) FROM goes_on"), "5");
    eventually("all of it may run on a standby", || {
        wire.run("BEGIN READ ONLY; SELECT 1; COMMIT; BEGIN READ ONLY; SELECT 2; COMMIT");
        let route = wire.value("SHOW causeway.last_route");
        route.starts_with("standby")
    });
    let steps = [
        "BEGIN READ ONLY",
        "COMMIT",
        "BEGIN",
        "INSERT INTO goes_on VALUES (1)",
        "COMMIT",
    ];
    let mut messages: Vec<_> = steps
        .iter()
        .flat_map(|sql| [parse("", sql), run("", &[])])
        .collect();
    messages.push(sync());
    let answer = wire.exchange(&messages);
    assert!(answer.ends_with("C[COMMIT] Z[I]"), "{answer}");
}
