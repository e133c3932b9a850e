//! An old primary comes back as a standby: rewound, or copied anew, or in spite of a kill half-way.

use std::fs;
use std::os::unix::fs::symlink;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::Signal;
use pgcauseway::agent::api::{JobState, RefusalCode, Role};
use pgcauseway::rig::{Cluster, Node, StopMode};

use super::support::{builder, client, freeze_copy, job, source, status};
use crate::support::{BOUND, becomes};

/// Kills the primary with a write that its standby lacks, and promotes the standby.
async fn fail_over(cluster: &Cluster) -> (Arc<Node>, Arc<Node>) {
    let [old, new, ..] = cluster.nodes() else {
        panic!("two nodes")
    };
    old.execute("create table t as select generate_series(1, 1000) as id")
        .await
        .unwrap();
    cluster.wait_caught_up().await.unwrap();
    // The standby hears no more of what the old primary writes from here on.
    new.execute("alter system set primary_conninfo = ''")
        .await
        .unwrap();
    new.reload().await.unwrap();
    becomes("the standby has let go", async || {
        new.query::<i64>("select count(*) from pg_stat_wal_receiver")
            .await
            .unwrap()
            == 0
    })
    .await;
    old.execute("insert into t select generate_series(5000, 6000)")
        .await
        .unwrap();
    for ahead in &cluster.nodes()[2..] {
        let all = "select max(id) = 6000 from t";
        ahead.wait_for("replay what is lost", all).await.unwrap();
    }
    old.kill().unwrap();
    new.promote().await.unwrap();
    new.execute("insert into t values (-1)").await.unwrap();
    (Arc::clone(old), Arc::clone(new))
}

/// Gives the standby a tablespace of the primary's, elsewhere on this machine, by a copy.
async fn with_tablespace(cluster: &Cluster) {
    let [primary, standby, ..] = cluster.nodes() else {
        panic!("two nodes")
    };
    let place = cluster.directory().join("tablespace");
    let (make, create) = (
        format!("copy (select 1) to program 'mkdir {}'", place.display()),
        format!("create tablespace elsewhere location '{}'", place.display()),
    );
    standby.kill().unwrap();
    for sql in [
        &*make,
        &create,
        "create table s tablespace elsewhere as select 1 as id",
    ] {
        primary.execute(sql).await.unwrap();
    }
    let agent = client(cluster, standby);
    let source = source(cluster, primary);
    agent.rejoin(1, source, true, BOUND).await.unwrap();
    let job = job(&agent).await;
    assert!(job.detail.starts_with("copied"), "{}", job.detail);
    let place = standby.data().with_file_name("tablespace");
    assert_eq!(location(standby).await, place.display().to_string());
}

async fn location(node: &Node) -> String {
    let sql = "select pg_tablespace_location(oid) from pg_tablespace where spcname = 'elsewhere'";
    node.query(sql).await.unwrap()
}

async fn assert_follows(old: &Node, new: &Node) {
    new.execute("insert into t values (-2)").await.unwrap();
    old.wait_replayed(new.written().await.unwrap())
        .await
        .unwrap();
    assert!(old.is_standby().await.unwrap());
    let (ours, theirs): (i64, i64) = (
        old.query("select sum(id) from t").await.unwrap(),
        new.query("select sum(id) from t").await.unwrap(),
    );
    assert_eq!(ours, theirs);
    let port: String = old.query("show port").await.unwrap();
    assert_eq!(port, old.port().to_string());
    let name: String = old.query("show cluster_name").await.unwrap();
    assert_eq!(name, old.name());
}

