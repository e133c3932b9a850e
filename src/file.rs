//! Files: the end of one, and replacing one as a whole, so that whoever is killed, at whatever moment,
//! leaves the old content or the new.
//!
//! A draft has a name of its file's, not one of its own as with `tempfile`, which removes it only if the
//! process lives on: however often one is killed here, one draft is left, and the next write takes it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Replaces a file, which only its owner may read; it is on disk when this returns.
pub(crate) fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let draft = Draft::write(path, content)?;
    draft.file.sync_all()?;
    draft.put()?;
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => sync_directory(parent),
        _ => sync_directory(Path::new(".")),
    }
}

/// Replaces a file, which only its owner may read, without waiting for the disk.
pub(crate) fn replace_unsynced(path: &Path, content: &[u8]) -> io::Result<()> {
    Draft::write(path, content)?.put()
}

/// Makes renames and removals in a directory outlast a crash.
pub(crate) fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// The last lines of a file, for messages; nothing of one that cannot be read.
pub(crate) fn tail(path: &Path, lines: usize) -> String {
    const BYTES: u64 = 16 << 10;
    let read = || {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(BYTES)))?;
        let mut bytes = Vec::new();
        file.take(BYTES).read_to_end(&mut bytes)?;
        io::Result::Ok(bytes)
    };
    let bytes = read().unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// What is to take a file's place, beside it.
pub(crate) struct Draft<'a> {
    file: File,
    place: PathBuf,
    path: &'a Path,
}

impl<'a> Draft<'a> {
    pub(crate) fn write(path: &'a Path, content: &[u8]) -> io::Result<Self> {
        let mut place = path.as_os_str().to_owned();
        place.push(".new");
        let place = PathBuf::from(place);
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&place)?;
        file.write_all(content)?;
        Ok(Self { file, place, path })
    }

    /// Where it is as long as it is a draft.
    pub(crate) fn place(&self) -> &Path {
        &self.place
    }

    pub(crate) fn put(&self) -> io::Result<()> {
        fs::rename(&self.place, self.path)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn a_file_is_replaced_whole_past_a_draft_that_was_left_and_its_end_is_read() {
        let directory = std::env::temp_dir().join(format!("causeway-file-{}", std::process::id()));
        fs::create_dir(&directory).unwrap();
        let path = directory.join("state.json");
        replace(&path, b"one").unwrap();
        let left = Draft::write(&path, b"a longer one, left behind").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"one");
        assert!(left.place().exists());
        replace_unsynced(&path, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 1);
        fs::write(&path, "one\ntwo\nthree\n").unwrap();
        assert_eq!(tail(&path, 2), "two\nthree");
        assert_eq!(tail(&directory.join("absent"), 2), "");
        fs::remove_dir_all(&directory).unwrap();
    }
}
