//! The store of a single proxy: one small file, replaced whole, and a lock beside it.
//!
//! A change is written to a new file, synced, and renamed over the old one, whose directory is then
//! synced: whoever kills the process, at whatever moment, finds the old record or the new one. The
//! lock is on a file of its own, because the other one changes its identity with every change.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use md5::{Digest, Md5};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::{Claim, Leader, OpenError, SaveError, Stored, Unavailable, Version};
use crate::core::leader_lease::Micros;
use crate::file;

/// The first line up to the sum over the rest. The sum finds damage, not malice.
const HEADER: &str = "causeway state 1 md5=";
/// A disk that takes longer than this for a few hundred bytes is no place to decide from.
const BOUND: Duration = Duration::from_secs(10);
/// A record is a few kilobytes; this only keeps a wrong file from being read into memory.
const MAX_BYTES: u64 = 16 << 20;

/// The record in a file that no other process may use meanwhile.
#[derive(Debug)]
pub struct FileStore {
    disk: Arc<Disk>,
    claim: Claim,
    record: watch::Sender<Option<Stored>>,
    leader: watch::Sender<Leader>,
}

#[derive(Debug)]
struct Disk {
    path: PathBuf,
    /// One writer at a time, also when a caller has given up on an earlier one.
    turn: Mutex<()>,
    /// Held open for its lock.
    _lock: File,
}

/// What the file holds.
#[derive(Clone, Debug, Default, PartialEq)]
struct Content {
    /// How often the file has been opened.
    term: u64,
    version: u64,
    /// None before the first one was saved.
    record: Option<Value>,
}

impl Content {
    fn stored(self) -> Option<Stored> {
        let version = Version(self.version);
        self.record.map(|record| Stored { record, version })
    }
}

impl FileStore {
    /// Locks and reads the file, or makes it.
    pub(super) async fn open(path: &Path) -> Result<Self, OpenError> {
        let path = std::path::absolute(path).map_err(io("resolve", path))?;
        let opened = tokio::task::spawn_blocking(move || open(path));
        let joined = tokio::time::timeout(BOUND, opened).await;
        let (disk, content) = joined
            .map_err(|_| std::io::Error::from(ErrorKind::TimedOut))
            .and_then(|joined| joined.map_err(std::io::Error::other))
            .map_err(|source| OpenError::Io {
                doing: "open the state file".to_owned(),
                source,
            })??;
        let claim = Claim::default();
        let term = content.term;
        claim.set(term, Micros::MAX);
        Ok(Self {
            disk: Arc::new(disk),
            claim,
            record: watch::Sender::new(content.stored()),
            leader: watch::Sender::new(Leader::Me { term }),
        })
    }

    pub(super) async fn load(&self) -> Result<Option<Stored>, Unavailable> {
        let stored = self.on_disk(|disk| disk.read()).await??.stored();
        Ok(stored)
    }

    pub(super) async fn save(
        &self,
        record: &Value,
        expected: Version,
    ) -> Result<Version, SaveError> {
        if !self.claim.holds() {
            return Err(SaveError::NotLeader);
        }
        let (record, told) = (record.clone(), self.record.clone());
        // The file is the truth, also after a save of which nobody knows how it ended.
        self.on_disk(move |disk| {
            let now = disk.read()?;
            if now.version != expected.0 {
                let current = now.stored();
                return Err(SaveError::Conflict { current });
            }
            let next = Content {
                version: now.version + 1,
                record: Some(record),
                ..now
            };
            disk.write(&next)
                .map_err(|error| unavailable(&disk.path, &error))?;
            let version = Version(next.version);
            told.send_replace(next.stored());
            Ok(version)
        })
        .await?
    }

    pub(super) fn watch(&self) -> watch::Receiver<Option<Stored>> {
        self.record.subscribe()
    }

    pub(super) fn leader(&self) -> watch::Receiver<Leader> {
        self.leader.subscribe()
    }

    pub(super) fn claim(&self) -> &Claim {
        &self.claim
    }

    /// Runs one operation in its turn; a disk that hangs is given up on, not waited for.
    async fn on_disk<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Disk) -> T + Send + 'static,
    ) -> Result<T, Unavailable> {
        let disk = Arc::clone(&self.disk);
        let path = disk.path.clone();
        let task = tokio::task::spawn_blocking(move || {
            let _turn = disk
                .turn
                .try_lock_for(BOUND)
                .ok_or("an earlier operation has not ended")?;
            Ok(work(&disk))
        });
        let ended = match tokio::time::timeout(BOUND, task).await {
            Ok(Ok(ended)) => ended,
            Ok(Err(_)) => Err("the operation was cut short"),
            Err(_) => Err("the disk does not answer"),
        };
        ended.map_err(|reason| unavailable(&path, reason))
    }
}

fn unavailable(path: &Path, reason: impl std::fmt::Display) -> Unavailable {
    Unavailable(format!("{}: {reason}", path.display()))
}

