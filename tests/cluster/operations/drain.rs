//! A drained standby gets no new reads, loses nobody's, and says when the last connection is gone.

use super::cluster;
use super::{Console, WORK, admin, alone, causeway, node, post, prepare, standbys};
use crate::support::load::Load;
use crate::support::{Proxy, Wire, eventually, http, sqlstate};

/// More than the node's own probes: units of clients.
fn statements(proxy: &Proxy, name: &str) -> u64 {
    node(proxy, name)["statements"].as_u64().unwrap()
}

/// Connections of the application's user, asked of that very server.
fn on_server(name: &str) -> i64 {
    let nodes = cluster().nodes();
    let server = nodes.iter().find(|node| node.name() == name).unwrap();
    let user = &cluster().application().user;
    let sql = format!("SELECT count(*) FROM pg_stat_activity WHERE usename = '{user}'");
    super::block_on(server.query(&sql)).unwrap()
}

fn start() -> Proxy {
    prepare();
    Proxy::start(cluster(), &admin())
}

#[test]
fn a_drain_under_load_moves_reads_away_and_fails_none() {
    let _alone = alone();
    let proxy = start();
    let console = Console::open(&proxy);
    let load = Load::start(&proxy, 6, &WORK);
    let names = standbys(&proxy);
    for name in names.iter().chain(&names) {
        eventually("it serves reads", || on_server(name) > 0);
        console.shown(&format!("DRAIN {name}"));
        eventually("it is drained", || {
            node(&proxy, name)["drain"]["state"] == "drained"
        });
        assert_eq!(node(&proxy, name)["drain"]["connections"], 0);
        eventually("the server has no connection", || on_server(name) == 0);
        let (before, reads) = (statements(&proxy, name), proxy.reads_on_standbys());
        load.goes_on(100);
        eventually("the other standby serves reads", || {
            proxy.reads_on_standbys() > reads
        });
        assert_eq!(statements(&proxy, name), before, "no new read");
        assert_eq!(on_server(name), 0);
        let rows = console.shown("SHOW NODES");
        let row = rows.iter().find(|row| row["name"] == *name).unwrap();
        assert_eq!((&*row["drain"], &*row["state"]), ("drained", "up"));
        let undrained = console.shown(&format!("UNDRAIN {name}"));
        assert_eq!(undrained[0]["state"], "takes reads");
        eventually("it serves reads again", || {
            statements(&proxy, name) > before
        });
    }
    // Without any standby the primary serves them.
    for name in &names {
        console.shown(&format!("DRAIN {name}"));
    }
    eventually("both are drained", || {
        names
            .iter()
            .all(|name| node(&proxy, name)["drain"]["state"] == "drained")
    });
    let reads = proxy.reads_on_standbys();
    load.goes_on(100);
    assert_eq!(proxy.reads_on_standbys(), reads);
    load.end();
}

/// A client with an open transaction on that standby.
fn reader_on(proxy: &Proxy, name: &str) -> Wire {
    let mut found = None;
    eventually("a transaction is open there", || {
        let mut wire = proxy.wire();
        wire.run("BEGIN READ ONLY");
        wire.run("SELECT count(*) FROM operations_work");
        let route = wire.value("SHOW causeway.last_route");
        if route.starts_with(&format!("standby {name},")) {
            found = Some(wire);
        }
        found.is_some()
    });
    found.unwrap()
}

#[test]
fn an_open_transaction_ends_by_itself() {
    let _alone = alone();
    let proxy = start();
    let console = Console::open(&proxy);
    let name = &standbys(&proxy)[0];
    let mut wire = reader_on(&proxy, name);
    let told = console.shown(&format!("DRAIN {name}"));
    assert_eq!(
        (&*told[0]["state"], &*told[0]["connections"]),
        ("draining", "1")
    );
    for _ in 0..20 {
        wire.run("SELECT count(*) FROM operations_work");
    }
    let drain = node(&proxy, name)["drain"].clone();
    assert_eq!(
        drain,
        serde_json::json!({ "state": "draining", "connections": 1 })
    );
    let before = statements(&proxy, name);
    (0..10).for_each(|_| proxy.wire().run("SELECT 1"));
    assert_eq!(statements(&proxy, name), before, "new reads go elsewhere");
    let output = causeway(&proxy, &["drain", name, "--wait", "1ms"]);
    assert_eq!(output.status.code(), Some(69), "{output:?}");
    wire.run("COMMIT");
    let output = causeway(&proxy, &["drain", name, "--wait", "20s"]);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(on_server_soon(name), 0);
    wire.run("SELECT 1");
    let output = causeway(&proxy, &["status"]);
    let said = String::from_utf8_lossy(&output.stdout);
    let line = said
        .lines()
        .find(|line| line.starts_with(name.as_str()))
        .unwrap();
    assert!(line.contains("drained"), "{said}");
    let metrics = http::get(proxy.http, "/metrics").unwrap();
    let gauge = format!("causeway_node_drained{{node=\"{name}\"}}");
    assert!(metrics.contains(&format!("{gauge} 1")), "{metrics}");
    let output = causeway(&proxy, &["undrain", name]);
    assert!(output.status.success(), "{output:?}");
    assert!(node(&proxy, name)["drain"].is_null());
}

/// A server process is gone a moment after its connection.
fn on_server_soon(name: &str) -> i64 {
    eventually("the server has no connection", || on_server(name) == 0);
    on_server(name)
}

#[test]
fn what_cannot_be_drained_is_refused_with_the_reason() {
    let _alone = alone();
    let proxy = start();
    let console = Console::open(&proxy);
    let primary = cluster().primary().name().to_owned();
    let error = console.rows(&format!("DRAIN {primary}")).unwrap_err();
    assert_eq!(sqlstate(&error), "55000", "{error:?}");
    let hint = error.as_db_error().unwrap().hint().unwrap();
    assert!(hint.contains("SWITCHOVER"), "{error:?}");
    for (command, expected) in [
        ("DRAIN nobody", "42704"),
        ("UNDRAIN nobody", "42704"),
        ("DRAIN", "42601"),
        ("DRAIN a b", "42601"),
    ] {
        let error = console.rows(command).unwrap_err();
        assert_eq!(sqlstate(&error), expected, "{command}: {error:?}");
    }
    let code = |path: &str, headers: &str| post(&proxy, path, headers).0;
    assert_eq!(code(&format!("/api/drain?node={primary}"), ""), 409);
    assert_eq!(code("/api/drain?node=nobody", ""), 404);
    assert_eq!(code("/api/drain", ""), 400);
    let standby = &standbys(&proxy)[0];
    let path = format!("/api/drain?node={standby}");
    assert_eq!(code(&path, "Origin: http://evil.example\r\n"), 401);
    assert!(node(&proxy, standby)["drain"].is_null());
    // Twice is once.
    assert_eq!((code(&path, ""), code(&path, "")), (200, 200));
    assert_eq!(code(&format!("/api/undrain?node={standby}"), ""), 200);
    let output = causeway(&proxy, &["drain", "no body"]);
    assert_eq!(output.status.code(), Some(64), "{output:?}");
}
