//! The rig keeps its word: clusters come up, break as told, come back, and leave no trace.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use nix::sys::signal::kill;
use nix::unistd::Pid;
use pgcauseway::config::{Config, Secret};
use pgcauseway::rig::{
    Binaries, Cluster, Login, Node, RigError, StopMode, demo_cluster, find_binaries,
};
use tokio::io::{AsyncBufReadExt, BufReader};

use crate::support::{BOUND, becomes, need, this_test};

async fn count(node: &Node, table: &str) -> i64 {
    node.query(&format!("select count(*) from {table}"))
        .await
        .unwrap()
}

fn exists(pid: i32) -> bool {
    kill(Pid::from_raw(pid), None).is_ok()
}

/// Whether any process was started with the directory on its command line.
fn anyone_in(directory: &Path) -> bool {
    let directory = directory.to_str().unwrap();
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    processes
        .filter_map(|process| std::fs::read(process.path().join("cmdline")).ok())
        .any(|command| String::from_utf8_lossy(&command).contains(directory))
}

#[tokio::test]
async fn a_primary_and_two_standbys_replicate() {
    let cluster = Cluster::builder("replicate").start().await.unwrap();
    let primary = cluster.primary();
    assert_eq!(cluster.standbys().len(), 2);
    primary
        .execute("create table t as select generate_series(1, 1000)")
        .await
        .unwrap();
    cluster.wait_caught_up().await.unwrap();
    for standby in cluster.standbys() {
        assert_eq!(count(standby, "t").await, 1000);
        assert!(standby.is_standby().await.unwrap());
    }
    let names: Vec<String> = primary
        .query(
            "select array_agg(application_name order by application_name) from pg_stat_replication",
        )
        .await
        .unwrap();
    assert_eq!(names, ["pg2", "pg3"]);

    // The application owns its database, the monitor sees replication, and neither is more.
    let demo = primary.connect(cluster.application()).await.unwrap();
    demo.batch_execute("create table own (id int)")
        .await
        .unwrap();
    let monitor = primary
        .connect(&cluster.credentials().monitor)
        .await
        .unwrap();
    let seen = "select count(replay_lsn) from pg_stat_replication";
    assert_eq!(
        monitor.query_one(seen, &[]).await.unwrap().get::<_, i64>(0),
        2
    );
    assert!(monitor.batch_execute("create role another").await.is_err());
}

#[tokio::test]
async fn a_password_is_asked_for() {
    let cluster = Cluster::builder("password")
        .standbys(0)
        .start()
        .await
        .unwrap();
    let wrong = Login::new("demo", "wrong", "demo");
    let error = cluster
        .primary()
        .connect(&wrong)
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with("could not connect on pg1: password auth"),
        "{error}"
    );
    let method: String = cluster
        .primary()
        .query("show password_encryption")
        .await
        .unwrap();
    assert_eq!(method, "scram-sha-256");
}

#[tokio::test]
async fn a_delayed_standby_lags_and_a_paused_one_holds() {
    let hour = Duration::from_secs(3600);
    let cluster = Cluster::builder("lag")
        .replay_delay(2, hour)
        .start()
        .await
        .unwrap();
    let [primary, prompt, delayed] = cluster.nodes() else {
        panic!("three nodes")
    };
    primary.execute("create table t as select 1").await.unwrap();
    let created = primary.written().await.unwrap();
    prompt.wait_replayed(created).await.unwrap();
    assert!(delayed.replayed().await.unwrap() < created);
    delayed.set_replay_delay(Duration::ZERO).await.unwrap();
    delayed.wait_replayed(created).await.unwrap();

    prompt.pause_replay().await.unwrap();
    primary.execute("insert into t values (2)").await.unwrap();
    let inserted = primary.written().await.unwrap();
    delayed.wait_replayed(inserted).await.unwrap();
    assert_eq!(
        (count(prompt, "t").await, count(delayed, "t").await),
        (1, 2)
    );
    prompt.resume_replay().await.unwrap();
    prompt.wait_replayed(inserted).await.unwrap();
    assert_eq!(count(prompt, "t").await, 2);
}

