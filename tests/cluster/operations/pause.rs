//! PAUSE holds clients without an error and leaves no server connection; RESUME lets them go on.

use std::sync::mpsc;

use pgcauseway::rig::Login;
use tokio_postgres::NoTls;

use super::cluster;
use super::{Console, WORK, admin, alone, prepare};
use crate::support::load::Load;
use crate::support::{BOUND, Proxy, Wire, block_on, eventually, frames, http, sqlstate};

fn start() -> Proxy {
    prepare();
    Proxy::start(cluster(), &admin())
}

/// Server connections of the application's user, asked of the server itself.
fn on_server() -> i64 {
    let user = &cluster().application().user;
    crate::from_primary(
        cluster(),
        &format!("SELECT count(*) FROM pg_stat_activity WHERE usename = '{user}'"),
    )
}

/// Whether a database shows as paused.
fn is_paused(console: &Console, database: &str) -> bool {
    let rows = console.shown("SHOW DATABASES");
    let row = rows.iter().find(|row| row["name"] == database);
    row.is_some_and(|row| row["paused"] == "1")
}

#[test]
fn a_pause_under_load_stops_statements_and_fails_none() {
    let _alone = alone();
    let proxy = start();
    let console = Console::open(&proxy);
    let database = &cluster().application().database;
    let load = Load::start(&proxy, 6, &WORK);
    for command in [
        ["PAUSE".to_owned(), "RESUME".to_owned()],
        [format!("PAUSE {database}"), format!("RESUME {database}")],
    ] {
        console.shown(&command[0]);
        assert!(is_paused(&console, database));
        eventually("the server has no connection of ours", || on_server() == 0);
        eventually("every client waits", || {
            let clients = console.shown("SHOW CLIENTS");
            clients.len() == 6 && clients.iter().all(|client| client["state"] == "waiting")
        });
        let pools = console.shown("SHOW POOLS");
        assert_eq!(pools[0]["cl_waiting"], "6", "{pools:?}");
        eventually("their wait is shown", || {
            let pools = console.shown("SHOW POOLS");
            pools[0]["maxwait"] != "0" || pools[0]["maxwait_us"] != "0"
        });
        let before = load.answered();
        // So many round trips later nobody has been answered.
        (0..50).for_each(|_| drop(console.shown("SHOW VERSION")));
        assert_eq!(load.answered(), before);
        assert_eq!(on_server(), 0);
        assert!(!http::status(proxy.http)["paused"].is_null());
        console.shown(&command[1]);
        assert!(!is_paused(&console, database));
        load.goes_on(50);
    }
    load.end();
}

#[test]
fn a_pause_waits_for_open_transactions_and_lets_them_work() {
    let _alone = alone();
    let proxy = start();
    let console = Console::open(&proxy);
    let database = &cluster().application().database;
    let mut wire = proxy.wire();
    wire.run("BEGIN");
    wire.run("SELECT 1");
    let other = Console::open(&proxy);
    let (tell, told) = mpsc::channel();
    let pausing = std::thread::spawn(move || tell.send(other.rows("PAUSE").map(|_| ())).unwrap());
    eventually("new transactions are held", || {
        is_paused(&console, database)
    });
    for _ in 0..20 {
        wire.run("UPDATE operations_work SET n = 1 WHERE id = 3");
    }
    assert!(told.try_recv().is_err(), "the transaction is still open");
    wire.run("COMMIT");
    told.recv_timeout(BOUND).unwrap().unwrap();
    pausing.join().unwrap();
    let error = console.rows("PAUSE").unwrap_err();
    assert_eq!(sqlstate(&error), "55000", "{error:?}");
    // What touches no server is answered, and so is a login whose greeting is known.
    assert_eq!(wire.value("SHOW causeway.consistency"), "session");
    let mut late = proxy.wire();
    late.send(&frames::query("SELECT 42"));
    assert!(late.is_silent(std::time::Duration::from_millis(100)));
    console.shown("RESUME");
    let answer = crate::support::summary(&late.until(b'Z'));
    assert!(answer.contains("42"), "{answer}");
    let error = console.rows("RESUME").unwrap_err();
    assert_eq!(sqlstate(&error), "55000", "{error:?}");
}

