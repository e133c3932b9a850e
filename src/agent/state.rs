//! What the agent remembers: the ledger in memory, and in its directory what must outlive it.
//!
//! `state.json` is on disk before anything that it promises is answered. `lease.json`, the end of
//! the lease, follows by itself ([`AgentState::keep_end`]): a renewal changes nothing but memory, and
//! no disk that stands still holds it up. It outlives the agent, and is worth nothing to another run of
//! the machine. One that is behind tells of a lease that ends earlier.

use std::fs::{self, DirBuilder, File, TryLockError};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::api::PeerRule;
use super::fencing_lease::{
    Denied, Grant, Ledger, Remembered, RememberedPromise, RememberedStatus,
};
use super::rejoin_plan::Stage;
use crate::clock;
use crate::file;

/// The ledger and its files.
#[derive(Debug)]
pub(super) struct AgentState {
    directory: PathBuf,
    boot: Option<String>,
    ledger: Mutex<Ledger>,
    /// What `state.json` holds. Never held while the disk is waited for.
    stored: Mutex<Durable>,
    /// Whoever writes it holds this.
    writing: Mutex<()>,
    /// What `lease.json` holds, as far as this process has written it; whoever writes it holds this.
    end: Mutex<Option<LeaseEnd>>,
    /// Why too few of the others would promise anything, as last heard; empty when enough do.
    trouble: Mutex<String>,
    /// Since when the server stands still, while it is to be found out whether it may run on.
    held: Mutex<Option<Duration>>,
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
    #[serde(default, skip_serializing_if = "Option::is_none")]
    stopped_in: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    failsafe: Option<PeerRule>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    promise: Option<DurablePromise>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct DurablePromise {
    to: String,
    boot: Option<String>,
    ends_ms: u64,
    lasts_ms: u64,
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
            stored: Mutex::new(durable),
            writing: Mutex::default(),
            end: Mutex::default(),
            trouble: Mutex::default(),
            held: Mutex::default(),
            _lock: lock,
        })
    }

    /// The agent's directory.
    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Why too few of the other agents would promise anything, for people; empty when enough do, and
    /// before any was asked.
    pub(super) fn trouble(&self) -> String {
        self.trouble.lock().clone()
    }

    /// Notes it; true if it is news.
    pub(super) fn set_trouble(&self, text: &str) -> bool {
        let mut trouble = self.trouble.lock();
        let news = *trouble != text;
        text.clone_into(&mut trouble);
        news
    }

    /// Since when the server stands still, if it does.
    pub(super) fn held(&self) -> Option<Duration> {
        *self.held.lock()
    }

    /// The server stands still from now on, or no longer. Once it does not, what was promised or asked for
    /// before says nothing any more: whoever lets it run looks at the ledger after this.
    pub(super) fn set_held(&self, since: Option<Duration>) {
        *self.held.lock() = since;
    }

    /// The ledger as it stands.
    pub(super) fn ledger(&self) -> Ledger {
        self.ledger.lock().clone()
    }

    /// Changes the ledger once the change is on disk. Blocks on the disk, unless nothing changes there.
    pub(super) fn change(
        &self,
        change: impl Fn(&Ledger, Duration) -> Result<Ledger, Denied>,
    ) -> Result<Ledger, ChangeError> {
        if let Some(changed) = self.change_in_memory(&change)? {
            return Ok(changed);
        }
        let _writing = self.writing.lock();
        let next = change(&self.ledger(), clock::now())?;
        self.put(&next.to_remember())?;
        let changed = {
            let mut ledger = self.ledger.lock();
            // A fence does not wait for the disk and may have come between.
            *ledger = change(&ledger, clock::now())?;
            ledger.clone()
        };
        self.keep_end();
        Ok(changed)
    }

    /// The same where what is on disk already says all that has to outlive the agent, as at a renewal.
    fn change_in_memory(
        &self,
        change: impl Fn(&Ledger, Duration) -> Result<Ledger, Denied>,
    ) -> Result<Option<Ledger>, Denied> {
        let mut ledger = self.ledger.lock();
        let next = change(&ledger, clock::now())?;
        let stored = self.stored.lock();
        if *stored != Durable::of(&next.to_remember(), stored.rejoin, self.boot.as_deref()) {
            return Ok(None);
        }
        *ledger = next.clone();
        Ok(Some(next))
    }

    /// Lets the lease go on by what others have promised: in memory, whatever the disk does.
    pub(super) fn prolong(&self, epoch: u64, until: Duration) -> Result<(), Denied> {
        let mut ledger = self.ledger.lock();
        *ledger = ledger.prolong(epoch, until, clock::now(), self.held().is_some())?;
        Ok(())
    }

    /// Writes down where the lease ends by now, unless that is written. Blocks on the disk. Best effort:
    /// without it the lease is over for an agent that is started again.
    pub(super) fn keep_end(&self) {
        let mut kept = self.end.lock();
        if let RememberedStatus::Leased(grant, Some(ends)) = self.ledger().to_remember().status
            && let Some(boot) = self.boot.clone()
        {
            let end = LeaseEnd {
                boot,
                epoch: grant.epoch,
                ends_ms: clock::milliseconds(ends),
            };
            if kept.as_ref() == Some(&end) {
                return;
            }
            let json = serde_json::to_vec(&end).unwrap_or_default();
            let written = file::replace_unsynced(&self.directory.join("lease.json"), &json);
            *kept = written.is_ok().then_some(end);
        }
    }

    /// The server runs as a standby again, or a rejoin was given up: it may be granted a lease.
    pub(super) fn end_rejoin(&self) {
        let mut ledger = self.ledger.lock();
        *ledger = ledger.end_rejoin();
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
        let _writing = self.writing.lock();
        self.put(&self.ledger().to_remember())
    }

    /// How far a rejoin has changed the data directory that has not ended.
    pub(super) fn rejoin(&self) -> Option<Stage> {
        self.stored.lock().rejoin
    }

    /// Notes, before it is so, how far a rejoin has changed the data directory, or that it has ended.
    pub(super) fn set_rejoin(&self, rejoin: Option<Stage>) -> io::Result<()> {
        let _writing = self.writing.lock();
        let next = Durable {
            rejoin,
            ..self.stored.lock().clone()
        };
        self.write(next)
    }

    /// `writing` is held.
    fn put(&self, remembered: &Remembered) -> io::Result<()> {
        let rejoin = self.rejoin();
        self.write(Durable::of(remembered, rejoin, self.boot.as_deref()))
    }

    fn write(&self, next: Durable) -> io::Result<()> {
        if *self.stored.lock() == next {
            return Ok(());
        }
        let json = serde_json::to_vec(&next)?;
        file::replace(&self.directory.join("state.json"), &json)?;
        *self.stored.lock() = next;
        Ok(())
    }
}

