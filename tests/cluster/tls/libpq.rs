//! PostgreSQL's own client library finds Causeway to be what PostgreSQL is: the same `sslmode`s get in by the
//! same means, and the others hear the same.

use std::io::Write;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::Path;
use std::process::{Command, Stdio};

use pgcauseway::rig::{Cluster, Login, StopMode};

use super::Files;
use crate::cluster;
use crate::support::tls::{Authority, Signed, write};
use crate::support::{block_on, need};

const MODES: [&str; 6] = [
    "disable",
    "allow",
    "prefer",
    "require",
    "verify-ca",
    "verify-full",
];

/// What psql comes to: by what it got in, or what libpq said.
fn outcome(port: u16, login: &Login, options: &str) -> String {
    let Login {
        user,
        password,
        database,
    } = login;
    let output = Command::new("timeout")
        .args(["60", "psql", "-XAtw", "-d"])
        .arg(format!(
            "host=localhost hostaddr=127.0.0.1 port={port} user={user} password={password} \
             dbname={database} gssencmode=disable sslcert=/nowhere {options}"
        ))
        .args(["-c", "SELECT 40 + 2", "-c", "\\conninfo"])
        .env("LC_ALL", "C")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        assert!(said.starts_with("42\n"), "{said}");
        return match said.contains("SSL connection (protocol: TLSv1.3") {
            true => "in by TLS".to_owned(),
            false => "in without".to_owned(),
        };
    }
    let error = String::from_utf8_lossy(&output.stderr).replace(&port.to_string(), "PORT");
    // The server's own words are each one's own.
    match error.split_once("FATAL:") {
        Some((before, _)) => format!("{before}FATAL"),
        None => error,
    }
}

/// A server of PostgreSQL's that shows the same, where it asks its clients for this.
fn peer(cluster: &Cluster, shown: Option<&Signed>, lines: &str) -> u16 {
    let node = cluster.primary();
    let data = node.data();
    let owner = std::fs::metadata(&data).unwrap();
    let put = |name: &str, text: &str| {
        let path = write(&data, name, text);
        chown(path, Some(owner.uid()), Some(owner.gid())).unwrap();
    };
    put("pg_hba.conf", lines);
    if let Some(shown) = shown {
        put("server.crt", &shown.cert);
        put("server.key", &shown.key);
    }
    let auto = format!("ssl = {}\n", if shown.is_some() { "on" } else { "off" });
    put("postgresql.auto.conf", &auto);
    block_on(node.restart(StopMode::Fast)).unwrap();
    node.port()
}

/// The superuser's door stays as it is: the rig waits by it.
const OPEN: &str = "host all all 127.0.0.1/32 scram-sha-256\n";
const TLS_ONLY: &str = "host all postgres 127.0.0.1/32 scram-sha-256\n\
                        hostssl all all 127.0.0.1/32 scram-sha-256\n";

#[test]
fn every_sslmode_comes_to_what_it_comes_to_at_postgresql() {
    if !need("psql") {
        return;
    }
    let files = Files::new("libpq");
    let stranger = Authority::new();
    write(&files.directory, "other.pem", &stranger.pem);
    let roots = ["ca.pem", "other.pem", "none.pem"].map(|name| files.path(name));
    let server = block_on(Cluster::builder("tls-peer").standbys(0).start()).unwrap();
    let login = cluster().application();
    let compare = |what: &str, ours: u16, theirs: u16, roots: &[String]| {
        for root in roots {
            for mode in MODES {
                let options = format!("sslmode={mode} sslrootcert={root}");
                let wrong = Login::new(&login.user, "wrong", &login.database);
                for login in [login, &wrong] {
                    // One that is refused costs as much as one that is not.
                    if login == &wrong && !(root == &roots[0] && mode == "prefer") {
                        continue;
                    }
                    let [ours, theirs] = [ours, theirs].map(|port| outcome(port, login, &options));
                    let file = Path::new(root).file_name().unwrap();
                    assert_eq!(ours, theirs, "{what}, {mode}, {file:?}");
                }
            }
        }
    };
    for (what, shown) in [
        ("right", files.authority.sign("localhost")),
        ("another name", files.authority.sign("elsewhere.example")),
        ("expired", files.authority.sign_expired("localhost")),
    ] {
        files.show(&shown);
        let proxy = files.proxy(&files.yaml("prefer", ""));
        let theirs = peer(&server, Some(&shown), OPEN);
        compare(what, proxy.port, theirs, &roots);
    }
    let shown = files.authority.sign("localhost");
    files.show(&shown);
    for (what, mode, shown, lines) in [
        ("required", "require", Some(&shown), TLS_ONLY),
        ("off", "off", None, OPEN),
    ] {
        let proxy = files.proxy(&files.yaml(mode, ""));
        let theirs = peer(&server, shown, lines);
        compare(what, proxy.port, theirs, &roots[..1]);
        let sure = format!("sslmode=verify-full sslrootcert={}", roots[0]);
        let expected = if mode == "off" { "psql" } else { "in by TLS" };
        assert!(outcome(proxy.port, login, &sure).starts_with(expected));
    }
}

