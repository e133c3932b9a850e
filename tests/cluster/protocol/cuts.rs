//! Every kind of message that a client sends is cut at every place: it goes away there, or it waits there
//! and sends the rest later. Others are unharmed, and nothing runs that was not sent whole.

use super::program::{Program, direct, numbers};
use super::witnesses::Witnesses;
use crate::cluster;
use crate::support::frames::{self, bind, close, copy_data, copy_done, copy_fail, describe};
use crate::support::frames::{execute, flush, message, parse, query, startup, sync};
use crate::support::{Wire, eventually, summary};

/// So many are cut at the same time; half-sent COPY data holds a server connection each.
const AT_ONCE: usize = 20;
const MORE: &str = "pool: { size: 24, wait_timeout: 20s }\nmax_clients: 2000\n";

/// A conversation of which a part is cut.
struct Scene {
    name: &'static str,
    /// Said before, and how the last answer to it begins to end.
    before: Vec<(Vec<u8>, u8)>,
    /// Cut at every place that `places` gives; `#` in it is replaced by a number of as many digits.
    said: fn(u32) -> Vec<u8>,
    /// The message by which its answer ends; none for the end of the connection.
    until: Option<u8>,
    /// How many of those.
    count: usize,
    /// Where it is cut, of so many bytes.
    places: fn(usize) -> Vec<usize>,
}

fn everywhere(length: usize) -> Vec<usize> {
    (1..length).collect()
}

/// In headers, and around the sizes at which messages are treated differently.
fn chosen(length: usize) -> Vec<usize> {
    let near = |size: usize| size - 1..=size + 1;
    let ends = [64 << 10, 128 << 10, 256 << 10, 1 << 20].into_iter();
    let mut places: Vec<_> = (1..30).chain(ends.flat_map(near)).collect();
    places.extend(length.saturating_sub(3)..length);
    places.retain(|place| *place < length);
    places
}

/// Nobody else's number, always of so many digits.
fn insert(number: u32) -> String {
    format!("INSERT INTO cuts VALUES ({number:07})")
}

fn scenes() -> Vec<Scene> {
    let copy = || vec![(query("COPY cuts FROM STDIN"), b'G')];
    let scene = |name, said, until, count| Scene {
        name,
        before: Vec::new(),
        said,
        until: Some(until),
        count,
        places: everywhere,
    };
    let large = |name, said, until| Scene {
        places: chosen,
        ..scene(name, said, until, 1)
    };
    vec![
        scene("Query", |number| query(&insert(number)), b'Z', 1),
        scene(
            "Parse, Bind, Describe, Execute, Close, Flush, Sync",
            |number| {
                [
                    parse("s", "INSERT INTO cuts VALUES ($1::int)"),
                    describe(b'S', "s"),
                    bind("p", "s", &[&format!("{number:07}")]),
                    describe(b'P', "p"),
                    execute("p", 0),
                    close(b'P', "p"),
                    flush(),
                    close(b'S', "s"),
                    sync(),
                ]
                .concat()
            },
            b'Z',
            1,
        ),
        scene(
            "FunctionCall",
            |_| {
                // int4pl(40, 2), in binary.
                let int = |n: u32| [&4u32.to_be_bytes()[..], &n.to_be_bytes()].concat();
                let head: &[u8] = &[0, 0, 0, 177, 0, 1, 0, 1, 0, 2];
                message(b'F', &[head, &int(40), &int(2), &[0, 1]])
            },
            b'Z',
            1,
        ),
        Scene {
            before: copy(),
            ..scene(
                "CopyData, CopyDone",
                |number| {
                    [
                        copy_data(&format!("{number:07}")[..3]),
                        copy_data(&format!("{number:07}\n")[3..]),
                        copy_done(),
                    ]
                    .concat()
                },
                b'Z',
                1,
            )
        },
        Scene {
            before: copy(),
            ..scene(
                "CopyFail",
                |number| [copy_data(&format!("{number:07}\n")), copy_fail("no")].concat(),
                b'Z',
                1,
            )
        },
        Scene {
            before: copy(),
            ..scene(
                "CopyData that fails, then CopyDone and a Query",
                |number| {
                    [
                        copy_data(&format!("no number {number}\n")),
                        copy_data("more\n"),
                        copy_done(),
                        query("SELECT 7"),
                    ]
                    .concat()
                },
                b'Z',
                2,
            )
        },
        scene(
            "COPY under the extended protocol",
            |number| {
                [
                    parse("", "COPY cuts FROM STDIN"),
                    bind("", "", &[]),
                    execute("", 0),
                    flush(),
                    copy_data(&format!("{number:07}\n")),
                    copy_done(),
                    sync(),
                ]
                .concat()
            },
            b'Z',
            1,
        ),
        Scene {
            until: None,
            ..scene("Terminate", |_| frames::terminate(), b'Z', 1)
        },
        large(
            "a large Query",
            |number| query(&format!("{} /* {} */", insert(number), "x".repeat(300_000))),
            b'Z',
        ),
        large(
            "a large Parse",
            |number| {
                let text = format!("{} /* {} */", insert(number), "x".repeat(200_000));
                let text = parse("large", &text);
                [text, bind("", "large", &[]), execute("", 0), sync()].concat()
            },
            b'Z',
        ),
        Scene {
            before: vec![([parse("s", "SELECT length($1)"), sync()].concat(), b'Z')],
            ..large(
                "a large Bind",
                |_| {
                    let value = "x".repeat(1_200_000);
                    [bind("", "s", &[&value]), execute("", 0), sync()].concat()
                },
                b'Z',
            )
        },
        Scene {
            before: vec![(query("COPY cut_texts FROM STDIN"), b'G')],
            ..large(
                "large CopyData",
                |_| {
                    [
                        copy_data(&format!("{}\n", "x".repeat(300_000))),
                        copy_done(),
                    ]
                    .concat()
                },
                b'Z',
            )
        },
    ]
}

