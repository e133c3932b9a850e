//! The house rules that can be read off the source: who imports whom, and that `core` is pure.

mod circles;
mod items;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// For each room, the rooms of this crate that it may import.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("core", &[]),
    ("error", &[]),
    ("config", &["core"]),
    ("metrics", &["core"]),
    ("sql", &["core"]),
    ("wire", &["core", "error"]),
    ("logging", &["config"]),
    ("shared", &["core", "sql", "error", "config", "clock"]),
    ("clock", &[]),
    ("descriptors", &[]),
    ("strangers", &[]),
    ("file", &[]),
    ("http", &[]),
    ("pg", &["config", "core"]),
    (
        "backend",
        &["wire", "core", "shared", "config", "metrics", "descriptors"],
    ),
    (
        "client",
        &[
            "backend",
            "sql",
            "wire",
            "core",
            "shared",
            "config",
            "metrics",
            "error",
            "descriptors",
            "strangers",
            "tls",
        ],
    ),
    (
        "control",
        &[
            "core", "sql", "shared", "config", "metrics", "agent", "clock", "file", "pg",
        ],
    ),
    ("process", &[]),
    ("tls", &["config", "wire"]),
    (
        "agent",
        &[
            "clock",
            "config",
            "core",
            "descriptors",
            "file",
            "http",
            "pg",
            "process",
            "strangers",
            "tls",
        ],
    ),
    (
        "admin",
        &[
            "core",
            "descriptors",
            "shared",
            "config",
            "error",
            "metrics",
            "strangers",
        ],
    ),
    ("rig", &["core", "file", "pg", "process"]),
    ("top", &[]),
    ("verify", &["pg"]),
    ("fuzz", &["backend", "client", "core", "sql", "wire"]),
    (
        "app",
        &[
            "admin",
            "agent",
            "backend",
            "shared",
            "client",
            "config",
            "control",
            "core",
            "descriptors",
            "logging",
            "metrics",
            "strangers",
        ],
    ),
    (
        "cli",
        &[
            "agent",
            "app",
            "config",
            "control",
            "descriptors",
            "http",
            "logging",
            "pg",
            "rig",
            "top",
            "verify",
        ],
    ),
];

/// What must not be named in `core`: the world.
const IMPURE: &[&str] = &[
    "tokio",
    "std::net",
    "std::fs",
    "std::io",
    "std::process",
    "std::thread",
    "Instant::now",
    "SystemTime",
    "rand::",
    "tracing",
    "println!",
    "eprintln!",
];

/// Lines of code that a file may have.
const MOST_LINES: usize = 600;

fn sources(under: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(under).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}

fn room(path: &Path) -> String {
    let first = path.strip_prefix("src").unwrap().iter().next().unwrap();
    let name = Path::new(first).file_stem().unwrap();
    name.to_string_lossy().into_owned()
}

/// The code without comments and without its tests.
fn code(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap();
    let text = text
        .split("#[cfg(test)]\nmod tests {")
        .next()
        .unwrap_or_default()
        .to_owned();
    let lines = text
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"));
    lines.collect::<Vec<_>>().join("\n")
}

/// Whether a file is part of the tests beside the code.
fn is_test(path: &Path) -> bool {
    path.iter()
        .any(|part| part == "tests" || part == "tests.rs")
}

/// Fails for what is found, with what is said of it, and not listed; and for what is listed and not found
/// any more, so that lists of what is wrong as yet only grow shorter.
fn hold(what: &str, found: &BTreeMap<String, String>, known: &[&str]) {
    let new = found
        .iter()
        .filter(|(name, _)| !known.contains(&name.as_str()));
    let new: Vec<_> = new
        .map(|(name, more)| format!("{name} {what}: {more}"))
        .collect();
    let gone = known.iter().filter(|name| !found.contains_key(**name));
    let gone: Vec<_> = gone
        .map(|name| format!("strike {name} out of the list: nothing {what} there"))
        .collect();
    assert!(new.is_empty() && gone.is_empty(), "{new:#?}\n{gone:#?}");
}

#[test]
fn dependencies_run_one_way() {
    let imports = circles::imports();
    let mut wrong = Vec::new();
    for (room, imported) in &imports {
        let rule = MAY_IMPORT.iter().find(|(name, _)| name == room);
        let (_, allowed) = rule.unwrap_or_else(|| panic!("{room} has no rule yet"));
        let new = imported.iter().filter(|name| !allowed.contains(&&***name));
        wrong.extend(new.map(|name| format!("{room} imports {name}")));
    }
    for (room, allowed) in MAY_IMPORT {
        let imported = imports.get(*room);
        let used = |name: &str| imported.is_some_and(|imported| imported.contains(name));
        let unused = allowed.iter().filter(|name| !used(name));
        wrong.extend(unused.map(|name| format!("{room} may import {name} and does not")));
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn the_core_is_pure() {
    let mut wrong = Vec::new();
    for path in sources(Path::new("src/core")) {
        let code = code(&path);
        for name in IMPURE.iter().filter(|name| code.contains(**name)) {
            wrong.push(format!("{} names {name}", path.display()));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Files that are too long as yet.
const TOO_LONG: &[&str] = &[];

#[test]
fn every_file_states_its_purpose_and_keeps_to_it() {
    let mut aimless = Vec::new();
    let mut long = BTreeMap::new();
    for path in ["src", "tests", "benches"]
        .map(Path::new)
        .into_iter()
        .flat_map(sources)
    {
        let text = fs::read_to_string(&path).unwrap();
        let path = path.display().to_string();
        let lines = text.lines().count();
        if lines > MOST_LINES {
            let more = format!("{lines} lines: which two rooms is it?");
            long.insert(path.clone(), more);
        }
        if !text.starts_with("//!") {
            aimless.push(path);
        }
    }
    assert!(aimless.is_empty(), "no purpose is stated: {aimless:#?}");
    hold("is too long", &long, TOO_LONG);
}