fn io(doing: &str, path: &Path) -> impl FnOnce(std::io::Error) -> OpenError {
    let doing = format!("{doing} {}", path.display());
    move |source| OpenError::Io { doing, source }
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

fn open(path: PathBuf) -> Result<(Disk, Content), OpenError> {
    let lock = lock(&path)?;
    let content = find(&path)?.unwrap_or_default();
    let disk = Disk {
        path,
        turn: Mutex::new(()),
        _lock: lock,
    };
    // Every term has its own number; and a file that cannot be written is found out now.
    let content = Content {
        term: content.term + 1,
        ..content
    };
    disk.write(&content).map_err(io("write", &disk.path))?;
    Ok((disk, content))
}

/// What is in the file; none if there is no file.
fn find(path: &Path) -> Result<Option<Content>, OpenError> {
    let text = read_file(path).map_err(io("read", path))?;
    let content = text.map(|text| parse(&text)).transpose();
    content.map_err(|reason| OpenError::Damaged {
        file: path.display().to_string(),
        reason,
    })
}

/// The version in the file, read without disturbing whoever uses it.
pub(super) fn peek(path: &Path) -> Result<Option<u64>, OpenError> {
    Ok(find(path)?.map(|content| content.version))
}

/// Takes the lock, which ends with the process that holds it, however that ends.
fn lock(path: &Path) -> Result<File, OpenError> {
    let lock_path = beside(path, ".lock");
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&lock_path)
        .map_err(io("open", &lock_path))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            let _ = (&mut file).take(20).read_to_string(&mut holder);
            let holder = holder.trim().parse::<u32>();
            return Err(OpenError::InUse {
                file: path.display().to_string(),
                holder: holder.map_or_else(|_| String::new(), |pid| format!(" (process {pid})")),
            });
        }
        Err(TryLockError::Error(error)) => return Err(io("lock", &lock_path)(error)),
    }
    // For whoever is refused; the lock alone decides.
    let _ = file
        .set_len(0)
        .and_then(|()| writeln!(file, "{}", std::process::id()));
    Ok(file)
}

impl Disk {
    fn read(&self) -> Result<Content, Unavailable> {
        match read_file(&self.path) {
            Ok(Some(text)) => parse(&text).map_err(|reason| unavailable(&self.path, reason)),
            Ok(None) => Err(unavailable(&self.path, "it has been removed")),
            Err(error) => Err(unavailable(&self.path, error)),
        }
    }

    fn write(&self, content: &Content) -> std::io::Result<()> {
        file::replace(&self.path, render(content).as_bytes())
    }
}

/// The whole file; none if there is none.
fn read_file(path: &Path) -> std::io::Result<Option<Vec<u8>>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut text = Vec::new();
    file.take(MAX_BYTES).read_to_end(&mut text)?;
    Ok(Some(text))
}

fn render(content: &Content) -> String {
    let body = json!({
        "term": content.term,
        "version": content.version,
        "record": content.record,
    });
    let body = format!("{body:#}\n");
    format!("{HEADER}{}\n{body}", sum(body.as_bytes()))
}

fn sum(body: &[u8]) -> String {
    let digest = Md5::digest(body);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn parse(text: &[u8]) -> Result<Content, String> {
    if text.is_empty() {
        return Err("it is empty".to_owned());
    }
    let end = text.iter().position(|byte| *byte == b'\n');
    let (header, body) = text.split_at(end.map_or(text.len(), |end| end + 1));
    let header = str::from_utf8(header)
        .ok()
        .and_then(|line| line.strip_prefix(HEADER));
    let expected = header.ok_or("it does not begin as a state file does")?;
    if expected.trim_end() != sum(body) {
        return Err("its checksum is wrong".to_owned());
    }
    let body: Value = serde_json::from_slice(body).map_err(|error| error.to_string())?;
    let number = |key: &str| body[key].as_u64().ok_or(format!("it holds no {key}"));
    let record = &body["record"];
    Ok(Content {
        term: number("term")?,
        version: number("version")?,
        record: (number("version")? > 0).then(|| record.clone()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_any_change_to_it_is_noticed() {
        let content = Content {
            term: 3,
            version: 2,
            record: Some(json!({ "phase": "promote", "epoch": 7 })),
        };
        let text = render(&content);
        assert_eq!(parse(text.as_bytes()), Ok(content));
        let none = Content {
            term: 1,
            version: 0,
            record: None,
        };
        assert_eq!(parse(render(&none).as_bytes()), Ok(none));
        for length in 0..text.len() {
            assert!(
                parse(&text.as_bytes()[..length]).is_err(),
                "cut at {length}"
            );
            let mut other = text.clone().into_bytes();
            other[length] ^= 1;
            assert!(parse(&other).is_err(), "changed at {length}");
        }
    }
}
