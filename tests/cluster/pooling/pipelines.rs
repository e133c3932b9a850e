//! Many messages at once: pipelines with and without errors, Flush instead of Sync, several batches in
//! one write.

use super::traffic::Busy;
use crate::support::frames::{
    bind, copy_data, copy_done, describe, execute, flush, parse, query, run, sync,
};
use crate::support::{block_on, connect, sqlstate, summary};
use tokio_postgres::types::ToSql;

#[test]
fn joined_futures_share_a_round_trip() {
    let busy = Busy::start();
    block_on(async {
        let client = connect(&busy.proxy.url()).await;
        client
            .batch_execute("CREATE TABLE piped (n int PRIMARY KEY)")
            .await
            .unwrap();
        let insert = client
            .prepare("INSERT INTO piped VALUES ($1)")
            .await
            .unwrap();
        let divide = client.prepare("SELECT 10 / $1::int4").await.unwrap();
        for round in 0..10 {
            let n = round * 2;
            let m = n + 1;
            let (first, second): ([&(dyn ToSql + Sync); 1], [&(dyn ToSql + Sync); 1]) =
                ([&n], [&m]);
            let zero: [&(dyn ToSql + Sync); 1] = [&0];
            let (a, b, c, d) = tokio::join!(
                client.execute(&insert, &first),
                client.query_one(&divide, &zero),
                client.execute(&insert, &second),
                client.query_one("SELECT count(*) FROM piped", &[]),
            );
            assert_eq!(a.unwrap(), 1);
            assert_eq!(sqlstate(&b.unwrap_err()), "22012");
            assert_eq!(c.unwrap(), 1);
            assert_eq!(d.unwrap().get::<_, i64>(0), i64::from(round + 1) * 2);
        }
    });
}

#[test]
fn a_pipeline_is_one_transaction() {
    let busy = Busy::start();
    let mut wire = busy.proxy.wire();
    wire.run("CREATE TABLE atomic (n int)");
    for _ in 0..10 {
        let answer = wire.exchange(&[
            parse("", "INSERT INTO atomic VALUES (1)"),
            run("", &[]),
            parse("", "SELECT 1/0"),
            run("", &[]),
            parse("", "INSERT INTO atomic VALUES (2)"),
            run("", &[]),
            sync(),
            parse("", "SELECT count(*) FROM atomic"),
            run("", &[]),
            sync(),
        ]);
        assert_eq!(
            answer,
            "1 2 C[INSERT 0 1] 1 E[22012] Z[I] 1 2 D[0] C[SELECT 1] Z[I]"
        );
    }
}

#[test]
fn reads_and_writes_in_one_write_keep_their_order() {
    let busy = Busy::start();
    let mut wire = busy.proxy.wire();
    wire.run("CREATE TABLE ordered (n int)");
    let mut batches = Vec::new();
    let mut expected = Vec::new();
    for n in 1..=30 {
        batches.push(query("INSERT INTO ordered VALUES (1)"));
        expected.push("C[INSERT 0 1] Z[I]".to_owned());
        batches.push(parse("", "SELECT count(*) FROM ordered"));
        batches.push(run("", &[]));
        batches.push(sync());
        expected.push(format!("1 2 D[{n}] C[SELECT 1] Z[I]"));
        batches.push(query("SHOW causeway.consistency"));
        expected.push("T D[session] C[SHOW] Z[I]".to_owned());
    }
    assert_eq!(wire.exchange(&batches), expected.join(" "));
}

#[test]
fn flush_instead_of_sync() {
    let busy = Busy::start();
    let mut wire = busy.proxy.wire();
    for round in 0..20 {
        // As asyncpg does: prepare with a Flush, then bind and execute with a Sync.
        let name = format!("flushed{round}");
        wire.send(
            &[
                parse(&name, "SELECT $1::text"),
                describe(b'S', &name),
                flush(),
            ]
            .concat(),
        );
        assert_eq!(summary(&wire.until(b'T')), "1 t T");
        wire.send(&[bind("", &name, &["x"]), execute("", 0), sync()].concat());
        assert_eq!(summary(&wire.until(b'Z')), "2 D[x] C[SELECT 1] Z[I]");
        // Everything with Flush, and the Sync alone at the end.
        wire.send(&[bind("", &name, &["y"]), execute("", 0), flush()].concat());
        assert_eq!(summary(&wire.until(b'C')), "2 D[y] C[SELECT 1]");
        wire.send(&sync());
        assert_eq!(summary(&wire.until(b'Z')), "Z[I]");
    }
}

