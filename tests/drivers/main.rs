//! The drivers that people use do their real work through the proxy.
//!
//! Debian's psycopg2 comes with the system. asyncpg, psycopg 3 and SQLAlchemy come from PyPI into
//! `target/drivers-venv`, once; without PyPI, or with CAUSEWAY_PIP=0, their tests say so and pass.

#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../support/mod.rs"]
mod support;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::LazyLock;

use support::{Proxy, cluster};

const CONFIG: &str = "pool: { size: 3, wait_timeout: 20s }\n";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn has(python: &Path, module: &str) -> bool {
    Command::new(python)
        .args(["-c", &format!("import {module}")])
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// A Python with the drivers from PyPI, or why there is none.
static VENV: LazyLock<Result<PathBuf, String>> = LazyLock::new(|| {
    let directory = root().join("target/drivers-venv");
    let python = directory.join("bin/python");
    let complete = |python: &Path| {
        ["asyncpg", "psycopg", "sqlalchemy"]
            .iter()
            .all(|name| has(python, name))
    };
    if complete(&python) {
        return Ok(python);
    }
    if std::env::var("CAUSEWAY_PIP").is_ok_and(|value| value == "0") {
        return Err("CAUSEWAY_PIP=0".to_owned());
    }
    let run = |program: &Path, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).output();
        let output = output.map_err(|error| format!("{}: {error}", program.display()))?;
        match output.status.success() {
            true => Ok(()),
            false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        }
    };
    let path = directory.display().to_string();
    run(Path::new("python3"), &["-m", "venv", &path])?;
    run(
        &python,
        &[
            "-m",
            "pip",
            "install",
            "--quiet",
            "--retries",
            "1",
            "--timeout",
            "10",
            "asyncpg",
            "psycopg[binary]",
            "sqlalchemy",
        ],
    )?;
    Ok(python)
});

/// Runs one script against a proxy of its own; what it prints belongs to a failure.
fn drive(python: &Path, script: &str) {
    let proxy = Proxy::start(cluster(), CONFIG);
    let output = Command::new("timeout")
        .arg("60")
        .arg(python)
        .arg(root().join("tests/drivers").join(script))
        .arg(proxy.url())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{script}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(
        proxy.reads_on_standbys() > 0,
        "{script} read nothing on a standby"
    );
    proxy.assert_well();
}

fn drive_in_venv(script: &str) {
    match &*VENV {
        Ok(python) => drive(python, script),
        Err(reason) => eprintln!("skipped {script}: {}", reason.trim()),
    }
}

#[test]
fn psycopg2() {
    let python = Path::new("/usr/bin/python3");
    if has(python, "psycopg2") {
        drive(python, "with_psycopg2.py");
    } else {
        eprintln!("skipped: /usr/bin/python3 has no psycopg2");
    }
}

#[test]
fn psycopg3() {
    drive_in_venv("with_psycopg3.py");
}

#[test]
fn asyncpg() {
    drive_in_venv("with_asyncpg.py");
}

#[test]
fn sqlalchemy() {
    drive_in_venv("with_sqlalchemy.py");
}
