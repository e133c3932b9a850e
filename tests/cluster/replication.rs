//! Replication connections: PostgreSQL's own tools through the proxy, and what raw clients do to them.

use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pgcauseway::rig::{Cluster, Node};
use tokio_postgres::types::FromSqlOwned;

use crate::support::frames::{cancel_request, message, query};
use crate::support::need::beside_servers;
use crate::support::{Frame, Proxy, Wire, block_on, console, eventually, summary};

/// Whose login may replicate, with all that logical decoding needs.
static CLUSTER: LazyLock<Cluster> = LazyLock::new(|| {
    let builder = Cluster::builder("replication").setting("wal_level", "logical");
    let cluster = block_on(builder.start()).unwrap();
    block_on(cluster.primary().execute("ALTER ROLE demo REPLICATION")).unwrap();
    block_on(cluster.wait_caught_up()).unwrap();
    cluster
});

const DATABASE: (&str, &str) = ("replication", "database");
const SECOND: (&str, &str) = ("options", "-c causeway.node=pg2");

fn value<T: FromSqlOwned>(node: &Node, sql: &str) -> T {
    block_on(node.query(sql)).unwrap()
}

fn run(sql: &str) {
    block_on(CLUSTER.primary().execute(sql)).unwrap();
}

/// Where WAL senders and replication connections of clients named so are, on a node.
fn present(node: &Node, application: &str) -> bool {
    value(
        node,
        &format!(
            "SELECT exists (SELECT FROM pg_stat_activity WHERE application_name = '{application}')"
        ),
    )
}

fn directory(name: &str) -> PathBuf {
    CLUSTER.directory().join(name)
}

/// One of PostgreSQL's programs as a client of the proxy; `more` is added to its connection string.
fn tool(program: &str, proxy: &Proxy, more: &str) -> Command {
    let mut command = Command::new(beside_servers(program));
    let conninfo = format!("host=127.0.0.1 port={} user=demo {more}", proxy.port);
    command
        .args(["-d", &conninfo])
        .env("PGPASSWORD", "demo")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

fn said(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    text(&output.stdout) + &text(&output.stderr)
}

/// A program that runs until it is told to end.
struct Running(Child);

impl Running {
    fn start(command: &mut Command) -> Self {
        Self(command.spawn().unwrap())
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.0.id()).unwrap())
    }

    /// Ends it as Ctrl-C does; it must end well.
    fn stop(mut self) {
        kill(self.pid(), Signal::SIGINT).unwrap();
        let mut status = None;
        eventually("it has ended", || {
            status = self.0.try_wait().unwrap();
            status.is_some()
        });
        assert!(status.unwrap().success(), "{status:?}");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Streams WAL from where the server stands.
fn stream(wire: &mut Wire) {
    let system = wire.exchange_frames(&[query("IDENTIFY_SYSTEM")], 1);
    let position = system.iter().find(|f| f.tag == b'D').unwrap().columns()[2].clone();
    wire.send(&query(&format!("START_REPLICATION PHYSICAL {position}")));
    assert_eq!(summary(&wire.until(b'W')), "W");
}

#[test]
fn raw_commands_are_answered_by_the_node_that_was_asked_for() {
    let proxy = Proxy::start(&CLUSTER, "");
    let system: String = value(
        CLUSTER.primary(),
        "SELECT system_identifier::text FROM pg_control_system()",
    );
    for kind in ["database", "true", "on", "1"] {
        for node in [&[][..], &[SECOND], &[("causeway.node", "pg2")]] {
            let mut wire = proxy.wire_with(&[&[("replication", kind)], node].concat());
            let frames = wire.exchange_frames(&[query("IDENTIFY_SYSTEM")], 1);
            let row = frames.iter().find(|frame| frame.tag == b'D').unwrap();
            assert_eq!(row.columns()[0], system);
            assert_eq!(row.columns()[3] == "demo", kind == "database");
            let expected = if node.is_empty() { "pg1" } else { "pg2" };
            assert_eq!(wire.value("SHOW cluster_name"), expected);
            let name = format!("S[in_hot_standby={}]", on(expected == "pg2"));
            assert!(summary(&wire.greeting).contains(&name));
        }
    }
    // Settings of the startup packet are the server connection's own, and SQL runs there.
    let mut wire = proxy.wire_with(&[
        DATABASE,
        ("application_name", "asker"),
        ("options", "-c work_mem=77MB"),
    ]);
    assert_eq!(wire.value("SELECT current_setting('work_mem')"), "77MB");
    assert!(present(CLUSTER.primary(), "asker"));
    // What is no replication connection is a session.
    let mut wire = proxy.wire_with(&[("replication", "off")]);
    assert!(wire.ask("IDENTIFY_SYSTEM").contains("E[42601]"));
    proxy.assert_well();
}

fn on(yes: bool) -> &'static str {
    if yes { "on" } else { "off" }
}

