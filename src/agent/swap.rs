//! Where a new copy of the data grows, and how it takes the old one's place.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::files;
use crate::file;

/// What else than `*.conf` belongs to the node and not to the data.
const OWN: [&str; 4] = ["conf", "crt", "key", "pem"];
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

    /// Puts the whole backup in the place of the data.
    pub(super) fn swap(&self) -> io::Result<()> {
        fs::rename(&self.data, &self.old)?;
        fs::rename(&self.backup, &self.data)?;
        for changed in [&self.data, &self.old] {
            if let Some(parent) = changed.parent() {
                file::sync_directory(parent)?;
            }
        }
        files::remove_all(&self.old)
    }
}

fn copy_settings(from: &Path, to: &Path) -> io::Result<()> {
    for entry in fs::read_dir(from)? {
        let (entry, is_file) = match entry {
            Ok(entry) => (entry.path(), entry.file_type()?.is_file()),
            Err(error) => return Err(error),
        };
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
    if included.is_dir() {
        fs::create_dir_all(to.join(OWN_DIRECTORY))?;
        copy_settings(&included, &to.join(OWN_DIRECTORY))?;
    }
    Ok(())
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
}
