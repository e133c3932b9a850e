//! Asynchronous replication: what is lost for certain is counted, and told to those who lost it and
//! to nobody else.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pgcauseway::rig::{Cluster, Node};

use super::{cluster, leading, proxy, writers};
use crate::support::frames::query;
use crate::support::http::order;
use crate::support::status::{another_leads, events, leader, settled};
use crate::support::{Proxy, Wire, block_on, eventually, http};

/// Sessions by what they have seen when the primary fails.
struct Sessions {
    /// Wrote what no standby has received.
    losers: Vec<Wire>,
    /// Read that.
    readers: Vec<Wire>,
    /// Wrote and read what every standby has.
    bystanders: Vec<Wire>,
}

impl Sessions {
    /// Makes the primary acknowledge writes that it cannot send to anybody.
    fn make(proxy: &Proxy, primary: &Node, cluster: &Cluster) -> Self {
        let mut session = proxy.wire();
        session.run("DROP TABLE IF EXISTS lost; CREATE TABLE lost (what text)");
        let mut bystanders: Vec<_> = (0..10).map(|_| proxy.wire()).collect();
        for wire in &mut bystanders {
            wire.run("INSERT INTO lost VALUES ('kept')");
        }
        let written = block_on(primary.written()).unwrap();
        for node in cluster
            .nodes()
            .iter()
            .filter(|n| n.name() != primary.name())
        {
            block_on(node.wait_replayed(written)).unwrap();
        }
        // Every mark becomes a position by a probe that was sent after it.
        measured(proxy, primary);
        hold_back(primary);
        let mut losers: Vec<_> = (0..6).map(|_| proxy.wire()).collect();
        for wire in &mut losers {
            wire.run("INSERT INTO lost VALUES ('lost')");
        }
        let mut readers: Vec<_> = (0..3).map(|_| proxy.wire()).collect();
        for wire in &mut readers {
            wire.run("SET causeway.consistency = 'primary'");
            let count = wire.value("SELECT count(*) FROM lost WHERE what = 'lost'");
            assert_eq!(count, "6");
            wire.run("SET causeway.consistency = 'session'");
        }
        measured(proxy, primary);
        watched(primary);
        Self {
            losers,
            readers,
            bystanders,
        }
    }

    /// Each that lost something is told once, by whatever it asks next; nobody else is.
    fn assert_told(mut self) {
        let statements = [
            "SELECT count(*) FROM lost",
            "INSERT INTO lost VALUES ('new')",
        ];
        let told = self.losers.iter_mut().chain(&mut self.readers);
        for (wire, statement) in told.zip(statements.iter().cycle()) {
            let answer = wire.ask(statement);
            assert!(answer.contains("E[LW001]"), "{statement}: {answer}");
            for statement in statements {
                let answer = wire.ask(statement);
                assert!(!answer.contains("E["), "{statement}: {answer}");
            }
        }
        for (wire, statement) in self.bystanders.iter_mut().zip(statements.iter().cycle()) {
            let answer = wire.ask(statement);
            assert!(!answer.contains("E["), "{statement}: {answer}");
        }
    }

    /// The same by warnings: every statement is carried out.
    fn assert_warned(mut self) {
        let statements = [
            "SELECT count(*) FROM lost",
            "INSERT INTO lost VALUES ('new')",
        ];
        let warnings = |wire: &mut Wire, statement: &str| {
            let frames = wire.exchange_frames(&[query(statement)], 1);
            assert!(frames.iter().all(|frame| frame.tag != b'E'), "{frames:?}");
            let told = frames.iter().filter(|frame| frame.tag == b'N');
            let told: Vec<_> = told.map(|frame| frame.field(b'C').unwrap()).collect();
            assert!(told.iter().all(|code| code == "LW001"), "{told:?}");
            told.len()
        };
        let told = self.losers.iter_mut().chain(&mut self.readers);
        for (wire, statement) in told.zip(statements.iter().cycle()) {
            assert_eq!(warnings(wire, statement), 1);
            assert_eq!(warnings(wire, statement), 0);
        }
        for wire in &mut self.bystanders {
            assert_eq!(warnings(wire, statements[0]), 0);
        }
    }
}

/// Stops the primary's WAL senders where they stand: it goes on, and nobody receives anything.
fn hold_back(primary: &Node) {
    let sql = "SELECT COALESCE(string_agg(pid::text, ' '), '') FROM pg_stat_replication";
    let senders: String = block_on(primary.query(sql)).unwrap();
    assert_eq!(senders.split(' ').count(), 2, "{senders}");
    for sender in senders.split(' ') {
        kill(Pid::from_raw(sender.parse().unwrap()), Signal::SIGSTOP).unwrap();
    }
}

/// Waits until a probe of the primary that was sent from now on has been answered.
fn measured(proxy: &Proxy, primary: &Node) {
    let mark = "SELECT pg_logical_emit_message(true, 'test', 'mark')";
    block_on(primary.execute(mark)).unwrap();
    let written = block_on(primary.written()).unwrap();
    eventually("the primary is measured", || {
        let status = http::status(proxy.http);
        let nodes = status["nodes"].as_array().unwrap();
        let node = nodes.iter().find(|node| node["name"] == primary.name());
        let position = node.unwrap()["position"].as_str().unwrap().to_owned();
        position.parse::<pgcauseway::core::lsn::Lsn>().unwrap() >= written
    });
}

