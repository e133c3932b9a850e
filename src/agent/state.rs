//! What the agent remembers: the ledger in memory, and in its directory what must outlive it.
//!
//! `state.json` is on disk before anything that it promises is answered. `lease.json`, the end of
//! the lease, is rewritten at each renewal without waiting for the disk: it outlives the agent, and
//! is worth nothing to another run of the machine.

use std::fs::{self, DirBuilder, File, TryLockError};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::fencing_lease::{Denied, Grant, Ledger, Remembered, RememberedStatus};
use super::rejoin_plan::Stage;
use crate::clock;
use crate::file;

/// The ledger and its files.
#[derive(Debug)]
pub(super) struct AgentState {
    directory: PathBuf,
    boot: Option<String>,
    ledger: Mutex<Ledger>,
    /// What `state.json` holds; whoever writes it holds this.
    written: Mutex<Durable>,
    /// Held for as long as the agent lives, so that there is one only.
    _lock: File,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Durable {
    highest_epoch: u64,
    #[serde(default)]
    fenced: bool,
    #[serde(default)]
    lease: Option<DurableLease>,
    #[serde(default)]
    rejoin: Option<Stage>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct DurableLease {
    epoch: u64,
    holder: String,
    ttl_ms: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct LeaseEnd {
    boot: String,
    epoch: u64,
    ends_ms: u64,
}

/// Why the ledger was not changed.
#[derive(Debug, thiserror::Error)]
pub(super) enum ChangeError {
    #[error(transparent)]
    Denied(#[from] Denied),
    #[error("the agent's state could not be written: {0}")]
    Io(#[from] io::Error),
}

impl AgentState {
    /// Opens the agent's directory, and makes it if need be. Fails when another agent has it.
    pub(super) fn open(directory: &Path) -> io::Result<Self> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)?;
        let lock = File::create(directory.join("lock"))?;
        lock.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => io::Error::other("another agent is at work in it"),
            TryLockError::Error(error) => error,
        })?;
        let path = directory.join("state.json");
        let durable: Durable = match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map_err(|error| io::Error::other(format!("{}: {error}", path.display())))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Durable::default(),
            Err(error) => return Err(error),
        };
        let boot = clock::boot();
        let end = fs::read(directory.join("lease.json")).ok();
        let end = end.and_then(|bytes| serde_json::from_slice::<LeaseEnd>(&bytes).ok());
        let remembered = durable.remembered(end, boot.as_deref());
        Ok(Self {
            directory: directory.to_owned(),
            boot,
            ledger: Mutex::new(Ledger::restored(remembered, clock::now())),
            written: Mutex::new(durable),
            _lock: lock,
        })
    }

    /// The agent's directory.
    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// The ledger as it stands.
    pub(super) fn ledger(&self) -> Ledger {
        self.ledger.lock().clone()
    }

    /// Changes the ledger once the change is on disk. Blocks on the disk.
    pub(super) fn change(
        &self,
        change: impl Fn(&Ledger, Duration) -> Result<Ledger, Denied>,
    ) -> Result<Ledger, ChangeError> {
        let mut written = self.written.lock();
        let next = change(&self.ledger(), clock::now())?;
        self.write(&mut written, &next.to_remember())?;
        let changed = {
            let mut ledger = self.ledger.lock();
            // A fence does not wait for the disk and may have come between.
            *ledger = change(&ledger, clock::now())?;
            ledger.clone()
        };
        self.write_end(&changed);
        Ok(changed)
    }

    /// Fences at once, in memory; [`AgentState::persist`] must follow before it is answered.
    pub(super) fn fence(&self, epoch: u64) -> Result<(), Denied> {
        let mut ledger = self.ledger.lock();
        *ledger = ledger.fence(epoch)?;
        Ok(())
    }

    /// The same after a stop in good order.
    pub(super) fn stopped(&self, epoch: u64) -> Result<(), Denied> {
        let mut ledger = self.ledger.lock();
        *ledger = ledger.stopped(epoch)?;
        Ok(())
    }

    /// Writes the ledger as it stands. Blocks on the disk.
    pub(super) fn persist(&self) -> io::Result<()> {
        let mut written = self.written.lock();
        let remembered = self.ledger().to_remember();
        self.write(&mut written, &remembered)
    }

    /// How far a rejoin has changed the data directory that has not ended.
    pub(super) fn rejoin(&self) -> Option<Stage> {
        self.written.lock().rejoin
    }