impl Durable {
    fn of(remembered: &Remembered, rejoin: Option<Stage>, boot: Option<&str>) -> Self {
        let lease = match &remembered.status {
            RememberedStatus::Leased(grant, _) => Some(DurableLease {
                epoch: grant.epoch,
                holder: grant.holder.clone(),
                ttl_ms: clock::milliseconds(grant.ttl),
            }),
            _ => None,
        };
        let promise = remembered.promise.as_ref().map(|promise| DurablePromise {
            to: promise.to.clone(),
            boot: boot.filter(|_| promise.ends.is_some()).map(str::to_owned),
            // Rounded up: it must not be shorter than what was promised.
            ends_ms: clock::milliseconds(promise.ends.unwrap_or_default()).saturating_add(1),
            lasts_ms: clock::milliseconds(promise.lasts).saturating_add(1),
        });
        Self {
            highest_epoch: remembered.highest_epoch,
            fenced: remembered.status == RememberedStatus::Fenced,
            lease,
            rejoin,
            stopped_in: remembered.stopped_in,
            failsafe: remembered.failsafe.clone(),
            promise,
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
        let promise = self.promise.as_ref().map(|promise| RememberedPromise {
            to: promise.to.clone(),
            ends: promise
                .boot
                .as_deref()
                .filter(|then| Some(*then) == boot)
                .map(|_| Duration::from_millis(promise.ends_ms)),
            lasts: Duration::from_millis(promise.lasts_ms),
        });
        Remembered {
            highest_epoch: self.highest_epoch,
            status,
            stopped_in: self.stopped_in,
            failsafe: self.failsafe.clone(),
            promise,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, mpsc};

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

    /// Opening a pipe that nobody reads stands still, as a file system may.
    fn stall(path: &Path) {
        nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    }

    #[test]
    fn a_disk_that_stands_still_holds_no_renewal_up() {
        let name = format!("causeway-stall-{}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        let state = Arc::new(AgentState::open(&directory).unwrap());
        let lease = |ledger: &Ledger, now: Duration| {
            let grant = Grant {
                epoch: 4,
                holder: "a".to_owned(),
                ttl: Duration::from_secs(60),
            };
            ledger.grant(grant, None, now, true)
        };
        let first = state.change(lease).unwrap();
        for file in ["lease.json.new", "state.json.new"] {
            stall(&directory.join(file));
        }
        let works: [fn(&AgentState); 2] = [
            |state| state.keep_end(),
            |state| drop(state.change(|ledger, _| ledger.admit(5))),
        ];
        for work in works {
            let state = state.clone();
            std::thread::spawn(move || work(&state));
        }
        let (done, renewed) = mpsc::channel();
        let renewing = state.clone();
        std::thread::spawn(move || {
            while renewing.writing.try_lock().is_some() {}
            let _ = done.send((renewing.change(lease), renewing.rejoin()));
        });
        let (renewed, _) = renewed.recv_timeout(Duration::from_secs(20)).unwrap();
        let now = clock::now();
        let left = |ledger: &Ledger| ledger.lease(now).unwrap().1;
        assert!(left(&renewed.unwrap()) > left(&first));
        fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn what_was_promised_to_another_node_is_on_disk_before_it_is_known() {
        let name = format!("causeway-promise-{}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        let state = AgentState::open(&directory).unwrap();
        let received = clock::now();
        let lasts = Duration::from_secs(60);
        let promised = state.change(|ledger, _| ledger.promise("pg1", 4, lasts, received));
        promised.unwrap();
        drop(state);
        let state = AgentState::open(&directory).unwrap();
        let ledger = state.ledger();
        let (promise, left) = ledger.promised(clock::now()).unwrap();
        assert!(promise.to == "pg1" && left <= lasts + Duration::from_millis(1));
        assert!(ledger.promised(received + lasts / 2).is_some());
        drop(state);
        fs::remove_dir_all(&directory).unwrap();
    }
}