#[tokio::test]
async fn killed_nodes_come_back_with_what_they_held() {
    let cluster = Cluster::builder("killed")
        .standbys(1)
        .start()
        .await
        .unwrap();
    let [primary, standby] = cluster.nodes() else {
        panic!("two nodes")
    };
    primary.execute("create table t as select 1").await.unwrap();
    standby.kill().unwrap();
    assert_eq!(standby.pid(), None);
    assert!(matches!(standby.admin().await, Err(RigError::Sql { .. })));
    primary.execute("insert into t values (2)").await.unwrap();
    standby.start().await.unwrap();
    standby.wait_streaming().await.unwrap();
    cluster.wait_caught_up().await.unwrap();
    assert_eq!(count(standby, "t").await, 2);

    // The primary, once by its postmaster alone, under a session that still works.
    let session = primary.admin().await.unwrap();
    let sleeper = tokio::spawn(async move { session.batch_execute("select pg_sleep(60)").await });
    primary
        .wait_for(
            "run the sleeper",
            "select exists (select from pg_stat_activity where wait_event = 'PgSleep')",
        )
        .await
        .unwrap();
    primary.kill_postmaster().unwrap();
    primary.start().await.unwrap();
    assert!(sleeper.await.unwrap().is_err());
    primary.kill().unwrap();
    primary.start().await.unwrap();
    primary.execute("insert into t values (3)").await.unwrap();
    standby.wait_streaming().await.unwrap();
    cluster.wait_caught_up().await.unwrap();
    assert_eq!(count(standby, "t").await, 3);
    for mode in [StopMode::Smart, StopMode::Fast, StopMode::Immediate] {
        standby.restart(mode).await.unwrap();
    }
}

#[tokio::test]
async fn a_frozen_node_answers_nothing_until_it_is_thawed() {
    let cluster = Cluster::builder("frozen")
        .standbys(1)
        .start()
        .await
        .unwrap();
    let [primary, standby] = cluster.nodes() else {
        panic!("two nodes")
    };
    let session = standby.admin().await.unwrap();
    standby.freeze().unwrap();
    let frozen = Duration::from_millis(300);
    assert!(
        tokio::time::timeout(frozen, session.query_one("select 1", &[]))
            .await
            .is_err()
    );
    assert!(tokio::time::timeout(frozen, standby.admin()).await.is_err());
    assert!(
        tokio::net::TcpStream::connect(("127.0.0.1", standby.port()))
            .await
            .is_ok()
    );
    primary.execute("create table t as select 1").await.unwrap();
    standby.thaw().unwrap();
    cluster.wait_caught_up().await.unwrap();
    session.query_one("select * from t", &[]).await.unwrap();
    // A frozen node can be killed, and dropped with the cluster.
    standby.freeze().unwrap();
    standby.kill().unwrap();
    primary.freeze().unwrap();
}

#[tokio::test]
async fn a_standby_is_promoted_and_the_old_primary_reseeded_from_it() {
    let cluster = Cluster::builder("promote")
        .standbys(1)
        .start()
        .await
        .unwrap();
    let [old, new] = cluster.nodes() else {
        panic!("two nodes")
    };
    old.execute("create table t as select 1").await.unwrap();
    cluster.wait_caught_up().await.unwrap();
    old.kill().unwrap();
    new.promote().await.unwrap();
    new.execute("insert into t values (2)").await.unwrap();
    cluster.reseed(old, new).await.unwrap();
    old.wait_replayed(new.written().await.unwrap())
        .await
        .unwrap();
    assert_eq!(count(old, "t").await, 2);
    assert!(old.is_standby().await.unwrap());
}

