//! What is no failure of a healthy cluster, in a row: no server is stopped, no transaction under way is aborted
//! and no session reads stale. Three proxies, etcd and three servers, each on a host of its own.
//!
//! `make healthy` has each of them last for ten minutes (`CAUSEWAY_HEALTHY_SECONDS`).

use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use pgcauseway::rig::Node;
use tokio::task::JoinHandle;
use tokio_postgres::{Client, NoTls};

use super::world::{World, go_on};
use crate::support::{PROGRAM, becomes, this_test};

/// A busy machine is no failed node, and in a short run each lease still ends many times over.
const SETTINGS: &str = "timeout: 4s\nlease: 4s";
/// Between the statements of a session.
const PACE: Duration = Duration::from_millis(10);
/// Silent connections to the client port, which has room for fewer, and to each agent's.
const STRANGERS: (usize, usize) = (390, 80);
const PROMOTABLE: &str = "\ncauseway_failover_promotable_standbys 2\n";
/// How long a checkpoint is held up.
const CHECKPOINT: Duration = Duration::from_secs(20);

/// Of each of what is no failure.
fn each() -> Duration {
    let seconds = std::env::var("CAUSEWAY_HEALTHY_SECONDS").ok();
    let seconds = seconds.map_or(6, |text| text.parse().unwrap());
    Duration::from_secs(seconds)
}

async fn connect(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

/// Sessions that write in transactions and read what they have written, without an error.
struct Sessions {
    ended: Arc<AtomicBool>,
    rounds: Vec<Arc<AtomicU64>>,
    tasks: Vec<JoinHandle<()>>,
}

impl Sessions {
    fn start(urls: impl IntoIterator<Item = String>, name: &str) -> Self {
        let mut all = Self {
            ended: Arc::default(),
            rounds: Vec::new(),
            tasks: Vec::new(),
        };
        for (number, url) in urls.into_iter().enumerate() {
            let (ended, rounds) = (Arc::clone(&all.ended), Arc::<AtomicU64>::default());
            all.rounds.push(Arc::clone(&rounds));
            let table = format!("healthy_{name}_{number}");
            all.tasks.push(tokio::spawn(async move {
                let client = connect(&url).await;
                let new = format!("DROP TABLE IF EXISTS {table}; CREATE TABLE {table} (id int)");
                client.batch_execute(&new).await.unwrap();
                let insert = format!("BEGIN; INSERT INTO {table} VALUES (1)");
                let count = format!("SELECT count(*) FROM {table}");
                for written in 1_i64.. {
                    client.batch_execute(&insert).await.unwrap();
                    tokio::time::sleep(PACE).await;
                    client.batch_execute("COMMIT").await.unwrap();
                    let seen: i64 = client.query_one(&count, &[]).await.unwrap().get(0);
                    assert_eq!(seen, written, "a stale read");
                    rounds.fetch_add(1, Ordering::Relaxed);
                    if ended.load(Ordering::Relaxed) {
                        return;
                    }
                }
            }));
        }
        all
    }

    async fn go_on(&self, what: &str) {
        let done = |rounds: &Arc<AtomicU64>| rounds.load(Ordering::Relaxed);
        let before: Vec<u64> = self.rounds.iter().map(done).collect();
        becomes("every session goes on", async || {
            assert!(!self.tasks.iter().any(JoinHandle::is_finished), "{what}");
            let rounds = self.rounds.iter().map(done);
            rounds.zip(&before).all(|(now, before)| now > before + 1)
        })
        .await;
    }

    async fn end(self) {
        self.ended.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.unwrap();
        }
    }
}

/// Processes that take all the time that there is.
struct Busy(Vec<Child>);

