//! The lease is kept by three threads of the agent's own: one looks at the server, one stops it, and one
//! writes down when the lease ends.
//!
//! The second touches no disk, no socket and no runtime: neither a busy HTTP server nor a disk that
//! hangs holds it up. When the whole machine was frozen and wakes, the lease has run out by a clock
//! that ran on, and stopping the postmaster is the first thing that this thread does; the
//! scheduler may let the server run before it for a moment. What closes that gap is not here: under
//! quorum durability no commit of that moment is acknowledged, and the proxy closes connections of
//! older epochs before it promotes.
//!
//! Where it was the agent that was away, a healthy primary is not killed for that: its processes are
//! made to stand still (SIGSTOP), and run on if the other agents promise, or the proxy asks for, a lease
//! within a moment. Only what was asked after they had come to stand counts.

use std::io;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::api::Role;
use super::postmaster::{Look, Server};
use super::progress::{Progress, Sight};
use super::state::AgentState;
use super::vital::Vital;
use crate::clock;
use crate::process::{self, Process};

/// Between two looks at the lease: a part of [`super::api::FENCE_WITHIN_MS`].
const PACE: Duration = Duration::from_millis(10);
/// Whoever has not looked at the lease for so long was away when it ran out.
const AWAY: Duration = Duration::from_millis(200);
/// For how long a server stands still at most until it is known whether it still leads; half of its lease
/// where that is shorter.
const LONGEST_HOLD: Duration = Duration::from_secs(2);
/// Between two looks at the server, and at the lease's end.
const LOOK_PACE: Duration = Duration::from_millis(50);
/// Between two searches for the startup process, which look through all processes.
const SEARCH_PACE: Duration = Duration::from_secs(1);
/// A look older than this says nothing about the role any more.
const OLD: Duration = Duration::from_secs(2);

/// The last look at the server.
#[derive(Debug)]
pub(super) struct LatestLook {
    seen: Mutex<TimedLook>,
    progress: Mutex<Progress>,
    /// When the server's processes were last looked through for its startup process.
    searched: Mutex<Duration>,
}

#[derive(Clone, Debug)]
struct TimedLook {
    look: Look,
    at: Duration,
    /// Seconds of the Unix epoch at which the server was first seen gone.
    gone: Option<u64>,
}

impl TimedLook {
    fn may_lead(&self, still_holds: bool) -> bool {
        let is_standby = self.look.role == Some(Role::Standby);
        self.look.postmaster.is_some() && !(is_standby && still_holds)
    }
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
            progress: Mutex::default(),
            searched: Mutex::default(),
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
        drop(seen);
        self.note_progress(server, &look, at);
        look
    }

    fn note_progress(&self, server: &Server, look: &Look, at: Duration) {
        let recovers = look.postmaster.filter(|_| !look.up);
        let due = {
            let mut searched = self.searched.lock();
            let due = recovers.is_some() && at.saturating_sub(*searched) >= SEARCH_PACE;
            if due {
                *searched = at;
            }
            due
        };
        let (segment, worked) = match recovers.filter(|_| due) {
            Some(postmaster) => server.recovery(postmaster),
            None => (0, 0),
        };
        let sight = Sight {
            postmaster: look.postmaster.map(|process| (process.pid, look.started)),
            control: look.control,
            up: look.up,
            ready: look.ready,
            segment,
            worked,
            replayed: 0,
        };
        self.progress.lock().note(sight, at);
    }

    /// The server says that it has replayed so far.
    pub(super) fn note_replayed(&self, replayed: u64) {
        self.progress.lock().replayed(replayed, clock::now());
    }

    /// For how long the server has not got on, be it with its recovery or with what it replays.
    pub(super) fn still(&self) -> Duration {
        self.progress.lock().still()
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
        seen.may_lead(!is_old(seen.at, woke, clock::now()))
    }

    /// The same of a server that has been fenced or has become a standby since it last had a lease: nobody
    /// has been given the right to promote it, and a disk that stands still for a while makes nothing else
    /// of it than what it was seen as.
    pub(super) fn may_lead_unasked(&self) -> bool {
        self.seen.lock().may_lead(true)
    }
}

