//! What a test needs beside PostgreSQL. What is not there fails the test: a test that cannot run proves
//! nothing. Who wants to do without names it in `CAUSEWAY_SKIP`; such tests are counted as skipped.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use pgcauseway::rig::{Private, find_binaries, find_etcd, private};

/// Names that tests are to do without, with commas between.
const SKIP: &str = "CAUSEWAY_SKIP";
/// The file in which skipped tests are noted, each with what it needs; scripts/test.sh counts them.
const NOTES: &str = "CAUSEWAY_SKIPPED_FILE";

/// Whether something is there; else what is missing.
type Look = fn() -> Result<(), String>;

/// All that can be needed, and how it is looked for.
const THINGS: &[(&str, Look)] = &[
    ("docker", docker),
    ("drivers", || Ok(())),
    ("etcd", || {
        find_etcd()
            .map(drop)
            .ok_or_else(|| "etcd is missing".into())
    }),
    ("namespaces", || Ok(())),
    ("openssl", || runs("openssl", &["version"])),
    ("pgbench", || {
        runs(&pgbench().to_string_lossy(), &["--version"])
    }),
    ("postgresql-15", postgresql_15),
    ("prometheus", || {
        runs("prometheus", &["--version"]).and_then(|()| runs("promtool", &["--version"]))
    }),
    ("psql", || runs("psql", &["--version"])),
    ("psycopg2", || {
        runs("/usr/bin/python3", &["-c", "import psycopg2"])
    }),
    ("python3", || runs("python3", &["--version"])),
    ("tmux", || runs("tmux", &["-V"])),
];

/// Whether the test is to go on: `thing` is there. If not, the test fails; false, once noted, where
/// `CAUSEWAY_SKIP` names the thing.
#[must_use]
pub fn need(thing: &str) -> bool {
    let known = THINGS.iter().find(|(name, _)| *name == thing);
    let (_, look) = known.unwrap_or_else(|| panic!("nobody knows how to look for {thing}"));
    if is_skipped(thing) {
        note(thing);
        return false;
    }
    if let Err(why) = look() {
        missing(thing, &why);
    }
    true
}

/// Fails the test for want of something whose presence shows only in use.
pub fn missing(thing: &str, why: &str) -> ! {
    panic!(
        "{thing} is needed: {why} (scripts/setup.sh installs what it can; {SKIP}={thing} does without)"
    );
}

/// Whether the test of that full name is to go on here, in a network namespace of its own; else it has
/// run there and succeeded, or is skipped.
#[must_use]
pub fn in_namespaces(test: &str) -> bool {
    if !need("namespaces") {
        return false;
    }
    match private(test).unwrap() {
        Private::Inside => true,
        Private::Ran(status) => {
            assert!(status.success(), "{status}");
            false
        }
        Private::Impossible(why) => missing("namespaces", &why),
    }
}

fn is_skipped(thing: &str) -> bool {
    let given = std::env::var(SKIP).unwrap_or_default();
    let mut names = given.split(',').map(str::trim).filter(|n| !n.is_empty());
    names.any(|name| {
        let known = THINGS.iter().any(|(thing, _)| *thing == name);
        assert!(known, "{SKIP} names {name}, which no test needs");
        name == thing
    })
}

fn note(thing: &str) {
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("a test");
    println!("SKIPPED for want of {thing}: {test}");
    let Some(path) = std::env::var_os(NOTES) else {
        return;
    };
    let file = std::fs::File::options()
        .create(true)
        .append(true)
        .open(path);
    // In one write: other tests note theirs.
    file.unwrap()
        .write_all(format!("{thing} {test}\n").as_bytes())
        .unwrap();
}

fn runs(program: &str, arguments: &[&str]) -> Result<(), String> {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null());
    let output = command.output().map_err(|e| format!("{program}: {e}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!(
        "{program} {}: {}",
        arguments.join(" "),
        said.trim()
    ))
}

/// An engine that runs, compose, and a machine on which what is built runs in the rig's images as well.
fn docker() -> Result<(), String> {
    runs("docker", &["info"])?;
    runs("docker", &["compose", "version"]).or_else(|_| runs("docker-compose", &["version"]))?;
    let libc = Command::new("getconf").arg("GNU_LIBC_VERSION").output();
    let libc = libc.map_or_else(
        |_| String::new(),
        |output| String::from_utf8_lossy(&output.stdout).trim().to_owned(),
    );
    let minor = libc.strip_prefix("glibc 2.").and_then(|n| n.parse().ok());
    match minor {
        Some(0..=36) => Ok(()),
        _ => Err(format!(
            "what is built here ({libc:?}) does not run on Debian 12"
        )),
    }
}

/// Before it only a superuser may ALTER SYSTEM.
fn postgresql_15() -> Result<(), String> {
    let found = find_binaries().map_err(|error| error.to_string())?;
    match found.major() {
        15.. => Ok(()),
        older => Err(format!("this is version {older}")),
    }
}

/// The one beside the servers' programs; elsewhere, any.
pub fn pgbench() -> PathBuf {
    beside_servers("pgbench")
}

/// One of PostgreSQL's programs: beside the servers', or where links to those lead; elsewhere, any.
pub fn beside_servers(name: &str) -> PathBuf {
    let server = find_binaries().map(|found| found.directory().join("postgres"));
    let server = server.unwrap_or_default();
    let real = std::fs::canonicalize(&server).unwrap_or_default();
    let mut places = [server, real].into_iter();
    let found = places.find_map(|server| {
        let program = server.with_file_name(name);
        program.exists().then_some(program)
    });
    found.unwrap_or_else(|| name.into())
}

/// A module that a Python has.
pub fn has_module(python: &Path, module: &str) -> bool {
    runs(
        &python.to_string_lossy(),
        &["-c", &format!("import {module}")],
    )
    .is_ok()
}
