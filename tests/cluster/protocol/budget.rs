//! What sessions can make the proxy hold is bounded in bytes, for each and for all: what goes beyond it is
//! refused as PostgreSQL refuses it, the session goes on, and what is let go of is there for others.

use super::program::Program;
use crate::cluster;
use crate::support::frames::{bind, close, execute, parse, query, sync};
use crate::support::{Wire, eventually, http, summary};

const MB: usize = 1 << 20;
const BOUNDS: &str = "memory: { total: 24MB, session: 8MB }\npool: { size: 30 }\n";

fn start(name: &str) -> Program {
    Program::with(name, &cluster().yaml(), BOUNDS)
}

fn held(program: &Program) -> usize {
    let status = http::status(program.http);
    status["memory"]["held_bytes"].as_u64().unwrap() as usize
}

/// A text of a megabyte that nobody else has.
fn text(number: usize) -> String {
    format!("SELECT {number} /* {} */", "x".repeat(MB - 40))
}

fn assert_works(wire: &mut Wire) {
    assert_eq!(wire.ask("SELECT 7"), "D[7] C[SELECT 1] Z[I]");
}

#[test]
fn many_sessions_share_one_budget() {
    let program = start("causeway-budget");
    let mut witness = program.wire();
    assert_works(&mut witness);
    let shared = parse("same", &format!("SELECT 1 /* {} */", "s".repeat(100_000)));
    assert_eq!(witness.exchange(&[shared.clone(), sync()]), "1 Z[I]");
    let (memory, least) = (program.memory("VmRSS"), held(&program));
    let mut sessions: Vec<_> = (0..30).map(|_| program.wire()).collect();
    let (mut kept, mut refused) = (0, 0);
    for round in 0..3 {
        for (at, wire) in sessions.iter_mut().enumerate() {
            let name = format!("s{round}");
            let prepared = [parse(&name, &text(round * 100 + at)), sync()];
            match &*wire.exchange(&prepared) {
                "1 Z[I]" => kept += 1,
                "E[53200] Z[I]" => refused += 1,
                other => panic!("{other}"),
            }
            assert_works(wire);
        }
    }
    assert!(
        (15..=23).contains(&kept) && kept + refused == 90,
        "{kept} kept"
    );
    // A text that others have costs nothing.
    for wire in &mut sessions {
        assert_eq!(wire.exchange(&[shared.clone(), sync()]), "1 Z[I]");
    }
    // Nor is there room for a long message that has to come whole.
    let long = format!("SELECT 1 /* {} */", "y".repeat(6 * MB));
    let whole = [parse("", &long), sync()];
    assert_eq!(witness.exchange(&whole), "E[53200] Z[I]");
    // One that is passed on as it comes needs none.
    assert_eq!(witness.ask(&long), "D[1] C[SELECT 1] Z[I]");
    let (total, now) = (24 * MB, held(&program));
    assert!(now <= total && now > total / 2, "{now} bytes are held");
    assert_works(&mut witness);
    let metrics = http::get(program.http, "/metrics").unwrap();
    assert!(metrics.contains("causeway_memory_max_bytes 25165824"));
    assert!(metrics.contains("causeway_errors_total{sqlstate=\"53200\"}"));
    // What leaves makes room at once.
    sessions.drain(..25).for_each(Wire::vanish);
    eventually("they have left", || {
        http::status(program.http)["clients"].as_u64() == Some(6)
    });
    let prepared = [parse("late", &text(900)), sync()];
    assert_eq!(witness.exchange(&prepared), "1 Z[I]");
    assert_eq!(witness.exchange(&whole), "1 Z[I]");
    let grown = program.memory("VmRSS").saturating_sub(memory);
    assert!(grown < 100 * MB, "the proxy grew by {grown} bytes");
    drop(sessions);
    drop(witness);
    eventually("the last has left", || {
        http::status(program.http)["clients"].as_u64() == Some(0)
    });
    // Statements that nobody uses are kept for others until there is need; what is there is counted.
    let mut alone = program.wire();
    for number in 0..7 {
        let prepared = [parse(&format!("s{number}"), &text(2000 + number)), sync()];
        assert_eq!(alone.exchange(&prepared), "1 Z[I]");
    }
    assert!(held(&program) >= least + 7 * (MB - 100));
    program.assert_well();
}

