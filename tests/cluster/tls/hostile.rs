//! Who speaks no TLS where TLS is due, or a strange one: refused, and nobody else notices.

use std::io::Read;
use std::net::Shutdown;
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};

use super::Files;
use crate::cluster;
use crate::support::frames::{gss_request, ssl_request, startup};
use crate::support::tls::{Tunnel, client, client_with};
use crate::support::{Proxy, Wire, summary};

const DEMO: &[(&str, &str)] = &[("user", "demo"), ("database", "demo")];

/// What a client says first in a handshake.
fn hello(config: &Arc<ClientConfig>) -> Vec<u8> {
    let name = ServerName::try_from("localhost").unwrap();
    let mut begun = ClientConnection::new(Arc::clone(config), name).unwrap();
    let mut bytes = Vec::new();
    while begun.wants_write() {
        begun.write_tls(&mut bytes).unwrap();
    }
    bytes
}

/// A connection on which the handshake may begin.
fn asked(proxy: &Proxy) -> Wire {
    let mut wire = Wire::open(proxy.port);
    wire.send(&ssl_request());
    let mut answer = [0];
    wire.stream.read_exact(&mut answer).unwrap();
    assert_eq!(answer, *b"S");
    wire
}

/// Everything that comes until the end.
fn rest(wire: &mut Wire) -> Vec<u8> {
    let mut bytes = Vec::new();
    let _ = wire.stream.read_to_end(&mut bytes);
    bytes
}

/// An alert that ends a handshake, or nothing at all.
fn is_refusal(bytes: &[u8]) -> bool {
    bytes.is_empty() || bytes[0] == 0x15
}

#[test]
fn what_was_sent_before_the_handshake_is_not_taken_for_encrypted() {
    let files = Files::new("before");
    let proxy = files.proxy(&files.yaml("prefer", ""));
    let client = client(&files.authority, None);
    for behind in [startup(3, 0, DEMO), hello(&client), vec![0]] {
        let mut wire = Wire::open(proxy.port);
        wire.send(&[ssl_request(), behind].concat());
        let told = wire.until_closed();
        assert_eq!(summary(&told), "E[08P01]");
        assert!(told[0].field(b'M').unwrap().contains("unencrypted data"));
    }
    proxy.assert_well();
}

#[test]
fn what_is_no_handshake_is_none() {
    let files = Files::new("garbage");
    let proxy = files.proxy(&files.yaml("prefer", ""));
    let hello = hello(&client(&files.authority, None));
    let garbage: Vec<u8> = (0..2000u32).map(|i| (i * 7919 % 251) as u8 | 1).collect();
    let endless = [b"\x16\x03\x01\xff\xff".to_vec(), vec![1; 100_000]].concat();
    // A message of 16 MB, in records.
    let record = [b"\x16\x03\x01\x40\x00".to_vec(), vec![0; 16_384]].concat();
    let mut long = [
        b"\x16\x03\x01\x40\x00\x01\xff\xff\xff".to_vec(),
        vec![0; 16_380],
    ]
    .concat();
    (0..8).for_each(|_| long.extend_from_slice(&record));
    // A message that has no place here, and one whose inside is wrong.
    let mut early = hello.clone();
    early[5] = 0x0b;
    let mut wrong = hello.clone();
    let end = wrong.len();
    wrong[end - 40..].fill(0xff);
    for (what, bytes) in [
        ("garbage", garbage),
        ("a startup packet", startup(3, 0, DEMO)),
        ("a second request", ssl_request()),
        ("a record that is too long", endless),
        ("a message that is too long", long),
        ("a certificate", early),
        ("a broken hello", wrong),
        ("HTTP", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec()),
        ("an alert", b"\x15\x03\x03\x00\x02\x02\x28".to_vec()),
        ("a farewell", b"\x15\x03\x03\x00\x02\x01\x00".to_vec()),
    ] {
        let mut wire = asked(&proxy);
        wire.send(&bytes);
        let _ = wire.stream.shutdown(Shutdown::Write);
        let answer = rest(&mut wire);
        assert!(is_refusal(&answer), "{what}: {answer:?}");
        // The same from the first byte on, where it begins like a handshake.
        if bytes[0] == 0x16 {
            let mut wire = Wire::open(proxy.port);
            wire.send(&bytes);
            let _ = wire.stream.shutdown(Shutdown::Write);
            let answer = rest(&mut wire);
            assert!(is_refusal(&answer), "{what}, at once: {answer:?}");
        }
    }
    proxy.assert_well();
}

