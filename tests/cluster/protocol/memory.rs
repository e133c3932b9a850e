//! Memory stays bounded, whatever passes through: measured on the real program.

use super::program::Program;
use crate::support::frames::{self, execute, parse, query, startup, sync};
use crate::support::{Wire, eventually};

const MB: usize = 1 << 20;
const HUGE: usize = 60 * MB;

#[test]
fn huge_rows_and_parameters_are_streamed() {
    let program = Program::start("causeway-huge");
    let mut wire = program.wire();
    wire.run("SELECT 1");
    let before = program.memory("VmHWM");

    // Out, read slowly at first: what is not read must not pile up in the proxy.
    wire.send(&query(&format!("SELECT repeat('x', {HUGE})")));
    let frames = wire.until(b'Z');
    assert_eq!(frames[1].tag, b'D');
    assert_eq!(frames[1].body.len(), HUGE + 6);
    let many = format!("SELECT repeat('y', {MB}) FROM generate_series(1, 60)");
    wire.send(&query(&many));
    assert_eq!(wire.until(b'Z').len(), 1 + 60 + 2);

    // In: as an unnamed statement's parameter, a named one's, a simple query and COPY data.
    let value = "z".repeat(HUGE);
    for name in ["", "named"] {
        let messages = [
            parse(name, "SELECT length($1::text)"),
            frames::bind("", name, &[&value]),
            execute("", 0),
            sync(),
        ];
        let answer = wire.exchange(&messages);
        assert_eq!(answer, format!("1 2 D[{HUGE}] C[SELECT 1] Z[I]"));
    }
    assert_eq!(
        wire.value(&format!("SELECT length('{value}')")),
        HUGE.to_string()
    );
    wire.run("CREATE TABLE huge (t text)");
    wire.send(&query("COPY huge FROM STDIN"));
    assert_eq!(wire.frame().unwrap().tag, b'G');
    wire.send(&frames::copy_data(&value));
    wire.send(&frames::message(b'd', &[b"\n"]));
    wire.send(&frames::copy_done());
    assert_eq!(crate::support::summary(&wire.until(b'Z')), "C[COPY 1] Z[I]");
    wire.run("DROP TABLE huge");

    let grown = program.memory("VmHWM").saturating_sub(before);
    assert!(grown < 16 * MB, "the proxy grew by {grown} bytes");
}

#[test]
fn a_client_that_does_not_read_costs_little() {
    let program = Program::start("causeway-unread");
    program.wire().run("SELECT 1");
    let before = program.memory("VmHWM");
    let mut idle: Vec<Wire> = (0..4).map(|_| program.wire()).collect();
    for wire in &mut idle {
        wire.send(&query(&format!("SELECT repeat('x', {HUGE})")));
        wire.frame_header();
    }
    // Others are served meanwhile, for long enough that everything would have piled up.
    let mut other = program.wire();
    for _ in 0..500 {
        assert_eq!(other.value("SELECT 1"), "1");
    }
    let grown = program.memory("VmHWM").saturating_sub(before);
    assert!(grown < 16 * MB, "the proxy grew by {grown} bytes");
}

#[test]
fn connections_come_and_go_without_a_trace() {
    let program = Program::start("causeway-churn");
    let churn = |count: usize| {
        for number in 0..count {
            let mut wire = Wire::open(program.port);
            match number % 4 {
                0 => {}
                1 => wire.send(b"\0\0"),
                2 => wire.send(&startup(3, 0, &[("user", "demo")])),
                _ => wire.send(&frames::cancel_request(&[0, 0, 0, 1], b"abcd")),
            }
        }
        for _ in 0..count / 20 {
            let mut wire = program.wire();
            assert_eq!(wire.value("SELECT 1"), "1");
            wire.send(&frames::terminate());
        }
    };
    churn(1000);
    let before = program.memory("VmRSS");
    churn(4000);
    let grown = program.memory("VmRSS").saturating_sub(before);
    assert!(grown < 4 * MB, "the proxy grew by {grown} bytes");
    eventually("every connection is closed", || program.descriptors() < 60);
}

/// A session's settings are kept once, however many statements were parsed under them, and without what they
/// were wrapped up in.
#[test]
fn settings_are_kept_once_for_all_statements() {
    let program = Program::start("causeway-readings");
    program.wire().run("SELECT 1");
    let before = program.memory("VmRSS");
    let long = "x".repeat(500_000);
    let schemas = (0..20_000).map(|number| format!("s{number}"));
    let schemas = schemas.collect::<Vec<_>>().join(", ");
    for setting in [
        format!("SET search_path = public /* {long} */"),
        format!("SET search_path = {schemas}"),
    ] {
        let mut wire = program.wire();
        wire.run(&setting);
        for number in 0..2_000 {
            wire.send(&parse(&format!("s{number}"), &format!("SELECT {number}")));
            if number % 50 == 49 {
                wire.send(&sync());
                assert_eq!(wire.until(b'Z').len(), 51);
            }
        }
        let grown = program.memory("VmRSS").saturating_sub(before);
        assert!(grown < 48 * MB, "the proxy grew by {grown} bytes");
    }
}
