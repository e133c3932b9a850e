//! A planned change of primary under load: no error, nothing lost, a measured stall; or a refusal.

use std::process::Command;
use std::time::Duration;

use pgcauseway::verify::{self, Options};
use tokio::sync::oneshot;

use super::{CALM, assert_whole, cluster, leading, named, proxy, rounds, writers};
use crate::support::http::order;
use crate::support::pgbench::Pgbench;
use crate::support::status::{another_leads, leader, promotable, settled};
use crate::support::{RUNTIME, block_on, eventually, need, turn};

#[test]
fn a_switchover_under_load_is_not_noticed() {
    if !need("pgbench") {
        return;
    }
    let _turn = turn();
    let cluster = cluster("switchover");
    let proxy = proxy(&cluster, &format!("durability: quorum\n{CALM}"));
    let check = Options {
        think_time: Duration::from_millis(30),
        ..proxy.check("checked", 1000)
    };
    let (stop, stopped) = oneshot::channel::<()>();
    let checking = RUNTIME.spawn(verify::run(check, async {
        let _ = stopped.await;
    }));
    let pgbench = Pgbench::start(proxy.port, "prepared");
    let writers = writers(&proxy.url(), 4);
    let mut stalls = Vec::new();
    for round in 1..=rounds(3) {
        writers.wait_acknowledged(50);
        promotable(proxy.http, 2);
        let old = leader(proxy.http);
        if round % 2 == 1 {
            let (code, answer) = order(proxy.http, "/api/switchover");
            assert_eq!(code, 200, "{answer}");
            stalls.push(answer["stall_ms"].as_f64().unwrap());
        } else {
            let to = cluster.nodes().iter().find(|n| n.name() != old).unwrap();
            let said = Command::new(crate::support::PROGRAM)
                .args(["switchover", "--http", &proxy.http.to_string()])
                .args(["--to", to.name()])
                .output()
                .unwrap();
            let words = String::from_utf8_lossy(&said.stdout);
            print!("{words}");
            assert!(said.status.success(), "{said:?}");
            assert!(words.contains("statements were held for"), "{words}");
            eventually("it leads", || leader(proxy.http) == to.name());
        }
        another_leads(proxy.http, &old);
        settled(proxy.http);
    }
    println!("stalls in ms: {stalls:.0?}");
    pgbench.stop();
    stop.send(()).unwrap();
    let report = block_on(checking).unwrap().unwrap();
    let history = writers.stop();
    assert_eq!(report.violations(), 0, "{report}");
    assert_eq!(report.error_count(), 0, "{report}");
    assert_eq!(report.unknown_outcomes, 0, "{report}");
    assert_eq!(report.lost_writes, Some(0), "{report}");
    assert_whole(&history, &proxy.url());
    let found = history.check(&proxy.url());
    assert_eq!(found.acknowledged, found.writes, "{found}");
}

#[test]
fn a_switchover_that_cannot_succeed_is_refused_with_the_reason() {
    let cluster = cluster("refused");
    let proxy = proxy(&cluster, &format!("durability: async\n{CALM}"));
    let writers = writers(&proxy.url(), 4);
    let old = leading(&cluster, &proxy);
    let refused = |to: &str| {
        let (code, answer) = order(proxy.http, &format!("/api/switchover?to={to}"));
        let text = answer["text"].as_str().unwrap().to_owned();
        println!("{code} {text}");
        assert_eq!(leader(proxy.http), old.name());
        (code, text)
    };
    let (code, text) = refused("pg9");
    assert_eq!((code, text.as_str()), (404, "there is no node pg9"));
    let (code, text) = refused(old.name());
    assert_eq!(code, 409);
    assert!(text.contains("leads already"), "{text}");

    let to = cluster.standbys().iter().find(|n| n.name() != old.name());
    let to = to.unwrap();
    let agent = to.agent().unwrap();
    agent.kill().unwrap();
    // Silence counts as such once it has lasted for `timeout`.
    promotable(proxy.http, 1);
    let (code, text) = refused(to.name());
    assert_eq!(code, 409);
    assert!(text.contains("does not answer"), "{text}");
    block_on(agent.start()).unwrap();

    // A transaction that does not end.
    let mut open = proxy.wire();
    open.run("BEGIN");
    open.run("INSERT INTO history VALUES (-1, -1)");
    promotable(proxy.http, 2);
    let (code, text) = refused(to.name());
    assert_eq!(code, 409);
    assert!(text.contains("still open"), "{text}");
    open.run("COMMIT");

    promotable(proxy.http, 2);
    let (code, answer) = order(proxy.http, &format!("/api/switchover?to={}", to.name()));
    assert_eq!(code, 200, "{answer}");
    assert!(answer["stall_ms"].as_f64().unwrap() > 0.0, "{answer}");
    settled(proxy.http);
    assert!(named(&cluster, &leader(proxy.http)).pid().is_some());
    let history = writers.stop();
    assert_whole(&history, &proxy.url());
    let found = history.check(&proxy.url());
    assert_eq!(found.acknowledged, found.writes, "{found}");
}
