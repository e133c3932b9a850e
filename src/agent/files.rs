//! Files that make the data directory one of a standby or a primary, and removals that may be repeated.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;

use crate::file;

/// Makes the server a standby when it starts.
pub(super) const STANDBY_SIGNAL: &str = "standby.signal";
/// The other way into recovery; the agent does not set it, and knows it.
pub(super) const RECOVERY_SIGNAL: &str = "recovery.signal";
const AUTO_CONF: &str = "postgresql.auto.conf";

/// Whether the data directory is one of a server that starts into recovery.
pub(super) fn is_standby(data: &Path) -> bool {
    data.join(STANDBY_SIGNAL).exists() || data.join(RECOVERY_SIGNAL).exists()
}

/// The highest timeline that any file of WAL, or history of one, is of; 0 without any. `pg_control` learns of a
/// new one only by the first checkpoint on it.
pub(super) fn newest_timeline(data: &Path) -> u32 {
    let entries = fs::read_dir(data.join("pg_wal"));
    let names = entries.into_iter().flatten().flatten();
    let timelines = names.filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        let (timeline, rest) = name.split_at_checked(8)?;
        let is_segment = rest.len() == 16 && rest.bytes().all(|byte| byte.is_ascii_hexdigit());
        let known = is_segment || rest == ".history";
        u32::from_str_radix(timeline, 16).ok().filter(|_| known)
    });
    timelines.max().unwrap_or_default()
}

/// Makes the data directory one of a standby, or of a primary.
pub(super) fn set_standby(data: &Path, standby: bool) -> io::Result<()> {
    remove_if_there(&data.join(RECOVERY_SIGNAL))?;
    if standby {
        return file::replace(&data.join(STANDBY_SIGNAL), b"");
    }
    remove_if_there(&data.join(STANDBY_SIGNAL))?;
    file::sync_directory(data)
}

/// Sets one setting in `postgresql.auto.conf`, as ALTER SYSTEM would; false if it was set so.
pub(super) fn set_auto(data: &Path, name: &str, value: &str) -> io::Result<bool> {
    let path = data.join(AUTO_CONF);
    let before = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
        Err(error) => return Err(error),
    };
    let after = with_setting(&before, name, value);
    if before == after {
        return Ok(false);
    }
    file::replace(&path, after.as_bytes())?;
    Ok(true)
}

/// Whether `postgresql.auto.conf` says that the server is to follow nobody.
pub(super) fn follows_nobody(data: &Path) -> io::Result<bool> {
    Ok(auto_value(data, "primary_conninfo")?.is_some_and(|value| value.is_empty()))
}

/// Whether the server has been told to lead by a file that it has not read yet.
pub(super) fn is_promoted(data: &Path) -> bool {
    data.join("promote").exists()
}

/// Whether a setting's value in `postgresql.auto.conf` begins so.
pub(super) fn auto_has(data: &Path, name: &str, beginning: &str) -> io::Result<bool> {
    let value = auto_value(data, name)?;
    Ok(value.is_some_and(|value| value.starts_with(beginning)))
}

/// A setting's value in `postgresql.auto.conf`, with its inner quotes as they are written.
fn auto_value(data: &Path, name: &str) -> io::Result<Option<String>> {
    let text = match fs::read_to_string(data.join(AUTO_CONF)) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let value = text.lines().rev().find_map(|line| {
        let (set, value) = line.split_once('=')?;
        let is_it = set.trim().eq_ignore_ascii_case(name);
        is_it.then_some(value.trim())
    });
    Ok(value.map(|value| value.trim_matches('\'').to_owned()))
}

fn with_setting(text: &str, name: &str, value: &str) -> String {
    let is_other = |line: &&str| {
        let set = line.split('=').next().unwrap_or_default().trim();
        !set.eq_ignore_ascii_case(name)
    };
    let mut lines: Vec<&str> = text.lines().filter(is_other).collect();
    let value = value.replace('\\', "\\\\").replace('\'', "''");
    let own = format!("{name} = '{value}'");
    lines.push(&own);
    lines.join("\n") + "\n"
}

/// Removes a file; one that is not there is no error.
pub(super) fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Removes a directory and all in it; one that is not there is no error.
pub(super) fn remove_all(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_is_replaced_and_the_others_stay() {
        let text = "# kept\nport = '5501'\nprimary_conninfo = 'host=a'\n";
        assert_eq!(
            with_setting(text, "primary_conninfo", "host='b'"),
            "# kept\nport = '5501'\nprimary_conninfo = 'host=''b'''\n"
        );
        assert_eq!(with_setting("", "a", "\\"), "a = '\\\\'\n");
    }
}
