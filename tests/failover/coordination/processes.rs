//! Proxies as processes of their own, killed and frozen while they hold the lease.

use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use parking_lot::Mutex;
use pgcauseway::rig::{Etcd, Net};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use super::etcd::{TTL, etcd, proxy};
use super::witness::{Sample, assert_one_leader_at_a_time, now_us, sample};
use crate::support::{becomes, in_namespaces, need, this_test};

/// Started by the other tests, to be killed and frozen.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "stands for leader until it is killed; other tests run it"]
async fn stand_until_killed() {
    let environment = |name| std::env::var(name).ok();
    let (Some(id), Some(endpoints)) = (
        environment("CAUSEWAY_TEST_ID"),
        environment("CAUSEWAY_TEST_ETCD"),
    ) else {
        return;
    };
    let endpoints = endpoints.split(',').map(str::to_owned).collect();
    let store = proxy(endpoints, &id).await;
    println!();
    loop {
        if let Some(Sample { at_us, term, .. }) = sample(&id, store.claim()) {
            println!("leads {at_us} {term}");
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// A proxy in a process of its own, and what it said of itself.
struct Contender {
    child: Child,
    said: Arc<Mutex<Vec<Sample>>>,
}

impl Contender {
    fn start(etcd: &Etcd, id: &str) -> Self {
        let program = std::env::current_exe().unwrap();
        Self::start_as(std::process::Command::new(program), etcd, id)
    }

    fn start_as(command: std::process::Command, etcd: &Etcd, id: &str) -> Self {
        let mut child = Command::from(command)
            .args([
                "--exact",
                this_test!("stand_until_killed"),
                "--ignored",
                "--nocapture",
            ])
            .env("CAUSEWAY_TEST_ID", id)
            .env("CAUSEWAY_TEST_ETCD", etcd.endpoints().join(","))
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let said = Arc::new(Mutex::new(Vec::new()));
        let (hears, id) = (Arc::clone(&said), id.to_owned());
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                let Some(sample) = line.strip_prefix("leads ") else {
                    continue;
                };
                let (at_us, term) = sample.split_once(' ').unwrap();
                hears.lock().push(Sample {
                    at_us: at_us.parse().unwrap(),
                    term: term.parse().unwrap(),
                    id: id.clone(),
                });
            }
        });
        Self { child, said }
    }

    /// Its claim held at some moment after that one.
    fn has_led_since(&self, at_us: u64) -> bool {
        let said = self.said.lock();
        said.last().is_some_and(|sample| sample.at_us > at_us)
    }

    fn signal(&self, signal: Signal) {
        let pid = self.child.id().unwrap() as i32;
        kill(Pid::from_raw(pid), signal).unwrap();
    }
}

async fn leader_since(contenders: &[Contender], at_us: u64) -> usize {
    let find = || {
        contenders
            .iter()
            .position(|contender| contender.has_led_since(at_us))
    };
    becomes("one leads", async || find().is_some()).await;
    find().unwrap()
}

#[tokio::test]
async fn a_killed_leader_is_replaced_when_its_lease_has_run_out() {
    let Some(etcd) = etcd("killed", 1).await else {
        return;
    };
    let mut contenders: Vec<_> = (0..3)
        .map(|index| Contender::start(&etcd, &format!("p{index}")))
        .collect();
    let mut all = Vec::new();
    let mut since = 0;
    while contenders.len() > 1 {
        let leader = leader_since(&contenders, since).await;
        let mut killed = contenders.swap_remove(leader);
        killed.child.kill().await.unwrap();
        let at = Instant::now();
        since = now_us();
        all.push(killed);
        leader_since(&contenders, since).await;
        let took = at.elapsed();
        println!("replaced after {took:?}");
        assert!(took > TTL / 2, "not before the lease can have run out");
    }
    let samples = all
        .iter()
        .chain(&contenders)
        .flat_map(|contender| contender.said.lock().clone());
    assert_one_leader_at_a_time(samples.collect());
}

#[tokio::test]
async fn a_frozen_leader_is_replaced_and_knows_it_when_it_is_thawed() {
    let Some(etcd) = etcd("stopped", 1).await else {
        return;
    };
    let contenders: Vec<_> = (0..2)
        .map(|index| Contender::start(&etcd, &format!("p{index}")))
        .collect();
    let mut since = 0;
    for _ in 0..3 {
        let leader = leader_since(&contenders, since).await;
        contenders[leader].signal(Signal::SIGSTOP);
        let frozen = now_us();
        let other = &contenders[1 - leader];
        becomes("the other leads", async || {
            other.has_led_since(frozen + TTL.as_micros() as u64 / 2)
        })
        .await;
        contenders[leader].signal(Signal::SIGCONT);
        since = now_us();
        // For as long as a lease lasts it would go on, did it believe in its own.
        tokio::time::sleep(TTL).await;
        assert!(
            !contenders[leader].has_led_since(since),
            "it leads on after it was replaced"
        );
    }
    let samples = contenders
        .iter()
        .flat_map(|contender| contender.said.lock().clone());
    assert_one_leader_at_a_time(samples.collect());
}

#[tokio::test]
async fn a_leader_that_is_cut_off_from_etcd_is_replaced_and_stops_in_time() {
    let test = this_test!("a_leader_that_is_cut_off_from_etcd_is_replaced_and_stops_in_time");
    if !need("etcd") || !in_namespaces(test) {
        return;
    }
    let net = Net::new(5).unwrap();
    let (members, proxies) = net.hosts().split_at(3);
    let etcd = Etcd::start_on("cut-off", members).await.unwrap();
    let program = std::env::current_exe().unwrap();
    let contenders: Vec<_> = proxies
        .iter()
        .enumerate()
        .map(|(index, host)| {
            Contender::start_as(host.command(&program), &etcd, &format!("p{index}"))
        })
        .collect();
    let mut since = 0;
    for round in 0..4 {
        let leader = leader_since(&contenders, since).await;
        // Now the leader, now the leader together with the member of etcd that leads.
        net.isolate(3 + leader).unwrap();
        if round % 2 == 1 {
            let first = etcd.leader().await.unwrap().name().to_owned();
            let index = etcd
                .members()
                .iter()
                .position(|member| member.name() == first);
            net.isolate(index.unwrap()).unwrap();
        }
        let cut = now_us();
        let other = &contenders[1 - leader];
        becomes("the other leads", async || {
            other.has_led_since(cut + TTL.as_micros() as u64 / 2)
        })
        .await;
        println!("replaced {} ms after the cut", (now_us() - cut) / 1000);
        net.heal().unwrap();
        since = now_us();
    }
    let samples = contenders
        .iter()
        .flat_map(|contender| contender.said.lock().clone());
    assert_one_leader_at_a_time(samples.collect());
}
