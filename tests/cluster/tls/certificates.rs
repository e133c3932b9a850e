//! Whose certificates are good, and certificates that are replaced while the proxy runs.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection};

use super::{Files, console_url, reloadable, whole};
use crate::cluster;
use crate::support::console::rows;
use crate::support::frames::{ssl_request, startup};
use crate::support::tls::{Authority, Signed, Tunnel, client, write};
use crate::support::{BOUND, Wire, block_on, connect, summary};

const DEMO: &[(&str, &str)] = &[("user", "demo"), ("database", "demo")];

/// What becomes of a login by this tunnel.
fn login(tunnel: &Tunnel) -> String {
    let mut wire = Wire::open(tunnel.port);
    wire.send(&startup(3, 0, DEMO));
    match wire.frame() {
        None => "closed".to_owned(),
        Some(frame) if frame.tag == b'E' => summary(&[frame]),
        Some(_) => "asked".to_owned(),
    }
}

#[test]
fn clients_show_what_is_asked_of_them() {
    let files = Files::new("shown");
    let other = Authority::new();
    let of = |own: Option<Signed>| client(&files.authority, own.as_ref());
    let cases = [
        ("none", of(None)),
        ("good", of(Some(files.authority.sign("demo")))),
        ("of another authority", of(Some(other.sign("demo")))),
        ("expired", of(Some(files.authority.sign_expired("demo")))),
    ];
    for (yaml, plain, expected) in [
        (
            files.yaml("prefer", ""),
            "asked",
            ["asked", "asked", "asked", "asked"],
        ),
        (
            files.asking("prefer", "request"),
            "asked",
            ["asked", "asked", "closed", "closed"],
        ),
        (
            files.asking("require", "require"),
            "E[28000]",
            ["E[28000]", "asked", "closed", "closed"],
        ),
    ] {
        let proxy = files.proxy(&yaml);
        let mut wire = Wire::open(proxy.port);
        wire.send(&startup(3, 0, DEMO));
        let told = wire.frame().unwrap();
        let told = match told.tag {
            b'E' => summary(&[told]),
            _ => "asked".to_owned(),
        };
        assert_eq!(told, plain, "{yaml}");
        for ((what, config), expected) in cases.iter().zip(expected) {
            let tunnel = Tunnel::to(proxy.port, config);
            assert_eq!(login(&tunnel), expected, "{what} with {yaml}");
        }
    }
}

#[test]
fn a_login_without_tls_is_refused_in_words() {
    let files = Files::new("words");
    let proxy = files.proxy(&files.yaml("require", ""));
    // Whoever it is, and whatever it wants.
    for (user, more) in [
        ("demo", ("database", "demo")),
        ("nobody", ("database", "demo")),
        ("demo", ("database", "causeway")),
        ("demo", ("replication", "true")),
    ] {
        let mut wire = Wire::open(proxy.port);
        wire.send(&startup(3, 0, &[("user", user), more]));
        let told = wire.until_closed();
        assert_eq!(summary(&told), "E[28000]", "{user} {more:?}");
        let message = told[0].field(b'M').unwrap();
        assert!(message.contains("without TLS"), "{message}");
        assert!(message.contains(&format!("user \"{user}\"")), "{message}");
        assert!(message.ends_with("no encryption"), "{message}");
    }
}

/// A handshake under way.
struct Begun {
    stream: TcpStream,
    tls: ClientConnection,
}

impl Begun {
    fn new(port: u16, config: &Arc<ClientConfig>) -> Self {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_read_timeout(Some(BOUND)).unwrap();
        stream.write_all(&ssl_request()).unwrap();
        let mut answer = [0];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(answer, *b"S");
        let name = ServerName::try_from("localhost").unwrap();
        let tls = ClientConnection::new(Arc::clone(config), name).unwrap();
        Self { stream, tls }
    }

    /// Completes it; the certificate that was shown.
    fn shown(mut self) -> CertificateDer<'static> {
        while self.tls.is_handshaking() {
            self.tls.complete_io(&mut self.stream).unwrap();
        }
        self.tls.peer_certificates().unwrap()[0].clone()
    }
}

fn der(signed: &Signed) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(signed.cert.as_bytes()).unwrap()
}

#[test]
fn certificates_are_replaced_under_sessions_that_go_on() {
    let files = Files::new("replaced");
    let (proxy, file) = reloadable("tls-replaced", &files.yaml("prefer", ""));
    let config = client(&files.authority, None);
    let tunnel = Tunnel::to(proxy.port, &config);
    let console = block_on(connect(&console_url(tunnel.port)));
    let mut before = files.authority.sign("localhost");
    files.show(&before);
    rows(&console, "RELOAD").unwrap();
    let mut sessions: Vec<Wire> = Vec::new();
    for round in 0..5 {
        let mut wire = Wire::login(tunnel.port, cluster().application(), &[]);
        wire.run(&format!(
            "BEGIN; SET LOCAL application_name = 'round {round}'"
        ));
        sessions.push(wire);
        let under_way = Begun::new(proxy.port, &config);
        let next = files.authority.sign("localhost");
        files.show(&next);
        let told = rows(&console, "RELOAD").unwrap();
        let key = |row: &crate::support::console::Row| {
            row["key"] == "tls.client.cert_file" && row["outcome"] == "applied"
        };
        assert!(told.iter().any(key), "{told:?}");
        assert_eq!(Begun::new(proxy.port, &config).shown(), der(&next));
        assert_eq!(under_way.shown(), der(&before));
        before = next;
        for (n, wire) in sessions.iter_mut().enumerate() {
            assert_eq!(wire.value("SHOW application_name"), format!("round {n}"));
        }
    }
    // A key that belongs to another certificate changes nothing, and the fault says where it is.
    let stray = files.authority.sign("localhost");
    write(&files.directory, "server.key", &stray.key);
    let refused = rows(&console, "RELOAD").unwrap_err();
    let refused = refused.as_db_error().unwrap();
    let detail = refused.detail().unwrap_or_default();
    assert!(
        detail
            .contains("tls.client.key_file: is not the key of the first certificate in cert_file"),
        "{detail}"
    );
    assert_eq!(Begun::new(proxy.port, &config).shown(), der(&before));
    // Off: nobody gets it any more, and who has it keeps it.
    files.show(&before);
    file.write(&whole(&files.yaml("off", "")));
    rows(&console, "RELOAD").unwrap();
    let mut wire = Wire::open(proxy.port);
    wire.send(&ssl_request());
    let mut answer = [0];
    wire.stream.read_exact(&mut answer).unwrap();
    assert_eq!(answer, *b"N");
    for mut wire in sessions {
        wire.run("COMMIT");
    }
    proxy.assert_well();
}
