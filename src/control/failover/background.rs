//! Commands for which nobody waits: each is set going once, and a plan that asks for it again meanwhile, or
//! right after it has failed, changes nothing.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use super::executor::Executor;
use super::panics::propagate;
use crate::core::failover::command::{Act, Command};

/// Before an errand that has ended is set going again.
const PAUSE: Duration = Duration::from_millis(500);

/// What was being done, and why it failed.
pub(super) type BackgroundFailure = (String, String);

/// Those under way.
#[derive(Default)]
pub(super) struct Background {
    running: JoinSet<(Command, Result<(), BackgroundFailure>)>,
    /// Since when each has been under way, or until when it rests.
    known: HashMap<Command, State>,
}

enum State {
    UnderWay,
    EndedAt(Instant),
}

impl Background {
    /// Has a command carried out, unless it is under way; `doing` is what it does, in words.
    pub(super) fn send(&mut self, executor: Arc<Executor>, command: Command, doing: String) {
        // Plans have these at a pace of their own.
        let paced = matches!(command.act, Act::RenewLease { .. } | Act::Heartbeat(_));
        if !paced && self.known.contains_key(&command) {
            return;
        }
        if !paced {
            self.known.insert(command.clone(), State::UnderWay);
        }
        self.running.spawn(async move {
            let Err(error) = executor.carry_out(&command).await else {
                return (command, Ok(()));
            };
            if paced {
                // What fails with a failed primary is found out and told otherwise.
                tracing::debug!(%error, doing, "failover command");
                return (command, Ok(()));
            }
            (command, Err((doing, error.to_string())))
        });
    }

    /// Those that have ended in a failure which people should hear of.
    pub(super) fn failed(&mut self) -> Vec<BackgroundFailure> {
        let now = Instant::now();
        self.known.retain(|_, state| match state {
            State::UnderWay => true,
            State::EndedAt(at) => now.duration_since(*at) < PAUSE,
        });
        let mut failed = Vec::new();
        while let Some(ended) = self.running.try_join_next() {
            let (command, outcome) = match ended {
                Ok(ended) => ended,
                Err(error) => {
                    propagate(error);
                    continue;
                }
            };
            if let Some(state) = self.known.get_mut(&command) {
                *state = State::EndedAt(now);
            }
            failed.extend(outcome.err());
        }
        failed
    }
}
