//! The same statements directly and through the proxy: what a session listens to is what it would be, and
//! what it hears too.

use super::{direct, note, pid, session};
use crate::cluster;
use crate::support::frames::{Frame, bind, execute, flush, parse, query, run, sync};
use crate::support::{Proxy, Wire};

/// What a session asks about itself.
const CHANNELS: &str = "SELECT pg_listening_channels()";

/// Messages, with senders by their names.
fn shown(frames: &[Frame], senders: &[(i32, &str)]) -> String {
    // What was said while the session was idle may come a little later than that.
    let idle = frames.iter().take_while(|frame| frame.tag == b'A').count();
    let (idle, rest) = frames.split_at(idle);
    let (ready, rest) = rest.split_last().unwrap();
    let frames = rest.iter().chain(idle).chain([ready]);
    let one = |frame: &Frame| match frame.tag {
        b'A' => {
            let note = note(frame);
            let (pid, rest) = note.split_once(' ').unwrap();
            let known = senders.iter().find(|(known, _)| known.to_string() == pid);
            format!("A[{} {rest}]", known.map_or("somebody", |(_, name)| name))
        }
        _ => frame.to_string(),
    };
    frames.map(one).collect::<Vec<_>>().join(" ")
}

/// Lines `who: text`, of two sessions; what each answers, and hears behind it all.
fn play(make: &dyn Fn() -> Wire, script: &str) -> Vec<String> {
    let (mut one, mut other) = (make(), make());
    let senders = [(pid(&one), "one"), (pid(&other), "other")];
    let mut answers = Vec::new();
    for line in script
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
    {
        let (who, text) = line.split_once(": ").unwrap();
        let wire = if who == "one" { &mut one } else { &mut other };
        let answer = match text.strip_prefix("extended ") {
            None => wire.exchange_frames(&[query(text)], 1),
            Some(texts) => {
                let messages = texts.split("; ").flat_map(|text| match text {
                    "flush" => vec![flush()],
                    text => vec![parse("", text), bind("", "", &[]), execute("", 0)],
                });
                let mut messages: Vec<_> = messages.collect();
                messages.push(sync());
                wire.exchange_frames(&messages, 1)
            }
        };
        answers.push(format!("{line} -> {}", shown(&answer, &senders)));
    }
    answers
}

/// Fails unless a script's answers are the same. `@` stands in front of channels, which are its own.
fn compare(name: &str, script: &str) {
    let script = &script.replace('@', &format!("{name}_"));
    for size in [1, 3] {
        // Where one session keeps the only connection, the other cannot speak.
        if size == 1 && ["BEGIN", "TEMP"].iter().any(|word| script.contains(word)) {
            continue;
        }
        let proxy = Proxy::start(cluster(), &format!("pool: {{ size: {size} }}\n"));
        let proxied = play(&|| session(&proxy), script);
        let expected = play(&direct, script);
        assert_eq!(proxied, expected, "with {size}");
    }
}

#[test]
fn outside_of_transactions() {
    compare(
        "outside",
        &format!(
            "one: {CHANNELS}
         one: LISTEN @a
         one: {CHANNELS}
         one: LISTEN \"A b\"\"c\"
         one: LISTEN @a
         one: {CHANNELS}
         other: NOTIFY @a, 'x'
         one: SELECT 1
         one: NOTIFY \"A b\"\"c\", 'y'
         other: {CHANNELS}
         one: UNLISTEN @a
         one: NOTIFY @a, 'not heard'
         one: {CHANNELS}
         one: UNLISTEN @nothing
         one: SELECT count(*) FROM pg_listening_channels()
         one: LISTEN @z; LISTEN @m
         one: {CHANNELS}
         one: UNLISTEN *; NOTIFY @z
         one: {CHANNELS}
         one: LISTEN @a; SELECT 1 / 0
         one: {CHANNELS}
         one: LISTEN @back
         one: DISCARD ALL
         one: {CHANNELS}
         one: NOTIFY @back"
        ),
    );
}

#[test]
fn in_transactions() {
    compare(
        "inside",
        &format!(
            "one: LISTEN @a
         one: BEGIN
         one: LISTEN @b
         one: {CHANNELS}
         other: NOTIFY @a, 'x'
         other: NOTIFY @b, 'too early'
         one: SELECT 1
         one: UNLISTEN @a
         one: ROLLBACK
         one: {CHANNELS}
         one: BEGIN; LISTEN @b; SAVEPOINT s; LISTEN @c; UNLISTEN @a; ROLLBACK TO s
         one: NOTIFY @b, 'own'
         one: COMMIT
         one: {CHANNELS}
         one: BEGIN
         one: SELECT 1
         one: {CHANNELS}
         one: UNLISTEN *
         one: LISTEN @d
         one: {CHANNELS}
         other: NOTIFY @a, 'no longer'
         one: COMMIT
         one: {CHANNELS}
         one: BEGIN; UNLISTEN @d; LISTEN @e; COMMIT AND CHAIN
         one: {CHANNELS}
         one: ROLLBACK
         one: {CHANNELS}
         one: BEGIN; LISTEN @f; SELECT 1 / 0
         one: COMMIT
         one: {CHANNELS}
         one: BEGIN
         one: LISTEN @g
         one: PREPARE TRANSACTION 'x'
         one: {CHANNELS}"
        ),
    );
}