#[test]
fn refusals_are_the_servers_own() {
    run("CREATE ROLE plain LOGIN PASSWORD 'plain'");
    let mut yaml = CLUSTER
        .yaml()
        .replace("  users:\n", "  users:\n    plain: { password: plain }\n");
    yaml.push_str("admin: { http: 127.0.0.1:0, users: [demo] }\n");
    let proxy = Proxy::with_yaml(&CLUSTER, &yaml);
    let refused = |login: &str, parameters: &[(&str, &str)]| -> Frame {
        let login = pgcauseway::rig::Login::new(login, login, "demo");
        match Wire::try_login(proxy.port, &login, parameters) {
            Err(frame) => frame,
            Ok(_) => panic!("{parameters:?} was let in"),
        }
    };
    let frame = refused("plain", &[DATABASE]);
    assert_eq!(frame.field(b'S').as_deref(), Some("FATAL"));
    assert_eq!(frame.field(b'C').as_deref(), Some("42501"));
    let frame = refused("demo", &[DATABASE, ("database", "nowhere")]);
    assert_eq!(frame.field(b'C').as_deref(), Some("3D000"));

    let frame = refused("demo", &[DATABASE, ("causeway.node", "pg9")]);
    assert_eq!(frame.field(b'S').as_deref(), Some("FATAL"));
    assert_eq!(frame.field(b'C').as_deref(), Some("22023"));
    let hint = frame.field(b'H').unwrap();
    assert_eq!(hint, "Available values: pg1, pg2, pg3.");
    let frame = refused("demo", &[("replication", "perhaps")]);
    assert_eq!(frame.field(b'C').as_deref(), Some("22023"));
    // Ordinary sessions go where their statements may go.
    let frame = refused("demo", &[SECOND]);
    assert_eq!(frame.field(b'C').as_deref(), Some("42704"));
    // Nobody learns the nodes' names without a password.
    let wrong = pgcauseway::rig::Login::new("demo", "wrong", "demo");
    let frame = Wire::try_login(proxy.port, &wrong, &[DATABASE, ("causeway.node", "pg9")]);
    assert_eq!(frame.err().unwrap().field(b'C').as_deref(), Some("28P01"));

    // It is one of the clients.
    let _wire = proxy.wire_with(&[("replication", "true")]);
    let url = format!("postgresql://demo:demo@127.0.0.1:{}/causeway", proxy.port);
    let rows = console::rows(&block_on(crate::support::connect(&url)), "SHOW CLIENTS").unwrap();
    assert!(
        rows.iter()
            .any(|row| row["database"] == "replication" && row["user"] == "demo")
    );
}

#[test]
fn they_count_among_the_clients_and_in_no_pool() {
    let proxy = Proxy::start(&CLUSTER, "max_clients: 4\npool: { size: 1 }\n");
    let log_in = |parameters: &[(&str, &str)]| {
        let mut wire = None;
        // Those who have looked whether the proxy is ready may not be forgotten yet.
        eventually("there is room", || {
            wire = Wire::try_login(proxy.port, CLUSTER.application(), parameters).ok();
            wire.is_some()
        });
        wire.unwrap()
    };
    let mut wires: Vec<_> = (0..3).map(|_| log_in(&[DATABASE])).collect();
    assert_eq!(log_in(&[]).value("SELECT 1"), "1");
    wires.push(log_in(&[DATABASE]));
    let login = CLUSTER.application();
    let refused = Wire::try_login(proxy.port, login, &[DATABASE]);
    let refused = refused.err().unwrap().to_string();
    assert!(refused.contains("53300"), "{refused}");
    wires.clear();
    log_in(&[]);
}

