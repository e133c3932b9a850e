//! The configuration is read again: what changes does at once, what cannot is named, and a file with
//! faults changes nothing.

use pgcauseway::rig::Login;

use super::cluster;
use super::{Console, WORK, alone, causeway, node, post, prepare, standbys, yaml};
use crate::support::load::Load;
use crate::support::{ConfigFile, Proxy, Wire, eventually, http, sqlstate};

/// As the driver gives it: the error's detail.
fn detail(error: &tokio_postgres::Error) -> String {
    let error = error.as_db_error().unwrap();
    error.detail().unwrap_or_default().to_owned()
}

fn metric(proxy: &Proxy, name: &str) -> u64 {
    let metrics = http::get(proxy.http, "/metrics").unwrap();
    let name = format!("{name} ");
    let line = metrics.lines().find_map(|line| line.strip_prefix(&name));
    line.map_or(0, |count| count.parse().unwrap())
}

fn counted(proxy: &Proxy, outcome: &str) -> u64 {
    let name = format!("causeway_config_reloads_total{{outcome=\"{outcome}\"}}");
    metric(proxy, &name)
}

#[test]
fn reloads_under_load_fail_nothing() {
    let _alone = alone();
    prepare();
    let file = ConfigFile::new(cluster(), "under-load", &yaml(""));
    let proxy = Proxy::with_file(cluster(), &file);
    let console = Console::open(&proxy);
    let load = Load::start(&proxy, 6, &WORK);
    for round in 0..20 {
        let (size, wait, zone) = match round % 2 {
            0 => (2, 1, "a"),
            _ => (20, 20, "b"),
        };
        file.write(&yaml(&format!(
            "pool: {{ size: {size}, wait_timeout: 20s }}\n\
             routing: {{ catchup_wait: {wait}ms, zone: {zone}, max_lag: {wait}s }}\n"
        )));
        let told = console.shown("RELOAD");
        assert!(
            told.iter().all(|row| row["outcome"] == "applied"),
            "{told:?}"
        );
        assert!(told.iter().any(|row| row["key"] == "pool.size"), "{told:?}");
        assert_eq!(console.config("pool.size"), size.to_string());
        assert_eq!(metric(&proxy, "causeway_pool_size"), size);
        load.goes_on(50);
    }
    assert_eq!(counted(&proxy, "applied"), 20);
    // No more than the last size, wherever one looks; not at once, as what is in use comes back first.
    file.write(&yaml("pool: { size: 1, wait_timeout: 20s }\n"));
    console.shown("RELOAD");
    eventually("pools have shrunk", || {
        let servers = console.shown("SHOW SERVERS");
        let open = |row: &super::Row| -> u64 {
            ["sv_active", "sv_idle"]
                .map(|key| row[key].parse::<u64>().unwrap())
                .iter()
                .sum()
        };
        servers.iter().all(|row| open(row) <= 1)
    });
    load.goes_on(50);
    load.end();
}

