//! The feed as it arrives, rates between points, and what is drawn of it all.

use std::time::Duration;

use proptest::prelude::*;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use serde_json::{Value, json};

use super::format::{bars, bytes, count, long, span, time_of_day};
use super::model::{Model, Weight};
use super::{EventReader, Happening, Key, ServerSentEvent, draw};

const START_MS: u64 = 1_800_000_000_000;

fn status(events: Value) -> Value {
    json!({
        "version": "9.9.9", "uptime_seconds": 61.5, "primary": "pg1", "clients": 4, "pinned": { "sessions": 2 },
        "nodes": [
            { "name": "pg1", "state": "up", "role": "primary", "timeline": 3, "position": "0/5000060",
              "lag_bytes": null, "lag_ms": null, "pool": { "active": 2, "idle": 1, "waiting": 0 } },
            { "name": "pg2", "state": "up", "role": "standby", "timeline": 3, "position": "0/5000000",
              "lag_bytes": 96, "lag_ms": 0.84, "pool": { "active": 0, "idle": 3, "waiting": 1 } },
            { "name": "pg3", "state": "down", "role": null, "timeline": null, "position": null,
              "lag_bytes": null, "lag_ms": null, "pool": { "active": 0, "idle": 0, "waiting": 0 },
              "from a later version": true },
        ],
        "failover": {
            "mode": "automatic", "phase": "steady", "epoch": 7, "primary": "pg1",
            "durability": "quorum", "why": "pg1 leads on timeline 3", "leads": true, "leader": null,
            "quarantine": [["pg3", "it led before; it is rewound"]],
        },
        "troubles": [{ "node": "pg3", "kind": "down", "text": "Connection refused" }],
        "events": events,
    })
}

/// A point so many half seconds after the first; counters as they would stand under an even load.
fn point(step: u64) -> Value {
    let at_ms = START_MS + step * 500;
    json!({
        "at_ms": at_ms, "clients": 4,
        "nodes": [
            { "lag_ms": null, "statements": 100 * step },
            { "lag_ms": (step % 4) as f64 * 2.0, "statements": 300 * step },
            { "lag_ms": null, "statements": 0 },
        ],
        "routes": { "primary.write": 100 * step, "standby.same_standby": 250 * step, "standby.caught_up": 50 * step },
        "stale_reads_prevented": 5 * step, "waits": 10 * step, "wait_seconds": 0.02 * step as f64,
        "latency": [
            { "p50": 1.25, "p95": 4.0, "p99": 12.0 },
            { "p50": 0.05, "p95": 0.25, "p99": 1.0 },
        ],
    })
}

fn told(number: u64, text: &str) -> Value {
    json!({ "number": number, "at_ms": START_MS + number * 1000, "kind": "promoted", "text": text })
}

fn say(model: &mut Model, name: &str, data: &Value) {
    let event = ServerSentEvent {
        name: name.to_owned(),
        data: data.to_string(),
    };
    model
        .note(Happening::Said(event), Duration::from_secs(1))
        .unwrap();
}

fn now(model: &mut Model, point: &Value, events: Value) {
    say(
        model,
        "now",
        &json!({ "status": status(events), "point": point }),
    );
}

/// After six points and one event.
fn loaded() -> Model {
    let mut model = Model::new("127.0.0.1:9432");
    let points: Vec<Value> = (0..6).map(point).collect();
    let events = json!([told(
        1,
        "pg1 leads on timeline 3, which begins at 0/4FFFF00"
    )]);
    say(
        &mut model,
        "past",
        &json!({ "status": status(events), "points": points }),
    );
    model
}

fn screen(model: &Model, width: u16, height: u16, at: u64) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    let drawn = terminal.draw(|frame| draw(frame, model, Duration::from_secs(at)));
    let buffer = drawn.unwrap().buffer;
    let rows = (0..height).map(|y| {
        let cells = (0..width).map(|x| buffer[(x, y)].symbol());
        cells.collect::<String>().trim_end().to_owned()
    });
    rows.collect::<Vec<_>>().join("\n")
}