#[test]
fn pieces_of_messages_and_clients_that_vanish() {
    let proxy = Proxy::start(&CLUSTER, "");
    let mut wire = proxy.wire_with(&[DATABASE, ("application_name", "halves")]);
    let whole = [query("SELECT 1"), query("IDENTIFY_SYSTEM")].concat();
    for byte in whole.chunks(1) {
        wire.send(byte);
    }
    let first = summary(&wire.until(b'Z'));
    assert!(first.ends_with("D[1] C[SELECT 1] Z[I]"), "{first}");
    assert!(summary(&wire.until(b'Z')).ends_with("C[IDENTIFY_SYSTEM] Z[I]"));
    wire.send(&query("SELECT 1")[..7]);
    wire.vanish();
    eventually("the half-sent query's connection is gone", || {
        !present(CLUSTER.primary(), "halves")
    });

    let mut wire = proxy.wire_with(&[("replication", "true"), ("application_name", "vanishes")]);
    stream(&mut wire);
    assert!(present(CLUSTER.primary(), "vanishes"));
    wire.vanish();
    eventually("the stream is gone", || {
        !present(CLUSTER.primary(), "vanishes")
    });

    // The server minds nonsense; the proxy does not.
    let mut wire = proxy.wire_with(&[DATABASE]);
    wire.send(&message(b'?', &[b"what"]));
    assert!(summary(&wire.until_closed()).contains("E[08P01]"));
    let mut wire = proxy.wire_with(&[DATABASE]);
    wire.send(b"Q\0\0\0\x01");
    wire.until_closed();

    // More than anybody buffers, to a client that reads late.
    let mut wire = proxy.wire_with(&[DATABASE]);
    wire.send(&query(
        "SELECT repeat('x', 1000) FROM generate_series(1, 50000)",
    ));
    proxy.assert_well();
    let rows = wire.until(b'Z').iter().filter(|f| f.tag == b'D').count();
    assert_eq!(rows, 50_000);

    // The server ends it, in its own words.
    let mut wire = proxy.wire_with(&[DATABASE, ("application_name", "terminated")]);
    run(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'terminated'",
    );
    assert_eq!(summary(&wire.until_closed()), "E[57P01]");
    proxy.assert_well();
}

#[test]
fn cancel_requests_reach_the_server() {
    let proxy = Proxy::start(&CLUSTER, "");
    let mut wire = proxy.wire_with(&[DATABASE]);
    let (process, key) = wire.cancel_key();
    let cancel = || {
        let mut other = Wire::open(proxy.port);
        other.send(&cancel_request(&process, &key));
        assert!(other.until_closed().is_empty());
    };
    // Idle, it has nothing that could be cancelled.
    cancel();
    assert_eq!(wire.value("SELECT 1"), "1");
    wire.send(&query("SELECT pg_sleep(60)"));
    eventually("the statement has ended", || {
        cancel();
        !wire.is_silent(Duration::from_millis(100))
    });
    let answer = summary(&wire.until(b'Z'));
    assert!(answer.ends_with("E[57014] Z[I]"), "{answer}");
    assert_eq!(wire.value("SELECT 2"), "2");
}

#[test]
fn a_base_backup_of_either_kind_of_node() {
    let proxy = Proxy::start(&CLUSTER, "");
    for (name, more) in [
        ("primary", ""),
        ("second", "options='-c causeway.node=pg2'"),
    ] {
        let target = directory(&format!("backup-{name}"));
        let taken = tool("pg_basebackup", &proxy, more)
            .args(["-c", "fast", "-X", "stream", "-D"])
            .arg(&target)
            .output()
            .unwrap();
        assert!(taken.status.success(), "{name}: {}", said(&taken));
        let conf = std::fs::read_to_string(target.join("postgresql.conf")).unwrap();
        let expected = if more.is_empty() { "pg1" } else { "pg2" };
        assert!(conf.contains(&format!("cluster_name = '{expected}'")));
        let verify = beside_servers("pg_verifybackup");
        let verified = Command::new(verify).arg(&target).output().unwrap();
        assert!(verified.status.success(), "{name}: {}", said(&verified));
    }
    proxy.assert_well();
}

#[test]
fn wal_is_received() {
    let proxy = Proxy::start(&CLUSTER, "");
    let target = directory("wal");
    std::fs::create_dir(&target).unwrap();
    let more = "application_name=receives";
    let receiver = Running::start(
        tool("pg_receivewal", &proxy, more)
            .args(["--synchronous", "-n", "-D"])
            .arg(&target),
    );
    let received = |to: &str| -> bool {
        value(
            CLUSTER.primary(),
            &format!(
                "SELECT exists (SELECT FROM pg_stat_replication \
                 WHERE application_name = 'receives' AND flush_lsn >= '{to}')"
            ),
        )
    };
    eventually("it streams", || present(CLUSTER.primary(), "receives"));
    run("CREATE TABLE received AS SELECT generate_series(1, 100000) AS n");
    let written: String = value(CLUSTER.primary(), "SELECT pg_current_wal_flush_lsn()::text");
    eventually("it has been received", || received(&written));
    receiver.stop();
    let files = std::fs::read_dir(&target).unwrap().count();
    assert!(files >= 1, "{files} files");
    eventually("its WAL sender is gone", || {
        !present(CLUSTER.primary(), "receives")
    });
}

