//! What happened, for people: the latest events, oldest first.

use std::collections::VecDeque;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use serde::Serialize;

/// So many are kept.
const KEPT: usize = 200;

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OperatorEvent {
    /// Rises by one.
    pub number: u64,
    /// In milliseconds of the Unix epoch.
    pub at_ms: u64,
    pub kind: &'static str,
    pub text: String,
    /// Whose doing it is: the address of the proxy that decided, or that it is an operator's order.
    pub by: String,
    /// How long after the failover or switchover began, in milliseconds; none outside of one.
    pub after_ms: Option<u64>,
}

#[derive(Debug, Default)]
pub struct Events(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    last: u64,
    kept: VecDeque<OperatorEvent>,
}

impl Events {
    /// Tells people something that happened by itself.
    pub fn tell(&self, kind: &'static str, text: String) {
        self.tell_of(kind, text, "", None);
    }

    /// Tells people something of a failover or switchover: whose doing, and how long after it began.
    pub fn tell_of(&self, kind: &'static str, text: String, by: &str, after: Option<Duration>) {
        let mut state = self.0.lock();
        state.last += 1;
        let event = OperatorEvent {
            number: state.last,
            at_ms: unix_ms(),
            kind,
            text,
            by: by.to_owned(),
            after_ms: after.map(|after| after.as_millis() as u64),
        };
        state.kept.push_back(event);
        if state.kept.len() > KEPT {
            state.kept.pop_front();
        }
    }

    pub fn all(&self) -> Vec<OperatorEvent> {
        self.0.lock().kept.iter().cloned().collect()
    }
}

/// Milliseconds of the Unix epoch.
pub(super) fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| since.as_millis() as u64)
}
