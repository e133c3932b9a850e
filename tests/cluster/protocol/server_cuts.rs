//! Every kind of a server's answer is cut at every place: the connection is lost there, or it holds still
//! there while others go on, and its client waits for the rest or leaves.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

use super::program::{Program, direct, numbers};
use super::relay::{Fault, Relay};
use super::witnesses::Witnesses;
use crate::cluster;
use crate::support::frames::{Frame, parse, query, sync};
use crate::support::frames::{bind, close, copy_data, copy_done, describe, execute, message};
use crate::support::{Wire, summary};

/// So many answers are held at the same time.
const AT_ONCE: usize = 14;
const MORE: &str = "pool: { size: 24, wait_timeout: 20s }\n";
/// Lost in the middle of something that may have been committed, or of something that was not.
const LOST: [&str; 4] = ["08006", "08007", "40001", "57P01"];

/// With a number behind it, which has the same length for all.
const CHANNEL: &str = "server_cuts_";

/// What would run anywhere runs on the primary.
const PIN: &str = "CREATE TEMPORARY TABLE own ()";

struct Kind {
    name: &'static str,
    /// Said before, in a message of its own.
    before: &'static str,
    /// With `fault=number.` in it.
    said: fn(u32) -> Vec<u8>,
    places: fn(usize) -> Vec<usize>,
}

fn everywhere(length: usize) -> Vec<usize> {
    (0..=length).collect()
}

/// In the first frames, and around the sizes at which frames are treated differently.
fn chosen(length: usize) -> Vec<usize> {
    let ends = [64 << 10, 128 << 10].into_iter();
    let near = ends.flat_map(|size: usize| [size - 1, size, size + 1]);
    let mut places: Vec<_> = (0..12).chain(near).collect();
    places.extend(length.saturating_sub(30)..=length);
    places.retain(|place| *place <= length);
    places
}

fn kinds() -> Vec<Kind> {
    let kind = |name, said| Kind {
        name,
        before: "",
        said,
        places: everywhere,
    };
    let large = |name, said| Kind {
        places: chosen,
        ..kind(name, said)
    };
    vec![
        kind("rows", |n| {
            query(&format!(
                "SELECT n, 'row' FROM generate_series(1, 2) n /* fault={n}. */"
            ))
        }),
        kind("an error behind rows", |n| {
            query(&format!(
                "SELECT 1 / (n - 2) FROM generate_series(1, 2) n /* fault={n}. */"
            ))
        }),
        kind("a notice", |n| {
            query(&format!(
                "DO $$ BEGIN RAISE NOTICE 'hello'; END $$ /* fault={n}. */"
            ))
        }),
        Kind {
            before: PIN,
            ..kind("a parameter", |n| {
                query(&format!("SET TimeZone = 'Europe/Paris' /* fault={n}. */"))
            })
        },
        kind("a notification", |n| {
            // Each on a channel of its own: others' come as well when several listen to one.
            query(&format!(
                "LISTEN {CHANNEL}{n}; NOTIFY {CHANNEL}{n}, 'hello' /* fault={n}. */"
            ))
        }),
        kind("COPY TO STDOUT", |n| {
            query(&format!(
                "COPY (VALUES (1), (2)) TO STDOUT /* fault={n}. */"
            ))
        }),
        kind("COPY FROM STDIN", |n| {
            [
                query(&format!("COPY server_cuts FROM STDIN /* fault={n}. */")),
                copy_data(&format!("{n}\n")),
                copy_done(),
            ]
            .concat()
        }),
        kind("a write", |n| {
            query(&format!(
                "INSERT INTO server_cuts VALUES ({n}) RETURNING 1 /* fault={n}. */"
            ))
        }),
        Kind {
            before: PIN,
            ..kind("nothing", |n| query(&format!("/* fault={n}. */")))
        },
        kind("two statements", |n| {
            query(&format!(
                "SELECT 1; INSERT INTO server_cuts VALUES ({n}) /* fault={n}. */"
            ))
        }),
        Kind {
            before: "BEGIN",
            ..kind("a statement in a transaction", |n| {
                query(&format!(
                    "INSERT INTO server_cuts VALUES (-{n}) /* fault={n}. */"
                ))
            })
        },
        kind("the extended protocol", |n| {
            [
                parse("s", &format!("SELECT $1::text /* fault={n}. */")),
                describe(b'S', "s"),
                bind("", "s", &["x"]),
                describe(b'P', ""),
                execute("", 0),
                close(b'P', ""),
                sync(),
            ]
            .concat()
        }),
        kind("a portal in parts", |n| {
            [
                parse(
                    "",
                    &format!("SELECT n FROM generate_series(1, 2) n /* fault={n}. */"),
                ),
                bind("p", "", &[]),
                execute("p", 1),
                execute("p", 1),
                close(b'P', "p"),
                sync(),
            ]
            .concat()
        }),
        kind("a description", |n| {
            [
                parse("s", &format!("SELECT $1::int /* fault={n}. */")),
                describe(b'S', "s"),
                sync(),
            ]
            .concat()
        }),
        kind("a function's result", |n| {
            // length(text)
            let text = format!("fault={n}.");
            let head: &[u8] = &[0, 0, 5, 37, 0, 0, 0, 1];
            let length = (text.len() as u32).to_be_bytes();
            message(b'F', &[head, &length, text.as_bytes(), &[0, 0]])
        }),
        large("a large row", |n| {
            query(&format!("SELECT repeat('x', 150000) /* fault={n}. */"))
        }),
        large("a large description", |n| {
            let column = |at| {
                format!("{at} AS a_name_that_is_as_long_as_names_may_be_in_postgresql_{at:04}")
            };
            let columns: Vec<_> = (1..=1600).map(column).collect();
            [
                parse(
                    "wide",
                    &format!("SELECT {} /* fault={n}. */", columns.join(", ")),
                ),
                describe(b'S', "wide"),
                bind("", "wide", &[]),
                execute("", 0),
                sync(),
            ]
            .concat()
        }),
    ]
}

