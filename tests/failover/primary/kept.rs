//! Sessions that keep a server connection, at a switchover: idle ones hold up nothing and are told 57P01
//! when it happens, not before; transactions end first.

use super::{CALM, cluster};
use crate::support::http::order;
use crate::support::status::{another_leads, leader, promotable, settled};
use crate::support::{Proxy, Wire, eventually, frames, http, summary, turn};

/// What a session is told at its end.
fn end(wire: &mut Wire) -> String {
    summary(&wire.until_closed())
}

/// A session that keeps its server connection.
fn keeping(proxy: &Proxy, sql: &str) -> Wire {
    let mut wire = proxy.wire();
    wire.run(sql);
    wire
}

#[test]
fn a_switchover_waits_for_no_idle_session() {
    let _turn = turn();
    let cluster = cluster("kept");
    for mode in ["transaction", "session"] {
        let failover = cluster.failover_yaml(&format!("durability: async\n{CALM}"));
        let yaml = format!("{}{failover}pool: {{ mode: {mode} }}\n", cluster.yaml());
        let proxy = Proxy::with_yaml(&cluster, &yaml);
        settled(proxy.http);
        promotable(proxy.http, 2);
        let old = leader(proxy.http);
        let mut lock = keeping(&proxy, "SELECT pg_advisory_lock(1)");
        let mut prepared = keeping(&proxy, "PREPARE mine AS SELECT 1");
        let mut open = keeping(&proxy, "CREATE TEMP TABLE mine (n int)");
        open.run("BEGIN");
        open.run("INSERT INTO mine VALUES (1)");

        // One that does not end in time calls it off, and nobody has lost anything.
        let (code, answer) = order(proxy.http, "/api/switchover");
        assert_eq!(code, 409, "{answer}");
        let text = answer["text"].as_str().unwrap();
        assert!(text.starts_with("1 transactions were still open"), "{text}");
        assert_eq!(prepared.value("EXECUTE mine"), "1");
        let count =
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()";
        assert_eq!(lock.value(count), "1");

        promotable(proxy.http, 2);
        let http = proxy.http;
        let ordered = std::thread::spawn(move || order(http, "/api/switchover"));
        eventually("new transactions are held", || {
            http::status(http)["failover"]["phase"] == "draining"
        });
        // What a kept session begins now waits; it is told when its connection is gone.
        eventually("a new statement waits", || {
            prepared.send(&frames::query("EXECUTE mine"));
            let waits = prepared.is_silent(std::time::Duration::from_millis(200));
            if !waits {
                prepared.until(b'Z');
            }
            waits
        });
        // It can be cancelled meanwhile.
        let (process, key) = prepared.cancel_key();
        Wire::open(proxy.port).send(&frames::cancel_request(&process, &key));
        assert_eq!(summary(&prepared.until(b'Z')), "E[57014] Z[I]");
        prepared.send(&frames::query("EXECUTE mine"));
        assert_eq!(open.value("SELECT n FROM mine"), "1");
        assert_eq!(open.ask("COMMIT"), "C[COMMIT] Z[I]");
        let (code, answer) = ordered.join().unwrap();
        assert_eq!(code, 200, "{answer}");
        for session in [&mut lock, &mut prepared, &mut open] {
            assert_eq!(end(session), "E[57P01]", "{mode}");
        }
        another_leads(proxy.http, &old);
        settled(proxy.http);
        assert_eq!(proxy.wire().value("SELECT pg_try_advisory_lock(1)"), "t");
    }
}
