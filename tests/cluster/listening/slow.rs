//! Clients that do not read what they are told.

use super::{next, pid, session};
use crate::cluster;
use crate::support::Proxy;
use crate::support::frames::summary;

#[test]
fn who_does_not_read_holds_nobody_up_and_is_ended() {
    let proxy = Proxy::start(cluster(), "pool: { size: 2 }\n");
    let (mut slow, mut fast, mut mouth) = (session(&proxy), session(&proxy), session(&proxy));
    for ear in [&mut slow, &mut fast] {
        ear.run("LISTEN flood");
    }
    let sender = pid(&mouth);
    let payload = "x".repeat(7000);
    let mut sent = 0;
    // What the two sockets take in between is the system's business.
    let ended = |proxy: &Proxy| {
        let metrics = crate::support::http::get(proxy.http, "/metrics").unwrap();
        metrics.contains("causeway_errors_total{sqlstate=\"54000\"} 1\n")
    };
    while !ended(&proxy) {
        assert!(sent < 10_000, "it is never ended");
        mouth.run("BEGIN");
        for _ in 0..100 {
            mouth.run(&format!("NOTIFY flood, '{sent} {payload}'"));
            sent += 1;
        }
        mouth.run("COMMIT");
        for n in sent - 100..sent {
            assert_eq!(next(&mut fast), format!("{sender} flood {n} {payload}"));
        }
    }
    let told = slow.until_closed();
    let (error, notes) = told.split_last().unwrap();
    for (n, frame) in notes.iter().enumerate() {
        assert_eq!(super::note(frame), format!("{sender} flood {n} {payload}"));
    }
    assert_eq!(summary(std::slice::from_ref(error)), "E[54000]");
    assert_eq!(fast.ask("SELECT 1"), "D[1] C[SELECT 1] Z[I]");
}