#[test]
fn what_is_only_announced_takes_no_room_from_others() {
    let program = start("causeway-announced");
    let mut witness = program.wire();
    // Six megabytes each, of which only the beginning comes.
    let whole = parse("s", &format!("SELECT 1 /* {} */", "z".repeat(6 * MB)));
    let mut sessions: Vec<_> = (0..10).map(|_| program.wire()).collect();
    for wire in &mut sessions {
        wire.send(&whole[..100]);
    }
    assert_works(&mut witness);
    assert!(held(&program) < MB, "{} bytes are held", held(&program));
    // There is room for as much as there would be without them.
    let prepared = [parse("kept", &text(1)), sync()];
    assert_eq!(witness.exchange(&prepared), "1 Z[I]");
    let long = parse("", &format!("SELECT 2 /* {} */", "y".repeat(7 * MB)));
    assert_eq!(witness.exchange(&[long, sync()]), "1 Z[I]");
    // Half of each comes: what does not fit is refused there and then.
    for wire in &mut sessions {
        wire.send(&whole[100..3 * MB]);
    }
    eventually("some are refused", || {
        let metrics = http::get(program.http, "/metrics").unwrap();
        metrics.contains("causeway_errors_total{sqlstate=\"53200\"}")
    });
    // What has just been read is counted, room or not, until it is passed over.
    eventually("no more is held than may be", || held(&program) <= 24 * MB);
    assert_works(&mut witness);
    // Those that were, hear it, and their message's rest is passed over.
    let mut refused = 0;
    for wire in &mut sessions {
        wire.send(&whole[3 * MB..]);
        wire.send(&sync());
        match &*summary(&wire.until(b'Z')) {
            "1 Z[I]" => {}
            "E[53200] Z[I]" => refused += 1,
            other => panic!("{other}"),
        }
        assert_works(wire);
    }
    assert!((3..=9).contains(&refused), "{refused} refused");
    drop(sessions);
    program.assert_well();
}

#[test]
fn a_session_has_a_bound_of_its_own() {
    let program = start("causeway-bound");
    let mut wire = program.wire();
    // Statements, by their texts and by their names.
    let mut names = 0;
    loop {
        match &*wire.exchange(&[parse(&format!("s{names}"), &text(names)), sync()]) {
            "1 Z[I]" => names += 1,
            "E[54000] Z[I]" => break,
            other => panic!("{other}"),
        }
    }
    assert!((6..=8).contains(&names), "{names} statements");
    assert_works(&mut wire);
    assert_eq!(
        wire.exchange(&[close(b'S', "s0"), parse("again", &text(0)), sync()]),
        "3 1 Z[I]"
    );
    // A message that is too long by itself; in a transaction, and in a pipeline. A long query is passed on
    // as it comes.
    let long = format!("SELECT 1 /* {} */", "y".repeat(9 * MB));
    assert_eq!(wire.ask(&long), "D[1] C[SELECT 1] Z[I]");
    let whole = [parse("", &long), sync()];
    assert_eq!(wire.exchange(&whole), "E[54000] Z[I]");
    wire.run("BEGIN; CREATE TABLE too_long (n int)");
    assert_eq!(wire.exchange(&whole), "E[54000] Z[E]");
    assert_eq!(wire.ask("SELECT 1"), "E[25P02] Z[E]");
    assert_eq!(wire.ask("COMMIT"), "C[ROLLBACK] Z[I]");
    assert_eq!(wire.ask("SELECT FROM too_long"), "E[42P01] Z[I]");
    let pipeline = [
        parse("", &long),
        bind("", "", &[]),
        execute("", 0),
        sync(),
        query("SELECT 8"),
    ];
    let answer = wire.exchange(&pipeline);
    assert_eq!(answer, "E[54000] Z[I] T D[8] C[SELECT 1] Z[I]");
    wire.run("DEALLOCATE ALL");
    // Settings, and settings in a transaction.
    let value = "v".repeat(MB / 2);
    let fill = |wire: &mut Wire, name: &str| {
        for at in 0..100 {
            let answer = wire.ask(&format!("SET app.{name}{at} = '{value}'"));
            if answer.starts_with("E[54000]") {
                return at;
            }
            assert!(answer.starts_with("C[SET]"), "{answer}");
        }
        100
    };
    let settings = fill(&mut wire, "own");
    assert!((4..=16).contains(&settings), "{settings} settings");
    assert_works(&mut wire);
    assert_eq!(
        wire.value("SELECT length(current_setting('app.own0'))"),
        (MB / 2).to_string()
    );
    wire.run("RESET ALL");
    wire.run("BEGIN");
    let settings = fill(&mut wire, "inside");
    assert!((4..=16).contains(&settings), "{settings} settings");
    wire.run("ROLLBACK");
    // Portals, each with a long name.
    wire.run("BEGIN");
    assert_eq!(
        wire.exchange(&[parse("set", "SET app.small = '1'"), sync()]),
        "1 Z[T]"
    );
    let name = "p".repeat(50_000);
    let mut portals = 0;
    let answer = loop {
        let answer = wire.exchange(&[bind(&format!("{portals:05}{name}"), "set", &[]), sync()]);
        if answer != "2 Z[T]" {
            break answer;
        }
        portals += 1;
    };
    assert_eq!(answer, "E[54000] Z[E]");
    assert!((100..=180).contains(&portals), "{portals} portals");
    wire.run("ROLLBACK");
    assert_works(&mut wire);
    drop(wire);
    program.assert_well();
}

