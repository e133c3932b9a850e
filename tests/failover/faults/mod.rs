//! A fault at night: each of the listed faults is made on real servers, and both the status alone and the
//! log alone tell which one it is. docs/faults.md is printed from the same list.

mod rows;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::support::{self, BOUND, PROGRAM, block_on, eventually, in_namespaces, need, this_test};
use pgcauseway::rig::{Cluster, Etcd, Host, Net, Node, Proxy};
use rows::{ROWS, Row, print, row};
use serde_json::Value;

const PRINTED: &str = "docs/faults.md";
/// A busy machine is not a failed node.
const FAILOVER: &str = "timeout: 4s\nlease: 4s";

/// A proxy before a cluster, and whom faults concern.
struct Scene<'a> {
    cluster: &'a Cluster,
    proxy: Proxy,
    primary: Arc<Node>,
    standby: Arc<Node>,
}

impl<'a> Scene<'a> {
    /// Starts a proxy, and waits until nothing is wrong.
    fn open(
        cluster: &'a Cluster,
        name: &str,
        host: Option<&Host>,
        failover: &str,
        more: &str,
    ) -> Self {
        let yaml = cluster
            .yaml()
            .replacen("monitor:\n", "monitor:\n  timeout: 4s\n", 1);
        let yaml = format!("{yaml}{}{more}", cluster.failover_yaml(failover));
        let proxy = Proxy::new(cluster, name, host, Path::new(PROGRAM), &yaml).unwrap();
        block_on(proxy.start()).unwrap();
        let mut leader = None;
        eventually("nothing is wrong", || {
            let status = status(&proxy);
            let nodes = status["nodes"].as_array().cloned().unwrap_or_default();
            let up = nodes.iter().filter(|node| node["state"] == "up").count();
            let standbys = nodes
                .iter()
                .filter(|node| node["role"] == "standby")
                .count();
            leader = status["primary"].as_str().map(str::to_owned);
            let quiet = |list: &Value| list.as_array().is_some_and(Vec::is_empty);
            up == 3
                && standbys == 2
                && leader.is_some()
                && status["failover"]["phase"] == "steady"
                && quiet(&status["troubles"])
                && quiet(&status["failover"]["quarantine"])
        });
        let named = |is: bool| {
            let mut nodes = cluster.nodes().iter();
            let found = nodes.rfind(|node| (Some(node.name()) == leader.as_deref()) == is);
            Arc::clone(found.unwrap())
        };
        Self {
            cluster,
            primary: named(true),
            standby: named(false),
            proxy,
        }
    }