#[test]
fn channels_are_bound_where_the_certificate_can_be() {
    if !need("psql") {
        return;
    }
    let login = cluster().application();
    let files = Files::new("bound");
    for (kind, bound) in [
        (&rcgen::PKCS_ECDSA_P256_SHA256, true),
        (&rcgen::PKCS_ECDSA_P384_SHA384, true),
        (&rcgen::PKCS_ED25519, false),
    ] {
        let authority = Authority::of(kind);
        write(&files.directory, "ca.pem", &authority.pem);
        files.show(&authority.sign("localhost"));
        let proxy = files.proxy(&files.yaml("prefer", ""));
        let with = |binding: &str| {
            let options = format!("sslmode=require channel_binding={binding}");
            outcome(proxy.port, login, &options)
        };
        assert_eq!(with("disable"), "in by TLS", "{kind:?}");
        assert_eq!(with("prefer"), "in by TLS", "{kind:?}");
        let required = with("require");
        match bound {
            true => assert_eq!(required, "in by TLS", "{kind:?}"),
            false => assert!(required.contains("channel binding"), "{required}"),
        }
        let plain = format!("{} channel_binding=require", "sslmode=disable");
        assert!(outcome(proxy.port, login, &plain).contains("channel binding"));
    }
}

/// A certificate of itself for localhost with an RSA key, which most are.
fn rsa(files: &Files) -> Signed {
    let [cert, key] = ["rsa.pem", "rsa.key"].map(|name| files.path(name));
    let output = Command::new("openssl")
        .args([
            "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
        ])
        .args([
            "-subj",
            "/CN=localhost",
            "-addext",
            "subjectAltName=DNS:localhost",
        ])
        .args(["-out", &cert, "-keyout", &key])
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    Signed {
        cert: std::fs::read_to_string(cert).unwrap(),
        key: std::fs::read_to_string(key).unwrap(),
    }
}

#[test]
fn an_rsa_certificate_serves_and_binds() {
    if !need("psql") || !need("openssl") {
        return;
    }
    let files = Files::new("rsa");
    files.show(&rsa(&files));
    let proxy = files.proxy(&files.yaml("prefer", ""));
    let root = files.path("rsa.pem");
    let options = format!("sslmode=verify-full sslrootcert={root} channel_binding=require");
    let login = cluster().application();
    assert_eq!(outcome(proxy.port, login, &options), "in by TLS");
}

#[test]
fn no_client_renegotiates() {
    if !need("openssl") {
        return;
    }
    let files = Files::new("again");
    let proxy = files.proxy(&files.yaml("prefer", ""));
    let mut client = Command::new("timeout")
        .args([
            "60",
            "openssl",
            "s_client",
            "-starttls",
            "postgres",
            "-tls1_2",
        ])
        .args(["-connect", &format!("127.0.0.1:{}", proxy.port)])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A line with R alone begins it.
    client.stdin.take().unwrap().write_all(b"R\n").unwrap();
    let output = client.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("TLSv1.2"), "{said}{errors}");
    assert!(errors.contains("RENEGOTIATING"), "{said}{errors}");
    assert!(errors.contains("no renegotiation"), "{said}{errors}");
    proxy.assert_well();
}

/// Direct TLS, bound channels and cancel requests by the newest libpq.
const NEWEST: &str = r#"
import sys, threading, psycopg
assert psycopg.pq.version() >= 170000, psycopg.pq.version()
conninfo = sys.argv[1]
for options in ["", "sslnegotiation=direct", "channel_binding=require",
                "sslnegotiation=direct channel_binding=require require_auth=scram-sha-256"]:
    with psycopg.connect(f"{conninfo} sslmode=verify-full {options}", autocommit=True) as connection:
        assert connection.pgconn.used_password
        assert connection.execute("SELECT 40 + 2").fetchone() == (42,)
        with connection.cursor().copy("COPY (SELECT n FROM generate_series(1, 100000) n) TO STDOUT") as copy:
            assert sum(1 for row in copy.rows()) == 100000
        over = threading.Event()
        def cancel():
            while not over.wait(0.1):
                connection.cancel_safe()
        thread = threading.Thread(target=cancel)
        thread.start()
        try:
            connection.execute("SELECT pg_sleep(600)")
            raise AssertionError("not cancelled")
        except psycopg.errors.QueryCanceled:
            pass
        finally:
            over.set()
            thread.join()
"#;

#[test]
fn the_newest_libpq_needs_no_request_and_cancels_by_tls() {
    let Some(python) = crate::drivers::python() else {
        return;
    };
    let files = Files::new("newest");
    let proxy = files.proxy(&files.yaml("require", ""));
    let login = cluster().application();
    let output = Command::new("timeout")
        .arg("60")
        .arg(python)
        .args(["-c", NEWEST])
        .arg(format!(
            "host=localhost hostaddr=127.0.0.1 port={} user={} password={} dbname={} sslrootcert={}",
            proxy.port,
            login.user,
            login.password,
            login.database,
            files.path("ca.pem")
        ))
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn certificates_of_clients_are_asked_for_as_libpq_knows_it() {
    if !need("psql") {
        return;
    }
    let login = cluster().application();
    let files = Files::new("clients");
    let proxy = files.proxy(&files.asking("require", "require"));
    let shown = files.authority.sign("demo");
    write(&files.directory, "client.pem", &shown.cert);
    write(&files.directory, "client.key", &shown.key);
    let (ca, cert, key) = (
        files.path("ca.pem"),
        files.path("client.pem"),
        files.path("client.key"),
    );
    let sure = format!("sslmode=verify-full sslrootcert={ca}");
    let with = format!("{sure} sslcert={cert} sslkey={key}");
    assert_eq!(outcome(proxy.port, login, &with), "in by TLS");
    assert!(outcome(proxy.port, login, &sure).ends_with("FATAL"));
}
