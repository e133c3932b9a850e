//! What comes before a session: broken first packets, requests for encryption, protocol versions.

use std::time::{Duration, Instant};

use crate::cluster;
use crate::support::frames::{self, startup};
use crate::support::{Frame, Proxy, Wire, summary};

/// Sends bytes as the first that the proxy hears; gives what it answers until it closes.
fn first_words(proxy: &Proxy, bytes: &[u8]) -> Vec<Frame> {
    let mut wire = Wire::open(proxy.port);
    wire.send(bytes);
    wire.until_closed()
}

const DEMO: &[(&str, &str)] = &[("user", "demo"), ("database", "demo")];

#[test]
fn broken_first_packets_are_refused() {
    let proxy = Proxy::start(cluster(), "");
    let garbage: Vec<u8> = (0..2000u32).map(|i| (i * 7919 % 251) as u8 | 1).collect();
    let length = |length: u32| [&length.to_be_bytes()[..], &[0; 8]].concat();
    for (what, bytes) in [
        ("garbage", garbage),
        ("HTTP", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec()),
        ("length 0", length(0)),
        ("length 3", length(3)),
        ("length 4", length(4)),
        ("length 2^31", length(1 << 31)),
        ("length 10001", length(10_001)),
        ("length 2^32-1", length(u32::MAX)),
        ("no terminator", frames::untagged(b"\0\x03\0\0user\0demo")),
        (
            "bytes behind the terminator",
            frames::untagged(b"\0\x03\0\0user\0demo\0\0more\0"),
        ),
        (
            "a name without a value",
            frames::untagged(b"\0\x03\0\0user\0"),
        ),
        (
            "not UTF-8",
            frames::untagged(b"\0\x03\0\0user\0\xff\xfe\0\0"),
        ),
        (
            "a short cancel request",
            frames::cancel_request(b"\0\0\0\x01", b"ab"),
        ),
        (
            "a long cancel request",
            frames::cancel_request(b"\0\0\0\x01", &[7; 300]),
        ),
    ] {
        assert_eq!(summary(&first_words(&proxy, &bytes)), "E[08P01]", "{what}");
    }
    proxy.assert_well();
}

#[test]
fn first_packets_cut_short_end_quietly() {
    let proxy = Proxy::start(cluster(), "");
    let packet = startup(3, 0, DEMO);
    for cut in 0..packet.len() {
        let mut wire = Wire::open(proxy.port);
        wire.send(&packet[..cut]);
        wire.stream.shutdown(std::net::Shutdown::Write).unwrap();
        assert!(wire.until_closed().is_empty(), "cut at {cut}");
    }
    proxy.assert_well();
}

#[test]
fn encryption_is_declined_and_the_session_goes_on() {
    let proxy = Proxy::start(cluster(), "");
    for requests in [
        vec![frames::ssl_request()],
        vec![frames::gss_request()],
        vec![frames::gss_request(), frames::ssl_request()],
        vec![frames::ssl_request(), frames::gss_request()],
    ] {
        let mut wire = Wire::open(proxy.port);
        for request in requests {
            wire.send(&request);
            let mut answer = [0];
            std::io::Read::read_exact(&mut wire.stream, &mut answer).unwrap();
            assert_eq!(answer, *b"N");
        }
        wire.send(&startup(3, 0, DEMO));
        wire.authenticate("demo", "demo").unwrap();
        assert_eq!(wire.value("SELECT 1"), "1");
    }
    // One after the other without end is no way to begin.
    let mut wire = Wire::open(proxy.port);
    wire.send(&frames::ssl_request().repeat(20));
    let mut answer = Vec::new();
    let _ = std::io::Read::read_to_end(&mut wire.stream, &mut answer);
    let declined = answer.iter().take_while(|byte| **byte == b'N').count();
    assert!(declined <= 4, "{declined} requests were answered");
    proxy.assert_well();
}