/// Starts the threads; they end with `shutdown`.
pub(super) fn start(
    server: &Arc<Server>,
    state: &Arc<AgentState>,
    watch: &Arc<LatestLook>,
    shutdown: &CancellationToken,
) -> io::Result<()> {
    let look = {
        let (server, watch, shutdown) = (server.clone(), watch.clone(), shutdown.clone());
        move || {
            let _vital = Vital("look at the server");
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
            let _vital = Vital("enforce the lease");
            // Before it was started nobody has looked at the lease either.
            let mut last = Duration::ZERO;
            let mut woke = clock::now();
            let mut held = None;
            while !shutdown.is_cancelled() {
                let now = clock::now();
                if last > Duration::ZERO && stood_still(last, now) {
                    woke = now;
                }
                let ledger = state.ledger();
                let may_lead = || match ledger.has_run_out() {
                    true => watch.may_lead(woke),
                    false => watch.may_lead_unasked(),
                };
                held = match held.take() {
                    Some(holding) => decide(holding, &server, &state),
                    None if ledger.forbids_primary(now) && may_lead() => {
                        let found = hold(&watch, &state, last, now);
                        if found.is_none() {
                            fence(&server, &watch, &state);
                        }
                        found
                    }
                    None => None,
                };
                last = clock::now();
                thread::sleep(PACE);
            }
            if let Some(Holding { postmaster, .. }) = held {
                let _ = server.fence(postmaster);
            }
        }
    };
    let keep = {
        let (state, shutdown) = (state.clone(), shutdown.clone());
        move || {
            let _vital = Vital("write down the lease's end");
            while !shutdown.is_cancelled() {
                state.keep_end();
                thread::sleep(LOOK_PACE);
            }
        }
    };
    let spawn = |name: &str| thread::Builder::new().name(name.to_owned());
    spawn("causeway-look").spawn(look)?;
    spawn("causeway-fence").spawn(enforce)?;
    spawn("causeway-end").spawn(keep)?;
    Ok(())
}

fn is_old(seen: Duration, woke: Duration, now: Duration) -> bool {
    now.saturating_sub(seen.max(woke)) > OLD
}

/// Whether so much time lies between two rounds that a look may be old for no other reason.
fn stood_still(last: Duration, now: Duration) -> bool {
    now.saturating_sub(last) > OLD / 2
}

/// A server that stands still because its lease ran out while nobody looked.
struct Holding {
    postmaster: Process,
    until: Duration,
}

/// Lets a server stand still whose lease ran out while this process stood still itself or was not there:
/// the others can be asked whether it still leads, and meanwhile it acknowledges nothing.
fn hold(watch: &LatestLook, state: &AgentState, last: Duration, now: Duration) -> Option<Holding> {
    let ledger = state.ledger();
    let ttl = ledger.lapsed(last, now)?.ttl;
    let postmaster = watch.last().0.postmaster?;
    // What stands still by another's hand is not made to run again by this one.
    let is_well = postmaster.is_alive() && !postmaster.is_still();
    if !is_well || now.saturating_sub(last) < AWAY {
        return None;
    }
    if let Err(error) = process::freeze_family(postmaster.pid) {
        tracing::warn!(pid = postmaster.pid, %error, "the primary could not be held");
        return None;
    }
    let since = clock::now();
    state.set_held(Some(since));
    tracing::warn!(
        pid = postmaster.pid,
        "the lease ran out while the agent was away: the primary stands still until it is known whether \
         it still leads"
    );
    Some(Holding {
        postmaster,
        until: since + (ttl / 2).min(LONGEST_HOLD),
    })
}

/// It runs on under a lease, is stopped when it has got none in time, or stands still for longer.
fn decide(holding: Holding, server: &Server, state: &AgentState) -> Option<Holding> {
    let Holding { postmaster, until } = holding;
    let is_over = state
        .ledger()
        .lapsed(Duration::ZERO, clock::now())
        .is_none();
    if !is_over && clock::now() < until {
        return Some(holding);
    }
    state.set_held(None);
    if !state.ledger().forbids_primary(clock::now()) {
        match process::thaw_family(postmaster.pid) {
            Ok(()) => tracing::warn!(pid = postmaster.pid, "it still leads: the primary runs on"),
            Err(error) => tracing::error!(pid = postmaster.pid, %error, "let the primary run on"),
        }
        return None;
    }
    stop(server, postmaster, state);
    None
}

fn fence(server: &Server, watch: &LatestLook, state: &AgentState) {
    let Some(postmaster) = watch.last().0.postmaster.filter(|found| found.is_alive()) else {
        return;
    };
    stop(server, postmaster, state);
}

fn stop(server: &Server, postmaster: Process, state: &AgentState) {
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
    fn an_old_look_at_a_standby_says_nothing_only_where_it_may_have_been_promoted() {
        let own = i32::try_from(std::process::id()).unwrap();
        let postmaster = crate::process::look(own);
        let seen = |role, running: bool| TimedLook {
            look: Look {
                postmaster: postmaster.filter(|_| running),
                role,
                ..Look::default()
            },
            at: Duration::ZERO,
            gone: None,
        };
        for (role, fresh, old) in [
            (Some(Role::Standby), false, true),
            (Some(Role::Primary), true, true),
            (None, true, true),
        ] {
            assert_eq!(seen(role, true).may_lead(true), fresh);
            assert_eq!(seen(role, true).may_lead(false), old);
            assert!(!seen(role, false).may_lead(false));
        }
    }

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