#[test]
fn everything_is_on_the_screen() {
    let shown = screen(&loaded(), 80, 28, 1);
    let expected = "\
causeway 127.0.0.1:9432  9.9.9, up 61 s, 4 clients, 2 pinned  live
pg1 leads; pg3 is down
┌ Nodes (pool: in use/idle/waiting) ───────────────────────────────────────────┐
│node role    state  tl  lag      lag time                    stmt/s  pool     │
│pg1  primary up     3   -        -                           200     2/1/0    │
│pg2  standby up     3   96 B     0.8 ms                   ▃█ 600     0/3/1    │
│pg3  -       down   -   -        -                           0       0/0/0    │
└──────────────────────────────────────────────────────────────────────────────┘
┌ Where statements go: 75 % to standbys┐┌ Latency, and the promise ────────────┐
│standby: same standby 500/s     62 %  ││               p50      p95      p99  │
│primary: write        200/s     25 %  ││standbys     50 us   0.2 ms   1.0 ms  │
│standby: caught up    100/s     12 %  ││primary     1.2 ms   4.0 ms    12 ms  │
│                                      ││stale reads prevented 25, 10/s        │
│                                      ││waits for a standby 20/s, 2.0 ms each │
│                                      ││clients waiting for a connection 1    │
└──────────────────────────────────────┘└──────────────────────────────────────┘
┌ Failover, and what is wrong ─────────────────────────────────────────────────┐
│steady, epoch 7, primary pg1, automatic, quorum, this proxy decides           │
│pg1 leads on timeline 3                                                       │
│pg3 serves nobody: it led before; it is rewound                               │
│pg3 (down): Connection refused                                                │
└──────────────────────────────────────────────────────────────────────────────┘
┌ Events (UTC) ────────────────────────────────────────────────────────────────┐
│08:00:01 promoted         pg1 leads on timeline 3, which begins at 0/4FFFF00  │
│                                                                              │
│                                                                              │
└──────────────────────────────────────────────────────────────────────────────┘
q quit   Tab events or overview   ↑ ↓ PgUp PgDn Home End scroll the events";
    assert_eq!(shown, expected, "\n{shown}");
}

#[test]
fn a_low_window_keeps_the_nodes_and_the_latest_event() {
    let shown = screen(&loaded(), 60, 13, 1);
    for text in ["pg2 ", "08:00:01", "Events"] {
        assert!(shown.contains(text), "{text}:\n{shown}");
    }
    assert!(!shown.contains("Where statements go"), "{shown}");
}

#[test]
fn while_the_proxy_is_away_it_says_so_and_since_when() {
    let mut model = loaded();
    let lost = Happening::Lost {
        why: "Connection refused".to_owned(),
        again_in: Duration::from_secs(4),
    };
    model.note(lost, Duration::from_secs(10)).unwrap();
    let shown = screen(&model, 100, 24, 12);
    let line = "no connection for 11 s: Connection refused; trying again in 2 s";
    assert!(shown.contains(line), "{shown}");
    assert!(!shown.contains("pg1 leads;"), "old news:\n{shown}");
    assert!(screen(&model, 100, 24, 15).contains("trying again now"));
    now(&mut model, &point(7), json!([]));
    let shown = screen(&model, 100, 24, 16);
    assert!(
        shown.contains("live") && !shown.contains("no connection"),
        "{shown}"
    );
}

#[test]
fn before_the_first_word_there_is_nothing_but_the_reason() {
    let mut model = Model::new("db:9432");
    assert!(screen(&model, 60, 10, 0).contains("db:9432  connecting"));
    let lost = Happening::Lost {
        why: "no answer within 3s".to_owned(),
        again_in: Duration::ZERO,
    };
    model.note(lost, Duration::from_secs(3)).unwrap();
    assert!(screen(&model, 60, 10, 3).contains("no connection: no answer within 3s"));
}