#[test]
fn a_file_with_faults_changes_nothing_and_says_where() {
    let _alone = alone();
    prepare();
    let file = ConfigFile::new(cluster(), "faulty", &yaml("pool: { size: 7 }\n"));
    let proxy = Proxy::with_file(cluster(), &file);
    let console = Console::open(&proxy);
    let load = Load::start(&proxy, 3, &WORK);
    // The one that is right is not taken over either.
    file.write(&yaml(
        "pool: { size: 9, sise: 3 }\nrouting: { catchup_wait: soon }\n",
    ));
    let text = std::fs::read_to_string(file.path()).unwrap();
    let line = text
        .lines()
        .position(|line| line.starts_with("pool:"))
        .unwrap()
        + 1;
    let path = file.path().display();
    let expected = [
        format!("{path}:{line}: pool.sise: "),
        format!("{path}:{}: routing.catchup_wait: ", line + 1),
    ];
    let says_where = |said: &str| expected.iter().all(|place| said.contains(place));

    let error = console.rows("RELOAD").unwrap_err();
    assert_eq!(sqlstate(&error), "F0000", "{error:?}");
    assert!(says_where(&detail(&error)), "{error:?}");
    let (code, body) = post(&proxy, "/api/reload", "");
    assert_eq!((code, &body["done"]), (422, &false.into()), "{body}");
    assert!(says_where(body["text"].as_str().unwrap()), "{body}");
    assert_eq!(body["faults"].as_array().unwrap().len(), 2, "{body}");
    let output = causeway(&proxy, &["reload"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(64), "{said}");
    assert!(says_where(&said), "{said}");
    assert_eq!(counted(&proxy, "refused"), 3);
    assert_eq!(counted(&proxy, "applied"), 0);
    assert_eq!(console.config("pool.size"), "7");

    std::fs::remove_file(file.path()).unwrap();
    let error = console.rows("RELOAD").unwrap_err();
    assert!(detail(&error).contains("cannot be read"), "{error:?}");
    load.goes_on(20);
    load.end();

    file.write(&yaml("pool: { size: 9 }\n"));
    let output = causeway(&proxy, &["reload"]);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && said.contains("applied: pool.size"),
        "{output:?}"
    );
    assert_eq!(console.config("pool.size"), "9");
    let (code, _) = post(&proxy, "/api/reload", "Origin: http://evil.example\r\n");
    assert_eq!(code, 401);
}

#[test]
fn users_and_their_passwords_follow_the_file() {
    let _alone = alone();
    let database = &cluster().application().database;
    crate::on_primary(cluster(), "CREATE ROLE rotating LOGIN PASSWORD 'first'");
    crate::on_primary(
        cluster(),
        &format!("GRANT ALL ON DATABASE {database} TO rotating"),
    );
    let with = |users: &str| {
        // The cluster's sections end with the users.
        format!("{}{users}{}", cluster().yaml(), super::admin())
    };
    let file = ConfigFile::new(
        cluster(),
        "passwords",
        &with("    rotating: { password: first }\n"),
    );
    let proxy = Proxy::with_file(cluster(), &file);
    let console = Console::open(&proxy);
    let login = |password: &str| {
        let login = Login::new("rotating", password, database);
        Wire::try_login(proxy.port, &login, &[]).map_err(|frame| frame.to_string())
    };
    let mut before = login("first").unwrap();
    before.run("SELECT 1");

    crate::on_primary(cluster(), "ALTER ROLE rotating PASSWORD 'second'");
    file.write(&with("    rotating: { password: second }\n"));
    let told = console.shown("RELOAD");
    assert_eq!(told[0]["key"], "auth.users.rotating");
    assert!(!format!("{told:?}").contains("second"));
    let refused = login("first").err().unwrap();
    assert!(refused.contains("28P01"), "{refused}");
    login("second").unwrap().run("SELECT 1");
    // The session from before goes on, and so does the pool, with the new password.
    crate::on_primary(
        cluster(),
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'rotating'",
    );
    let left = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'rotating'";
    eventually("the old sessions have ended", || {
        crate::from_primary::<i64>(cluster(), left) == 0
    });
    eventually("their server connections are gone", || {
        let servers = console.shown("SHOW SERVERS");
        let primary = cluster().primary().port().to_string();
        !servers.iter().any(|row| {
            row["user"] == "rotating"
                && row["port"] == primary
                && (row["sv_idle"] != "0" || row["sv_active"] != "0")
        })
    });
    before.run("CREATE TEMP TABLE here ()");

    file.write(&with(""));
    console.shown("RELOAD");
    let refused = login("second").err().unwrap();
    assert!(refused.contains("28P01"), "{refused}");
    before.run("SELECT 1");
    drop(before);
    file.write(&with("    rotating: { password: second }\n"));
    console.shown("RELOAD");
    login("second").unwrap().run("SELECT 1");
}