impl Kind {
    fn begin(&self, wire: &mut Wire) {
        if !self.before.is_empty() {
            wire.run(self.before);
        }
    }

    /// What PostgreSQL itself answers, whatever the number.
    fn expected(&self, number: u32) -> Vec<Frame> {
        let mut wire = direct();
        self.begin(&mut wire);
        wire.send(&(self.said)(number));
        nameless(wire.until(b'Z'))
    }

    fn writes(&self) -> bool {
        matches!(self.name, "COPY FROM STDIN" | "a write" | "two statements")
    }
}

/// Notifications without their senders and their channels' numbers.
fn nameless(mut frames: Vec<Frame>) -> Vec<Frame> {
    for frame in frames.iter_mut().filter(|frame| frame.tag == b'A') {
        frame.body[..4].fill(0);
        let digits = frame.body[4..].iter_mut();
        digits.filter(|c| c.is_ascii_digit()).for_each(|c| *c = 0);
    }
    frames
}

fn session(program: &Program, number: u32) -> Wire {
    let mut wire = program.wire_with(&[("options", "-c causeway.consistency=primary")]);
    wire.run(&format!("SET app.own = 'own {number}'"));
    wire
}

/// The session is the client's own, and works.
fn assert_own(wire: &mut Wire, number: u32) {
    let own = wire.value("SELECT current_setting('app.own')");
    assert_eq!(own, format!("own {number}"));
}

/// With the numbers of those that run at the same time apart from each other.
fn number(kind: usize, way: usize, place: usize) -> u32 {
    (1_000_000 + kind * 10_000 + way * 2_000 + place) as u32
}

struct World<'a> {
    program: &'a Program,
    relay: &'a Relay,
    /// What a client was told of its write, by its number.
    told: Mutex<BTreeMap<u32, &'static str>>,
}

