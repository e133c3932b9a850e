//! Finds installed PostgreSQL server binaries.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::RigError;

/// The oldest major version that the rig can set up.
const OLDEST: u32 = 13;

/// Where Debian and Ubuntu keep servers, one directory a major version.
const DEBIAN: &str = "/usr/lib/postgresql";

/// A directory that holds `initdb` and `postgres` of one version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binaries {
    directory: PathBuf,
    major: u32,
    version: String,
}

impl Binaries {
    /// Checks a directory by asking its server for the version.
    pub fn in_directory(directory: impl Into<PathBuf>) -> Result<Self, RigError> {
        let directory = directory.into();
        let bad = |reason: String| RigError::BadBinaries {
            directory: directory.clone(),
            reason,
        };
        if let Some(missing) = ["initdb", "postgres"]
            .iter()
            .find(|p| !directory.join(p).is_file())
        {
            return Err(bad(format!("it holds no {missing}")));
        }
        let answer = Command::new(directory.join("postgres"))
            .arg("--version")
            .stdin(Stdio::null())
            .output()
            .map_err(|error| bad(format!("postgres --version: {error}")))?;
        let answer = String::from_utf8_lossy(&answer.stdout).trim().to_owned();
        let (version, major) = parse_version(&answer)
            .ok_or_else(|| bad(format!("postgres --version answered {answer:?}")))?;
        if major < OLDEST {
            return Err(bad(format!("version {version} is older than {OLDEST}")));
        }
        // The servers are started from another directory than ours.
        let directory = fs::canonicalize(&directory).unwrap_or(directory);
        Ok(Self {
            directory,
            major,
            version,
        })
    }

    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The major version, such as 15.
    pub fn major(&self) -> u32 {
        self.major
    }

    /// The version as the server tells it, such as 15.18.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The path of one of the programs.
    pub(super) fn program(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }
}

/// Looks in `CAUSEWAY_PG_BIN`, else in `PATH`, where `pg_config` points, and where Debian keeps
/// servers; in the last the newest version wins.
pub fn find_binaries() -> Result<Binaries, RigError> {
    if let Some(directory) = env::var_os("CAUSEWAY_PG_BIN").filter(|d| !d.is_empty()) {
        return Binaries::in_directory(directory);
    }
    let on_path = env::var_os("PATH")
        .map(|path| env::split_paths(&path).collect::<Vec<_>>())
        .unwrap_or_default();
    let found = on_path.into_iter().chain(pg_config()).find_map(usable);
    found
        .or_else(newest_of_debian)
        .ok_or_else(|| RigError::NoBinaries {
            looked: format!("PATH, pg_config --bindir and {DEBIAN}"),
        })
}

fn usable(directory: PathBuf) -> Option<Binaries> {
    Binaries::in_directory(directory).ok()
}

fn pg_config() -> Option<PathBuf> {
    let answer = Command::new("pg_config")
        .arg("--bindir")
        .stderr(Stdio::null())
        .output()
        .ok()?;
    let directory = String::from_utf8(answer.stdout).ok()?;
    Some(PathBuf::from(directory.trim()))
}

fn newest_of_debian() -> Option<Binaries> {
    let versions = fs::read_dir(DEBIAN).ok()?;
    let candidates = versions
        .flatten()
        .filter_map(|entry| usable(entry.path().join("bin")));
    candidates.max_by_key(Binaries::major)
}

/// Reads `postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)`.
fn parse_version(answer: &str) -> Option<(String, u32)> {
    let version = answer
        .split_once("(PostgreSQL)")?
        .1
        .split_whitespace()
        .next()?;
    let digits = version
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(version.len());
    Some((version.to_owned(), version[..digits].parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_servers_print_them() {
        let major = |text: &str| parse_version(text).map(|(_, major)| major);
        assert_eq!(
            major("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)"),
            Some(15)
        );
        assert_eq!(major("postgres (PostgreSQL) 18.1"), Some(18));
        assert_eq!(major("postgres (PostgreSQL) 19beta1"), Some(19));
        assert_eq!(major("postgres (PostgreSQL) devel"), None);
        assert_eq!(major("sh: not found"), None);
    }

    #[test]
    fn a_directory_without_a_server_says_so() {
        let error = Binaries::in_directory("/nonexistent").unwrap_err();
        assert_eq!(
            error.to_string(),
            "/nonexistent is not a usable PostgreSQL: it holds no initdb"
        );
    }
}