#[test]
fn a_pause_that_is_given_up_is_taken_back() {
    let _alone = alone();
    let proxy = start();
    let console = Console::open(&proxy);
    let database = &cluster().application().database;
    let mut wire = proxy.wire();
    wire.run("BEGIN");
    wire.run("SELECT 1");
    let pause = |command: &'static str| {
        let other = Console::open(&proxy);
        let cancel = other.0.cancel_token();
        let thread = std::thread::spawn(move || other.rows(command).map(|_| ()));
        eventually("new transactions are held", || {
            is_paused(&console, database)
        });
        (cancel, thread)
    };
    // By a cancel request, as Ctrl-C in psql sends one.
    let (cancel, thread) = pause("PAUSE");
    block_on(cancel.cancel_query(NoTls)).unwrap();
    let error = thread.join().unwrap().unwrap_err();
    assert_eq!(sqlstate(&error), "57014", "{error:?}");
    assert!(!is_paused(&console, database));
    // By RESUME from elsewhere.
    let (_, thread) = pause("PAUSE");
    console.shown("RESUME");
    let error = thread.join().unwrap().unwrap_err();
    assert_eq!(sqlstate(&error), "55000", "{error:?}");
    // By a client that is gone.
    let login = cluster().application();
    let mut raw = Wire::login(
        proxy.port,
        &Login::new(&login.user, &login.password, "causeway"),
        &[],
    );
    raw.send(&frames::query("PAUSE"));
    eventually("new transactions are held", || {
        is_paused(&console, database)
    });
    raw.vanish();
    eventually("they are held no longer", || !is_paused(&console, database));
    proxy.wire().run("SELECT 1");
    wire.run("COMMIT");
}

#[test]
fn one_database_is_paused_and_the_others_go_on() {
    let _alone = alone();
    let proxy = start();
    let console = Console::open(&proxy);
    let login = cluster().application();
    let elsewhere = Login::new(&login.user, &login.password, "postgres");
    let mut wire = Wire::login(proxy.port, &elsewhere, &[]);
    wire.run("SELECT 1");
    let load = Load::start(&proxy, 3, &WORK);
    console.shown("PAUSE postgres");
    assert!(is_paused(&console, "postgres") && !is_paused(&console, &login.database));
    wire.send(&frames::query("SELECT 7"));
    load.goes_on(50);
    eventually("its client waits", || {
        let clients = console.shown("SHOW CLIENTS");
        let waits = |row: &super::Row| row["state"] == "waiting" && row["database"] == "postgres";
        clients.iter().filter(|row| waits(row)).count() == 1
    });
    let error = console
        .rows(&format!("RESUME {}", login.database))
        .unwrap_err();
    assert_eq!(sqlstate(&error), "55000", "{error:?}");
    console.shown("RESUME postgres");
    let answer = crate::support::summary(&wire.until(b'Z'));
    assert!(answer.contains('7'), "{answer}");
    load.end();
}

#[test]
fn a_statement_that_waits_can_be_cancelled_and_a_paused_proxy_ends() {
    let _alone = alone();
    let proxy = start();
    let console = Console::open(&proxy);
    let client = block_on(proxy.connect());
    block_on(client.simple_query("SELECT 1")).unwrap();
    console.shown("PAUSE");
    let cancel = client.cancel_token();
    let waiting = std::thread::spawn(move || {
        let answer = block_on(client.simple_query("SELECT 2")).map(|_| ());
        (client, answer)
    });
    let waits = || {
        let clients = console.shown("SHOW CLIENTS");
        clients.iter().any(|row| row["state"] == "waiting")
    };
    eventually("the statement waits", waits);
    block_on(cancel.cancel_query(NoTls)).unwrap();
    let (client, answer) = waiting.join().unwrap();
    assert_eq!(sqlstate(&answer.unwrap_err()), "57014");
    // A client that leaves while it waits is struck out.
    let mut gone = proxy.wire();
    gone.send(&frames::query("SELECT 3"));
    eventually("the statement waits", waits);
    gone.vanish();
    eventually("it is gone", || !waits());
    // The end of the proxy ends the wait; dropping it asserts that it ends well.
    let waiting = std::thread::spawn(move || block_on(client.simple_query("SELECT 4")).map(|_| ()));
    eventually("the statement waits", waits);
    console.shown("SHUTDOWN");
    let error = waiting.join().unwrap().unwrap_err();
    assert_eq!(sqlstate(&error), "57P01", "{error:?}");
}
