//! What random scripts have found (tests/fuzzer), one test for each kind.

use crate::cluster;
use crate::support::frames::{bind, close, describe, execute, parse, run, sync};
use crate::support::{Proxy, Wire};

/// One server connection for each node, and every statement on the primary's.
fn one_connection() -> Proxy {
    Proxy::start(
        cluster(),
        "pool: { size: 1, wait_timeout: 5s }\nrouting: { consistency: primary }\n",
    )
}

#[test]
fn what_the_primary_cannot_parse_is_refused_at_once() {
    let proxy = one_connection();
    let mut wire = proxy.wire();
    for text in [
        "INSERT INTO nowhere VALUES (1)",
        "UPDATE pg_class SET nothing = 1",
    ] {
        let answer = wire.exchange(&[parse("s", text), sync()]);
        assert!(
            matches!(&*answer, "E[42P01] Z[I]" | "E[42703] Z[I]"),
            "{answer}"
        );
    }
}

#[test]
fn a_name_that_is_taken_is_refused_after_the_text() {
    let proxy = one_connection();
    let mut wire = proxy.wire();
    wire.exchange(&[parse("s", "SELECT 1"), sync()]);
    for (text, expected) in [
        ("SELECT 'x'::int", "E[22P02] Z[I]"),
        ("SELECT 2", "E[42P05] Z[I]"),
    ] {
        assert_eq!(wire.exchange(&[parse("s", text), sync()]), expected);
    }
    assert_eq!(
        wire.exchange(&[run("s", &[]), sync()]),
        "2 D[1] C[SELECT 1] Z[I]"
    );
}

#[test]
fn an_error_names_a_statement_that_the_same_pipeline_closes() {
    let proxy = one_connection();
    let mut wire = proxy.wire();
    wire.exchange(&[parse("mine", "SELECT 1"), sync()]);
    let messages = [bind("", "mine", &["7"]), close(b'S', "mine"), sync()];
    let frames = wire.exchange_frames(&messages, 1);
    let error = format!("{frames:?}");
    assert!(error.contains("\"mine\" requires 0"), "{error}");
}

#[test]
fn a_discard_that_fails_drops_nothing() {
    let proxy = one_connection();
    let mut wire = proxy.wire();
    wire.exchange(&[parse("s", "SELECT $1::text"), sync()]);
    wire.run("BEGIN");
    assert_eq!(wire.ask("DISCARD ALL"), "E[25001] Z[E]");
    // Looked at before the state of the transaction is, by a server that has the statement.
    let answer = wire.exchange(&[bind("", "s", &[]), sync()]);
    assert_eq!(answer, "E[08P01] Z[E]");
    wire.run("ROLLBACK");
    // The same in one pipeline, in which the name is parsed anew in vain.
    let answer = wire.exchange(&[
        parse("", "BEGIN"),
        run("", &[]),
        parse("", "DISCARD ALL"),
        run("", &[]),
        parse("s", "SELECT 2"),
        sync(),
    ]);
    assert_eq!(answer, "1 2 C[BEGIN] 1 2 E[25001] Z[E]");
    wire.run("ROLLBACK");
    let answer = wire.exchange(&[run("s", &["still"]), sync()]);
    assert_eq!(answer, "2 D[still] C[SELECT 1] Z[I]");
}

#[test]
fn a_setting_whose_name_is_a_parameter_pins_nobody() {
    let proxy = one_connection();
    let (mut one, mut other) = (proxy.wire(), proxy.wire());
    let answer = one.exchange(&[
        parse("", "SELECT set_config($1, $2, false)"),
        bind("", "", &["app.Tenant", "one's"]),
        execute("", 0),
        sync(),
    ]);
    assert_eq!(answer, "1 2 D[one's] C[SELECT 1] Z[I]");
    let theirs = "SELECT coalesce(current_setting('app.tenant', true), '')";
    assert_eq!(other.value(theirs), "", "and there is a connection to ask");
    assert_eq!(one.value(theirs), "one's");
}

#[test]
fn an_error_in_a_transaction_of_the_extended_protocol_pins_nobody() {
    let proxy = one_connection();
    let (mut one, mut other) = (proxy.wire(), proxy.wire());
    let run_text = |text: &str| [parse("", text), run("", &[]), sync()];
    assert_eq!(one.exchange(&run_text("BEGIN")), "1 2 C[BEGIN] Z[T]");
    assert_eq!(one.ask("SELECT 1 / 0"), "E[22012] Z[E]");
    assert_eq!(one.exchange(&run_text("ROLLBACK")), "1 2 C[ROLLBACK] Z[I]");
    assert_eq!(other.value("SELECT 7"), "7", "and there is a connection");
}