    /// Waits until both tell the fault, and holds that they tell no other.
    fn told(&self, row: &Row) {
        let until = Instant::now() + BOUND;
        loop {
            let (status, log) = (lines(&status(&self.proxy)), self.log());
            if self.tells(row, row.status, &status) && self.tells(row, row.log, &log) {
                for (what, text) in [("status", &status), ("log", &log)] {
                    for other in ROWS.iter().filter(|other| other.id != row.id) {
                        let words = if what == "status" {
                            other.status
                        } else {
                            other.log
                        };
                        assert!(
                            !self.tells(other, words, text),
                            "the {what} of `{}` would do for `{}`:\n{text}",
                            row.id,
                            other.id
                        );
                    }
                }
                println!("{}\n{status}\n{log}", row.id);
                return;
            }
            assert!(
                Instant::now() < until,
                "`{}` is not told within {BOUND:?}:\n{status}\n{log}",
                row.id
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn tells(&self, row: &Row, words: &[&str], text: &str) -> bool {
        let named = |word: &str| {
            word.replace("{p}", self.primary.name())
                .replace("{s}", self.standby.name())
        };
        words.iter().all(|word| text.contains(&named(word)))
            && !row.never.iter().any(|word| text.contains(&named(word)))
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.proxy.log()).unwrap_or_default()
    }

    fn on_primary(&self, sql: &str) {
        block_on(self.primary.execute(sql)).unwrap();
    }
}

/// `/api/status`; nothing while it is not served.
fn status(proxy: &Proxy) -> Value {
    support::http::status_if_any(proxy.http())
}

/// The status as lines.
fn lines(status: &Value) -> String {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or("none").to_owned();
    let failover = &status["failover"];
    let mut lines = vec![
        format!("primary: {}", text(&status["primary"])),
        format!("phase: {}", text(&failover["phase"])),
        format!("why: {}", text(&failover["why"])),
    ];
    for node in list(&status["nodes"]) {
        let (name, state) = (text(&node["name"]), text(&node["state"]));
        lines.push(format!("{name} is {state}, {}", text(&node["role"])));
        if let Some(waiting) = node["pool"]["waiting"].as_i64().filter(|count| *count > 0) {
            lines.push(format!("clients waiting at {name}: {waiting}"));
        }
    }
    for pair in list(&failover["quarantine"]) {
        lines.push(format!(
            "{} serves nobody: {}",
            text(&pair[0]),
            text(&pair[1])
        ));
    }
    for trouble in list(&status["troubles"]) {
        let [node, kind, what] = ["node", "kind", "text"].map(|key| text(&trouble[key]));
        lines.push(format!("{node} ({kind}): {what}"));
    }
    for event in list(&status["events"]) {
        lines.push(format!(
            "{}: {}",
            text(&event["kind"]),
            text(&event["text"])
        ));
    }
    lines.join("\n")
}

fn cluster(name: &str) -> Cluster {
    block_on(Cluster::builder(name).agents(PROGRAM).start()).unwrap()
}

#[test]
fn the_printed_list_is_up_to_date() {
    let text = print();
    if std::env::var_os("CAUSEWAY_WRITE_DOCS").is_some() {
        std::fs::write(PRINTED, &text).unwrap();
    }
    let file = std::fs::read_to_string(PRINTED).unwrap_or_default();
    assert!(
        file == text,
        "{PRINTED} is stale: CAUSEWAY_WRITE_DOCS=1 cargo test --test failover printed"
    );
}

/// Each with a proxy of its own, whose log holds nothing else; what was broken is mended after it.
#[test]
fn faults_on_one_machine_are_told_apart() {
    let cluster = cluster("faults");
    let scene = |name: &str, more: &str| Scene::open(&cluster, name, None, FAILOVER, more);

    let on = scene("p-agent", "");
    let agent = on.standby.agent().unwrap();
    agent.kill().unwrap();
    on.told(row("agent dead"));
    on.standby.kill().unwrap();
    on.told(row("standby lost"));
    block_on(agent.start()).unwrap();
    block_on(on.standby.start()).unwrap();
    eventually("the standby is back", || {
        lines(&status(&on.proxy)).contains(&format!("{} is up", on.standby.name()))
    });
    drop(on);

    let on = scene("p-replay", "");
    block_on(on.standby.pause_replay()).unwrap();
    on.on_primary("create table fault (n int)");
    on.told(row("replay paused"));
    block_on(on.standby.resume_replay()).unwrap();
    drop(on);

    let on = scene("p-receiver", "");
    let role = &on.cluster.credentials().replication.user;
    on.on_primary(&format!("alter role {role} nologin"));
    on.on_primary(&format!(
        "select pg_terminate_backend(pid) from pg_stat_replication where application_name = '{}'",
        on.standby.name()
    ));
    on.told(row("receiver cut off"));
    on.on_primary(&format!("alter role {role} login"));
    drop(on);

    let on = scene("p-pool", "pool: { size: 2, wait_timeout: 2s }\n");
    let url = on.proxy.url(on.cluster.application());
    let held = [0, 1].map(|_| {
        let client = block_on(support::connect(&url));
        block_on(client.batch_execute("BEGIN; SELECT 1")).unwrap();
        client
    });
    let third = support::RUNTIME.spawn({
        let client = block_on(support::connect(&url));
        async move {
            loop {
                let refused = client.batch_execute("BEGIN; SELECT 1").await.unwrap_err();
                assert_eq!(support::sqlstate(&refused), "53300", "{refused:?}");
            }
        }
    });
    on.told(row("pool exhausted"));
    third.abort();
    drop(held);
    drop(on);

    let on = scene("p-password", "");
    let monitor = &on.cluster.credentials().monitor;
    on.on_primary(&format!("alter role {} password 'another'", monitor.user));
    let written = block_on(on.primary.written()).unwrap();
    for node in on.cluster.nodes() {
        if node.name() != on.primary.name() {
            block_on(node.wait_replayed(written)).unwrap();
        }
        let sql = format!(
            "select pg_terminate_backend(pid) from pg_stat_activity where usename = '{}'",
            monitor.user
        );
        block_on(node.execute(&sql)).unwrap();
    }
    on.told(row("monitor's password"));
    on.on_primary(&format!(
        "alter role {} password '{}'",
        monitor.user, monitor.password
    ));
    drop(on);

    let on = scene("p-killed", "");
    on.primary.kill_postmaster().unwrap();
    on.told(row("killed"));
    drop(on);

    let on = scene("p-frozen", "");
    on.primary.freeze().unwrap();
    on.told(row("frozen"));
    // Without effect where its agent has killed it.
    let _ = on.primary.thaw();
    drop(on);

    let on = scene("p-impostor", "");
    // Its agent stops it as soon as it is seen, perhaps before it has answered.
    let _ = block_on(on.standby.promote());
    on.told(row("impostor"));
}

#[test]
fn a_cut_off_primary_is_told_from_a_frozen_one() {
    if !in_namespaces(this_test!("a_cut_off_primary_is_told_from_a_frozen_one")) {
        return;
    }
    let net = Net::new(4).unwrap();
    let builder = Cluster::builder("faults-cut").agents(PROGRAM);
    let cluster = block_on(builder.on(&net.hosts()[..3]).start()).unwrap();
    let on = Scene::open(&cluster, "p-cut", Some(&net.hosts()[3]), FAILOVER, "");
    let mut nodes = cluster.nodes().iter();
    let index = nodes.position(|node| node.name() == on.primary.name());
    // Known to stop its server by itself.
    eventually("its agent keeps a lease", || {
        let governed = status(&on.proxy)["failover"]["governed"].clone();
        let governed = governed.as_array().cloned().unwrap_or_default();
        governed.iter().any(|name| name == on.primary.name())
    });
    net.isolate(index.unwrap()).unwrap();
    on.told(row("cut off"));
    net.heal().unwrap();
    eventually("what was cut off stands by", || {
        let text = lines(&status(&on.proxy));
        text.contains(&format!("{} is up, standby", on.primary.name()))
    });
}

#[test]
fn a_lost_etcd_is_told_as_such() {
    if !need("etcd") {
        return;
    }
    let etcd = block_on(Etcd::start("faults-etcd", 1)).unwrap();
    let cluster = cluster("faults-etcd");
    let failover = format!(
        "timeout: 4s\nlease: 8s\ncoordination: etcd\netcd: {{ endpoints: {:?} }}",
        etcd.endpoints()
    );
    let on = Scene::open(&cluster, "p-etcd", None, &failover, "");
    etcd.members()[0].kill().unwrap();
    on.told(row("etcd lost"));
    block_on(etcd.members()[0].start()).unwrap();
    eventually("etcd is back, and somebody leads", || {
        let status = status(&on.proxy);
        status["failover"]["phase"] == "steady" && status["primary"].is_string()
    });
}