/// A failover by hand, as the monitoring role and the replication login: what scripts/grants.sql
/// grants them is enough, and neither is a superuser.
#[tokio::test]
async fn the_grants_suffice_for_a_failover() {
    if !need("postgresql-15") {
        return;
    }
    let cluster = Cluster::builder("grants").start().await.unwrap();
    let [old, new, other] = cluster.nodes() else {
        panic!("three nodes")
    };
    let superusers: i64 = old
        .query("select count(*) from pg_roles where rolsuper and rolname in ('causeway', 'replicator')")
        .await
        .unwrap();
    assert_eq!(superusers, 0);
    old.execute("create table t as select 1").await.unwrap();
    cluster.wait_caught_up().await.unwrap();
    let (monitor, replication) = (
        &cluster.credentials().monitor,
        &cluster.credentials().replication,
    );

    // Detach the standbys, and end the sessions on the primary before it is stopped.
    for standby in [new, other] {
        let session = standby.connect(monitor).await.unwrap();
        session
            .batch_execute("alter system set primary_conninfo = ''")
            .await
            .unwrap();
        session
            .batch_execute("select pg_reload_conf()")
            .await
            .unwrap();
        standby
            .wait_for(
                "detach",
                "select not exists (select from pg_stat_wal_receiver)",
            )
            .await
            .unwrap();
    }
    let victim = old.connect(cluster.application()).await.unwrap();
    let session = old.connect(monitor).await.unwrap();
    session
        .batch_execute(
            "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'demo'",
        )
        .await
        .unwrap();
    assert!(victim.batch_execute("select 1").await.is_err());
    old.stop(StopMode::Immediate).await.unwrap();

    // Promote, and let the other one follow.
    let session = new.connect(monitor).await.unwrap();
    let promoted = session
        .query_one("select pg_promote(true, 60)", &[])
        .await
        .unwrap();
    assert!(promoted.get::<_, bool>(0));
    session.batch_execute("checkpoint").await.unwrap();
    let follow = format!(
        "alter system set primary_conninfo = 'host=127.0.0.1 port={} user={} password={} \
         application_name=pg3'",
        new.port(),
        replication.user,
        replication.password
    );
    let session = other.connect(monitor).await.unwrap();
    session.batch_execute(&follow).await.unwrap();
    session
        .batch_execute("select pg_reload_conf()")
        .await
        .unwrap();
    other.wait_streaming().await.unwrap();
    other
        .wait_for(
            "follow the new timeline",
            "select received_tli = 2 from pg_stat_wal_receiver",
        )
        .await
        .unwrap();

    // A quorum: a commit now waits for the standby.
    let session = new.connect(monitor).await.unwrap();
    session
        .batch_execute("alter system set synchronous_standby_names = 'ANY 1 (pg3)'")
        .await
        .unwrap();
    session
        .batch_execute("select pg_reload_conf()")
        .await
        .unwrap();
    new.wait_for(
        "wait for the standby",
        "select exists (select from pg_stat_replication where sync_state = 'quorum')",
    )
    .await
    .unwrap();
    new.execute("insert into t values (2)").await.unwrap();
    other
        .wait_replayed(new.written().await.unwrap())
        .await
        .unwrap();
    assert_eq!(count(other, "t").await, 2);

    // What pg_rewind asks of its source.
    let session = new.connect(replication).await.unwrap();
    session
        .batch_execute(
            "select pg_ls_dir('.', true, false); select pg_stat_file('PG_VERSION', true); \
             select pg_read_binary_file('PG_VERSION'); \
             select pg_read_binary_file('PG_VERSION', 0, 10, true)",
        )
        .await
        .unwrap();
}

#[tokio::test]
async fn nothing_is_left_of_a_dropped_cluster() {
    let cluster = Cluster::builder("dropped")
        .standbys(1)
        .start()
        .await
        .unwrap();
    let directory = cluster.directory().to_owned();
    let pids: Vec<i32> = cluster
        .nodes()
        .iter()
        .filter_map(|node| node.pid())
        .collect();
    assert_eq!(pids.len(), 2);
    assert!(anyone_in(&directory));
    drop(cluster);
    assert!(!directory.exists());
    assert!(!pids.into_iter().any(exists));
    assert!(!anyone_in(&directory), "not even the watchdog");
}

#[tokio::test]
async fn a_directory_is_kept_when_asked_and_refused_when_used() {
    let directory = std::env::temp_dir().join(format!("causeway-kept-{}", std::process::id()));
    let builder = Cluster::builder("kept")
        .standbys(0)
        .directory(&directory)
        .keep(true);
    let cluster = builder.clone().start().await.unwrap();
    cluster.stop().await.unwrap();
    assert!(directory.join("pg1/postgres.log").is_file());
    assert!(!directory.join("pg1/data/postmaster.pid").exists());
    let error = builder.start().await.unwrap_err();
    assert!(matches!(error, RigError::DirectoryInUse { .. }), "{error}");
    std::fs::remove_dir_all(&directory).unwrap();
}

#[tokio::test]
async fn a_server_that_cannot_start_says_why_and_leaves_nothing() {
    let directory = std::env::temp_dir().join(format!("causeway-bad-{}", std::process::id()));
    let builder = Cluster::builder("bad")
        .directory(&directory)
        .setting("work_mem", "much");
    let error = builder.start().await.unwrap_err();
    assert!(matches!(error, RigError::Exited { .. }), "{error}");
    assert!(
        error
            .to_string()
            .contains("invalid value for parameter \"work_mem\""),
        "{error}"
    );
    assert!(!directory.exists());
}

#[tokio::test]
async fn parallel_clusters_have_ports_of_their_own() {
    let one = Cluster::builder("parallel").standbys(1);
    let other = one.clone();
    let (one, other) = tokio::join!(one.start(), other.start());
    let (one, other) = (one.unwrap(), other.unwrap());
    let both = one.nodes().iter().chain(other.nodes());
    let mut ports: Vec<u16> = both.map(|node| node.port()).collect();
    ports.sort_unstable();
    ports.dedup();
    assert_eq!(ports.len(), 4);
}

/// Started by the next test, to be killed.
#[tokio::test]
#[ignore = "holds a cluster until it is killed; another test runs it"]
async fn hold_a_cluster() {
    let cluster = Cluster::builder("held").standbys(1).start().await.unwrap();
    cluster.standbys()[0].freeze().unwrap();
    let pids: Vec<String> = cluster
        .nodes()
        .iter()
        .filter_map(|node| node.pid())
        .map(|pid| pid.to_string())
        .collect();
    println!(
        "\nheld {} {}",
        cluster.directory().display(),
        pids.join(" ")
    );
    tokio::time::sleep(BOUND).await;
}

