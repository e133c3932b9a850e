//! The connection that listens for several sessions is lost in the middle of a notification, at every
//! place, or holds still there.

use super::program::{Program, direct};
use super::relay::{Fault, Relay};
use crate::cluster;
use crate::support::frames::{Frame, query};
use crate::support::{Wire, eventually, summary};

/// The answer to UNLISTEN: its CommandComplete and ReadyForQuery, in bytes.
const ANSWER: usize = 14 + 6;

/// The proxy's program behind a relay to the primary.
fn behind(relay: &Relay, name: &str, more: &str) -> Program {
    let primary = cluster().primary().port();
    let port = |port| format!("port: {port}\n");
    let yaml = cluster().yaml().replace(&port(primary), &port(relay.port));
    assert!(yaml.contains(&port(relay.port)));
    Program::with(name, &yaml, more)
}

fn payload(frame: &Frame) -> String {
    assert_eq!(frame.tag, b'A', "{frame:?}");
    let text = String::from_utf8_lossy(&frame.body[4..]).into_owned();
    text.trim_end_matches('\0').replace('\0', " ")
}

fn session(program: &Program) -> Wire {
    program.wire_with(&[("options", "-c causeway.consistency=primary")])
}

/// From the next thing on that the shared connection is told, its server's words meet this.
fn strike(program: &Program, relay: &Relay, number: u32, fault: Fault) {
    let channel = format!("\"fault={number}.\"");
    let mut other = session(program);
    other.run(&format!("LISTEN {channel}"));
    relay.arm(number, fault);
    // Its own UNLISTEN is of all of them, and names none.
    other.vanish();
}

#[test]
fn the_shared_connection_is_cut_at_every_place() {
    let relay = Relay::start(cluster().primary().port());
    let program = &behind(&relay, "causeway-notifications-cut", "");
    let mut ear = session(program);
    let mut mouth = direct();
    ear.run("LISTEN cut");
    let length = 1 + 4 + 4 + "cut\0hello\0".len();
    for place in 0..=ANSWER + length {
        strike(program, &relay, 1000 + place as u32, Fault::Close(place));
        let mut sent = 0;
        let mut heard = Vec::new();
        // Until it has come: what is said while nobody is connected is lost, and told to be.
        loop {
            mouth.run(&format!("NOTIFY cut, 'hello{sent}'"));
            sent += 1;
            let frames = ear.exchange_frames(&[query("SELECT 1")], 1);
            heard.extend(
                frames
                    .iter()
                    .filter(|f| matches!(f.tag, b'A' | b'N'))
                    .cloned(),
            );
            let warned = heard.iter().position(|frame| frame.tag == b'N');
            if warned.is_some_and(|at| at + 1 < heard.len()) {
                break;
            }
            assert!(sent < 100_000, "cut at {place}: {}", summary(&heard));
        }
        let warnings = heard.iter().filter(|frame| frame.tag == b'N').count();
        assert_eq!(warnings, 1, "cut at {place}: {}", summary(&heard));
        let notes = heard.iter().filter(|frame| frame.tag == b'A').map(payload);
        let numbers: Vec<u32> = notes
            .map(|note| note.strip_prefix("cut hello").unwrap().parse().unwrap())
            .collect();
        let last = sent - 1;
        assert!(
            numbers.is_sorted_by(|a, b| a < b),
            "cut at {place}: {numbers:?}"
        );
        assert_eq!(numbers.last(), Some(&last), "cut at {place}");
    }
    program.assert_well();
}

#[test]
fn the_shared_connection_holds_still() {
    let relay = Relay::start(cluster().primary().port());
    let program = &behind(&relay, "causeway-notifications-held", "");
    let mut ear = session(program);
    let mut mouth = direct();
    ear.run("LISTEN held");
    for place in [ANSWER, ANSWER + 3, ANSWER + 7, ANSWER + 15] {
        let number = 5000 + place as u32;
        strike(program, &relay, number, Fault::Hold(place));
        eventually("the server has answered", || {
            let sql = format!(
                "SELECT count(*) FROM pg_stat_activity WHERE state = 'idle' \
                 AND query LIKE 'UNLISTEN \"fault={number}.%'"
            );
            mouth.value(&sql) == "1"
        });
        mouth.run("NOTIFY held, 'hello'");
        relay.wait_held(number);
        // Others are not held up, and the session itself not for long.
        assert_eq!(session(program).value("SELECT 40 + 2"), "42");
        assert_eq!(ear.ask("SELECT 1"), "D[1] C[SELECT 1] Z[I]");
        assert_eq!(ear.ask("SELECT 2"), "D[2] C[SELECT 1] Z[I]");
        relay.release(number);
        assert_eq!(payload(&ear.frame().unwrap()), "held hello");
    }
    program.assert_well();
}

/// What comes together with the answer to a question of the proxy's own is not left lying.
#[test]
fn a_session_that_keeps_its_connection_hears_what_comes_with_another_answer() {
    let relay = Relay::start(cluster().primary().port());
    let more = "pool: { mode: session }\n";
    let program = &behind(&relay, "causeway-notifications-kept", more);
    let mut ear = session(program);
    let mut mouth = direct();
    ear.run("LISTEN kept");
    let process = ear.value("SELECT pg_backend_pid()");
    for number in 7000..7010 {
        relay.arm(number, Fault::Hold(ANSWER));
        let unlisten = format!("UNLISTEN nothing /* fault={number}. */");
        // Whether it still listens is asked behind this; the answer to that is held.
        assert_eq!(ear.ask(&unlisten), "C[UNLISTEN] Z[I]");
        relay.wait_held(number);
        eventually("that is answered", || {
            let sql = format!(
                "SELECT state = 'idle' AND query LIKE '%SELECT CASE WHEN%' \
                 FROM pg_stat_activity WHERE pid = {process}"
            );
            mouth.value(&sql) == "t"
        });
        mouth.run(&format!("NOTIFY kept, '{number}'"));
        eventually("the server has passed it on", || {
            mouth.value("SELECT pg_notification_queue_usage()") == "0"
        });
        relay.release(number);
        assert_eq!(payload(&ear.frame().unwrap()), format!("kept {number}"));
    }
    program.assert_well();
}