#[test]
fn a_handshake_that_is_cut_ends_quietly() {
    let files = Files::new("cut");
    let proxy = files.proxy(&files.yaml("prefer", ""));
    let hello = hello(&client(&files.authority, None));
    for cut in (0..hello.len()).step_by(7) {
        let mut wire = asked(&proxy);
        wire.send(&hello[..cut]);
        wire.stream.shutdown(Shutdown::Write).unwrap();
        assert!(rest(&mut wire).is_empty(), "cut at {cut}");
    }
    // The answer has come, and nobody is there any more.
    let mut wire = asked(&proxy);
    wire.send(&hello);
    assert_eq!(wire.stream.peek(&mut [0]).unwrap(), 1);
    wire.vanish();
    proxy.assert_well();
}

#[test]
fn half_a_handshake_holds_nobody_up() {
    let files = Files::new("half");
    let proxy = files.proxy(&files.yaml("prefer", ""));
    let config = client(&files.authority, None);
    let hello = hello(&config);
    let tunnel = Tunnel::to(proxy.port, &config);
    let mut crowd = Vec::new();
    for n in 0..150 {
        let mut wire = asked(&proxy);
        wire.send(&hello[..n % hello.len()]);
        crowd.push(wire);
    }
    for _ in 0..10 {
        let mut wire = Wire::login(tunnel.port, cluster().application(), &[]);
        assert_eq!(wire.value("SELECT 1"), "1");
    }
    proxy.assert_well();
}

#[test]
fn it_may_come_byte_by_byte() {
    let files = Files::new("bytes");
    let proxy = files.proxy(&files.yaml("require", ""));
    let slow = Tunnel::in_bytes(proxy.port);
    let tunnel = Tunnel::to(slow.port, &client(&files.authority, None));
    let mut wire = Wire::login(tunnel.port, cluster().application(), &[]);
    let text = "x".repeat(20_000);
    assert_eq!(wire.value(&format!("SELECT '{text}'")), text);
    proxy.assert_well();
}

#[test]
fn within_tls_nothing_more_is_negotiated() {
    let files = Files::new("within");
    let proxy = files.proxy(&files.yaml("prefer", ""));
    let tunnel = Tunnel::to(proxy.port, &client(&files.authority, None));
    for request in [ssl_request(), gss_request()] {
        let mut wire = Wire::open(tunnel.port);
        wire.send(&request);
        assert_eq!(summary(&wire.until_closed()), "E[0A000]");
    }
    // GSSAPI is declined, and TLS may follow.
    let mut wire = Wire::open(proxy.port);
    wire.send(&gss_request());
    let mut answer = [0];
    wire.stream.read_exact(&mut answer).unwrap();
    assert_eq!(answer, *b"N");
    wire.send(&ssl_request());
    wire.stream.read_exact(&mut answer).unwrap();
    assert_eq!(answer, *b"S");
    proxy.assert_well();
}

#[test]
fn direct_tls_must_be_meant_for_postgresql() {
    let files = Files::new("direct");
    let proxy = files.proxy(&files.yaml("require", ""));
    let speaking = |protocols: &[&[u8]]| {
        let protocols = protocols.iter().map(|name| name.to_vec()).collect();
        client_with(&files.authority, None, |config| {
            config.alpn_protocols = protocols;
        })
    };
    let right = speaking(&[b"http/1.1", b"postgresql"]);
    let tunnel = Tunnel::direct(proxy.port, &right);
    let mut wire = Wire::login(tunnel.port, cluster().application(), &[]);
    assert_eq!(wire.value("SELECT 1"), "1");
    for protocols in [&[][..], &[&b"http/1.1"[..]]] {
        let tunnel = Tunnel::direct(proxy.port, &speaking(protocols));
        let mut wire = Wire::open(tunnel.port);
        wire.send(&startup(3, 0, DEMO));
        assert!(wire.until_closed().is_empty(), "{protocols:?}");
    }
    // Asked for, it need not be said; but nothing else may be.
    let tunnel = Tunnel::to(proxy.port, &speaking(&[b"http/1.1"]));
    let mut wire = Wire::open(tunnel.port);
    wire.send(&startup(3, 0, DEMO));
    assert!(wire.until_closed().is_empty());
    // Only the very first byte can begin it.
    let mut wire = Wire::open(proxy.port);
    wire.send(&gss_request());
    let mut answer = [0];
    wire.stream.read_exact(&mut answer).unwrap();
    wire.send(&hello(&right));
    assert_eq!(summary(&wire.until_closed()), "E[08P01]");
    proxy.assert_well();
}

#[test]
fn where_it_is_off_it_is_declined() {
    let files = Files::new("off");
    let proxy = files.proxy(&files.yaml("off", ""));
    let mut wire = Wire::open(proxy.port);
    wire.send(&ssl_request());
    let mut answer = [0];
    wire.stream.read_exact(&mut answer).unwrap();
    assert_eq!(answer, *b"N");
    wire.send(&startup(3, 0, DEMO));
    wire.authenticate("demo", "demo").unwrap();
    let mut wire = Wire::open(proxy.port);
    wire.send(&hello(&client(&files.authority, None)));
    assert_eq!(summary(&wire.until_closed()), "E[08P01]");
    proxy.assert_well();
}