#[test]
fn in_pipelines() {
    compare(
        "pipes",
        &format!(
            "one: extended LISTEN @a; {CHANNELS}
         one: extended {CHANNELS}; flush; UNLISTEN @a; flush; LISTEN @b
         one: {CHANNELS}
         one: extended NOTIFY @b; SELECT 1; flush; NOTIFY @b, 'x'
         other: extended NOTIFY @b, 'other'
         one: extended SELECT 1; flush; SELECT 1 / 0; flush; SELECT 2
         one: extended SELECT 1
         one: extended LISTEN @c; SELECT 1 / 0; LISTEN @d
         one: {CHANNELS}
         one: extended BEGIN; LISTEN @c; NOTIFY @c
         one: extended {CHANNELS}
         one: extended COMMIT
         one: {CHANNELS}"
        ),
    );
}

#[test]
fn in_functions() {
    let names = [
        ("hear", "LISTEN inner_f"),
        ("deaf", "UNLISTEN *"),
        ("speak", "NOTIFY inner_f, ''from a function''"),
    ];
    for (name, statement) in names {
        direct().run(&format!(
            "CREATE FUNCTION listening_{name}() RETURNS void LANGUAGE plpgsql AS \
             'BEGIN EXECUTE $x$ {statement} $x$; END'"
        ));
    }
    direct().run(
        "CREATE FUNCTION listening_told() RETURNS trigger LANGUAGE plpgsql AS \
         'BEGIN PERFORM pg_notify(''inner_f'', ''row '' || NEW.n); RETURN NULL; END'",
    );
    direct().run(
        "CREATE FUNCTION listening_count() RETURNS bigint LANGUAGE sql AS \
         'SELECT count(*) FROM pg_listening_channels()'",
    );
    direct().run(
        "CREATE TABLE listening_rows (n int); \
         CREATE TRIGGER told AFTER INSERT ON listening_rows \
         FOR EACH ROW EXECUTE FUNCTION listening_told()",
    );
    let proxy = Proxy::start(cluster(), "pool: { size: 3 }\n");
    let script = format!(
        "one: SELECT listening_hear()
         one: {CHANNELS}
         one: SELECT listening_count()
         one: SELECT listening_speak()
         other: SELECT listening_speak()
         one: SELECT 1
         one: INSERT INTO listening_rows VALUES (1), (2)
         other: INSERT INTO listening_rows VALUES (3)
         one: SELECT 1
         one: LISTEN inner_g
         one: DO $$ BEGIN EXECUTE 'LISTEN inner_h'; END $$
         one: {CHANNELS}
         one: BEGIN
         one: SELECT listening_count()
         one: SELECT listening_deaf()
         one: SELECT listening_count()
         one: COMMIT
         one: SELECT listening_count()
         other: SELECT listening_speak()
         one: SELECT 1"
    );
    assert_eq!(play(&|| session(&proxy), &script), play(&direct, &script));
}

#[test]
fn beside_what_else_keeps_a_connection() {
    compare(
        "beside",
        &format!(
            "one: CREATE TEMP TABLE listening_mine (n int)
         one: LISTEN @a
         one: {CHANNELS}
         one: NOTIFY @a, 'x'
         other: NOTIFY @a, 'y'
         one: SELECT count(*) FROM listening_mine
         one: DROP TABLE listening_mine
         one: {CHANNELS}
         other: NOTIFY @a, 'z'
         one: SELECT pg_advisory_lock(7001)
         one: UNLISTEN @a
         one: LISTEN @b
         one: SELECT pg_advisory_unlock(7001)
         other: NOTIFY @b, 'free'
         one: {CHANNELS}"
        ),
    );
}

#[test]
fn a_read_only_transaction_that_moves_to_the_primary_takes_its_channels_along() {
    let proxy = Proxy::start(cluster(), "");
    let mut wire = proxy.wire();
    wire.run("LISTEN moved_a");
    wire.run("BEGIN READ ONLY");
    wire.run("SELECT count(*) FROM pg_class");
    assert_eq!(wire.value(CHANNELS), "moved_a");
    wire.run("UNLISTEN moved_a");
    wire.run("COMMIT");
    assert_eq!(wire.ask(CHANNELS), "C[SELECT 0] Z[I]");
    // With a snapshot that is promised it stays where nobody can tell.
    wire.run("LISTEN moved_a");
    wire.run("SET causeway.consistency = eventual");
    wire.run("BEGIN READ ONLY ISOLATION LEVEL REPEATABLE READ");
    wire.run("SELECT count(*) FROM pg_class");
    let route = wire.value("SHOW causeway.last_route");
    assert!(route.starts_with("standby"), "{route}");
    assert_eq!(wire.ask(CHANNELS), "E[0A000] Z[E]");
}

#[test]
fn a_statement_of_the_protocol_asks_each_time() {
    let proxy = Proxy::start(cluster(), "pool: { size: 2 }\n");
    let mut wire = session(&proxy);
    assert_eq!(wire.exchange(&[parse("c", CHANNELS), sync()]), "1 Z[I]");
    let ask = [run("c", &[]), sync()];
    assert_eq!(wire.exchange(&ask), "2 C[SELECT 0] Z[I]");
    wire.run("LISTEN asked_a");
    assert_eq!(wire.exchange(&ask), "2 D[asked_a] C[SELECT 1] Z[I]");
    wire.run("UNLISTEN asked_a");
    assert_eq!(wire.exchange(&ask), "2 C[SELECT 0] Z[I]");
}
