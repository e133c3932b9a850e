//! The docker rig for real: brought up by `docker/up`, broken by `docker/chaos`, judged by `docker/verify`
//! and by writers of our own, taken down without leftovers.

mod rig;

use std::time::{Duration, Instant};

use rig::Rig;

use crate::support::history::writers::TABLE;
use crate::support::history::{Fate, History, Route, Rows, Writers};
use crate::support::{block_on, connect, eventually, need};

#[test]
fn the_rig_keeps_its_promises_through_failures() {
    if !need("docker") {
        return;
    }
    let rig = Rig::up();
    let first = rig.settled();
    assert_eq!((&*first.primary, first.epoch), ("pg1", 1), "{first:?}");
    everybody_is_healthy_and_nobody_is_root(&rig);
    let writers = write(&rig);
    acknowledged(&writers);

    let begun = Instant::now();
    let done = |what: &str| println!("{what} after {:?}", begun.elapsed());
    killed(&rig, &writers);
    done("the killed primary is a standby");
    partitioned(&rig, &writers);
    done("the primary that was cut off is a standby");
    frozen(&rig, &writers);
    done("the frozen standby goes on");
    stopped_in_good_order(&rig);
    done("the standby that was stopped is back");

    no_zombies(&rig);
    everybody_is_healthy_and_nobody_is_root(&rig);
    the_pages_answer(&rig);
    the_load_saw_nothing_wrong(&rig);
    nothing_is_lost(&rig, &writers.stop());
    rig.down();
}

const PROXIES: [&str; 2] = ["proxy1", "proxy2"];

/// Starts a writer of our own on each proxy.
fn write(rig: &Rig) -> Writers {
    let routes = PROXIES.into_iter().zip(rig.proxies()).map(|(name, proxy)| {
        let url = format!("postgresql://demo:demo@{}/demo", proxy.sql);
        Route::through(name, &url, Duration::from_millis(20))
    });
    let routes: Vec<_> = routes.collect();
    block_on(async { connect(&routes[0].url).await.batch_execute(TABLE).await }).unwrap();
    Writers::start((0..).zip(routes))
}

/// Waits until writes that began after now are acknowledged through each proxy.
fn acknowledged(writers: &Writers) {
    for proxy in PROXIES {
        block_on(writers.acknowledged_via(proxy, 20));
    }
}

/// Looks on the primary for everything that was acknowledged.
fn nothing_is_lost(rig: &Rig, history: &History) {
    let sql = "SELECT session, number FROM history";
    let psql = ["psql", "-XAtq", "-F", " ", "-d", "demo", "-c", sql];
    let rows = rig.inside(&rig.settled().primary, &psql);
    let rows = rows.expect("the primary is asked");
    let rows = rows.lines().map(|row| {
        let (session, number) = row.split_once(' ').unwrap();
        (session.parse().unwrap(), number.parse().unwrap())
    });
    let found = history.check_rows(&rows.collect::<Rows>());
    println!("writes of our own: {found}");
    assert!(history.count(Fate::Acknowledged) >= 200, "{found}");
    assert!(found.lost.is_empty(), "{found}");
    assert!(found.two_primaries.is_empty(), "{found}");
}

/// The primary's container dies: another leads, and what was killed comes back as a standby.
fn killed(rig: &Rig, writers: &Writers) {
    let before = rig.settled();
    rig.chaos(&["kill", &before.primary]);
    let after = rig.led_by_another(&before);
    acknowledged(writers);
    rig.chaos(&["heal", &before.primary]);
    let settled = rig.settled();
    assert_eq!(settled.primary, after.primary, "it leads still");
}

/// The primary is cut off: another leads, and its own agent stops it.
fn partitioned(rig: &Rig, writers: &Writers) {
    let before = rig.settled();
    rig.chaos(&["partition", &before.primary]);
    rig.led_by_another(&before);
    acknowledged(writers);
    eventually("the agent of the primary that is cut off stops it", || {
        rig.inside(&before.primary, &["pg_isready", "--quiet"])
            .is_none()
    });
    rig.chaos(&["heal", &before.primary]);
    rig.settled();
}