#[test]
fn routing_and_bounds_follow_the_file() {
    let _alone = alone();
    let (database, user) = (
        &cluster().application().database,
        &cluster().application().user,
    );
    let file = ConfigFile::new(cluster(), "routing", &yaml(""));
    let proxy = Proxy::with_file(cluster(), &file);
    let console = Console::open(&proxy);
    let mut before = proxy.wire();
    let level = "SHOW causeway.consistency";
    assert_eq!(before.value(level), "session");
    file.write(&yaml(&format!(
        "routing:\n  databases: {{ {database}: {{ consistency: primary }} }}\n  \
         users: {{ {user}: {{ consistency: eventual }} }}\n"
    )));
    console.shown("RELOAD");
    assert_eq!(proxy.wire().value(level), "eventual");
    assert_eq!(before.value(level), "session", "as of its login");

    // A standby without weight gets no reads, and gets them again.
    let [out, _] = &standbys(&proxy)[..] else {
        panic!("two standbys")
    };
    let weigh = |weight: &str| {
        let plain = format!("name: {out}\n");
        let weighed = format!("name: {out}\n  weight: {weight}\n");
        file.write(&yaml("").replace(&plain, &weighed));
        console.shown("RELOAD");
    };
    weigh("0");
    let statements = || node(&proxy, out)["statements"].as_u64().unwrap();
    let mut wires: Vec<Wire> = (0..4).map(|_| proxy.wire()).collect();
    let seen = statements();
    wires
        .iter_mut()
        .for_each(|wire| (0..10).for_each(|_| wire.run("SELECT 1")));
    assert_eq!(statements(), seen);
    weigh("3");
    eventually("it has reads again", || {
        proxy.wire().run("SELECT 1");
        statements() > seen
    });

    drop(wires);
    file.write(&yaml("max_clients: 3\n"));
    console.shown("RELOAD");
    // The console and `before` are two.
    let third = eventually_login(&proxy);
    let login = cluster().application();
    let refused = Wire::try_login(proxy.port, login, &[])
        .err()
        .unwrap()
        .to_string();
    assert!(refused.contains("53300"), "{refused}");
    drop(third);
    file.write(&yaml(""));
    console.shown("RELOAD");
    let _many: Vec<Wire> = (0..5).map(|_| proxy.wire()).collect();
}

/// Clients that have left are counted for a moment.
fn eventually_login(proxy: &Proxy) -> Wire {
    let mut found = None;
    eventually("there is room for one", || {
        found = Wire::try_login(proxy.port, cluster().application(), &[]).ok();
        found.is_some()
    });
    found.unwrap()
}

#[test]
fn what_needs_a_restart_is_named_and_the_rest_applied() {
    let _alone = alone();
    let file = ConfigFile::new(cluster(), "restart", &yaml("workers: 1\n"));
    let proxy = Proxy::with_file(cluster(), &file);
    let console = Console::open(&proxy);
    let added = "- { name: another, host: 127.0.0.1, port: 1 }\nmonitor:";
    let changed = yaml("workers: 2\npool: { mode: session, size: 5 }\n");
    file.write(&changed.replacen("monitor:", added, 1));
    let expected = [
        ("pool.size", "applied"),
        ("workers", "needs a restart"),
        ("nodes.another", "needs a restart"),
        ("pool.mode", "needs a restart"),
    ];
    let told = console.shown("RELOAD");
    let told: Vec<_> = told
        .iter()
        .map(|row| (&*row["key"], &*row["outcome"]))
        .collect();
    assert_eq!(told, expected);
    assert_eq!(console.config("pool.mode"), "transaction");
    assert_eq!(console.config("pool.size"), "5");
    assert_eq!(console.shown("SHOW NODES").len(), 3);
    let (code, body) = post(&proxy, "/api/reload", "");
    assert_eq!(code, 200);
    assert_eq!(body["applied"].as_array().unwrap().len(), 0, "{body}");
    assert_eq!(body["restart"].as_array().unwrap().len(), 3, "{body}");
    let events = console.shown("SHOW EVENTS");
    assert!(
        events.iter().any(|event| event["kind"] == "reloaded"),
        "{events:?}"
    );
    proxy.assert_well();
}
