//! Where a new copy of the data grows, and how it takes the old one's place.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};

use super::files;
use super::tablespaces::WAL;
use crate::file;

/// What else than `*.conf` belongs to the node and not to the data.
const OWN: [&str; 4] = ["conf", "crt", "key", "pem"];
/// Links that can be made again although PostgreSQL gave them their names: what they lead to is no part of a copy.
const LINKED: [&str; 3] = [WAL, "pg_log", "pg_stat_tmp"];
/// A directory of settings that `include_dir` commonly names.
const OWN_DIRECTORY: &str = "conf.d";

#[derive(Clone, Debug)]
pub(super) struct DataDirectories {
    data: PathBuf,
    /// Where a base backup grows.
    pub(super) backup: PathBuf,
    /// The data that were replaced, until they are removed.
    old: PathBuf,
    /// The node's own settings, while the data directory is rewritten.
    saved: PathBuf,
}

impl DataDirectories {
    pub(super) fn new(data: &Path, state: &Path) -> Self {
        Self {
            data: data.to_owned(),
            backup: state.join("backup"),
            old: state.join("old"),
            saved: state.join("saved"),
        }
    }

    /// Ends a swap that was cut short between its two renames.
    pub(super) fn finish_swap(&self) -> io::Result<()> {
        let replaced = self.old.join("PG_VERSION").exists();
        if !self.data.exists() && replaced && self.backup.join("PG_VERSION").exists() {
            fs::rename(&self.backup, &self.data)?;
        }
        Ok(())
    }

    /// Saves the node's own settings. `again`: an earlier rejoin was cut short, and what it saved is
    /// the truth, since the data directory may hold the source's by now.
    pub(super) fn save_settings(&self, again: bool) -> io::Result<()> {
        if again && self.saved.is_dir() {
            return Ok(());
        }
        files::remove_all(&self.saved)?;
        let draft = self.saved.with_extension("new");
        files::remove_all(&draft)?;
        fs::create_dir(&draft)?;
        copy_settings(&self.data, &draft)?;
        fs::rename(&draft, &self.saved)
    }

    /// Puts the node's own settings into a directory of data.
    pub(super) fn restore_settings(&self, data: &Path) -> io::Result<()> {
        copy_settings(&self.saved, data)
    }

    pub(super) fn forget_settings(&self) -> io::Result<()> {
        files::remove_all(&self.saved)
    }

    /// Makes room for a base backup.
    pub(super) fn prepare(&self) -> io::Result<()> {
        refuse_links(&self.data)?;
        files::remove_all(&self.backup)?;
        files::remove_all(&self.old)?;
        let device = |path: &Path| fs::metadata(path).map(|meta| meta.dev());
        let parent = |path: &Path| {
            path.parent()
                .map_or(Ok(None), |path| device(path).map(Some))
        };
        let here = device(&self.data)?;
        if Some(here) != parent(&self.data)? || Some(here) != parent(&self.backup)? {
            return Err(io::Error::other(
                "the data directory cannot be replaced: it must not be a mount point, and \
                 state_dir must be on its file system",
            ));
        }
        Ok(())
    }

    /// Puts the whole backup in the place of the data, unless something is at work there: what that is.
    pub(super) fn swap<T>(&self, occupant: impl Fn(&Path) -> Option<T>) -> io::Result<Option<T>> {
        fs::rename(&self.data, &self.old)?;
        // Where it was moved to nothing more can begin.
        if let Some(found) = occupant(&self.old) {
            fs::rename(&self.old, &self.data)?;
            return Ok(Some(found));
        }
        fs::rename(&self.backup, &self.data)?;
        for changed in [&self.data, &self.old] {
            if let Some(parent) = changed.parent() {
                file::sync_directory(parent)?;
            }
        }
        files::remove_all(&self.old)?;
        Ok(None)
    }
}

/// Data that were given another place by hand would lie in the data directory once they are copied.
fn refuse_links(data: &Path) -> io::Result<()> {
    for entry in fs::read_dir(data)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let is_data = name.starts_with("pg_") || ["base", "global"].contains(&&*name);
        let is_setting = OWN
            .iter()
            .any(|own| entry.path().extension().is_some_and(|it| it == *own));
        if entry.file_type()?.is_symlink() && is_data && !is_setting && !LINKED.contains(&&*name) {
            return Err(io::Error::other(format!(
                "{name} is a link to {}: a copy would put it into the data directory, and nothing was \
                 changed; make it a directory there, or a tablespace",
                fs::read_link(entry.path())?.display()
            )));
        }
    }
    Ok(())
}