/// One standby stands still and the other is late: nobody leads instead, and commits go on.
fn frozen(rig: &Rig, writers: &Writers) {
    let before = rig.settled();
    let [frozen, late] = &*before.standbys else {
        panic!("{before:?}");
    };
    rig.chaos(&["lag", late, "300"]);
    rig.chaos(&["freeze", frozen]);
    eventually("the frozen standby counts as down", || {
        rig.standings()
            .iter()
            .all(|standing| standing.down.contains(frozen))
    });
    acknowledged(writers);
    rig.chaos(&["thaw", frozen]);
    rig.chaos(&["heal"]);
    let after = rig.settled();
    assert_eq!(after.primary, before.primary);
}

/// `docker stop` of a standby: the signal reaches the agent, which stops the server first.
fn stopped_in_good_order(rig: &Rig) {
    let standby = rig.settled().standbys.remove(0);
    let container = rig.container(&standby);
    rig::docker(&["stop", "--time", "60", &container]);
    let code = rig::docker(&["inspect", "--format", "{{.State.ExitCode}}", &container]);
    assert_eq!(code, "0", "{}", rig.log(&standby));
    let log = rig.log(&standby);
    let last = log.lines().rev().find(|line| line.contains("stopped"));
    assert!(
        last.is_some_and(|line| line.contains("with the agent") && line.contains("Asked")),
        "{log}"
    );
    rig.chaos(&["heal", &standby]);
    rig.settled();
}

fn everybody_is_healthy_and_nobody_is_root(rig: &Rig) {
    for service in [
        "pg1",
        "pg2",
        "pg3",
        "proxy1",
        "proxy2",
        "etcd",
        "prometheus",
    ] {
        let container = rig.container(service);
        let health = [
            "inspect",
            "--format",
            "{{.State.Health.Status}}",
            &container,
        ];
        eventually(&format!("{service} is healthy"), || {
            rig::docker(&health) == "healthy"
        });
        let user = rig.inside(service, &["id", "-u"]);
        assert_eq!(user.as_deref(), Some("10001"), "{service}");
    }
}

/// What a killed server leaves behind is collected by the container's first process.
fn no_zombies(rig: &Rig) {
    for node in rig::NODES {
        let look = "for file in /proc/[0-9]*/stat; do cat $file; done 2>/dev/null; true";
        eventually(&format!("there are no zombies on {node}"), || {
            let processes = rig.inside(node, &["sh", "-c", look]).unwrap();
            assert!(processes.contains("(postgres)"), "{processes}");
            !processes.contains(") Z ")
        });
    }
}

fn the_pages_answer(rig: &Rig) {
    for proxy in rig.proxies() {
        let page = rig::get(&proxy.http, "/").unwrap();
        assert!(page.contains("<title>"), "{page}");
        let metrics = rig::get(&proxy.http, "/metrics").unwrap();
        assert!(metrics.contains("causeway_build_info"), "{metrics}");
    }
    let prometheus = rig.published("prometheus", 9090);
    eventually("Prometheus reaches both proxies", || {
        let targets = rig::json(&prometheus, "/api/v1/targets?state=active");
        let targets = targets["data"]["activeTargets"].as_array().cloned();
        let targets = targets.unwrap_or_default();
        let up = |name: &str| {
            targets.iter().any(|target| {
                let url = target["scrapeUrl"].as_str().unwrap_or_default();
                url.contains(name) && target["health"] == "up"
            })
        };
        up("proxy1:9432") && up("proxy2:9432")
    });
    eventually("Prometheus has what the proxies know of the nodes", || {
        let answer = rig::json(&prometheus, "/api/v1/query?query=sum(causeway_node_up)");
        answer["data"]["result"][0]["value"][1] == "6"
    });
}

fn the_load_saw_nothing_wrong(rig: &Rig) {
    let (code, report) = rig.verify();
    println!("{report}");
    assert_eq!(code, Some(0), "{report}");
    assert!(report.contains("\nno violation"), "{report}");
    let missing = "acknowledged writes missing at the end: ";
    let missing = report.lines().find_map(|line| line.strip_prefix(missing));
    let sought = missing.and_then(|text| text.strip_prefix("0 of "));
    let sought = sought.and_then(|text| text.split(' ').next()?.parse::<u64>().ok());
    assert!(sought.is_some_and(|sought| sought > 500), "{report}");
    let replicas = report.lines().find(|line| line.starts_with("reads "));
    assert!(replicas.is_some_and(|line| !line.contains(" 0.0 % on replicas")));
}