/// What a ROLLBACK TO takes back is remembered all the same until the transaction ends.
#[test]
fn names_that_a_transaction_takes_back_are_counted() {
    let bounds = "memory: { session: 1MB }\n";
    let program = Program::with("causeway-taken-back", &cluster().yaml(), bounds);
    let mut wire = program.wire();
    wire.run("BEGIN");
    let long = "n".repeat(50);
    let refused = (0..200).find_map(|round| {
        let each = (0..50)
            .map(|at| format!("SAVEPOINT a; SET app.\"{long}{round}_{at}\" = '1'; ROLLBACK TO a"));
        let answer = wire.ask(&each.collect::<Vec<_>>().join("; "));
        (!answer.ends_with("Z[T]")).then_some((round, answer))
    });
    let (round, answer) = refused.expect("there is an end to it");
    assert_eq!(answer, "E[54000] Z[E]", "after {round} rounds");
    assert!(round >= 10, "after {round} rounds");
    wire.run("ROLLBACK");
    assert_works(&mut wire);
    // Portals that were bound to one statement, then to another, and then perhaps to none.
    wire.run("BEGIN");
    let prepared = [
        parse("set", "SET app.small = '1'"),
        parse("none", "SELECT 1"),
    ];
    assert_eq!(
        wire.exchange(&[&prepared[..], &[sync()]].concat()),
        "1 1 Z[T]"
    );
    wire.run("SAVEPOINT a");
    // A server takes no longer Close.
    let long = "p".repeat(9_000);
    let refused = (0..400).find_map(|round| {
        let name = format!("{round:05}{long}");
        let answer = wire.exchange(&[
            bind(&name, "set", &[]),
            close(b'P', &name),
            bind(&name, "none", &[]),
            bind("", "nobody", &[]),
            sync(),
        ]);
        if answer != "2 3 2 E[26000] Z[E]" {
            return Some((round, answer));
        }
        wire.run("ROLLBACK TO a");
        None
    });
    let (round, answer) = refused.expect("there is an end to it");
    assert_eq!(answer, "E[54000] Z[E]", "after {round} rounds");
    assert!(round >= 10, "after {round} rounds");
    wire.run("ROLLBACK");
    assert_works(&mut wire);
    drop(wire);
    program.assert_well();
}
