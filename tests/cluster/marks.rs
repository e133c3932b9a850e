//! What covers a session's mark: commits that are acknowledged before they are on disk, whoever made them
//! and however that came about.
//!
//! In each cluster the WAL writer sleeps for 10 s, so that an asynchronous commit certainly stays unflushed,
//! and off every standby, while it is looked for.

use pgcauseway::rig::Cluster;

use crate::support::{Proxy, Wire, block_on, eventually, turn};

const ROUNDS: u32 = 300;

fn start(name: &str) -> Cluster {
    let builder = Cluster::builder(name).standbys(1);
    let cluster = block_on(builder.setting("wal_writer_delay", "10s").start()).unwrap();
    let setup = Proxy::start(&cluster, "");
    setup
        .wire()
        .run("CREATE TABLE mark (id int); CREATE TABLE load (id int)");
    setup.wire().run("INSERT INTO mark VALUES (-1)");
    block_on(cluster.wait_caught_up()).unwrap();
    cluster
}

fn is_on_standby(wire: &mut Wire) -> bool {
    let route = wire.value("SHOW causeway.last_route");
    route.starts_with("standby ")
}

/// Standbys serve what they can: the functions of the database are known, and connections are there.
fn settle(wire: &mut Wire) {
    eventually("a standby serves", || {
        wire.value("SELECT count(*) FROM mark");
        is_on_standby(wire)
    });
}

/// Of so many rows, those that the session inserts and does not find.
fn missing(wire: &mut Wire, from: u32) -> u32 {
    let found = |wire: &mut Wire, id: u32| {
        wire.run(&format!("INSERT INTO mark VALUES ({id})"));
        wire.value(&format!("SELECT count(*) FROM mark WHERE id = {id}")) == "1"
    };
    (from..from + ROUNDS)
        .map(|id| u32::from(!found(wire, id)))
        .sum()
}

#[test]
fn commits_that_become_asynchronous_by_a_reload() {
    let _turn = turn();
    let cluster = start("reload-async");
    let proxy = Proxy::start(&cluster, "");
    let mut wires: Vec<_> = (0..4).map(|_| proxy.wire()).collect();
    wires.iter_mut().for_each(settle);
    // Connections are there before the setting changes, and each session has written.
    for (n, wire) in (0..).zip(&mut wires) {
        assert_eq!(missing(wire, n * ROUNDS), 0);
    }
    let primary = cluster.primary();
    for (setting, from) in [("off", 10_000), ("on", 20_000), ("off", 30_000)] {
        block_on(primary.set("synchronous_commit", setting)).unwrap();
        for (n, wire) in (0..).zip(&mut wires) {
            assert_eq!(missing(wire, from + n * ROUNDS), 0, "{setting}");
            assert_eq!(wire.value("SHOW synchronous_commit"), setting);
        }
    }
    // Standbys serve what is written once commits are flushed again.
    block_on(primary.set("synchronous_commit", "on")).unwrap();
    let mut next = 50_000;
    eventually("a standby has what was just written", || {
        assert_eq!(missing(&mut wires[0], next), 0);
        next += ROUNDS;
        is_on_standby(&mut wires[0])
    });
    proxy.assert_well();
}

#[test]
fn asynchronous_commits_of_another_proxy() {
    let _turn = turn();
    let cluster = start("async-elsewhere");
    let (one, other) = (Proxy::start(&cluster, ""), Proxy::start(&cluster, ""));
    let (mut writer, mut reader) = (one.wire(), other.wire());
    settle(&mut writer);
    settle(&mut reader);
    writer.run("SET synchronous_commit = off");
    for n in 1..=ROUNDS {
        writer.run(&format!("UPDATE mark SET id = {n}"));
        // In a block, so that it is read on the primary.
        reader.run("BEGIN");
        assert_eq!(reader.value("SELECT id FROM mark"), n.to_string());
        reader.run("COMMIT");
        let again = reader.value("SELECT id FROM mark");
        assert_eq!(again, n.to_string(), "it had seen that");
    }
    // What others leave unflushed does not keep standbys from serving what was flushed.
    eventually("a standby has the session's own commit", || {
        reader.run("INSERT INTO load VALUES (1)");
        reader.value("SELECT count(*) FROM load");
        is_on_standby(&mut reader)
    });
}

