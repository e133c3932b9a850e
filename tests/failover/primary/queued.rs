//! A transaction that waits for a server connection when a switchover begins: it begins at the next primary, and
//! holds up nothing.

use super::{CALM, cluster};
use crate::support::frames::query;
use crate::support::http::{self, order};
use crate::support::status::{another_leads, leader, promotable, settled};
use crate::support::{Proxy, eventually, summary, turn};

#[test]
fn whose_turn_comes_when_new_work_is_held_waits_for_the_next_primary() {
    let _turn = turn();
    let cluster = cluster("queued");
    let failover = cluster.failover_yaml(&format!("durability: async\n{CALM}"));
    let yaml = format!(
        "{}{failover}pool: {{ size: 1, wait_timeout: 60s }}\n",
        cluster.yaml()
    );
    let proxy = Proxy::with_yaml(&cluster, &yaml);
    settled(proxy.http);
    promotable(proxy.http, 2);
    let old = leader(proxy.http);
    let mut first = proxy.wire();
    first.run("CREATE TABLE queued (n int)");
    let mut second = proxy.wire();
    first.run("BEGIN");
    first.run("INSERT INTO queued VALUES (1)");
    second.send(&query("BEGIN"));
    eventually("it waits for a connection", || {
        http::get(proxy.http, "/api/status").is_ok_and(|text| text.contains("\"waiting\":1"))
    });

    let at = proxy.http;
    let ordered = std::thread::spawn(move || order(at, "/api/switchover"));
    eventually("new transactions are held", || {
        http::status(proxy.http)["failover"]["phase"] == "draining"
    });
    assert_eq!(first.ask("COMMIT"), "C[COMMIT] Z[I]");
    let (code, answer) = ordered.join().unwrap();
    assert_eq!(code, 200, "{answer}");
    another_leads(proxy.http, &old);
    assert_eq!(summary(&second.until(b'Z')), "C[BEGIN] Z[T]");
    second.run("INSERT INTO queued VALUES (2)");
    assert_eq!(second.ask("COMMIT"), "C[COMMIT] Z[I]");
    let count = "/* causeway: consistency=primary */ SELECT count(*) FROM queued";
    assert_eq!(first.value(count), "2");
    settled(proxy.http);
}
