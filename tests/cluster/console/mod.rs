//! The operator's console over the PostgreSQL protocol: real clients, a real cluster.

mod orders;

use std::collections::HashMap;
use std::process::Command;

use crate::cluster;
use crate::support::console::rows;
use crate::support::{Proxy, Wire, block_on, connect, eventually, http, need, sqlstate};
use pgcauseway::rig::Login;

/// A proxy whose application's user may use the console.
fn proxy() -> Proxy {
    let user = &cluster().application().user;
    Proxy::start(
        cluster(),
        &format!("\nadmin: {{ http: 127.0.0.1:0, users: [{user}] }}\n"),
    )
}

fn console(proxy: &Proxy) -> tokio_postgres::Client {
    block_on(connect(&console_url(proxy)))
}

fn console_url(proxy: &Proxy) -> String {
    let url = proxy.url();
    let (front, _) = url.rsplit_once('/').unwrap();
    format!("{front}/causeway")
}

#[test]
fn everything_that_help_lists_is_shown() {
    let proxy = proxy();
    let console = console(&proxy);
    let help = rows(&console, "SHOW HELP").unwrap();
    let shown: Vec<&str> = help.iter().map(|row| row["command"].as_str()).collect();
    let shown: Vec<&str> = shown
        .into_iter()
        .filter(|c| c.starts_with("SHOW"))
        .collect();
    assert!(shown.len() >= 12, "{shown:?}");
    for command in shown {
        rows(&console, command).unwrap_or_else(|error| panic!("{command}: {error:?}"));
    }
    let version = rows(&console, "show version;").unwrap();
    let expected = format!("Causeway {}", env!("CARGO_PKG_VERSION"));
    assert_eq!(version[0]["version"], expected);
    // Several commands in one message, as `psql -c` sends them.
    let both = rows(&console, "SHOW VERSION; SHOW VERSION").unwrap();
    assert_eq!(both.len(), 2);
    assert!(rows(&console, "").unwrap().is_empty());
}

#[test]
fn the_cluster_is_shown_as_it_is() {
    let proxy = proxy();
    let console = console(&proxy);
    let nodes = rows(&console, "SHOW NODES").unwrap();
    assert_eq!(nodes.len(), 3);
    let count = |role: &str| nodes.iter().filter(|node| node["role"] == role).count();
    assert_eq!((count("primary"), count("standby")), (1, 2), "{nodes:?}");
    assert!(nodes.iter().all(|node| node["state"] == "up"), "{nodes:?}");
    eventually("the lag of both standbys is known", || {
        let lag = rows(&console, "SHOW LAG").unwrap();
        lag.len() == 2 && lag.iter().all(|row| row.contains_key("lag_bytes"))
    });
    let config = rows(&console, "SHOW CONFIG").unwrap();
    let credentials = cluster().credentials();
    let secrets = [
        &credentials.monitor.password,
        &credentials.replication.password,
    ];
    let shows_it =
        |row: &HashMap<String, String>| row.values().any(|value| secrets.contains(&value));
    assert!(!config.iter().any(shows_it), "a password is shown");
}

#[test]
fn pools_and_counters_follow_what_clients_do() {
    let proxy = proxy();
    let console = console(&proxy);
    let Login { user, database, .. } = cluster().application();
    let done = |column: &str| -> u64 {
        let stats = rows(&console, "SHOW STATS").unwrap();
        let row = stats.iter().find(|row| row["database"] == *database);
        row.map_or(0, |row| row[column].parse().unwrap())
    };
    let (units, transactions) = (done("total_query_count"), done("total_xact_count"));
    let mut wire = proxy.wire();
    for sql in ["SELECT 1", "BEGIN", "SELECT 2", "COMMIT"] {
        wire.ask(sql);
    }
    // An answer reaches the client a moment before it is entered.
    eventually("four units are counted", || {
        done("total_query_count") == units + 4
    });
    assert_eq!(done("total_xact_count"), transactions + 2);

    wire.ask("BEGIN");
    eventually("a server connection is in use", || {
        let pools = rows(&console, "SHOW POOLS").unwrap();
        let of_ours =
            |row: &&HashMap<String, String>| row["database"] == *database && row["user"] == *user;
        let ours: Vec<_> = pools.iter().filter(of_ours).collect();
        // PgBouncer's exporters take database and user for a key.
        assert!(ours.len() <= 1, "{pools:?}");
        ours.first()
            .is_some_and(|row| row["sv_active"] == "1" && row["cl_active"] == "1")
    });
    // What PgBouncer's exporters ask for under another name.
    let totals = rows(&console, "SHOW STATS_TOTALS").unwrap();
    let row = totals.iter().find(|row| row["database"] == *database);
    for column in ["xact_count", "query_count", "query_time"] {
        assert!(row.unwrap()[column].parse::<u64>().is_ok(), "{totals:?}");
    }
    let clients = rows(&console, "SHOW CLIENTS").unwrap();
    assert_eq!(clients.len(), 1, "{clients:?}");
    assert_eq!(clients[0]["addr"], "127.0.0.1");
    let databases = rows(&console, "SHOW DATABASES").unwrap();
    let ours = databases
        .iter()
        .find(|row| row["name"] == *database)
        .unwrap();
    assert_eq!(ours["port"], cluster().primary().port().to_string());
    drop(wire);
    eventually("the client is struck out", || {
        rows(&console, "SHOW CLIENTS").unwrap().is_empty()
    });
}

