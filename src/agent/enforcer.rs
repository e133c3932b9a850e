//! The lease is kept by two threads of the agent's own: one looks at the server, the other stops it.
//!
//! The second touches no disk, no socket and no runtime: neither a busy HTTP server nor a disk that
//! hangs holds it up. When the whole machine was frozen and wakes, the lease has run out by a clock
//! that ran on, and stopping the postmaster is the first thing that this thread does; the
//! scheduler may let the server run before it for a moment. What closes that gap is not here: under
//! quorum durability no commit of that moment is acknowledged, and the proxy closes connections of
//! older epochs before it promotes.

use std::io;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::api::Role;
use super::postmaster::{Look, Server};
use super::state::AgentState;
use crate::clock;

/// Between two looks at the lease: a part of [`super::api::FENCE_WITHIN_MS`].
const PACE: Duration = Duration::from_millis(10);
/// Between two looks at the server.
const LOOK_PACE: Duration = Duration::from_millis(50);
/// A look older than this says nothing about the role any more.
const OLD: Duration = Duration::from_secs(2);

/// The last look at the server.
#[derive(Debug)]
pub(super) struct LatestLook {
    seen: Mutex<TimedLook>,
}

#[derive(Clone, Debug)]
struct TimedLook {
    look: Look,
    at: Duration,
    /// Seconds of the Unix epoch at which the server was first seen gone.
    gone: Option<u64>,
}

impl LatestLook {
    /// Looks for the first time.
    pub(super) fn new(server: &Server) -> Self {
        let look = server.look();
        let gone = look.postmaster.is_none().then(clock::unix_seconds);
        Self {
            seen: Mutex::new(TimedLook {
                look,
                at: clock::now(),
                gone,
            }),
        }
    }

    /// Looks now. Blocks on the disk.
    pub(super) fn look(&self, server: &Server) -> Look {
        server.reap();
        let at = clock::now();
        let look = server.look();
        let mut seen = self.seen.lock();
        if at >= seen.at {
            seen.gone = match look.postmaster {
                Some(_) => None,
                None => seen.gone.or_else(|| Some(clock::unix_seconds())),
            };
            seen.look = look.clone();
            seen.at = at;
        }
        look
    }

    /// The last look and how old it is.
    pub(super) fn last(&self) -> (Look, Duration, Option<u64>) {
        let seen = self.seen.lock();
        let age = clock::now().saturating_sub(seen.at);
        (seen.look.clone(), age, seen.gone)
    }

    /// Whether the server must be taken for one that runs as a primary. `woke` is when this process last
    /// began to run again: whoever looks at a standby stood still until then as well.
    pub(super) fn may_lead(&self, woke: Duration) -> bool {
        let seen = self.seen.lock();
        let is_standby = seen.look.role == Some(Role::Standby);
        let known = is_standby && !is_old(seen.at, woke, clock::now());
        seen.look.postmaster.is_some() && !known
    }
}

/// Starts both threads; they end with `shutdown`.
pub(super) fn start(
    server: &Arc<Server>,
    state: &Arc<AgentState>,
    watch: &Arc<LatestLook>,
    shutdown: &CancellationToken,
) -> io::Result<()> {
    let look = {
        let (server, watch, shutdown) = (server.clone(), watch.clone(), shutdown.clone());
        move || {
            while !shutdown.is_cancelled() {
                watch.look(&server);
                thread::sleep(LOOK_PACE);
            }
        }
    };
    let enforce = {
        let (server, state, watch) = (server.clone(), state.clone(), watch.clone());
        let shutdown = shutdown.clone();
        move || {
            let mut last = clock::now();
            let mut woke = last;
            while !shutdown.is_cancelled() {
                let now = clock::now();
                if stood_still(last, now) {
                    woke = now;
                }
                last = now;
                if state.ledger().forbids_primary(clock::now()) && watch.may_lead(woke) {
                    fence(&server, &watch, &state);
                }
                thread::sleep(PACE);
            }
        }
    };
    let spawn = |name: &str| thread::Builder::new().name(name.to_owned());
    spawn("causeway-look").spawn(look)?;
    spawn("causeway-fence").spawn(enforce)?;
    Ok(())
}

fn is_old(seen: Duration, woke: Duration, now: Duration) -> bool {
    now.saturating_sub(seen.max(woke)) > OLD
}

/// Whether so much time lies between two rounds that a look may be old for no other reason.
fn stood_still(last: Duration, now: Duration) -> bool {
    now.saturating_sub(last) > OLD / 2
}

fn fence(server: &Server, watch: &LatestLook, state: &AgentState) {
    let Some(postmaster) = watch.last().0.postmaster.filter(|found| found.is_alive()) else {
        return;
    };
    // What the others said counts only where it was a lease that ran out.
    let others = match state.ledger().has_run_out() {
        true => state.trouble(),
        false => String::new(),
    };
    match server.fence(postmaster) {
        Ok(how) => tracing::warn!(
            pid = postmaster.pid,
            ?how,
            others,
            "no lease is in force: the primary was stopped"
        ),
        Err(error) => tracing::error!(
            pid = postmaster.pid,
            %error,
            "no lease is in force and the primary could not be stopped"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_that_stood_still_makes_no_look_old() {
        let at = Duration::from_millis;
        assert!(!is_old(at(1_000), at(0), at(2_900)));
        assert!(is_old(at(1_000), at(0), at(3_100)));
        // Frozen from 1 s to 60 s: whoever looks has a chance first, and no more than that.
        assert!(stood_still(at(1_000), at(60_000)) && !stood_still(at(1_000), at(1_900)));
        assert!(!is_old(at(1_000), at(60_000), at(60_010)));
        assert!(is_old(at(1_000), at(60_000), at(62_010)));
    }
}
