//! Sessions that listen, at a switchover and a failover: they hold up nothing, hear on at the next primary,
//! and are told once that something may be missing.

use super::{CALM, cluster, leading, proxy};
use crate::support::frames::query;
use crate::support::http::order;
use crate::support::status::{another_leads, leader, promotable, settled};
use crate::support::{Proxy, Wire, summary, turn};

const PRIMARY: &[(&str, &str)] = &[("options", "-c causeway.consistency=primary")];

/// It is told of the loss, and hears what is said after that.
fn hears_on(proxy: &Proxy, ears: &mut [Wire]) {
    let mut mouth = proxy.wire();
    for ear in ears.iter_mut() {
        let warning = ear.frame().unwrap();
        assert_eq!(
            (warning.tag, warning.field(b'C').as_deref()),
            (b'N', Some("01000"))
        );
    }
    for n in 0..3 {
        mouth.run(&format!("NOTIFY news, '{n}'"));
        for ear in ears.iter_mut() {
            let note = ear.frame().unwrap();
            assert!(
                note.body.ends_with(format!("news\0{n}\0").as_bytes()),
                "{note:?}"
            );
        }
    }
    for ear in ears {
        let frames = ear.exchange_frames(&[query("SELECT 1")], 1);
        assert_eq!(summary(&frames), "T D[1] C[SELECT 1] Z[I]");
    }
}

#[test]
fn a_switchover_waits_for_no_listener_and_they_hear_on() {
    let _turn = turn();
    let cluster = cluster("listening");
    let proxy = proxy(&cluster, &format!("durability: async\n{CALM}"));
    promotable(proxy.http, 2);
    let mut ears: Vec<Wire> = (0..5).map(|_| proxy.wire_with(PRIMARY)).collect();
    for ear in &mut ears {
        ear.run("LISTEN news");
    }
    for _ in 0..2 {
        promotable(proxy.http, 2);
        let old = leader(proxy.http);
        let (code, answer) = order(proxy.http, "/api/switchover");
        assert_eq!(code, 200, "{answer}");
        another_leads(proxy.http, &old);
        settled(proxy.http);
        hears_on(&proxy, &mut ears);
    }
}

#[test]
fn after_a_failover_they_hear_on() {
    let _turn = turn();
    let cluster = cluster("listeningkilled");
    let proxy = proxy(&cluster, "durability: quorum");
    let mut ears: Vec<Wire> = (0..3).map(|_| proxy.wire_with(PRIMARY)).collect();
    for ear in &mut ears {
        ear.run("LISTEN news");
    }
    let old = leading(&cluster, &proxy);
    old.kill().unwrap();
    another_leads(proxy.http, old.name());
    hears_on(&proxy, &mut ears);
}