impl Scene {
    /// What is said before is said and answered.
    fn begin(&self, wire: &mut Wire) {
        for (said, until) in &self.before {
            wire.send(said);
            let answer = wire.until(*until);
            assert_eq!(
                answer.last().map(|frame| frame.tag),
                Some(*until),
                "{answer:?}"
            );
        }
    }

    fn answer(&self, wire: &mut Wire) -> String {
        let mut all = Vec::new();
        for _ in 0..self.count {
            all.extend(wire.until(self.until.unwrap_or(0)));
        }
        summary(&all)
    }

    /// What PostgreSQL itself says to it.
    fn expected(&self, number: u32) -> String {
        let mut wire = direct();
        self.begin(&mut wire);
        wire.send(&(self.said)(number));
        self.answer(&mut wire)
    }
}

#[test]
fn a_clients_messages_are_cut_at_every_place() {
    direct().run("CREATE TABLE cuts (n int); CREATE TABLE cut_texts (t text)");
    let program = Program::with("causeway-cuts", &cluster().yaml(), MORE);
    let mut witnesses = Witnesses::new(&program, 3);
    witnesses.check();
    let descriptors = program.descriptors();
    let memory = program.memory("VmRSS");
    // Those that were sent whole, in the end.
    let mut whole = Vec::new();
    let mut number = 1_000_000;
    for scene in scenes() {
        let expected = scene.expected(number);
        let writes = !scene.name.contains("large Bind") && expected.contains("C[INSERT 0 1]")
            || expected.contains("C[COPY 1]") && !scene.name.contains("large");
        if writes {
            whole.push(number);
        }
        let length = (scene.said)(number).len();
        for wave in (scene.places)(length).chunks(AT_ONCE) {
            // Half of each wave goes away, half waits.
            let mut cut: Vec<_> = wave
                .iter()
                .flat_map(|place| [(*place, true), (*place, false)])
                .map(|(place, waits)| {
                    number += 1;
                    (place, waits, number)
                })
                .collect();
            for part in cut.chunks_mut(AT_ONCE) {
                let begun: Vec<_> = part
                    .iter()
                    .map(|&(place, waits, number)| {
                        let mut wire = program.wire();
                        scene.begin(&mut wire);
                        let said = (scene.said)(number);
                        wire.send(&said[..place]);
                        (wire, said, place, waits, number)
                    })
                    .collect();
                witnesses.check();
                let mut waiting = Vec::new();
                for (wire, said, place, waits, number) in begun {
                    match waits {
                        true => waiting.push((wire, said, place, number)),
                        false => wire.vanish(),
                    }
                }
                for (mut wire, said, place, number) in waiting {
                    wire.send(&said[place..]);
                    let answer = scene.answer(&mut wire);
                    assert_eq!(answer, expected, "{} cut at {place}", scene.name);
                    if writes {
                        whole.push(number);
                    }
                }
            }
        }
        witnesses.check();
    }
    program.assert_well();
    let mut found = numbers("cuts");
    found.dedup();
    let whole: Vec<_> = whole.into_iter().map(i64::from).collect();
    assert_eq!(
        found, whole,
        "what was sent whole has run, and nothing else"
    );
    eventually("every client's connection is closed", || {
        // What servers' connections are open beside those of before is the pools' business.
        program.descriptors() <= descriptors + 3 * 24
    });
    let grown = program.memory("VmRSS").saturating_sub(memory);
    assert!(grown < 24 << 20, "the proxy grew by {grown} bytes");
}