impl Busy {
    fn new(processes: usize) -> Self {
        let spin = || {
            Command::new("sh")
                .args(["-c", "while :; do :; done"])
                .spawn()
        };
        Self((0..processes).map(|_| spin().unwrap()).collect())
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        for process in &mut self.0 {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// A process of a server that stands still until this is dropped.
struct Frozen(i32);

impl Frozen {
    fn new(pid: i32) -> Self {
        Self::signal(pid, "-STOP");
        Self(pid)
    }

    fn signal(pid: i32, signal: &str) {
        let pid = pid.to_string();
        let _ = Command::new("kill").args([signal, &pid]).status();
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        Self::signal(self.0, "-CONT");
    }
}

/// Starts the program with few file descriptors.
fn few_files() -> PathBuf {
    let place = std::env::temp_dir().join(format!("causeway-few-files-{}", std::process::id()));
    let script = format!("#!/bin/sh\nulimit -n 400\nexec {PROGRAM} \"$@\"\n");
    std::fs::write(&place, script).unwrap();
    std::fs::set_permissions(&place, std::fs::Permissions::from_mode(0o755)).unwrap();
    place
}

/// Everything, and what must stay as it is.
struct Calm {
    world: World,
    postmasters: Vec<Option<i32>>,
}

impl Calm {
    fn postmasters(world: &World) -> Vec<Option<i32>> {
        world
            .cluster
            .nodes()
            .iter()
            .map(|node| node.pid())
            .collect()
    }

    /// Sessions go on for so long, in which something is done again and again.
    async fn lasts(
        &self,
        time: Duration,
        sessions: &[&Sessions],
        mut meanwhile: impl AsyncFnMut(),
        what: &str,
    ) {
        let begun = Instant::now();
        while begun.elapsed() < time {
            meanwhile().await;
            assert_eq!(Self::postmasters(&self.world), self.postmasters, "{what}");
            for sessions in sessions {
                sessions.go_on(what).await;
            }
        }
        println!("{what}: {:?}", begun.elapsed());
    }

    fn through(&self) -> Vec<String> {
        let login = self.world.cluster.application();
        self.world
            .proxies
            .iter()
            .map(|proxy| proxy.url(login))
            .collect()
    }

    /// A transaction that is open, through each proxy.
    async fn begin(&self) -> Vec<Client> {
        let mut open = Vec::new();
        for url in self.through() {
            let client = connect(&url).await;
            client
                .batch_execute("BEGIN; SELECT pg_current_xact_id()")
                .await
                .unwrap();
            open.push(client);
        }
        open
    }

    async fn primary(&self) -> &Node {
        self.world.node(self.world.primary().await)
    }

    /// Each proxy serves, and the primary could be replaced.
    async fn serves(&self) {
        self.world.settled().await;
        becomes("everybody may be promoted, and asked", async || {
            let decider = self.world.decider().await;
            let status = self.world.heard(decider).await;
            let asked = status["failover"]["failsafe"].to_string();
            let metrics = self.world.proxies[decider].ask("GET", "/metrics").await;
            let able = metrics.is_some_and(|(_, text)| text.contains(PROMOTABLE));
            able && asked.contains("any 1 of")
        })
        .await;
    }
}

fn crowd(address: SocketAddr, size: usize, into: &mut Vec<TcpStream>) {
    into.extend(
        (0..size).filter_map(|_| TcpStream::connect_timeout(&address, Duration::from_secs(1)).ok()),
    );
}

fn agent_address(node: &Node) -> SocketAddr {
    let url = node.agent().unwrap().url();
    let address = url.trim_start_matches("https://").trim_end_matches('/');
    address.parse().unwrap_or_else(|_| panic!("{url}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_is_no_failure_of_a_server_stops_one() {
    if !go_on(this_test!(
        "nothing_that_is_no_failure_of_a_server_stops_one"
    )) {
        return;
    }
    let program = few_files();
    let world = World::start_by(&program, "healthy", 3, SETTINGS).await;
    let calm = Calm {
        postmasters: Calm::postmasters(&world),
        world,
    };
    let world = &calm.world;
    calm.serves().await;
    let nothing = async || {};
    let direct = calm.primary().await.url(world.cluster.application());
    let direct = Sessions::start([direct], "direct");

    let sessions = Sessions::start(calm.through(), "busy");
    let busy = Busy::new(4);
    calm.lasts(
        each(),
        &[&direct, &sessions],
        nothing,
        "both cores are taken",
    )
    .await;
    drop(busy);
    sessions.end().await;

    for proxy in &world.proxies {
        proxy.kill().unwrap();
    }
    calm.lasts(each(), &[&direct], nothing, "all proxies are killed")
        .await;
    for proxy in &world.proxies {
        proxy.start().await.unwrap();
    }
    calm.serves().await;

    let etcd = &world.etcd.as_ref().unwrap().members()[0];
    let mut open = calm.begin().await;
    etcd.freeze().unwrap();
    calm.lasts(each(), &[&direct], nothing, "etcd stands still")
        .await;
    open.pop().unwrap().batch_execute("COMMIT").await.unwrap();
    etcd.thaw().unwrap();
    // A proxy that cannot read its record begins nothing on the primary, since another may have been promoted; what
    // is under way goes on.
    for client in open {
        client.batch_execute("COMMIT").await.unwrap();
    }
    calm.serves().await;

    for proxy in 0..world.proxies.len() {
        for node in 0..world.cluster.nodes().len() {
            world.net.cut(node, world.host_of(proxy)).unwrap();
        }
    }
    calm.lasts(
        each(),
        &[&direct],
        nothing,
        "the network between proxies and servers is cut",
    )
    .await;
    world.net.heal().unwrap();
    calm.serves().await;

    let sessions = Sessions::start(calm.through(), "others");
    let all = [&direct, &sessions];
    let agents: Vec<SocketAddr> = world
        .cluster
        .nodes()
        .iter()
        .map(|node| agent_address(node))
        .collect();
    let doors = world.proxies[0].address();
    let mut strangers = Vec::new();
    let flood = async || {
        if strangers.len() > 2 * STRANGERS.0 {
            strangers.clear();
        }
        crowd(
            doors,
            STRANGERS.0 - strangers.len().min(STRANGERS.0 - 20),
            &mut strangers,
        );
        for agent in &agents {
            crowd(*agent, STRANGERS.1, &mut strangers);
        }
    };
    calm.lasts(each(), &all, flood, "the ports are flooded")
        .await;
    drop(strangers);

    let end = async || {
        for node in world.cluster.nodes() {
            let sql = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                       WHERE application_name = 'causeway monitor'";
            node.execute(sql).await.unwrap();
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    };
    calm.lasts(
        each(),
        &all,
        end,
        "monitoring sessions are ended every second",
    )
    .await;
    calm.serves().await;

    let checkpointer = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'checkpointer'";
    let old = world.primary().await;
    let checkpointer = Frozen::new(world.node(old).query(checkpointer).await.unwrap());
    let to = world.cluster.standbys()[0].name();
    let path = format!("/api/switchover?to={to}");
    let ordered = async {
        loop {
            let decider = &world.proxies[world.decider().await];
            let (code, answer) = decider.ask("POST", &path).await.unwrap();
            println!("{answer}");
            if code == 200 {
                return;
            }
            // On a busy machine the proxy that decides may be replaced meanwhile, or call the order off.
            world.settled().await;
            if world.primary().await != old {
                return;
            }
        }
    };
    let held_up = async {
        calm.lasts(
            each().min(CHECKPOINT),
            &[&direct, &sessions],
            nothing,
            "a checkpoint lasts, in a switchover",
        )
        .await;
        // Who writes to the old primary directly cannot outlast it.
        direct.end().await;
        drop(checkpointer);
    };
    tokio::join!(ordered, held_up);
    world.settled().await;
    assert_ne!(world.primary().await, old);
    sessions.go_on("after the switchover").await;
    sessions.end().await;

    for node in world.cluster.nodes() {
        let log = std::fs::read_to_string(node.agent().unwrap().log()).unwrap();
        assert!(!log.contains("no lease is in force"), "{log}");
    }
    assert_eq!(
        world.timeline().await,
        2,
        "one switchover, and nothing else"
    );
    std::fs::remove_file(program).unwrap();
}