#[test]
fn a_client_that_does_not_wait_for_answers_is_served() {
    let yaml = cluster()
        .yaml()
        .replace("auth:\n", "auth:\n  method: trust\n");
    let proxy = Proxy::with_yaml(cluster(), &yaml);
    let mut wire = Wire::open(proxy.port);
    let all = [
        startup(3, 0, DEMO),
        frames::query("SELECT 1"),
        frames::query("SELECT 2"),
    ];
    wire.send(&all.concat());
    wire.authenticate("demo", "").unwrap();
    let answers: Vec<Frame> = (0..2).flat_map(|_| wire.until(b'Z')).collect();
    assert_eq!(
        summary(&answers),
        "T D[1] C[SELECT 1] Z[I] T D[2] C[SELECT 1] Z[I]"
    );
}

#[test]
fn protocol_versions_are_negotiated() {
    let proxy = Proxy::start(cluster(), "");
    assert_eq!(
        summary(&first_words(&proxy, &startup(2, 0, DEMO))),
        "E[0A000]"
    );
    assert_eq!(
        summary(&first_words(&proxy, &startup(4, 0, DEMO))),
        "E[0A000]"
    );

    let begin = |minor, more: &[(&str, &str)]| {
        let mut wire = Wire::open(proxy.port);
        wire.send(&startup(3, minor, &[DEMO, more].concat()));
        wire
    };
    let key_length = |wire: &Wire| wire.cancel_key().1.len();

    for (minor, key) in [(0, 4), (2, 32)] {
        let mut wire = begin(minor, &[]);
        wire.authenticate("demo", "demo").unwrap();
        assert!(wire.greeting.iter().all(|frame| frame.tag != b'v'));
        assert_eq!(key_length(&wire), key, "protocol 3.{minor}");
        assert_eq!(wire.value("SELECT 1"), "1");
    }

    // A newer version, or options that are not known: the server names what it speaks.
    let negotiated = |minor, more: &[(&str, &str)], newest: u32, unknown: &[&str], key| {
        let mut wire = begin(minor, more);
        let answer = wire.frame().unwrap();
        assert_eq!(answer.tag, b'v');
        let mut expected = newest.to_be_bytes().to_vec();
        expected.extend_from_slice(&(unknown.len() as u32).to_be_bytes());
        for name in unknown {
            expected.extend_from_slice(name.as_bytes());
            expected.push(0);
        }
        assert_eq!(answer.body, expected);
        wire.authenticate("demo", "demo").unwrap();
        assert_eq!(key_length(&wire), key);
        assert_eq!(wire.value("SELECT 1"), "1");
    };
    // The version is the whole number, as PostgreSQL sends it: major in the upper half.
    let version = |minor: u32| (3 << 16) | minor;
    negotiated(9, &[], version(2), &[], 32);
    negotiated(0, &[("_pq_.wait", "1")], version(0), &["_pq_.wait"], 4);
    negotiated(
        9,
        &[("_pq_.a", "1"), ("_pq_.b", "")],
        version(2),
        &["_pq_.a", "_pq_.b"],
        32,
    );
    proxy.assert_well();
}

#[test]
fn clients_that_dawdle_hinder_nobody() {
    let proxy = Proxy::start(cluster(), "");
    let packet = startup(3, 0, DEMO);
    let mut dawdlers: Vec<Wire> = (0..200).map(|_| Wire::open(proxy.port)).collect();
    for (index, wire) in dawdlers.iter_mut().enumerate() {
        wire.send(&packet[..index % packet.len()]);
    }
    let began = Instant::now();
    for byte in 0..10 {
        for (index, wire) in dawdlers.iter_mut().enumerate() {
            let at = index % packet.len() + byte;
            wire.send(packet.get(at..=at).unwrap_or_default());
        }
        proxy.assert_well();
    }
    assert!(began.elapsed() < Duration::from_secs(10));
}
