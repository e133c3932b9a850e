//! The cluster's directory: made, handed to the servers' user, copied from, and removed.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::RigError;
use super::account::Account;
use crate::file::{self, Draft};

/// Lines of a log that an error message carries.
const TAIL: usize = 15;

/// A directory that exists until this is dropped, or longer if it is to be kept.
#[derive(Debug)]
pub(super) struct Home {
    pub(super) path: PathBuf,
    /// Whether it outlives the cluster.
    pub(super) keep: bool,
}

impl Home {
    /// Uses the given directory, which must be new or empty, or makes one for temporary files: in
    /// memory if it need not be durable.
    pub(super) fn create(
        wanted: Option<&Path>,
        name: &str,
        keep: bool,
        durable: bool,
        account: Account,
    ) -> Result<Self, RigError> {
        let path = match wanted {
            Some(path) => std::path::absolute(path)
                .map_err(RigError::io(format!("resolve {}", path.display())))?,
            None => temporary(durable || keep).join(format!(
                "causeway-{name}-{}-{:08x}",
                std::process::id(),
                rand::random::<u32>()
            )),
        };
        let holds_something = fs::read_dir(&path).is_ok_and(|mut entries| entries.next().is_some());
        if holds_something {
            return Err(RigError::DirectoryInUse { directory: path });
        }
        DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(&path)
            .map_err(RigError::io(format!("create {}", path.display())))?;
        account.own(&path)?;
        Ok(Self { path, keep })
    }

    /// Saves the nodes' logs of a failed test where a person or CI finds them.
    pub(super) fn rescue_logs(&self, name: &str) -> Option<PathBuf> {
        let target = std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into());
        let rescued = Path::new(&target).join("rig-logs").join(name);
        fs::create_dir_all(&rescued).ok()?;
        for node in fs::read_dir(&self.path).ok()?.flatten() {
            let logs = [
                ("postgres.log", "log"),
                ("etcd.log", "log"),
                ("causeway.log", "log"),
                ("agent.log", "agent.log"),
            ];
            for (log, extension) in logs {
                let log = node.path().join(log);
                if log.is_file() {
                    let copy = rescued.join(node.file_name()).with_extension(extension);
                    fs::copy(log, copy).ok()?;
                }
            }
        }
        Some(rescued)
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        if !self.keep {
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

/// Runs file work where it holds up nobody; it goes on when its caller gives up, and the directory
/// stays until then.
pub(super) async fn blocking<T: Send + 'static>(
    home: &Arc<Home>,
    doing: &str,
    work: impl FnOnce() -> Result<T, RigError> + Send + 'static,
) -> Result<T, RigError> {
    let home = Arc::clone(home);
    let joined = tokio::task::spawn_blocking(move || {
        let outcome = work();
        drop(home);
        outcome
    })
    .await;
    joined.map_err(|error| RigError::io(doing)(std::io::Error::other(error)))?
}

/// Where temporary directories go. Memory halves the time that a cluster takes to come and go; it is
/// used where it is plentiful and nobody chose otherwise by TMPDIR.
fn temporary(on_disk: bool) -> PathBuf {
    const PLENTY_BYTES: u64 = 4 << 30;
    let memory = Path::new("/dev/shm");
    let free_bytes = || {
        let memory = nix::sys::statvfs::statvfs(memory).ok()?;
        // Narrower than u64 on some systems.
        #[allow(clippy::useless_conversion)]
        Some(u64::from(memory.blocks_available()) * u64::from(memory.fragment_size()))
    };
    if !on_disk && std::env::var_os("TMPDIR").is_none() && free_bytes() > Some(PLENTY_BYTES) {
        return memory.to_owned();
    }
    std::env::temp_dir()
}

/// Makes a directory that only the servers' user may enter.
pub(super) fn private_directory(path: &Path, account: Account) -> Result<(), RigError> {
    let made = DirBuilder::new().mode(0o700).create(path);
    made.map_err(RigError::io(format!("create {}", path.display())))?;
    account.own(path)
}

/// Replaces a file in one step; only the servers' user may read it.
pub(super) fn write_private(path: &Path, text: &str, account: Account) -> Result<(), RigError> {
    let failed = || RigError::io(format!("write {}", path.display()));
    let draft = Draft::write(path, text.as_bytes()).map_err(failed())?;
    account.own(draft.place())?;
    draft.put().map_err(failed())
}

/// Opens a log for appending, as a server's standard output.
pub(super) fn open_log(path: &Path, account: Account) -> Result<fs::File, RigError> {
    let log = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path);
    let log = log.map_err(RigError::io(format!("open {}", path.display())))?;
    account.own(path)?;
    Ok(log)
}

/// The last lines of a log.
pub(super) fn tail(log: &Path) -> String {
    file::tail(log, TAIL)
}

/// Copies a data directory, of a stopped server or during a backup.
///
/// Files may vanish under a running server; its backup label makes recovery restore them.
pub(super) fn copy_data(from: &Path, to: &Path, account: Account) -> Result<(), RigError> {
    let running = from.join("postmaster.pid").exists();
    private_directory(to, account)?;
    let mut pending = vec![PathBuf::new()];
    while let Some(inner) = pending.pop() {
        let reading = from.join(&inner);
        let entries =
            fs::read_dir(&reading).map_err(RigError::io(format!("list {}", reading.display())))?;
        for entry in entries.flatten() {
            let name = inner.join(entry.file_name());
            let (source, copy) = (entry.path(), to.join(&name));
            // WAL that is being written is streamed afterwards rather than copied half.
            let emptied = inner == Path::new("pg_wal") && running
                || inner == Path::new("pg_dynshmem")
                || inner == Path::new("pg_replslot");
            let kind = entry.file_type();
            if name.starts_with("postmaster.pid")
                || name.starts_with("postmaster.opts")
                || emptied && name != Path::new("pg_wal/archive_status")
            {
                continue;
            }
            // Symbolic links are tablespaces or a WAL directory elsewhere: the rig makes neither.
            match kind {
                Ok(kind) if kind.is_dir() => {
                    private_directory(&copy, account)?;
                    pending.push(name);
                }
                Ok(kind) if kind.is_file() => match fs::copy(&source, &copy) {
                    Ok(_) => account.own(&copy)?,
                    Err(error) if error.kind() == ErrorKind::NotFound => {}
                    Err(error) => {
                        return Err(RigError::io(format!("copy {}", source.display()))(error));
                    }
                },
                _ => {}
            }
        }
    }
    Ok(())
}