#[test]
fn writes_behind_a_flush_reach_the_primary() {
    let busy = Busy::start();
    let mut wire = busy.proxy.wire();
    wire.run("CREATE TABLE flushed (n int)");
    for _ in 0..10 {
        // The Flush comes before it is known that something writes.
        wire.send(
            &[
                parse("", "INSERT INTO flushed VALUES (1)"),
                describe(b'S', ""),
                flush(),
            ]
            .concat(),
        );
        assert_eq!(summary(&wire.until(b'n')), "1 t n");
        assert_eq!(
            wire.exchange(&[run("", &[]), sync()]),
            "2 C[INSERT 0 1] Z[I]"
        );
        wire.send(&[parse("", "SELECT 1"), run("", &[]), flush()].concat());
        assert_eq!(summary(&wire.until(b'C')), "1 2 D[1] C[SELECT 1]");
        let insert = [
            parse("", "INSERT INTO flushed VALUES (2)"),
            run("", &[]),
            sync(),
        ];
        assert_eq!(wire.exchange(&insert), "1 2 C[INSERT 0 1] Z[I]");
    }
    assert_eq!(wire.value("SELECT count(*) FROM flushed"), "20");
}

#[test]
fn an_error_before_a_flush_is_skipped_over() {
    let busy = Busy::start();
    let mut wire = busy.proxy.wire();
    for _ in 0..10 {
        // Waited for, then synced;
        wire.send(&[parse("", "SELEC"), flush()].concat());
        assert_eq!(summary(&wire.until(b'E')), "E[42601]");
        wire.send(&sync());
        assert_eq!(summary(&wire.until(b'Z')), "Z[I]");
        // sent on regardless, and all of that skipped.
        let answer = wire.exchange(&[
            parse("", "SELEC"),
            flush(),
            parse("skipped", "SELECT 1"),
            flush(),
            run("skipped", &[]),
            flush(),
            run("skipped", &[]),
            sync(),
        ]);
        assert_eq!(answer, "E[42601] Z[I]");
        assert_eq!(
            wire.exchange(&[run("skipped", &[]), sync()]),
            "E[26000] Z[I]"
        );
        // A query in the place of the Sync is skipped too, and the connection stays with us.
        wire.send(&[parse("", "SELEC"), query("SELECT 1")].concat());
        assert_eq!(summary(&wire.until(b'E')), "E[42601]");
        assert_eq!(wire.exchange(&[sync()]), "Z[I]");
        // In a transaction.
        wire.run("BEGIN");
        let answer = wire.exchange(&[
            parse("", "SELECT 1/0"),
            run("", &[]),
            flush(),
            parse("", "SELECT 1"),
            sync(),
        ]);
        assert_eq!(answer, "1 E[22012] Z[E]");
        wire.run("ROLLBACK");
    }
}

#[test]
fn copies_in_a_row() {
    let busy = Busy::start();
    let mut wire = busy.proxy.wire();
    wire.run("CREATE TABLE copied (n int)");
    for round in 1..=10 {
        let rows: String = (0..1000).map(|n| format!("{n}\n")).collect();
        wire.send(
            &[
                query("COPY copied FROM STDIN"),
                copy_data(&rows),
                copy_done(),
                query("COPY copied TO STDOUT"),
            ]
            .concat(),
        );
        assert_eq!(summary(&wire.until(b'Z')), "G C[COPY 1000] Z[I]");
        let frames = wire.until(b'Z');
        assert_eq!(
            frames.iter().filter(|frame| frame.tag == b'd').count(),
            round * 1000
        );
    }
    // Under the extended protocol.
    wire.send(
        &[
            parse("", "COPY copied FROM STDIN"),
            run("", &[]),
            copy_data("1\n"),
            copy_done(),
            sync(),
        ]
        .concat(),
    );
    assert_eq!(summary(&wire.until(b'Z')), "1 2 G C[COPY 1] Z[I]");
    wire.send(&[parse("", "COPY copied FROM STDIN"), run("", &[]), sync()].concat());
    assert_eq!(summary(&wire.until(b'G')), "1 2 G");
    wire.send(&[copy_data("x\n"), copy_done(), sync()].concat());
    assert_eq!(summary(&wire.until(b'Z')), "E[22P02] Z[I]");
    assert_eq!(wire.value("SELECT count(*) FROM copied"), "10001");
}