fn copy_settings(from: &Path, to: &Path) -> io::Result<()> {
    for entry in fs::read_dir(from)? {
        let (entry, kind) = match entry {
            Ok(entry) => (entry.path(), entry.file_type()?),
            Err(error) => return Err(error),
        };
        if let Some(name) = entry.file_name().filter(|_| kind.is_symlink()) {
            // Where the WAL is a copy is told by itself.
            if name != WAL {
                copy_link(&entry, &to.join(name))?;
            }
            continue;
        }
        let is_file = kind.is_file();
        let own = entry
            .extension()
            .is_some_and(|extension| OWN.iter().any(|own| extension == *own));
        if let Some(name) = entry.file_name().filter(|_| is_file && own) {
            // The copy replaces what is there, and has the permissions of what it copies.
            files::remove_if_there(&to.join(name))?;
            fs::copy(&entry, to.join(name))?;
        }
    }
    let included = from.join(OWN_DIRECTORY);
    if included.is_dir() && !included.is_symlink() {
        fs::create_dir_all(to.join(OWN_DIRECTORY))?;
        copy_settings(&included, &to.join(OWN_DIRECTORY))?;
    }
    Ok(())
}

/// Makes a link again, whatever a copy has brought in its place.
fn copy_link(from: &Path, to: &Path) -> io::Result<()> {
    let target = fs::read_link(from)?;
    match fs::symlink_metadata(to) {
        Ok(found) if found.is_symlink() && fs::read_link(to)? == target => return Ok(()),
        Ok(found) if found.is_dir() => files::remove_all(to)?,
        _ => files::remove_if_there(to)?,
    }
    symlink(target, to)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_survive_and_a_cut_swap_is_ended() {
        let base = std::env::temp_dir().join(format!("causeway-swap-{}", std::process::id()));
        let (data, state) = (base.join("data"), base.join("state"));
        fs::create_dir_all(data.join("conf.d")).unwrap();
        fs::create_dir_all(&state).unwrap();
        fs::write(data.join("PG_VERSION"), "old").unwrap();
        fs::write(data.join("postgresql.conf"), "ours").unwrap();
        fs::write(data.join("conf.d/more.conf"), "ours").unwrap();
        let directories = DataDirectories::new(&data, &state);
        directories.save_settings(false).unwrap();
        // Half rewound: the source's settings are not saved over ours.
        fs::write(data.join("postgresql.conf"), "theirs").unwrap();
        directories.save_settings(true).unwrap();
        directories.restore_settings(&data).unwrap();
        assert_eq!(
            fs::read_to_string(data.join("postgresql.conf")).unwrap(),
            "ours"
        );

        directories.prepare().unwrap();
        fs::create_dir(&directories.backup).unwrap();
        fs::write(directories.backup.join("PG_VERSION"), "new").unwrap();
        directories.restore_settings(&directories.backup).unwrap();
        // What is in use stays where it is.
        assert_eq!(directories.swap(|_| Some(7)).unwrap(), Some(7));
        assert_eq!(fs::read_to_string(data.join("PG_VERSION")).unwrap(), "old");
        fs::rename(&data, &directories.old).unwrap();
        directories.finish_swap().unwrap();
        assert_eq!(fs::read_to_string(data.join("PG_VERSION")).unwrap(), "new");
        assert_eq!(
            fs::read_to_string(data.join("conf.d/more.conf")).unwrap(),
            "ours"
        );
        directories.finish_swap().unwrap();
        fs::remove_dir_all(&base).unwrap();
    }

    #[test]
    fn links_stay_links_and_what_cannot_be_kept_is_refused() {
        let base = std::env::temp_dir().join(format!("causeway-links-{}", std::process::id()));
        let (data, state, etc) = (base.join("data"), base.join("state"), base.join("etc"));
        for directory in [&data, &state, &etc.join("conf.d")] {
            fs::create_dir_all(directory).unwrap();
        }
        fs::write(etc.join("postgresql.conf"), "ours").unwrap();
        for (target, name) in [
            (etc.join("postgresql.conf"), "postgresql.conf"),
            (etc.join("conf.d"), "conf.d"),
            ("../etc".into(), "log"),
            (base.join("wal"), "pg_wal"),
        ] {
            symlink(target, data.join(name)).unwrap();
        }
        let directories = DataDirectories::new(&data, &state);
        directories.save_settings(false).unwrap();
        directories.prepare().unwrap();
        // What the source has there.
        for directory in ["conf.d", "log", "pg_wal"] {
            fs::create_dir_all(directories.backup.join(directory)).unwrap();
        }
        fs::write(directories.backup.join("postgresql.conf"), "theirs").unwrap();
        fs::write(directories.backup.join("log/today"), "theirs").unwrap();
        directories.restore_settings(&directories.backup).unwrap();
        for name in ["postgresql.conf", "conf.d", "log"] {
            let made = fs::read_link(directories.backup.join(name)).unwrap();
            assert_eq!(made, fs::read_link(data.join(name)).unwrap());
        }
        assert!(!directories.backup.join("pg_wal").is_symlink());
        assert_eq!(
            fs::read_to_string(etc.join("postgresql.conf")).unwrap(),
            "ours"
        );

        symlink(&etc, data.join("pg_xact")).unwrap();
        let refused = directories.prepare().unwrap_err().to_string();
        assert!(refused.contains("pg_xact is a link to"), "{refused}");
        assert!(directories.backup.exists(), "nothing was removed before");
        fs::remove_dir_all(&base).unwrap();
    }
}