#[test]
fn what_is_executed_by_its_name_in_sql_is_known() {
    let proxy = one_connection();
    let (mut one, mut other) = (proxy.wire(), proxy.wire());
    one.run("CREATE SEQUENCE drawn_by_name");
    one.run("PREPARE e AS SELECT set_config('app.region', 'x', false)");
    one.run("PREPARE d AS SELECT nextval('drawn_by_name')");
    one.run("EXECUTE e; EXECUTE d");
    assert_eq!(one.value("SELECT lastval()"), "1");
    one.run("DEALLOCATE ALL");
    let region = "SELECT coalesce(current_setting('app.region', true), '')";
    assert_eq!(other.value(region), "");
    assert_eq!(other.ask("SELECT lastval()"), "E[55000] Z[I]");
    other.exchange(&[parse("asks", "SELECT lastval()"), sync()]);
    assert_eq!(one.value("SELECT nextval('drawn_by_name')"), "2");
    assert_eq!(other.ask("EXECUTE asks"), "E[55000] Z[I]");
    assert_eq!(one.value(region), "x");
}

#[test]
fn a_transaction_may_choose_its_isolation_behind_a_description() {
    let proxy = one_connection();
    let (mut one, mut other) = (proxy.wire(), proxy.wire());
    one.exchange(&[parse("s", "SELECT 1"), sync()]);
    other.run("DEALLOCATE ALL");
    let answer = one.exchange(&[
        describe(b'S', "s"),
        parse("", "BEGIN ISOLATION LEVEL REPEATABLE READ"),
        run("", &[]),
        sync(),
    ]);
    assert!(answer.ends_with("C[BEGIN] Z[T]"), "{answer}");
}

#[test]
fn what_ends_a_transaction_on_a_standby_may_go_on_with_a_write() {
    let proxy = Proxy::start(cluster(), "pool: { size: 2 }\n");
    let mut wire = proxy.wire();
    let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SELECT count(*) FROM pg_class";
    for (end, tag) in [("COMMIT", "COMMIT"), ("ROLLBACK", "ROLLBACK")] {
        wire.run(begin);
        let answer = wire.ask(&format!(
            "{end}; CREATE TABLE went_on (n int); DROP TABLE went_on"
        ));
        assert_eq!(
            answer,
            format!("C[{tag}] C[CREATE TABLE] C[DROP TABLE] Z[I]")
        );
        wire.run(begin);
        assert_eq!(wire.ask("SELECT 1 / 0"), "E[22012] Z[E]");
        let answer = wire.ask(&format!(
            "{end}; CREATE TABLE went_on (n int); DROP TABLE went_on"
        ));
        assert_eq!(answer, "C[ROLLBACK] C[CREATE TABLE] C[DROP TABLE] Z[I]");
    }
    wire.run("BEGIN READ ONLY");
    wire.run("BEGIN");
    assert_eq!(wire.ask("CREATE TEMP TABLE brief (n int)"), "E[25006] Z[E]");
    wire.run("ROLLBACK");
    // A chain is no reason to take a lock where it excludes nobody.
    wire.run("BEGIN READ ONLY; COMMIT AND CHAIN; SELECT pg_try_advisory_xact_lock(8643)");
    let route = wire.value("SHOW causeway.last_route");
    assert!(route.starts_with("primary"), "{route}");
    wire.run("ROLLBACK");
}

#[test]
fn a_lock_is_never_taken_on_a_standby() {
    let proxy = Proxy::start(cluster(), "pool: { size: 2 }\n");
    let mut wire = proxy.wire();
    for begin in [
        "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SELECT count(*) FROM pg_class",
        "BEGIN READ ONLY; DECLARE c CURSOR FOR SELECT 1",
    ] {
        wire.run(begin);
        let route = wire.value("SHOW causeway.last_route");
        let lock = "SELECT pg_try_advisory_lock(8642)";
        match route.starts_with("standby") {
            true => assert_eq!(wire.ask(lock), "E[0A000] Z[E]", "{begin}"),
            false => panic!("{begin} went to the {route}"),
        }
        wire.run("ROLLBACK");
    }
    // Before anything has been read it still can be taken where it counts.
    wire.run("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY");
    assert_eq!(wire.value("SELECT pg_try_advisory_xact_lock(8642)"), "t");
    wire.run("COMMIT");
}