/// Waits until the failover watch of the primary has been answered, twice: the first is digested.
fn watched(primary: &Node) {
    for _ in 0..2 {
        let now: String = block_on(primary.query("SELECT clock_timestamp()::text")).unwrap();
        let sql = format!(
            "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE state = 'idle' \
             AND application_name = 'causeway failover' AND query_start > '{now}')"
        );
        block_on(primary.wait_for("be watched", &sql)).unwrap();
    }
}

fn lost_bytes(proxy: &Proxy) -> u64 {
    let metrics = http::get(proxy.http, "/metrics").unwrap();
    let line = metrics
        .lines()
        .find(|line| line.starts_with("causeway_lost_write_bytes_total"));
    line.unwrap().split(' ').nth(1).unwrap().parse().unwrap()
}

#[test]
fn who_lost_a_write_is_told_once_and_the_loss_is_counted() {
    let cluster = cluster("lost");
    {
        let proxy = proxy(&cluster, "durability: async");
        let primary = leading(&cluster, &proxy);
        let sessions = Sessions::make(&proxy, primary, &cluster);
        primary.kill().unwrap();
        another_leads(proxy.http, primary.name());
        let chosen = events(proxy.http, "candidate_chosen").pop().unwrap();
        let lost = lost_bytes(&proxy);
        println!("{chosen}; {lost} bytes counted");
        assert!(lost > 0);
        assert!(chosen.contains(&format!("{lost} bytes")), "{chosen}");
        sessions.assert_told();
        settled(proxy.http);
    }
    {
        let proxy = proxy(&cluster, "durability: async\non_lost_writes: warn");
        let primary = leading(&cluster, &proxy);
        let sessions = Sessions::make(&proxy, primary, &cluster);
        primary.kill().unwrap();
        another_leads(proxy.http, primary.name());
        sessions.assert_warned();
        settled(proxy.http);
    }
    let more = "durability: async\nmax_lost_bytes: 0\ntimeout: 1s";
    let proxy = proxy(&cluster, more);
    let primary = leading(&cluster, &proxy);
    let sessions = Sessions::make(&proxy, primary, &cluster);
    let agent = primary.agent().unwrap();
    // It could start the old primary again, and nothing would be lost.
    agent.kill().unwrap();
    primary.kill().unwrap();
    let why = || {
        http::status(proxy.http)["failover"]["why"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    eventually("an operator is waited for", || {
        why().contains("FAILOVER accepts the loss")
    });
    println!("{}", why());
    assert_eq!(leader(proxy.http), "nobody");
    assert_eq!(lost_bytes(&proxy), 0);
    let (code, answer) = order(proxy.http, "/api/failover");
    assert_eq!(code, 200, "{answer}");
    assert!(lost_bytes(&proxy) > 0);
    sessions.assert_told();
    block_on(agent.start()).unwrap();
    settled(proxy.http);
}

#[test]
fn nothing_is_lost_where_the_old_primary_can_be_started_again() {
    let cluster = cluster("restored");
    let proxy = proxy(
        &cluster,
        "durability: async\nmax_lost_bytes: 0\ntimeout: 1s",
    );
    let primary = leading(&cluster, &proxy);
    let sessions = Sessions::make(&proxy, primary, &cluster);
    primary.kill().unwrap();
    eventually("it leads again", || {
        !events(proxy.http, "restored").is_empty() && leader(proxy.http) == primary.name()
    });
    for mut wire in sessions.losers {
        let count = wire.value("SELECT count(*) FROM lost WHERE what = 'lost'");
        assert_eq!(count, "6");
    }
    settled(proxy.http);
}

/// Not a promise but a figure: how many sessions are told without having lost anything.
#[test]
fn few_are_told_of_a_loss_that_they_did_not_suffer() {
    let cluster = cluster("alarms");
    let proxy = proxy(&cluster, "durability: async");
    let writers = writers(&proxy.url(), 20);
    let idle: Vec<_> = (0..20).map(|_| proxy.wire()).collect();
    let mut idle: Vec<_> = idle
        .into_iter()
        .map(|mut wire| {
            wire.run("INSERT INTO history VALUES (-1, (random() * 1e9)::int)");
            wire
        })
        .collect();
    for _ in 0..2 {
        writers.wait_acknowledged(200);
        let primary = leading(&cluster, &proxy);
        primary.kill().unwrap();
        another_leads(proxy.http, primary.name());
        writers.wait_acknowledged(100);
        settled(proxy.http);
    }
    let history = writers.stop();
    let found = history.check(&proxy.url());
    println!("{found}");
    assert_eq!(found.untold, 0, "{found}");
    assert_eq!(found.came_true.len(), 0, "{found}");
    for wire in &mut idle {
        let answer = wire.ask("SELECT 1 FROM history LIMIT 1");
        assert!(!answer.contains("E["), "idle for two failovers: {answer}");
    }
}