#[test]
fn changes_are_decoded() {
    let proxy = Proxy::start(&CLUSTER, "");
    let mut wire = proxy.wire();
    wire.run("CREATE TABLE decoded (n int)");
    let file = directory("decoded");
    let logical = |arguments: &[&str]| {
        let mut command = tool("pg_recvlogical", &proxy, "dbname=demo");
        command.args(["--slot", "decoded"]).args(arguments);
        command
    };
    let made = logical(&["--create-slot", "-P", "test_decoding"])
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", said(&made));
    let path = file.to_str().unwrap();
    let receiver = Running::start(&mut logical(&["--start", "-F", "0", "-f", path]));
    wire.run("INSERT INTO decoded SELECT generate_series(1, 3)");
    eventually("the changes have come", || {
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        text.contains("table public.decoded: INSERT: n[integer]:3") && text.contains("COMMIT")
    });
    receiver.stop();
    let dropped = logical(&["--drop-slot"]).output().unwrap();
    assert!(dropped.status.success(), "{}", said(&dropped));
}

#[test]
fn a_subscription_follows() {
    let proxy = Proxy::start(&CLUSTER, "");
    let subscriber = block_on(Cluster::builder("subscriber").standbys(0).start()).unwrap();
    let here = &subscriber.primary();
    let there = block_on(crate::support::connect(&proxy.url()));
    let tell = |sql: &str| block_on(there.batch_execute(sql)).unwrap();
    tell("CREATE TABLE followed (n int PRIMARY KEY); INSERT INTO followed VALUES (1), (2);");
    tell("CREATE PUBLICATION followed FOR TABLE followed");
    block_on(here.execute("CREATE TABLE followed (n int PRIMARY KEY)")).unwrap();
    let connection = format!(
        "host=127.0.0.1 port={} dbname=demo user=demo password=demo",
        proxy.port
    );
    // Not in a transaction: it makes a slot.
    block_on(here.execute(&format!(
        "CREATE SUBSCRIPTION followed CONNECTION '{connection}' PUBLICATION followed"
    )))
    .unwrap();
    let count = || value::<i64>(here, "SELECT count(*) FROM followed");
    eventually("the table has been copied", || count() == 2);
    tell("INSERT INTO followed SELECT generate_series(3, 1000)");
    eventually("the changes have come", || count() == 1000);
    block_on(here.execute("DROP SUBSCRIPTION followed")).unwrap();
    let slots: i64 = value(
        CLUSTER.primary(),
        "SELECT count(*) FROM pg_replication_slots WHERE slot_name = 'followed'",
    );
    assert_eq!(slots, 0, "dropping the subscription has dropped the slot");
}

#[test]
fn at_a_shutdown_streams_end_at_once_and_work_has_its_grace() {
    let proxy = Proxy::start(&CLUSTER, "");
    let mut idle = proxy.wire_with(&[DATABASE]);
    let mut streaming = proxy.wire_with(&[("replication", "true")]);
    stream(&mut streaming);
    let mut working = proxy.wire_with(&[DATABASE]);
    working.send(&query("SELECT pg_sleep(3)"));
    let mut too_long = proxy.wire_with(&[DATABASE]);
    too_long.send(&query("SELECT pg_sleep(60)"));
    let began = Instant::now();
    let ending = std::thread::spawn(move || drop(proxy));
    assert_eq!(summary(&idle.until_closed()), "E[57P01]");
    let last = streaming.until_closed().pop().unwrap();
    assert_eq!(last.to_string(), "E[57P01]");
    let at_once = began.elapsed();
    let answer = summary(&working.until_closed());
    assert!(answer.ends_with("C[SELECT 1] Z[I] E[57P01]"), "{answer}");
    assert_eq!(summary(&too_long.until_closed()), "E[57P01]");
    ending.join().unwrap();
    let whole = began.elapsed();
    println!("at once: {at_once:?}; the whole: {whole:?}");
    assert!(at_once < whole / 2, "{at_once:?} of {whole:?}");
}