/// The connection is lost at one place.
fn lose(world: &World<'_>, kind: &Kind, expected: &[Frame], number: u32, place: usize) {
    let World {
        program,
        relay,
        told,
    } = world;
    let mut wire = session(program, number);
    kind.begin(&mut wire);
    relay.arm(number, Fault::Close(place));
    wire.send(&(kind.said)(number));
    let answer = nameless(wire.until(b'Z'));
    let what = || format!("{} lost at {place}: {}", kind.name, summary(&answer));
    let same = answer
        .iter()
        .zip(expected)
        .take_while(|(one, other)| one == other);
    let same = same.count();
    let outcome = match &answer[same..] {
        [] if same == expected.len() => "done",
        // In the middle of a frame.
        [] => "cut",
        [error, rest @ ..] => {
            let state = error
                .field(b'C')
                .filter(|_| error.tag == b'E')
                .unwrap_or_default();
            assert!(LOST.contains(&&*state), "{}", what());
            match rest {
                [] => "cut",
                [ready] if ready.tag == b'Z' && state == "40001" => "rolled back",
                [ready] if ready.tag == b'Z' => "unknown",
                _ => panic!("{}", what()),
            }
        }
    };
    if outcome != "cut" {
        let open = answer.last().is_some_and(|ready| ready.body != b"I");
        let late = outcome == "done" && same == expected.len();
        if open {
            let said = wire.ask("ROLLBACK");
            // An open transaction that ended with its connection tells so with its next statement, whichever it is.
            let expected = said == "C[ROLLBACK] Z[I]" || late && said == "E[40001] Z[I]";
            assert!(expected, "{said}: {}", what());
        }
        match late.then(|| wire.ask("SELECT 1")).as_deref() {
            // The connection ended behind the answer: that is noticed at once, or by the next statement. A session
            // that had something of its own there ends.
            Some("E[40001] Z[I]") | Some("D[1] C[SELECT 1] Z[I]") | None => {
                assert_own(&mut wire, number);
            }
            Some(other) => assert!(
                kind.before == PIN && matches!(other, "E[08006]" | "E[40001]"),
                "{other}: {}",
                what()
            ),
        }
    } else {
        assert!(wire.frame().is_none(), "{}", what());
    }
    if kind.writes() {
        told.lock().insert(number, outcome);
    }
}

/// In and right behind headers, and here and there in bodies.
fn is_worth_holding(place: usize, answer: &[Frame]) -> bool {
    let mut begins = vec![0];
    for frame in answer {
        begins.push(begins.last().unwrap() + frame.body.len() + 5);
    }
    let in_header = |begin: &usize| (begin + 1..begin + 7).contains(&place);
    let end = begins.pop().unwrap();
    place < end && (begins.iter().any(in_header) || place % 8 == 4)
}

/// Answers are held at several places, and go on: to clients that wait, and to some that have left.
fn hold(
    world: &World<'_>,
    kind: &Kind,
    expected: &str,
    held: &[(u32, usize)],
    witnesses: &mut Witnesses,
) {
    let relay = world.relay;
    let begun: Vec<_> = held
        .iter()
        .map(|&(number, place)| {
            let mut wire = session(world.program, number);
            kind.begin(&mut wire);
            relay.arm(number, Fault::Hold(place));
            wire.send(&(kind.said)(number));
            (wire, number, place)
        })
        .collect();
    held.iter().for_each(|(number, _)| relay.wait_held(*number));
    witnesses.check();
    let mut waiting = Vec::new();
    for (at, (wire, number, place)) in begun.into_iter().enumerate() {
        match at % 3 {
            0 => wire.vanish(),
            _ => waiting.push((wire, number, place)),
        }
    }
    held.iter().for_each(|(number, _)| relay.release(*number));
    for (mut wire, number, place) in waiting {
        let answer = summary(&wire.until(b'Z'));
        assert_eq!(answer, expected, "{} held at {place}", kind.name);
        if answer.ends_with("Z[T]") {
            wire.run("ROLLBACK");
        }
        assert_own(&mut wire, number);
    }
    witnesses.check();
}