/// A notification tells of a commit: whoever has heard of it finds its row.
#[test]
fn a_notification_and_then_a_look() {
    let _turn = turn();
    let cluster = start("note-then-look");
    let proxy = Proxy::start(&cluster, "");
    let mut hearer = proxy.wire();
    settle(&mut hearer);
    let writer = block_on(cluster.primary().connect(cluster.application())).unwrap();
    let mut last = 0;
    let tell = |hearer: &mut Wire, last: &mut i32| {
        *last += 1;
        let sql = format!("BEGIN; UPDATE mark SET id = {last}; NOTIFY jobs, '{last}'; COMMIT");
        block_on(writer.batch_execute(&sql)).unwrap();
        while hearer.frame().unwrap().tag != b'A' {}
        assert_eq!(hearer.value("SELECT id FROM mark"), last.to_string());
    };
    hearer.run("LISTEN jobs");
    let standby = &cluster.standbys()[0];
    for _ in 0..3 {
        settle(&mut hearer);
        block_on(standby.pause_replay()).unwrap();
        tell(&mut hearer, &mut last);
        block_on(standby.resume_replay()).unwrap();
    }
    // A standby serves the look once it has the commit.
    eventually("a standby has what was told", || {
        tell(&mut hearer, &mut last);
        is_on_standby(&mut hearer)
    });
    // And of those that are on no standby, whoever has made them.
    block_on(writer.batch_execute("SET synchronous_commit = off")).unwrap();
    for _ in 0..ROUNDS {
        tell(&mut hearer, &mut last);
    }
    proxy.assert_well();
}

/// Code that turns `synchronous_commit` off by a name that stands nowhere in it.
#[test]
fn commits_that_code_makes_asynchronous() {
    let _turn = turn();
    let cluster = start("async-by-code");
    let setup = Proxy::start(&cluster, "");
    let bodies = [
        "PERFORM set_config(r.name, r.value, true);",
        "EXECUTE format('SET LOCAL %I = %L', r.name, r.value);",
        "EXECUTE replace('SET#LOCAL#' || r.name || '=' || r.value, '#', ' ');",
    ];
    let mut wire = setup.wire();
    wire.run("CREATE TABLE said (name text, value text)");
    wire.run("INSERT INTO said VALUES ('synchronous_commit', 'off')");
    for (n, body) in bodies.iter().enumerate() {
        wire.run(&format!("CREATE TABLE own{n} (id int)"));
        wire.run(&format!(
            "CREATE FUNCTION quietly{n}() RETURNS trigger LANGUAGE plpgsql AS $$ DECLARE r record; \
             BEGIN FOR r IN SELECT * FROM said LOOP {body} END LOOP; RETURN new; END $$"
        ));
        wire.run(&format!(
            "CREATE TRIGGER quietly BEFORE INSERT ON own{n} FOR EACH ROW EXECUTE FUNCTION quietly{n}()"
        ));
    }
    block_on(cluster.wait_caught_up()).unwrap();
    let proxy = Proxy::start(&cluster, "");
    let mut wire = proxy.wire();
    settle(&mut wire);
    for (n, body) in bodies.iter().enumerate() {
        for id in 0..ROUNDS {
            wire.run(&format!("INSERT INTO own{n} VALUES ({id})"));
            let found = wire.value(&format!("SELECT count(*) FROM own{n} WHERE id = {id}"));
            assert_eq!(found, "1", "{body}");
        }
    }
}

