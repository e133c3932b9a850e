//! The drivers that people use do their real work through the proxy.
//!
//! Debian's psycopg2 comes with the system. asyncpg, psycopg 3 and SQLAlchemy come from PyPI into
//! `target/drivers-venv`, once; where there is no PyPI, `CAUSEWAY_SKIP=drivers` does without them.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use crate::cluster;
use crate::support::need::{has_module, missing};
use crate::support::{Proxy, need};

const CONFIG: &str = "pool: { size: 3, wait_timeout: 20s }\n";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A Python with the drivers from PyPI, or why there is none.
static VENV: LazyLock<Result<PathBuf, String>> = LazyLock::new(|| {
    let directory = root().join("target/drivers-venv");
    let python = directory.join("bin/python");
    let complete = |python: &Path| {
        ["asyncpg", "psycopg", "sqlalchemy"]
            .iter()
            .all(|name| has_module(python, name))
    };
    if complete(&python) {
        return Ok(python);
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
            // Most of what they bring is never imported.
            "--no-compile",
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
        .arg(root().join("tests/cluster/drivers").join(script))
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

/// The Python with the drivers from PyPI; none where tests are to do without.
pub(crate) fn python() -> Option<&'static Path> {
    if !need("drivers") {
        return None;
    }
    match &*VENV {
        Ok(python) => Some(python),
        Err(why) => missing("drivers", why.trim()),
    }
}

fn drive_in_venv(script: &str) {
    if let Some(python) = python() {
        drive(python, script);
    }
}

#[test]
fn psycopg2() {
    if need("psycopg2") {
        drive(Path::new("/usr/bin/python3"), "with_psycopg2.py");
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