#[test]
fn rates_are_not_taken_over_a_gap_or_a_restart() {
    let writes = |model: &Model| model.rate(|point| point.routes["primary.write"] as f64);
    let mut model = Model::new("");
    assert_eq!(writes(&model), None);
    now(&mut model, &point(10), json!([]));
    assert_eq!(writes(&model), None, "one point");
    now(&mut model, &point(11), json!([]));
    assert_eq!(writes(&model), Some(200.0));
    now(&mut model, &point(100), json!([]));
    assert_eq!(writes(&model), None, "44 s lie between");
    now(&mut model, &point(101), json!([]));
    assert_eq!(writes(&model), Some(200.0));
    let mut restarted = point(102);
    restarted["routes"]["primary.write"] = json!(3);
    now(&mut model, &restarted, json!([]));
    assert_eq!(writes(&model), None, "counted anew");
}

#[test]
fn at_rest_rates_are_nought_and_shares_unknown() {
    let mut model = loaded();
    for step in 6..14 {
        let mut same = point(5);
        same["at_ms"] = json!(START_MS + step * 500);
        now(&mut model, &same, json!([]));
    }
    let routes = model.routes();
    assert_eq!(routes[0].0, "standby: same standby", "{routes:?}");
    assert!(
        routes
            .iter()
            .all(|(_, rate, share)| *rate == Some(0.0) && share.is_none())
    );
}

#[test]
fn a_proxy_that_is_met_again_is_believed_anew() {
    let mut model = loaded();
    now(&mut model, &point(6), json!([told(2, "two")]));
    assert_eq!(model.events.len(), 2);
    // It has started anew: its numbers begin at 1, and its counters at 0.
    let past = json!({ "status": status(json!([told(1, "one")])), "points": [point(0)] });
    say(&mut model, "past", &past);
    let texts: Vec<&str> = model.events.iter().map(|event| &*event.text).collect();
    assert_eq!(texts, ["one"]);
    assert_eq!(model.node_rate(0), None);
}

#[test]
fn events_are_told_once_and_stay_in_view_while_they_are_read() {
    let mut model = loaded();
    for number in 2..=40 {
        now(
            &mut model,
            &point(6),
            json!([told(number, &format!("number {number}."))]),
        );
        now(&mut model, &point(6), json!([told(number, "told twice")]));
    }
    assert_eq!(model.events.len(), 40);
    let press = |model: &mut Model, key| {
        let pressed = model.note(Happening::Pressed(key), Duration::ZERO);
        pressed.unwrap();
    };
    press(&mut model, Key::Next);
    assert!(screen(&model, 80, 12, 1).contains("number 40."));
    press(&mut model, Key::Up(10));
    let before = screen(&model, 80, 12, 1);
    assert!(
        before.contains("number 30.") && before.contains(", 10 newer below"),
        "{before}"
    );
    assert!(!before.contains("number 31."), "{before}");
    now(&mut model, &point(7), json!([told(41, "number 41.")]));
    let after = screen(&model, 80, 12, 1);
    assert!(
        after.contains("number 30.") && after.contains(", 11 newer below"),
        "{after}"
    );
    press(&mut model, Key::First);
    assert!(screen(&model, 80, 12, 1).contains("pg1 leads on timeline 3"));
    press(&mut model, Key::Down(1));
    press(&mut model, Key::Last);
    assert!(screen(&model, 80, 12, 1).contains("number 41."));
}

#[test]
fn long_events_are_told_to_their_end_in_their_own_view() {
    let mut model = loaded();
    let text = "the standbys that are left cannot hold all that was acknowledged: bring back pg2 or \
        pg3, or order a failover, which would lose 4711 bytes";
    now(&mut model, &point(6), json!([told(2, text)]));
    assert!(!screen(&model, 80, 24, 1).contains("4711"));
    model
        .note(Happening::Pressed(Key::Next), Duration::ZERO)
        .unwrap();
    let shown = screen(&model, 80, 24, 1);
    assert!(shown.contains("4711 bytes"), "{shown}");
}