#[test]
fn a_login_is_cut_at_every_place() {
    let program = Program::start("causeway-cut-login");
    let login = cluster().application();
    let parameters = [
        ("user", login.user.as_str()),
        ("database", login.database.as_str()),
        ("application_name", "cut"),
    ];
    let first = startup(3, 0, &parameters);
    let mut sleeper = program.wire();
    let (process, key) = sleeper.cancel_key();
    let cancel = frames::cancel_request(&process, &key);
    let descriptors = program.descriptors();
    let mut waiting = Vec::new();
    let (ssl, gss) = (frames::ssl_request(), frames::gss_request());
    for packet in [&first, &ssl, &gss, &cancel] {
        for place in 1..packet.len() {
            for waits in [true, false] {
                let mut wire = Wire::open(program.port);
                wire.send(&packet[..place]);
                match waits {
                    true => waiting.push((wire, packet, place)),
                    false => wire.vanish(),
                }
            }
        }
    }
    // A request to cancel that is cut is none, and one for an idle session does nothing.
    assert_eq!(sleeper.value("SELECT 1"), "1");
    for (mut wire, packet, place) in waiting {
        wire.send(&packet[place..]);
        if packet[4..8] == cancel[4..8] {
            assert!(wire.until_closed().is_empty());
            continue;
        }
        if *packet != first {
            let mut byte = [0];
            std::io::Read::read_exact(&mut wire.stream, &mut byte).unwrap();
            assert_eq!(byte, *b"N");
            wire.send(&first);
        }
        wire.authenticate(&login.user, &login.password).unwrap();
        assert_eq!(wire.value("SELECT 2"), "2");
    }
    // The two messages of SCRAM.
    for which in 0..2 {
        let mut length = usize::MAX;
        for place in 1.. {
            if place >= length {
                break;
            }
            for waits in [true, false] {
                let mut wire = Wire::open(program.port);
                wire.send(&first);
                let mut turn = 0;
                let done = wire.authenticate_by(&login.user, &login.password, |wire, bytes| {
                    turn += 1;
                    if turn - 1 != which {
                        wire.send(bytes);
                        return true;
                    }
                    length = bytes.len();
                    wire.send(&bytes[..place]);
                    // Others are served meanwhile.
                    assert_eq!(sleeper.value("SELECT 1"), "1");
                    if waits {
                        wire.send(&bytes[place..]);
                    }
                    waits
                });
                match done {
                    Some(outcome) => outcome.unwrap(),
                    None => wire.vanish(),
                }
            }
        }
    }
    assert_eq!(sleeper.value("SELECT 1"), "1");
    program.assert_well();
    eventually("every connection is closed", || {
        program.descriptors() <= descriptors + 8
    });
}