#[test]
fn a_servers_answers_are_cut_at_every_place() {
    direct().run("CREATE TABLE server_cuts (n int)");
    let primary = cluster().primary().port();
    let relay = Relay::start(primary);
    let yaml = cluster().yaml();
    let port = |port| format!("port: {port}\n");
    let yaml = yaml.replace(&port(primary), &port(relay.port));
    assert!(yaml.contains(&port(relay.port)));
    let program = &Program::with("causeway-server-cuts", &yaml, MORE);
    let mut witnesses = Witnesses::new(program, 3);
    let world = &World {
        program,
        relay: &relay,
        told: Mutex::default(),
    };
    let kinds = kinds().into_iter().enumerate();
    let kinds = kinds.map(|(at, kind)| {
        let expected = kind.expected(number(at, 0, 0));
        let length = expected.iter().map(|frame| frame.body.len() + 5).sum();
        let places = (kind.places)(length);
        (at, kind, expected, places)
    });
    let kinds: &Vec<_> = &kinds.collect();
    let next = &AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(move || {
                while let Some(kind) = kinds.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let (at, kind, expected, places) = kind;
                    for (count, place) in places.iter().enumerate() {
                        lose(world, kind, expected, number(*at, 1, count), *place);
                    }
                }
            });
        }
    });
    witnesses.check();
    for (at, kind, expected, places) in kinds {
        let places = places
            .iter()
            .filter(|place| is_worth_holding(**place, expected));
        let places: Vec<_> = places
            .enumerate()
            .map(|(count, place)| (number(*at, 2, count), *place))
            .collect();
        let expected = summary(expected);
        for wave in places.chunks(AT_ONCE) {
            hold(world, kind, &expected, wave, &mut witnesses);
        }
    }
    program.assert_well();
    let mut times: BTreeMap<i64, usize> = BTreeMap::new();
    numbers("server_cuts")
        .into_iter()
        .for_each(|n| *times.entry(n).or_default() += 1);
    for (number, outcome) in &*world.told.lock() {
        let times = times.get(&i64::from(*number)).copied().unwrap_or_default();
        match *outcome {
            "done" => assert_eq!(times, 1, "{number} was acknowledged"),
            "rolled back" => assert_eq!(times, 0, "{number} was rolled back"),
            _ => assert!(times <= 1, "{number} has run twice"),
        }
    }
}

/// A session to which its connection was lent for life does not go on without it, whatever the proxy was
/// asking or repeating when that was lost.
#[test]
fn with_session_pooling_a_session_ends_with_its_connection() {
    let relay = Relay::start(cluster().primary().port());
    let port = |port| format!("port: {port}\n");
    let yaml = cluster().yaml();
    let yaml = yaml.replace(&port(cluster().primary().port()), &port(relay.port));
    let more = "pool: { mode: session }\n";
    let program = Program::with("causeway-session-cuts", &yaml, more);
    let silent = [parse("", "SELECT 1 /* fault=2. */"), sync()].concat();
    let created = "CREATE TABLE IF NOT EXISTS server_cuts_seen () /* fault=1. */";
    let unlisten = "UNLISTEN nothing /* fault=3. */";
    for (number, said, place) in [
        // What is left is asked behind this; the question is not answered.
        (1, query(created), "CREATE TABLE".len() + 6 + 6),
        (3, query(unlisten), "UNLISTEN".len() + 6 + 6),
        // Nothing of it has been answered, and it runs nothing.
        (2, silent, 0),
    ] {
        let mut wire = program.wire();
        wire.run("SET application_name = 'its own'");
        relay.arm(number, Fault::Close(place));
        wire.send(&said);
        let frames = wire.until_closed();
        let told = frames.iter().find(|frame| frame.tag == b'E');
        let told = told.and_then(|frame| frame.field(b'C'));
        let told = told.unwrap_or_else(|| panic!("{}", summary(&frames)));
        assert!(LOST.contains(&told.as_str()), "{}", summary(&frames));
    }
    program.assert_well();
}