/// A transaction whose changes are not logged flushes nothing, and least of all what it has read.
#[test]
fn changes_that_are_not_logged() {
    let _turn = turn();
    let cluster = start("not-logged");
    let setup = Proxy::start(&cluster, "");
    let mut wire = setup.wire();
    for sql in [
        "CREATE UNLOGGED TABLE scratch (id int)",
        "CREATE VIEW nothing AS SELECT 1 AS id",
        "CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN new; END $$",
        "CREATE TRIGGER nothing INSTEAD OF INSERT ON nothing FOR EACH ROW EXECUTE FUNCTION nothing()",
    ] {
        wire.run(sql);
    }
    block_on(cluster.wait_caught_up()).unwrap();
    let proxy = Proxy::start(&cluster, "");
    let mut wire = proxy.wire();
    settle(&mut wire);
    let writer = block_on(cluster.primary().connect(cluster.application())).unwrap();
    block_on(writer.batch_execute("SET synchronous_commit = off")).unwrap();
    let mut last = 0;
    for table in ["scratch", "nothing"] {
        for _ in 0..ROUNDS {
            last += 1;
            let sql = format!("UPDATE mark SET id = {last}");
            block_on(writer.batch_execute(&sql)).unwrap();
            wire.run("BEGIN");
            wire.run(&format!("INSERT INTO {table} VALUES (1)"));
            assert_eq!(wire.value("SELECT id FROM mark"), last.to_string());
            wire.run("COMMIT");
            let again = wire.value("SELECT id FROM mark");
            assert_eq!(again, last.to_string(), "{table}: it had seen that");
        }
    }
}

/// VACUUM writes its counts in place: no snapshot tells of it.
#[test]
fn what_vacuum_has_counted() {
    let _turn = turn();
    let cluster = start("in-place");
    let proxy = Proxy::start(&cluster, "");
    let mut wire = proxy.wire();
    settle(&mut wire);
    let mut rows = 0;
    for command in ["VACUUM load", "ANALYZE load"].repeat(5) {
        wire.run("INSERT INTO load SELECT generate_series(1, 1000)");
        rows += 1000;
        eventually("a standby serves", || {
            wire.value("SELECT count(*) FROM load");
            is_on_standby(&mut wire)
        });
        wire.run(command);
        let counted = wire.value("SELECT reltuples::int FROM pg_class WHERE relname = 'load'");
        assert_eq!(counted, rows.to_string(), "{command}");
    }
}

/// A connection that was given up in the middle of what may commit asynchronously is over once its process
/// is gone: sessions that commit synchronously are served by standbys although others leave WAL unflushed.
#[test]
fn a_unit_that_was_given_up_is_not_for_ever() {
    let _turn = turn();
    let cluster = start("given-up");
    let proxy = Proxy::start(&cluster, "");
    let mut own = proxy.wire();
    settle(&mut own);
    let mut given_up = proxy.wire();
    given_up.run("BEGIN");
    given_up.run("DO $$ BEGIN INSERT INTO mark VALUES (0); END $$");
    let process = given_up.value("SELECT pg_backend_pid()");
    given_up.vanish();
    let alive = format!("SELECT count(*) FROM pg_stat_activity WHERE pid = {process}");
    eventually("its process is gone", || {
        block_on(cluster.primary().query::<i64>(&alive)).unwrap() == 0
    });
    let direct = block_on(cluster.primary().connect(cluster.application())).unwrap();
    let load = crate::support::RUNTIME.spawn(async move {
        // One long transaction whose WAL nobody flushes but those who commit.
        let text = "DO $$ BEGIN LOOP INSERT INTO load VALUES (1); END LOOP; END $$";
        direct.batch_execute(text).await
    });
    let mut id = 0;
    let mut round = || {
        let served = (0..ROUNDS).filter(|_| {
            id += 1;
            own.run(&format!("INSERT INTO mark VALUES ({id})"));
            let found = own.value(&format!("SELECT count(*) FROM mark WHERE id = {id}"));
            assert_eq!(found, "1");
            is_on_standby(&mut own)
        });
        served.count()
    };
    let most = ROUNDS as usize / 2;
    assert!((0..4).any(|_| round() > most), "reads go to the primary");
    assert!(!load.is_finished(), "nothing was left unflushed");
    load.abort();
}