    /// Notes, before it is so, how far a rejoin has changed the data directory, or that it has ended.
    pub(super) fn set_rejoin(&self, rejoin: Option<Stage>) -> io::Result<()> {
        let mut written = self.written.lock();
        let next = Durable {
            rejoin,
            ..written.clone()
        };
        self.put(&mut written, next)
    }

    fn write(&self, written: &mut Durable, remembered: &Remembered) -> io::Result<()> {
        let next = Durable::of(remembered, written.rejoin);
        self.put(written, next)
    }

    fn put(&self, written: &mut Durable, next: Durable) -> io::Result<()> {
        if *written != next {
            let json = serde_json::to_vec(&next)?;
            file::replace(&self.directory.join("state.json"), &json)?;
            *written = next;
        }
        Ok(())
    }

    /// Best effort: without it the agent's restart leaves the server a whole period.
    fn write_end(&self, ledger: &Ledger) {
        if let RememberedStatus::Leased(grant, Some(ends)) = ledger.to_remember().status
            && let Some(boot) = self.boot.clone()
        {
            let end = LeaseEnd {
                boot,
                epoch: grant.epoch,
                ends_ms: clock::milliseconds(ends),
            };
            let json = serde_json::to_vec(&end).unwrap_or_default();
            let _ = file::replace_unsynced(&self.directory.join("lease.json"), &json);
        }
    }
}

impl Durable {
    fn of(remembered: &Remembered, rejoin: Option<Stage>) -> Self {
        let lease = match &remembered.status {
            RememberedStatus::Leased(grant, _) => Some(DurableLease {
                epoch: grant.epoch,
                holder: grant.holder.clone(),
                ttl_ms: clock::milliseconds(grant.ttl),
            }),
            _ => None,
        };
        Self {
            highest_epoch: remembered.highest_epoch,
            fenced: remembered.status == RememberedStatus::Fenced,
            lease,
            rejoin,
        }
    }

    fn remembered(&self, end: Option<LeaseEnd>, boot: Option<&str>) -> Remembered {
        let status = match (&self.lease, self.fenced) {
            (_, true) => RememberedStatus::Fenced,
            (None, false) => RememberedStatus::Ungoverned,
            (Some(lease), false) => {
                let end = end
                    .filter(|end| Some(end.boot.as_str()) == boot && end.epoch == lease.epoch)
                    .map(|end| Duration::from_millis(end.ends_ms));
                let grant = Grant {
                    epoch: lease.epoch,
                    holder: lease.holder.clone(),
                    ttl: Duration::from_millis(lease.ttl_ms),
                };
                RememberedStatus::Leased(grant, end)
            }
        };
        Remembered {
            highest_epoch: self.highest_epoch,
            status,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_promised_is_there_after_a_restart() {
        let directory = std::env::temp_dir().join(format!("causeway-state-{}", std::process::id()));
        let state = AgentState::open(&directory).unwrap();
        assert!(
            AgentState::open(&directory).is_err(),
            "two agents in one place"
        );
        let grant = Grant {
            epoch: 4,
            holder: "a".to_owned(),
            ttl: Duration::from_secs(60),
        };
        let lease = |ledger: &Ledger, now| ledger.grant(grant.clone(), None, now, true);
        state.change(lease).unwrap();
        let ends = state.ledger().to_remember();
        drop(state);

        let state = AgentState::open(&directory).unwrap();
        let back = state.ledger().to_remember();
        let (RememberedStatus::Leased(_, Some(before)), RememberedStatus::Leased(_, Some(after))) =
            (ends.status, back.status)
        else {
            panic!("no lease");
        };
        // To the millisecond the same end.
        assert!(before.abs_diff(after) < Duration::from_millis(2) || clock::boot().is_none());
        state.fence(5).unwrap();
        state.persist().unwrap();
        state.set_rejoin(Some(Stage::Rewriting)).unwrap();
        drop(state);

        let state = AgentState::open(&directory).unwrap();
        assert_eq!(state.rejoin(), Some(Stage::Rewriting));
        assert_eq!(state.ledger().highest_epoch(), 5);
        assert!(state.ledger().forbids_primary(clock::now()));
        assert!(matches!(state.change(lease), Err(ChangeError::Denied(_))));
        drop(state);
        fs::remove_dir_all(&directory).unwrap();
    }
}