#[tokio::test]
async fn a_killed_primary_is_rewound() {
    let cluster = builder("rewind").standbys(1).start().await.unwrap();
    with_tablespace(&cluster).await;
    let (old, new) = fail_over(&cluster).await;
    let agent = client(&cluster, &old);
    let source = source(&cluster, &new);
    let begun = agent.rejoin(2, source.clone(), false, BOUND).await.unwrap();
    assert_eq!(begun.state, JobState::Running);
    // Asked again it is the same job; started meanwhile it is not.
    agent.rejoin(2, source, false, BOUND).await.unwrap();
    let busy = agent
        .start(2, Role::Standby, None, BOUND)
        .await
        .unwrap_err();
    assert_eq!(busy.refusal(), Some(RefusalCode::Busy));
    let job = job(&agent).await;
    println!("{job:?}");
    assert_eq!(job.state, JobState::Done, "{}", job.detail);
    assert!(job.detail.starts_with("rewound"), "{}", job.detail);
    assert_follows(&old, &new).await;
    assert_eq!(old.query::<i64>("select count(*) from s").await.unwrap(), 1);
    let told = status(&agent).await;
    assert_eq!((told.role, told.timeline), (Some(Role::Standby), Some(2)));
    assert!(!told.unfinished_rejoin && told.highest_epoch == 2);
    // The password is in a file of the agent's, and in no setting.
    let conninfo: String = old.query("show primary_conninfo").await.unwrap();
    assert!(
        conninfo.contains("passfile=") && !conninfo.contains("password"),
        "{conninfo}"
    );
}

#[tokio::test]
async fn what_cannot_be_rewound_is_copied_anew() {
    let builder = builder("copy").standbys(1).setting("wal_log_hints", "off");
    let cluster = builder.start().await.unwrap();
    with_tablespace(&cluster).await;
    let (old, new) = fail_over(&cluster).await;
    new.execute("insert into s values (2)").await.unwrap();
    let agent = client(&cluster, &old);
    agent
        .rejoin(2, source(&cluster, &new), false, BOUND)
        .await
        .unwrap();
    let job = job(&agent).await;
    println!("{job:?}");
    assert_eq!(job.state, JobState::Done, "{}", job.detail);
    assert!(job.detail.starts_with("copied"), "{}", job.detail);
    assert_follows(&old, &new).await;
    // Its tablespace is where it was, and nothing is left beside it.
    let place = cluster.directory().join("tablespace");
    assert_eq!(location(&old).await, place.display().to_string());
    assert_eq!(old.query::<i64>("select count(*) from s").await.unwrap(), 2);
    assert_eq!(std::fs::read_dir(&place).unwrap().count(), 1);
}

/// When to cut: at once, and at moments that differ from run to run and are printed.
fn cuts() -> Vec<u64> {
    let mut cuts = vec![0];
    cuts.extend((0..5).map(|_| rand::random_range(20..1_000)));
    cuts
}

#[tokio::test]
async fn a_rejoin_that_is_cut_short_anywhere_is_finished_by_the_next() {
    let cluster = builder("cut").standbys(1).start().await.unwrap();
    let (old, new) = fail_over(&cluster).await;
    let agent = client(&cluster, &old);
    let process = old.agent().unwrap();
    let source = source(&cluster, &new);
    for wait_ms in cuts() {
        agent.rejoin(2, source.clone(), false, BOUND).await.unwrap();
        tokio::time::sleep(Duration::from_millis(wait_ms)).await;
        let cut = status(&agent).await;
        process.kill().unwrap();
        process.start().await.unwrap();
        println!(
            "cut after {wait_ms} ms at {:?}",
            cut.job.map(|job| job.detail)
        );
        let told = status(&agent).await;
        if told.unfinished_rejoin {
            let error = agent
                .start(2, Role::Standby, None, BOUND)
                .await
                .unwrap_err();
            assert_eq!(error.refusal(), Some(RefusalCode::UnfinishedRejoin));
        }
    }
    agent.rejoin(2, source, false, BOUND).await.unwrap();
    let job = job(&agent).await;
    println!("{job:?}");
    assert_eq!(job.state, JobState::Done, "{}", job.detail);
    assert_follows(&old, &new).await;
}

/// A standby that was killed must not recover by itself: it would write on its primary's timeline.
#[tokio::test]
async fn killed_standbys_follow_again_also_from_beyond_the_fork() {
    let cluster = builder("standbys").standbys(2).start().await.unwrap();
    let [old, new, ahead] = cluster.nodes() else {
        panic!("three nodes")
    };
    // It has received and shown what the new primary lacks.
    fail_over(&cluster).await;
    let agent = client(&cluster, ahead);
    ahead.kill().unwrap();
    agent
        .rejoin(2, source(&cluster, new), false, BOUND)
        .await
        .unwrap();
    let back = job(&agent).await;
    println!("{back:?}");
    assert_eq!(back.state, JobState::Done, "{}", back.detail);
    assert_follows(ahead, new).await;

    ahead.kill().unwrap();
    agent
        .rejoin(3, source(&cluster, new), false, BOUND)
        .await
        .unwrap();
    let back = job(&agent).await;
    println!("{back:?}");
    assert!(
        back.detail.starts_with("streams as it was"),
        "{}",
        back.detail
    );
    assert_follows(ahead, new).await;
    assert!(old.pid().is_none());
}

