//! What operators ask of the failover controller, one request at a time, and how each ended.

use std::collections::VecDeque;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::sync::watch;

use super::events::unix_ms;
use crate::core::failover::record::{Request, RequestKind};
use crate::core::topology::NodeId;

/// So many outcomes are kept.
const KEPT: usize = 200;

/// How a request ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was carried out; for so long clients' statements were held.
    Done { stall: Duration },
    /// It was not, and nothing was lost.
    Refused(String),
}

#[derive(Debug)]
pub struct Commands {
    state: Mutex<State>,
    submitted: Notify,
    /// By the request's number.
    ended: watch::Sender<VecDeque<(u64, Outcome)>>,
}

#[derive(Debug, Default)]
struct State {
    last: u64,
    pending: Option<Request>,
    /// The latest that is being worked on, or was.
    begun: Option<u64>,
}

impl Default for Commands {
    fn default() -> Self {
        Self {
            state: Mutex::default(),
            submitted: Notify::new(),
            ended: watch::Sender::new(VecDeque::new()),
        }
    }
}

impl Commands {
    /// Submits a request. A failover takes the place of a switchover that is being worked on, and of whatever
    /// nobody has begun to.
    ///
    /// # Errors
    ///
    /// The one that is being worked on.
    pub fn submit(&self, kind: RequestKind, to: Option<NodeId>) -> Result<Request, Request> {
        if let Some(pending) = self.pending() {
            let begun = self.state.lock().begun == Some(pending.id);
            let gives_way = !begun || pending.kind == RequestKind::Switchover;
            let gives_way = gives_way && kind == RequestKind::Failover;
            if !gives_way {
                return Err(pending);
            }
            let why = "a failover was ordered instead".to_owned();
            self.finish(pending.id, Outcome::Refused(why));
        }
        let mut state = self.state.lock();
        if let Some(pending) = state.pending {
            return Err(pending);
        }
        // A record may remember requests from before a restart, or of another proxy.
        state.last = (state.last + 1).max(unix_ms());
        let request = Request {
            id: state.last,
            to,
            kind,
        };
        state.pending = Some(request);
        drop(state);
        self.submitted.notify_waiters();
        Ok(request)
    }

    /// Requests from now on are later than this one, which another proxy may have numbered by a clock
    /// that is ahead of ours.
    pub fn number_beyond(&self, id: u64) {
        let mut state = self.state.lock();
        state.last = state.last.max(id);
    }

    /// The request that waits or is being worked on.
    pub fn pending(&self) -> Option<Request> {
        self.state.lock().pending
    }

    /// A request is being worked on from now on.
    pub fn begun(&self, id: u64) {
        self.state.lock().begun = Some(id);
    }

    /// Takes a request back, if nobody has begun to work on it; false if it goes on, or has ended.
    pub fn withdraw(&self, id: u64) -> bool {
        let mut state = self.state.lock();
        let waits =
            state.pending.is_some_and(|pending| pending.id == id) && state.begun != Some(id);
        if waits {
            state.pending = None;
        }
        waits
    }

    /// Resolves once something is submitted.
    pub async fn submitted(&self) {
        self.submitted.notified().await;
    }

    /// A request has ended.
    pub fn finish(&self, id: u64, outcome: Outcome) {
        let mut state = self.state.lock();
        if state.pending.is_some_and(|pending| pending.id == id) {
            state.pending = None;
        }
        drop(state);
        self.ended.send_modify(|ended| {
            ended.push_back((id, outcome));
            if ended.len() > KEPT {
                ended.pop_front();
            }
        });
    }

    /// How a request ended; waits for that.
    pub async fn outcome(&self, id: u64) -> Outcome {
        let of = |ended: &VecDeque<(u64, Outcome)>| {
            let found = ended.iter().find(|(ended, _)| *ended == id);
            found.map(|(_, outcome)| outcome.clone())
        };
        let mut ended = self.ended.subscribe();
        let found = ended.wait_for(|ended| of(ended).is_some()).await;
        let outcome = found.ok().and_then(|ended| of(&ended));
        outcome.unwrap_or_else(|| Outcome::Refused("causeway is shutting down".to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_request_at_a_time_and_each_with_its_outcome() {
        let commands = Commands::default();
        let first = commands.submit(RequestKind::Switchover, None).unwrap();
        assert_eq!(commands.submit(RequestKind::Switchover, None), Err(first));
        let refused = Outcome::Refused("no".to_owned());
        commands.finish(first.id, refused.clone());
        assert_eq!(commands.outcome(first.id).await, refused);

        // A failover does not wait for a switchover.
        let slow = commands.submit(RequestKind::Switchover, None);
        let urgent = commands.submit(RequestKind::Failover, None).unwrap();
        assert_eq!(commands.pending(), Some(urgent));
        let given_up = slow.map(|slow| commands.outcome(slow.id)).unwrap().await;
        assert!(matches!(given_up, Outcome::Refused(_)));
        commands.begun(urgent.id);
        assert_eq!(commands.submit(RequestKind::Failover, None), Err(urgent));
        commands.finish(urgent.id, refused.clone());

        // Nor for anything that nobody has begun; what has begun is not taken back.
        let waiting = commands.submit(RequestKind::Pause, None).unwrap();
        assert_eq!(commands.submit(RequestKind::Resume, None), Err(waiting));
        let urgent = commands.submit(RequestKind::Failover, None).unwrap();
        assert!(matches!(
            commands.outcome(waiting.id).await,
            Outcome::Refused(_)
        ));
        assert!(!commands.withdraw(waiting.id));
        assert!(commands.withdraw(urgent.id) && commands.pending().is_none());
        let paused = commands.submit(RequestKind::Pause, None).unwrap();
        commands.begun(paused.id);
        assert_eq!(commands.submit(RequestKind::Failover, None), Err(paused));
        assert!(!commands.withdraw(paused.id));
        commands.finish(paused.id, refused);

        commands.number_beyond(u64::MAX - 1);
        let second = commands
            .submit(RequestKind::Failover, Some(NodeId(1)))
            .unwrap();
        assert_eq!(second.id, u64::MAX);
        let stall = Duration::from_millis(3);
        let (outcome, ()) = tokio::join!(commands.outcome(second.id), async {
            commands.finish(second.id, Outcome::Done { stall });
        });
        assert_eq!(outcome, Outcome::Done { stall });
        assert_eq!(commands.pending(), None);
    }
}