#[test]
fn what_is_no_feed_of_a_proxy_is_refused() {
    let mut events = EventReader::default();
    events.push(b"<!DOCTYPE html>\n");
    assert!(events.take().is_err());
    let mut events = EventReader::default();
    events.push(b"data: \xff\xfe\n\n");
    assert!(events.take().is_err());
    let mut events = EventReader::default();
    events.push(&vec![b'x'; 9 << 20]);
    assert!(events.take().is_err());
    let mut model = Model::new("");
    let event = ServerSentEvent {
        name: "now".to_owned(),
        data: "7".to_owned(),
    };
    assert!(model.note(Happening::Said(event), Duration::ZERO).is_err());
    assert_eq!(model.verdict(), (Weight::Warn, String::new()));
}

#[test]
fn figures_are_short() {
    let texts = [
        bytes(None),
        bytes(Some(1023)),
        bytes(Some(1024)),
        bytes(Some(50 << 20)),
    ];
    assert_eq!(texts, ["-", "1023 B", "1.0 kB", "50 MB"]);
    let texts = [0.0004, 0.05, 0.1, 9.94, 9.96, 9_949.0, 60_000.0, 1e7].map(|ms| span(Some(ms)));
    assert_eq!(
        texts,
        [
            "0 us", "50 us", "0.1 ms", "9.9 ms", "10 ms", "9949 ms", "60 s", "2 h"
        ]
    );
    let texts = [0.0, 0.4, 9.99, 812.4, 12_345.0, 2.5e6].map(|value| count(Some(value)));
    assert_eq!(texts, ["0", "0.4", "10.0", "812", "12.3k", "2.5M"]);
    assert_eq!(
        [119.9, 120.0, 7200.0, 200_000.0].map(long),
        ["119 s", "2 min", "2 h", "2 d"]
    );
    assert_eq!(time_of_day(1_790_000_123_456), "14:15:23");
    assert_eq!(bars(&[None, Some(0.0), Some(5.0), Some(10.0)], 5.0), " ▁▅█");
    assert_eq!(bars(&[Some(0.0), Some(0.1)], 5.0), "▁▁");
}

proptest! {
    #[test]
    fn however_the_bytes_arrive_the_events_are_the_same(cuts in prop::collection::vec(1_usize..40, 1..60)) {
        let text = ": keep alive\n\nevent: access\ndata: open\n\nevent: past\r\ndata: {\"a\": \"b: c\"}\r\n\r\n\
            id: 7\nevent: now\ndata:no space\n\n:\n\n";
        let mut rest = text.as_bytes();
        let mut cuts = cuts.into_iter().cycle();
        let (mut events, mut found) = (EventReader::default(), Vec::new());
        while !rest.is_empty() {
            let (now, later) = rest.split_at(cuts.next().unwrap().min(rest.len()));
            events.push(now);
            while let Some(event) = events.take().unwrap() {
                found.push((event.name, event.data));
            }
            rest = later;
        }
        let expected = [("access", "open"), ("past", "{\"a\": \"b: c\"}"), ("now", "no space")];
        let expected = expected.map(|(name, data)| (name.to_owned(), data.to_owned()));
        prop_assert_eq!(found, expected);
    }

    #[test]
    fn no_window_is_too_small(width in 1_u16..140, height in 1_u16..50, keys in 0_usize..3) {
        let mut model = loaded();
        for _ in 0..keys {
            model.note(Happening::Pressed(Key::Next), Duration::ZERO).unwrap();
        }
        screen(&model, width, height, 5);
        screen(&Model::new("somewhere"), width, height, 5);
    }
}
