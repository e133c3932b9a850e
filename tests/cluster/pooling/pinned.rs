//! What lives on one server connection keeps the session there, and nobody else meets it.

use std::time::Duration;

use super::traffic::Busy;
use crate::support::frames::{message, query};
use crate::support::{Proxy, block_on, connect, eventually, summary};
use crate::{cluster, from_primary, on_primary};

#[test]
fn temporary_tables() {
    let busy = Busy::start();
    let mut wire = busy.proxy.wire();
    wire.run("CREATE TEMP TABLE mine (n int)");
    for n in 1..=20 {
        wire.run(&format!("INSERT INTO mine VALUES ({n})"));
        assert_eq!(wire.value("SELECT count(*) FROM mine"), n.to_string());
    }
    assert_eq!(busy.proxy.wire().ask("SELECT * FROM mine"), "E[42P01] Z[I]");
    wire.vanish();
    for _ in 0..20 {
        assert_eq!(
            busy.proxy.wire().ask("SELECT * FROM pg_temp.mine"),
            "E[42P01] Z[I]"
        );
    }
}

#[test]
fn temporary_tables_that_go_with_their_transaction() {
    let busy = Busy::start();
    let mut wire = busy.proxy.wire();
    for _ in 0..5 {
        wire.run("BEGIN");
        wire.run("CREATE TEMP TABLE brief (n int) ON COMMIT DROP");
        wire.run("INSERT INTO brief VALUES (1)");
        assert_eq!(wire.value("SELECT n FROM brief"), "1");
        wire.run("COMMIT");
        assert_eq!(wire.ask("SELECT n FROM brief"), "E[42P01] Z[I]");
    }
}

#[test]
fn advisory_locks() {
    let busy = Busy::start();
    let (mut first, mut second) = (busy.proxy.wire(), busy.proxy.wire());
    for _ in 0..10 {
        first.run("SELECT pg_advisory_lock(4711)");
        assert_eq!(second.value("SELECT pg_try_advisory_lock(4711)"), "f");
        assert_eq!(first.value("SELECT pg_advisory_unlock(4711)"), "t");
        assert_eq!(second.value("SELECT pg_try_advisory_lock(4711)"), "t");
        assert_eq!(second.value("SELECT pg_advisory_unlock(4711)"), "t");
    }
    first.run("SELECT pg_advisory_lock(4711)");
    first.vanish();
    second.run("SET lock_timeout = '5s'");
    second.run("SELECT pg_advisory_lock(4711)");
}

#[test]
fn notifications() {
    let busy = Busy::start();
    let (mut ear, mut mouth) = (busy.proxy.wire(), busy.proxy.wire());
    ear.run("LISTEN news");
    for n in 0..20 {
        mouth.run(&format!("NOTIFY news, '{n}'"));
        // It arrives by itself, while the listener is idle.
        let frame = ear.frame().unwrap();
        assert_eq!(frame.tag, b'A');
        assert!(frame.body.ends_with(format!("news\0{n}\0").as_bytes()));
    }
    ear.run("UNLISTEN *");
    mouth.run("NOTIFY news");
    assert!(ear.is_silent(Duration::from_millis(100)));
    ear.run("LISTEN news");
    drop(ear);
    for _ in 0..10 {
        let mut wire = busy.proxy.wire();
        mouth.run("NOTIFY news, 'for nobody'");
        assert_eq!(
            summary(&wire.exchange_frames(&[query("SELECT 1")], 1)),
            "T D[1] C[SELECT 1] Z[I]"
        );
    }
}

#[test]
fn cursors_that_outlive_their_transaction() {
    let busy = Busy::start();
    let mut wire = busy.proxy.wire();
    wire.run("BEGIN");
    wire.run("DECLARE held CURSOR WITH HOLD FOR SELECT generate_series(1, 50)");
    wire.run("COMMIT");
    for n in 1..=20 {
        assert_eq!(wire.value("FETCH held"), n.to_string());
    }
    wire.run("CLOSE held");
    wire.run("DECLARE held CURSOR WITH HOLD FOR SELECT 1");
    wire.run("DISCARD ALL");
    assert_eq!(wire.ask("FETCH held"), "E[34000] Z[I]");
}

