//! A server that is lost before it has said what a statement left on it: the session ends, as it would
//! with PostgreSQL, and never goes on without what it was told it has.

use super::asked::Asked;
use crate::support::frames::query;
use crate::support::{Wire, eventually, summary};

/// Ends the server connections of which this is true, once there is one.
fn end(doubted: &mut Asked, is: &str) {
    let ended = format!(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
         WHERE usename = 'demo' AND datname = current_database() AND {is}"
    );
    eventually("a server connection is ended", || {
        doubted.superuser.value(&ended) != "0"
    });
}

/// The session is over, and the client has been told why.
fn has_ended(mut wire: Wire, after: &str) {
    let said = wire.until_closed();
    let error = said.iter().find(|frame| frame.tag == b'E');
    let error = error.unwrap_or_else(|| panic!("{after}: {}", summary(&said)));
    let severity = error.field(b'V');
    assert_eq!(severity.as_deref(), Some("FATAL"), "{after}: {error:?}");
    let class = error.field(b'C').unwrap_or_default();
    assert!(["08006", "57P01"].contains(&&*class), "{after}: {error:?}");
}

#[test]
fn who_was_told_that_something_is_set_does_not_go_on_without_it() {
    let mut doubted = Asked::start("unanswered");
    for sql in [
        "SELECT set_config('search_path', 'elsewhere', false)",
        "SELECT set_config('role', 'demo', false)",
        "SELECT pg_try_advisory_lock(77)",
    ] {
        let mut wire = doubted.session();
        wire.run("SELECT 1");
        // Whoever asks what is left waits for this.
        doubted.superuser.run("BEGIN");
        let lock = "LOCK TABLE pg_catalog.pg_depend IN ACCESS EXCLUSIVE MODE";
        doubted.superuser.run(lock);
        wire.send(&query(sql));
        end(&mut doubted, "wait_event_type = 'Lock'");
        doubted.superuser.run("COMMIT");
        has_ended(wire, sql);
    }
}

#[test]
fn nor_does_one_whose_client_is_slow_to_read() {
    let mut doubted = Asked::start("unread");
    // The last of it waits in the proxy, or at the server, which still writes.
    for rows in [14_000, 20_000] {
        let mut wire = doubted.session();
        wire.send(&query(&format!(
            "SELECT set_config('search_path', 'elsewhere', false), repeat('x', 1000) \
             FROM generate_series(1, {rows})"
        )));
        end(
            &mut doubted,
            "query LIKE '%repeat%' AND (state = 'idle' OR wait_event = 'ClientWrite')",
        );
        let answered = wire.until(b'Z');
        if answered.iter().any(|frame| frame.tag == b'E') {
            // The statement has failed, and nothing of it is promised.
            continue;
        }
        if answered.last().is_some_and(|frame| frame.tag == b'Z') {
            let shown = wire.ask("SHOW search_path");
            assert!(
                shown.starts_with("D[elsewhere]") || shown.starts_with("E["),
                "{rows}: {shown}"
            );
        }
    }
}
