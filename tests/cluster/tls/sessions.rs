//! Sessions over TLS are sessions like others: what they send and get, cancel requests, the console, slow readers.

use std::sync::Arc;
use std::time::Duration;

use super::{Files, console_url};
use crate::cluster;
use crate::support::console::rows;
use crate::support::frames::{cancel_request, copy_done, message, query, startup};
use crate::support::tls::{Tunnel, client};
use crate::support::{Wire, block_on, connect, eventually, summary};

/// More than all buffers on the way, by far.
const MUCH: usize = 100 << 20;

/// The `n`th megabyte of what is copied.
fn megabyte(n: usize) -> Vec<u8> {
    let mut state = n as u64 + 1;
    let mut line = || {
        let mut text = String::with_capacity(1024);
        while text.len() < 1007 {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(n as u64 | 1);
            text.push_str(&format!("{:016x}", state >> 3));
        }
        text.truncate(1007);
        text
    };
    let lines: Vec<String> = (0..1024)
        .map(|row| format!("{:>15}\t{}\n", n * 1024 + row, line()))
        .collect();
    lines.concat().into_bytes()
}

#[test]
fn a_hundred_megabytes_go_in_and_come_back_as_they_were() {
    let files = Files::new("much");
    let proxy = files.proxy(&files.yaml("require", ""));
    let tunnel = Tunnel::to(proxy.port, &client(&files.authority, None));
    let mut wire = Wire::login(tunnel.port, cluster().application(), &[]);
    wire.run("CREATE UNLOGGED TABLE tls_much (id int PRIMARY KEY, text text)");
    wire.send(&query("COPY tls_much FROM STDIN"));
    assert_eq!(wire.frame().unwrap().tag, b'G');
    for n in 0..MUCH / megabyte(0).len() {
        wire.send(&message(b'd', &[&megabyte(n)]));
    }
    wire.send(&copy_done());
    let copied = MUCH / megabyte(0).len() * 1024;
    assert_eq!(summary(&wire.until(b'Z')), format!("C[COPY {copied}] Z[I]"));
    let out = "COPY (SELECT lpad(id::text, 15), text FROM tls_much ORDER BY id) TO STDOUT";
    wire.send(&query(out));
    assert_eq!(wire.frame().unwrap().tag, b'H');
    let (mut expected, mut at, mut n) = (Vec::new(), 0, 0);
    loop {
        let frame = wire.frame().unwrap();
        if frame.tag != b'd' {
            assert_eq!(frame.tag, b'c');
            break;
        }
        if at == expected.len() {
            (expected, at, n) = (megabyte(n), 0, n + 1);
        }
        let end = at + frame.body.len();
        assert!(frame.body == expected[at..end], "in megabyte {n} at {at}");
        at = end;
    }
    assert_eq!(n * 1024, copied);
    assert_eq!(summary(&wire.until(b'Z')), format!("C[COPY {copied}] Z[I]"));
    wire.run("DROP TABLE tls_much");
    proxy.assert_well();
}

#[test]
fn who_reads_slowly_gets_all_of_it() {
    let files = Files::new("slow");
    let proxy = files.proxy(&files.yaml("prefer", ""));
    let tunnel = Tunnel::to(proxy.port, &client(&files.authority, None));
    let mut slow = Wire::login(tunnel.port, cluster().application(), &[]);
    let rows = 4000;
    slow.send(&query(&format!(
        "SELECT repeat(md5(n::text), 320) FROM generate_series(1, {rows}) n"
    )));
    // It stands still with all buffers full, and others are served meanwhile.
    let mut fast = Wire::login(tunnel.port, cluster().application(), &[]);
    for n in 0..50 {
        assert_eq!(fast.value(&format!("SELECT {n}")), n.to_string());
    }
    let mut direct = Wire::login(cluster().primary().port(), cluster().application(), &[]);
    let mut read = 0;
    for frame in slow.until(b'Z') {
        if frame.tag == b'D' {
            read += 1;
            if read % 500 == 1 {
                let expected = direct.value(&format!("SELECT md5('{read}')")).repeat(320);
                assert_eq!(frame.columns()[0], expected, "row {read}");
            }
        }
    }
    assert_eq!(read, rows);
    proxy.assert_well();
}

#[test]
fn cancel_requests_come_by_tls_and_without() {
    let files = Files::new("cancel");
    let proxy = files.proxy(&files.yaml("require", ""));
    let tunnel = Tunnel::to(proxy.port, &client(&files.authority, None));
    for by in [tunnel.port, proxy.port] {
        let mut wire = Wire::login(tunnel.port, cluster().application(), &[]);
        let (process, key) = wire.cancel_key();
        wire.send(&query("SELECT pg_sleep(600)"));
        let mut answer = None;
        eventually("the statement has ended", || {
            let mut request = Wire::open(by);
            request.send(&cancel_request(&process, &key));
            assert!(request.until_closed().is_empty());
            if !wire.is_silent(Duration::from_millis(100)) {
                answer = Some(summary(&wire.until(b'Z')));
            }
            answer.is_some()
        });
        assert!(answer.unwrap().ends_with("E[57014] Z[I]"));
        assert_eq!(wire.value("SELECT 1"), "1");
    }
}

#[test]
fn the_console_is_reached_and_shows_who_came_by_tls() {
    let files = Files::new("console");
    let proxy = files.proxy(&files.yaml("prefer", ""));
    let tunnel = Tunnel::to(proxy.port, &client(&files.authority, None));
    let console = block_on(connect(&console_url(tunnel.port)));
    let _encrypted = Wire::login(tunnel.port, cluster().application(), &[]);
    let _plain = proxy.wire();
    let shown = rows(&console, "SHOW CLIENTS").unwrap();
    let mut tls: Vec<&str> = shown.iter().map(|row| row["tls"].as_str()).collect();
    tls.sort_unstable();
    let [plain, encrypted] = tls.as_slice() else {
        panic!("{shown:?}")
    };
    assert_eq!(*plain, "");
    assert!(encrypted.starts_with("TLSv1.3/TLS_"), "{encrypted}");
    assert!(encrypted.contains("/ECDH="), "{encrypted}");
}

#[test]
fn both_versions_are_spoken_and_none_before_them() {
    let files = Files::new("versions");
    let proxy = files.proxy(&files.yaml("require", ""));
    let console = block_on(connect(&console_url(
        Tunnel::to(proxy.port, &client(&files.authority, None)).port,
    )));
    for (version, told) in [
        (&rustls::version::TLS12, "TLSv1.2/"),
        (&rustls::version::TLS13, "TLSv1.3/"),
    ] {
        let mut roots = rustls::RootCertStore::empty();
        use rustls::pki_types::pem::PemObject;
        let ca = rustls::pki_types::CertificateDer::from_pem_slice(files.authority.pem.as_bytes());
        roots.add(ca.unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let tunnel = Tunnel::to(proxy.port, &Arc::new(config));
        let mut wire = Wire::login(tunnel.port, cluster().application(), &[]);
        assert_eq!(wire.value("SELECT 1"), "1");
        let shown = rows(&console, "SHOW CLIENTS").unwrap();
        let shown: Vec<&str> = shown.iter().map(|row| row["tls"].as_str()).collect();
        assert!(shown.iter().any(|tls| tls.starts_with(told)), "{shown:?}");
    }
    // Its length word is the beginning of a TLS 1.0 handshake.
    let mut wire = Wire::open(proxy.port);
    wire.send(&startup(3, 0, &[("user", "demo")]));
    assert_eq!(summary(&wire.until_closed()), "E[28000]");
}