/// The session, and the same directly at the primary.
fn both(proxy: &Proxy) -> [Wire; 2] {
    let (port, login) = (cluster().primary().port(), cluster().application());
    [proxy.wire(), Wire::login(port, login, &[])]
}

#[test]
fn an_end_behind_a_portal_that_is_not_run_ends_a_read_only_transaction() {
    let proxy = Proxy::start(cluster(), "pool: { size: 2 }\n");
    let mut wire = proxy.wire();
    wire.run("CREATE TABLE behind_an_end (n int)");
    let begin = [
        parse("", "BEGIN READ ONLY"),
        bind("p1", "", &[]),
        execute("p1", 0),
        sync(),
    ];
    assert_eq!(wire.exchange(&begin), "1 2 C[BEGIN] Z[T]");
    let ends = [
        bind("", "", &[]),
        parse("end", "END"),
        bind("p0", "end", &[]),
        execute("p0", 0),
        parse("", "INSERT INTO behind_an_end VALUES (1)"),
        bind("", "", &[]),
        execute("", 0),
        sync(),
    ];
    let answer = wire.exchange(&ends);
    assert_eq!(answer, "2 1 2 C[COMMIT] 1 2 C[INSERT 0 1] Z[I]");
}

#[test]
fn a_name_that_sql_was_shown_is_gone_once_it_is_closed() {
    let proxy = one_connection();
    let mut both = both(&proxy);
    let look = "SELECT count(*) FROM pg_prepared_statements";
    for how in ["Close", "DEALLOCATE"] {
        let [proxied, direct] = both.each_mut().map(|wire| {
            let mut told = vec![
                wire.exchange(&[parse("own", "SELECT 1"), sync()]),
                wire.ask("BEGIN"),
                wire.ask(look),
            ];
            told.push(match how {
                "Close" => {
                    wire.ask("SELECT 1 / 0");
                    wire.exchange(&[close(b'S', "own"), sync()])
                }
                _ => wire.ask("DEALLOCATE own"),
            });
            told.push(wire.exchange(&[bind("", "own", &["7"]), sync()]));
            told.push(wire.ask("ROLLBACK"));
            told
        });
        assert_eq!(proxied, direct, "{how}");
    }
}

/// A Parse is what lets PostgreSQL see the changes of a portal that was not run to its end.
#[test]
fn a_parse_behind_a_portal_that_pauses_is_none_that_is_spared() {
    let proxy = one_connection();
    let mut both = both(&proxy);
    both[1].run("CREATE TABLE paused (n int PRIMARY KEY, m int)");
    let text = "INSERT INTO paused VALUES (7, 1) ON CONFLICT (n) DO UPDATE SET m = 2 RETURNING n";
    let pipeline = [
        parse("again", text),
        bind("", "again", &[]),
        execute("", 1),
        close(b'S', "again"),
        parse("again", text),
        bind("p", "again", &[]),
        execute("p", 0),
        close(b'S', "again"),
        sync(),
    ];
    let told = both.each_mut().map(|wire| {
        let told = wire.exchange(&pipeline);
        wire.run("DELETE FROM paused");
        told
    });
    assert_eq!(told[0], told[1]);
}

/// What a failed transaction refuses has done nothing: it keeps nobody on a standby.
#[test]
fn what_a_failed_transaction_refuses_pins_nobody() {
    let proxy = Proxy::start(cluster(), "pool: { size: 2 }\n");
    let mut wire = proxy.wire();
    wire.run("CREATE SEQUENCE IF NOT EXISTS refused_numbers");
    let set = "DO $$ BEGIN PERFORM set_config('app.' || 'any', 'x', false); END $$";
    for _ in 0..5 {
        let mut wire = proxy.wire();
        wire.run("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY");
        assert_eq!(wire.exchange(&[execute("", 0), sync()]), "E[34000] Z[E]");
        assert_eq!(wire.ask(set), "E[25P02] Z[E]");
        assert_eq!(wire.ask("COMMIT"), "C[ROLLBACK] Z[I]");
        let answer = wire.ask("SELECT nextval('refused_numbers') > 0");
        assert_eq!(answer, "D[t] C[SELECT 1] Z[I]");
    }
}