/// The WAL on a volume of its own, and settings that another tool manages.
#[tokio::test]
async fn what_is_linked_stays_so_in_a_copy() {
    let cluster = builder("links").standbys(1).start().await.unwrap();
    let [primary, standby] = cluster.nodes() else {
        panic!("two nodes")
    };
    primary.execute("create table t (id int)").await.unwrap();
    cluster.wait_caught_up().await.unwrap();
    standby.stop(StopMode::Fast).await.unwrap();
    let data = standby.data();
    let (wal, managed) = (
        data.with_file_name("wal"),
        data.with_file_name("managed.conf"),
    );
    for (name, place) in [("pg_wal", &wal), ("postgresql.conf", &managed)] {
        fs::rename(data.join(name), place).unwrap();
        symlink(place, data.join(name)).unwrap();
    }
    let text = fs::read_to_string(&managed).unwrap();
    fs::write(&managed, format!("{text}\nwork_mem = '7MB'\n")).unwrap();
    let agent = client(&cluster, standby);
    for epoch in 1..3 {
        agent
            .rejoin(epoch, source(&cluster, primary), true, BOUND)
            .await
            .unwrap();
        let job = job(&agent).await;
        println!("{job:?}");
        assert!(job.detail.starts_with("copied"), "{}", job.detail);
        assert_eq!(fs::read_link(data.join("pg_wal")).unwrap(), wal);
        assert_eq!(
            fs::read_link(data.join("postgresql.conf")).unwrap(),
            managed
        );
        let set: String = standby.query("show work_mem").await.unwrap();
        assert_eq!(set, "7MB");
        let left = fs::read_dir(&wal).unwrap().filter(|entry| {
            let name = entry.as_ref().unwrap().file_name();
            name.to_string_lossy().starts_with("causeway.")
        });
        assert_eq!(left.count(), 0);
        primary.execute("insert into t values (-1)").await.unwrap();
        assert_follows(standby, primary).await;
    }
    // What is not known to be kept is refused before anything is touched.
    standby.stop(StopMode::Fast).await.unwrap();
    let xact = data.with_file_name("xact");
    fs::rename(data.join("pg_xact"), &xact).unwrap();
    symlink(&xact, data.join("pg_xact")).unwrap();
    agent
        .rejoin(3, source(&cluster, primary), true, BOUND)
        .await
        .unwrap();
    let refused = job(&agent).await;
    println!("{refused:?}");
    assert_eq!(refused.state, JobState::Failed);
    assert!(
        refused.detail.contains("pg_xact is a link to"),
        "{}",
        refused.detail
    );
    assert!(!status(&agent).await.unfinished_rejoin);
    standby.start().await.unwrap();
    assert_follows(standby, primary).await;
}

/// Somebody sees a standby that is down, while it is copied, and starts it.
#[tokio::test]
async fn what_is_started_by_hand_while_it_is_copied_is_left_alone() {
    let cluster = builder("by-hand").standbys(1).start().await.unwrap();
    let [primary, standby] = cluster.nodes() else {
        panic!("two nodes")
    };
    primary.execute("create table t (id int)").await.unwrap();
    cluster.wait_caught_up().await.unwrap();
    standby.kill().unwrap();
    let agent = client(&cluster, standby);
    agent
        .rejoin(1, source(&cluster, primary), true, BOUND)
        .await
        .unwrap();
    // It takes as long as a large one.
    let tools = freeze_copy(standby).await;
    standby.start().await.unwrap();
    standby.wait_streaming().await.unwrap();
    let pid = standby.pid().unwrap();
    for tool in tools {
        tool.signal(Signal::SIGCONT).unwrap();
    }
    let ended = job(&agent).await;
    println!("{ended:?}");
    assert_eq!(ended.state, JobState::Failed, "{}", ended.detail);
    let says_so = format!("another hand has started the server (process {pid})");
    assert!(ended.detail.contains(&says_so), "{}", ended.detail);
    assert_eq!(standby.pid(), Some(pid));
    assert!(!status(&agent).await.unfinished_rejoin);
    // Its files are there: new sessions read them, and what is written is received and kept.
    primary.execute("insert into t values (1)").await.unwrap();
    let written = primary.written().await.unwrap();
    standby.wait_replayed(written).await.unwrap();
    assert!(standby.data().join("postmaster.pid").exists());
    let read = "select count(*) from t";
    assert_eq!(standby.query::<i64>(read).await.unwrap(), 1);
}