#[test]
fn who_keeps_a_server_connection_is_shown_with_the_reason() {
    let proxy = proxy();
    let console = console(&proxy);
    let column = |name: &str| {
        let clients = rows(&console, "SHOW CLIENTS").unwrap();
        assert_eq!(clients.len(), 1, "{clients:?}");
        clients[0][name].clone()
    };
    let shown = || column("pinned");
    let mut wire = proxy.wire();
    wire.ask("SELECT 1");
    assert_eq!(shown(), "");
    wire.ask("CREATE TEMP TABLE mine (n int)");
    eventually("the reason is shown", || shown() == "temporary_object");
    let metrics = http::get(proxy.http, "/metrics").unwrap();
    assert!(metrics.contains("causeway_pinned_sessions{reason=\"temporary_object\"} 1\n"));
    assert!(metrics.contains("causeway_pinned_sessions{reason=\"seed\"} 0\n"));
    wire.ask("SELECT pg_advisory_lock(1)");
    eventually("both reasons are known", || {
        shown() == "temporary_object,advisory_lock"
    });
    wire.ask("DISCARD ALL");
    eventually("nothing is left", || shown().is_empty());
    wire.ask("SELECT pg_advisory_lock(1)");
    eventually("it locks again", || shown() == "advisory_lock");
    wire.ask("SELECT pg_advisory_unlock_all()");
    eventually("nothing is left once more", || shown().is_empty());
    let metrics = http::get(proxy.http, "/metrics").unwrap();
    assert!(metrics.contains("causeway_pinned_sessions{reason=\"advisory_lock\"} 0\n"));
    wire.ask("LISTEN console_a; LISTEN console_b");
    assert_eq!(
        (shown(), column("channels")),
        (String::new(), "2".to_owned())
    );
    wire.ask("UNLISTEN *");
    assert_eq!(column("channels"), "0");
}

#[test]
fn what_is_not_known_is_refused_and_the_session_goes_on() {
    let proxy = proxy();
    let console = console(&proxy);
    for (command, expected) in [
        ("SELECT 1", "42601"),
        ("SHOW NOTHING", "42601"),
        ("SWITCHOVER pg2", "42601"),
        ("SWITCHOVER", "55000"),
        ("RESUME", "55000"),
        ("DRAIN", "42601"),
    ] {
        let error = rows(&console, command).unwrap_err();
        assert_eq!(sqlstate(&error), expected, "{command}: {error:?}");
    }
    // The extended protocol is not offered, and skipped up to its Sync.
    let error = block_on(console.query("SHOW VERSION", &[])).unwrap_err();
    assert_eq!(sqlstate(&error), "0A000", "{error:?}");
    assert_eq!(rows(&console, "SHOW VERSION").unwrap().len(), 1);
}

#[test]
fn only_configured_users_are_admitted_and_only_with_their_password() {
    let Login { user, password, .. } = cluster().application();
    let auth = format!("    other: {{ password: {password:?} }}\n");
    let yaml = format!(
        "{}{auth}admin: {{ http: 127.0.0.1:0, users: [{user}] }}\n",
        cluster().yaml()
    );
    let proxy = Proxy::with_yaml(cluster(), &yaml);
    let refused = |user: &str, password: &str| {
        let url = format!(
            "postgresql://{user}:{password}@127.0.0.1:{}/causeway",
            proxy.port
        );
        let error = block_on(tokio_postgres::connect(&url, tokio_postgres::NoTls)).err();
        sqlstate(&error.unwrap()).to_owned()
    };
    assert_eq!(refused("other", password), "42501");
    assert_eq!(refused(user, "wrong"), "28P01");
    proxy.assert_well();

    // Without anybody who may use it, there is no console: the name is a database's.
    let proxy = Proxy::start(cluster(), "");
    let url = console_url(&proxy);
    let error = block_on(tokio_postgres::connect(&url, tokio_postgres::NoTls)).err();
    assert_eq!(sqlstate(&error.unwrap()), "3D000");
}

#[test]
fn psql_is_at_home() {
    if !need("psql") {
        return;
    }
    let proxy = proxy();
    let run = |arguments: &[&str]| {
        let mut psql = Command::new("psql");
        psql.arg(console_url(&proxy)).args(arguments);
        psql.env("PGCONNECT_TIMEOUT", "10").output()
    };
    let output = run(&["-At", "-F", " ", "-c", "SHOW NODES"]).unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(text.lines().count(), 3, "{text}");
    let output = run(&["-c", "NONSENSE"]).unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(errors.contains("SHOW HELP"), "{errors}");
}

#[test]
fn shutdown_ends_the_proxy_and_says_so() {
    let proxy = proxy();
    let mut wire = proxy.wire();
    let console = console(&proxy);
    rows(&console, "SHUTDOWN").unwrap();
    let farewell = wire.until_closed();
    assert!(
        farewell.iter().any(|frame| frame.tag == b'E'),
        "{farewell:?}"
    );
    eventually("nobody listens any more", || {
        std::net::TcpStream::connect(("127.0.0.1", proxy.port)).is_err()
    });
}

#[test]
fn a_message_without_end_hurts_nobody() {
    let proxy = proxy();
    let login = cluster().application();
    let login = Login::new(&login.user, &login.password, "causeway");
    let mut wire = Wire::login(proxy.port, &login, &[]);
    let mut huge = b"Q".to_vec();
    huge.extend_from_slice(&(1_u32 << 30).to_be_bytes());
    wire.send(&huge);
    wire.until_closed();
    proxy.assert_well();
}