#[test]
fn cursors_in_transactions() {
    let busy = Busy::start();
    block_on(async {
        let mut client = connect(&busy.proxy.url()).await;
        for _ in 0..5 {
            let transaction = client.transaction().await.unwrap();
            let portal = transaction
                .bind("SELECT generate_series(1, 100)", &[])
                .await
                .unwrap();
            let mut seen = 0;
            loop {
                let rows = transaction.query_portal(&portal, 7).await.unwrap();
                for row in &rows {
                    seen += 1;
                    assert_eq!(row.get::<_, i32>(0), seen);
                }
                if rows.is_empty() {
                    break;
                }
            }
            assert_eq!(seen, 100);
            transaction.commit().await.unwrap();
        }
        let mut wire = busy.proxy.wire();
        wire.run("BEGIN");
        wire.run("DECLARE c CURSOR FOR SELECT generate_series(1, 5)");
        assert_eq!(wire.ask("FETCH 2 FROM c"), "D[1] D[2] C[FETCH 2] Z[T]");
        assert_eq!(
            wire.ask("FETCH ALL FROM c"),
            "D[3] D[4] D[5] C[FETCH 3] Z[T]"
        );
        wire.run("COMMIT");
        assert_eq!(wire.ask("FETCH c"), "E[34000] Z[I]");
    });
}

#[test]
fn savepoints() {
    let busy = Busy::start();
    let mut wire = busy.proxy.wire();
    wire.run("CREATE TABLE saved (n int)");
    for _ in 0..10 {
        wire.run("BEGIN");
        wire.run("INSERT INTO saved VALUES (1)");
        wire.run("SAVEPOINT a");
        assert_eq!(wire.ask("INSERT INTO saved VALUES (1/0)"), "E[22012] Z[E]");
        assert_eq!(wire.ask("SELECT 1"), "E[25P02] Z[E]");
        assert_eq!(wire.ask("ROLLBACK TO a"), "C[ROLLBACK] Z[T]");
        wire.run("INSERT INTO saved VALUES (2)");
        wire.run("RELEASE a");
        assert_eq!(wire.value("SELECT sum(n) FROM saved"), "3");
        assert_eq!(wire.ask("ROLLBACK"), "C[ROLLBACK] Z[I]");
        assert_eq!(wire.value("SELECT count(*) FROM saved"), "0");
    }
}

#[test]
fn a_session_that_ends_its_own_server_process_ends_with_it() {
    let busy = Busy::start();
    for prelude in ["SELECT 1", "BEGIN"] {
        let mut wire = busy.proxy.wire();
        wire.run(prelude);
        wire.send(&query("SELECT pg_terminate_backend(pg_backend_pid())"));
        // The server may have answered before it looks at what it was told.
        let told = summary(&wire.until_closed());
        assert!(told.ends_with("E[57P01]"), "{prelude}: {told}");
    }
}

/// Nothing of such a session can be saved: it hears why from its server, and not that it was lost.
#[test]
fn a_session_that_is_ended_with_its_server_connection_hears_the_servers_words() {
    for (number, mode) in ["transaction", "session"].into_iter().enumerate() {
        let proxy = Proxy::start(cluster(), &format!("pool: {{ mode: {mode}, size: 3 }}\n"));
        let mut wire = proxy.wire();
        wire.run(&format!("SELECT pg_advisory_lock(5701, {number})"));
        let process = wire.value("SELECT pg_backend_pid()");
        wire.send(&query("SELECT pg_sleep(60)"));
        eventually("it sleeps", || {
            from_primary::<bool>(
                cluster(),
                &format!(
                    "SELECT wait_event = 'PgSleep' FROM pg_stat_activity WHERE pid = {process}"
                ),
            )
        });
        on_primary(
            cluster(),
            &format!("SELECT pg_terminate_backend({process})"),
        );
        let told = wire.until_closed();
        let error = told.iter().find(|frame| frame.tag == b'E').unwrap();
        assert_eq!(
            (error.field(b'V').as_deref(), error.field(b'C').as_deref()),
            (Some("FATAL"), Some("57P01")),
            "{mode}: {told:?}"
        );
    }
}

#[test]
fn a_call_by_the_fast_path_takes_nothing_from_who_keeps_the_connection() {
    for mode in ["transaction", "session"] {
        let proxy = Proxy::start(cluster(), &format!("pool: {{ mode: {mode}, size: 3 }}\n"));
        let mut wire = proxy.wire();
        // A name that is made up pins.
        wire.run("DO $$ BEGIN EXECUTE format('SET app.%s = %L', 'made' || '_up', 'kept'); END $$");
        // length('abcde'): its oid, text formats, one argument.
        let arguments = [0, 0, 0, 1, 0, 0, 0, 5];
        let call = message(
            b'F',
            &[&1317u32.to_be_bytes(), &arguments, b"abcde", &[0, 0]],
        );
        let answer = summary(&wire.exchange_frames(&[call], 1));
        assert!(!answer.contains("E["), "{mode}: {answer}");
        let kept = wire.value("SELECT current_setting('app.made_up', true)");
        assert_eq!(kept, "kept", "{mode}");
    }
}