#[tokio::test]
async fn nothing_is_left_when_the_process_is_killed() {
    let mut holder = tokio::process::Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            this_test!("hold_a_cluster"),
            "--ignored",
            "--nocapture",
        ])
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(holder.stdout.take().unwrap()).lines();
    let held = loop {
        let line = lines.next_line().await.unwrap().expect("the holder lives");
        if let Some(held) = line.strip_prefix("held ") {
            break held.to_owned();
        }
    };
    let (directory, pids) = held.split_once(' ').unwrap();
    let pids: Vec<i32> = pids.split(' ').map(|pid| pid.parse().unwrap()).collect();
    assert!(pids.len() == 2 && pids.iter().all(|pid| exists(*pid)));
    holder.kill().await.unwrap();
    becomes("the directory goes", async || {
        !Path::new(directory).exists()
    })
    .await;
    becomes("the servers go", async || {
        !pids.iter().any(|pid| exists(*pid))
    })
    .await;
    becomes("the watchdog goes", async || {
        !anyone_in(Path::new(directory))
    })
    .await;
}

/// The directories of all versions that Debian's packages have installed, or those in
/// `CAUSEWAY_PG_BINS` (colons between).
fn versions() -> Vec<PathBuf> {
    if let Some(directories) = std::env::var_os("CAUSEWAY_PG_BINS") {
        return std::env::split_paths(&directories).collect();
    }
    let installed = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten();
    let directories = installed.map(|version| version.unwrap().path().join("bin"));
    let mut found: Vec<_> = directories
        .filter(|bin| bin.join("initdb").exists())
        .collect();
    if found.is_empty() {
        found.push(find_binaries().unwrap().directory().to_owned());
    }
    found
}

/// The life of a cluster in one go, on each version.
#[tokio::test]
async fn other_versions_do_the_same() {
    for directory in versions() {
        let binaries = Binaries::in_directory(directory).unwrap();
        let version = binaries.version().to_owned();
        let started = Instant::now();
        let builder = Cluster::builder("versions").binaries(binaries);
        let cluster = builder
            .start()
            .await
            .unwrap_or_else(|error| panic!("{version}: {error}"));
        println!("{version}: up in {:?}", started.elapsed());
        let [primary, standby, other] = cluster.nodes() else {
            panic!("three nodes")
        };
        primary.execute("create table t as select 1").await.unwrap();
        cluster.wait_caught_up().await.unwrap();
        standby.pause_replay().await.unwrap();
        standby.resume_replay().await.unwrap();
        standby
            .set_replay_delay(Duration::from_millis(50))
            .await
            .unwrap();
        standby.kill().unwrap();
        standby.start().await.unwrap();
        other.freeze().unwrap();
        other.thaw().unwrap();
        primary.execute("insert into t values (2)").await.unwrap();
        cluster.wait_caught_up().await.unwrap();
        primary.stop(StopMode::Fast).await.unwrap();
        standby.promote().await.unwrap();
        cluster.reseed(primary, standby).await.unwrap();
        primary
            .wait_replayed(standby.written().await.unwrap())
            .await
            .unwrap();
        assert_eq!(count(primary, "t").await, 2);
        println!("{version}: all done after {:?}", started.elapsed());
    }
}

#[tokio::test]
async fn the_demo_cluster_tells_a_proxy_all_it_needs() {
    let demo = demo_cluster(1, None, None).await.unwrap();
    let text = format!("log: {{ filter: warn }}\n{}", demo.yaml());
    let config = Config::parse("demo", &text, &|_| None).unwrap();
    let named: Vec<(&str, u16)> = config
        .nodes
        .iter()
        .map(|node| (&*node.name, node.port))
        .collect();
    let [primary, standby] = demo.cluster.nodes() else {
        panic!("two nodes")
    };
    assert_eq!(named, [("pg1", primary.port()), ("pg2", standby.port())]);
    let secret = |secret: &Option<Secret>| secret.as_ref().unwrap().reveal().to_owned();
    let monitor = Login::new(
        &config.monitor.user,
        &secret(&config.monitor.password),
        "postgres",
    );
    standby.connect(&monitor).await.unwrap();
    let password = secret(&config.auth.users["demo"].server_password);
    standby
        .connect(&Login::new("demo", &password, "demo"))
        .await
        .unwrap();
    assert_eq!(primary.query::<String>("show fsync").await.unwrap(), "on");
}

#[test]
fn installed_binaries_are_found() {
    let found = find_binaries().unwrap();
    assert!(found.major() >= 13);
    assert!(found.version().starts_with(&found.major().to_string()));
}