#[tokio::test]
async fn a_rejoin_gives_way_to_a_lease() {
    let cluster = builder("gives-way").standbys(1).start().await.unwrap();
    let [old, new] = cluster.nodes() else {
        panic!("two nodes")
    };
    old.execute("create table t (id int)").await.unwrap();
    cluster.wait_caught_up().await.unwrap();
    // It does not replay what it has received, nor stream once it was started again: the job goes on.
    new.execute("alter system set recovery_min_apply_delay = '1h'")
        .await
        .unwrap();
    new.reload().await.unwrap();
    old.execute("insert into t values (1)").await.unwrap();
    let agent = client(&cluster, new);
    agent
        .rejoin(2, source(&cluster, old), false, BOUND)
        .await
        .unwrap();
    becomes("it was started and waits", async || {
        let job = status(&agent).await.job.unwrap();
        job.detail.starts_with("start as a standby") && new.query::<i32>("select 1").await.is_ok()
    })
    .await;
    let pid = new.pid().unwrap();
    let ttl = Duration::from_secs(600);
    becomes("it is granted a lease", async || {
        agent.lease(3, "a", ttl, BOUND).await.is_ok()
    })
    .await;
    new.promote().await.unwrap();
    let ended = job(&agent).await;
    println!("{ended:?}");
    assert_eq!(ended.state, JobState::Failed, "{}", ended.detail);
    assert_eq!(new.pid(), Some(pid), "nothing stops who has a lease");
    assert_eq!(new.query::<i64>("select count(*) from t").await.unwrap(), 1);
    new.execute("insert into t values (2)").await.unwrap();
    let told = status(&agent).await;
    assert!(told.lease.is_some() && !told.unfinished_rejoin, "{told:?}");
    let late = agent.rejoin(3, source(&cluster, old), false, BOUND).await;
    assert_eq!(late.unwrap_err().refusal(), Some(RefusalCode::OtherRole));
}

#[tokio::test]
async fn neither_another_cluster_nor_a_dead_source_costs_any_data() {
    let cluster = builder("mine").standbys(0).start().await.unwrap();
    let other = Cluster::builder("other").standbys(0).own_history(true);
    let other = other.start().await.unwrap();
    let node = cluster.primary();
    let agent = client(&cluster, node);
    node.execute("create table t as select 1 as id")
        .await
        .unwrap();
    let pid = node.pid();
    agent
        .rejoin(1, source(&cluster, other.primary()), false, BOUND)
        .await
        .unwrap();
    let refused = job(&agent).await;
    assert_eq!(node.pid(), pid, "nothing was stopped");
    assert_eq!(refused.state, JobState::Failed);
    assert!(
        refused.detail.contains("another cluster"),
        "{}",
        refused.detail
    );
    assert!(!status(&agent).await.unfinished_rejoin);

    // A primary under a lease is not made a standby by mistake.
    agent
        .lease(2, "a", Duration::from_secs(600), BOUND)
        .await
        .unwrap();
    agent.start(2, Role::Primary, None, BOUND).await.unwrap();
    let error = agent
        .rejoin(2, source(&cluster, other.primary()), false, BOUND)
        .await
        .unwrap_err();
    assert_eq!(error.refusal(), Some(RefusalCode::OtherRole));
    assert_eq!(
        node.query::<i64>("select count(*) from t").await.unwrap(),
        1
    );
}
