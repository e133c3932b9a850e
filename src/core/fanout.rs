//! One listening connection for many sessions: who hears which channel, and from when on.
//!
//! The connection works in rounds: a change of what it listens to, in one message or several, each when the
//! one before is answered, or nothing but a Sync. A server that is idle sends the notifications that are pending before ReadyForQuery, so that at a
//! round's end everything has been read that was acknowledged before the round was begun (PostgreSQL's
//! `ProcessNotifyInterrupt` in `PostgresMain`).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

/// A round tells a server of so many channels at a time: it looks for each among all that it has, and says
/// nothing until it has done.
const AT_A_TIME: usize = if cfg!(test) { 2 } else { 500 };

/// A channel's name, in the connection's client encoding.
pub type Channel = Arc<[u8]>;

/// A session, by a number that none other ever has here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HearerId(u64);

/// What a round says to the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Round {
    /// Nothing; its end alone is wanted.
    Sync,
    /// What is to be listened to from now on, and what no longer.
    Change {
        /// Nobody wanted these before.
        listen: Vec<Channel>,
        /// Nobody wants these any more.
        unlisten: Vec<Channel>,
    },
}

/// The sessions, the channels and the rounds of one connection.
#[derive(Debug, Default)]
pub struct Fanout {
    hearers: BTreeMap<HearerId, Hearer>,
    /// Who wants a channel, and the round at whose end each begins to hear it.
    channels: BTreeMap<Channel, BTreeMap<HearerId, u64>>,
    /// What the server has been told to listen to.
    listened: BTreeSet<Channel>,
    /// What the next round is to tell it.
    to_listen: BTreeSet<Channel>,
    to_unlisten: BTreeSet<Channel>,
    is_open: bool,
    /// A message that was sent has not been answered.
    under_way: bool,
    /// What the round that was begun has still to tell it.
    rest: VecDeque<Round>,
    begun: u64,
    ended: u64,
    /// The last round that somebody waits for.
    asked: u64,
    next: u64,
}

#[derive(Debug, Default)]
struct Hearer {
    channels: BTreeSet<Channel>,
    /// The connection was lost while it heard something.
    has_missed: bool,
}

impl Fanout {
    /// A session that hears nothing yet.
    pub fn join(&mut self) -> HearerId {
        self.next += 1;
        let id = HearerId(self.next);
        self.hearers.insert(id, Hearer::default());
        id
    }

    /// A session has ended.
    pub fn leave(&mut self, id: HearerId) {
        let Some(hearer) = self.hearers.remove(&id) else {
            return;
        };
        for channel in &hearer.channels {
            self.forget(id, channel);
        }
    }

    /// A session listens to these channels from now on. What it gives up it hears no more; what is new it
    /// hears from the end of the round whose number is given, and that is begun after this.
    pub fn listen(&mut self, id: HearerId, channels: &[Channel]) -> u64 {
        let wanted: BTreeSet<Channel> = channels.iter().cloned().collect();
        let round = self.ask();
        let Some(hearer) = self.hearers.get_mut(&id) else {
            return round;
        };
        let before = std::mem::replace(&mut hearer.channels, wanted.clone());
        for channel in before.difference(&wanted) {
            self.forget(id, channel);
        }
        for channel in wanted.difference(&before) {
            self.to_unlisten.remove(channel);
            if !self.listened.contains(channel) {
                self.to_listen.insert(Arc::clone(channel));
            }
            let hearers = self.channels.entry(Arc::clone(channel)).or_default();
            hearers.insert(id, round);
        }
        round
    }

    fn forget(&mut self, id: HearerId, channel: &Channel) {
        let Some(hearers) = self.channels.get_mut(channel) else {
            return;
        };
        hearers.remove(&id);
        if hearers.is_empty() {
            self.channels.remove(channel);
            self.to_listen.remove(channel);
            if self.listened.contains(channel) {
                self.to_unlisten.insert(Arc::clone(channel));
            }
        }
    }

    /// Somebody waits for the end of a round that is begun after this: its number.
    pub fn ask(&mut self) -> u64 {
        self.asked = self.begun + 1;
        self.asked
    }

    /// Whether this round is over.
    pub fn is_over(&self, round: u64) -> bool {
        self.ended >= round
    }

    /// Whether there is a connection.
    pub fn is_open(&self) -> bool {
        self.is_open
    }

    /// Whether nobody is there.
    pub fn is_empty(&self) -> bool {
        self.hearers.is_empty()
    }

    /// There is a connection, which listens to nothing yet.
    pub fn opened(&mut self) {
        self.is_open = true;
    }

    /// What is to be said now, if anything: a round's beginning, or more of it.
    pub fn begin(&mut self) -> Option<Round> {
        if self.is_open
            && !self.under_way
            && let Some(more) = self.rest.pop_front()
        {
            self.under_way = true;
            return Some(more);
        }
        let changes = !self.to_listen.is_empty() || !self.to_unlisten.is_empty();
        if !self.is_open || self.under_way || !changes && self.asked <= self.begun {
            return None;
        }
        self.begun += 1;
        self.under_way = true;
        if !changes {
            return Some(Round::Sync);
        }
        let listen: Vec<_> = std::mem::take(&mut self.to_listen).into_iter().collect();
        let unlisten: Vec<_> = std::mem::take(&mut self.to_unlisten).into_iter().collect();
        self.listened.extend(listen.iter().cloned());
        for channel in &unlisten {
            self.listened.remove(channel);
        }
        let mut listen = listen.chunks(AT_A_TIME);
        let mut unlisten = unlisten.chunks(AT_A_TIME);
        let part = || match (listen.next(), unlisten.next()) {
            (None, None) => None,
            (listen, unlisten) => Some(Round::Change {
                listen: listen.unwrap_or_default().to_vec(),
                unlisten: unlisten.unwrap_or_default().to_vec(),
            }),
        };
        self.rest = std::iter::from_fn(part).collect();
        self.rest.pop_front()
    }

    /// What was said last has been answered. If the round has ended with it, those are given who hear again, and have missed what was
    /// said while there was no connection.
    pub fn ended(&mut self) -> Vec<HearerId> {
        self.under_way = false;
        if !self.rest.is_empty() {
            return Vec::new();
        }
        self.ended = self.begun;
        let missed = |(id, hearer): (&HearerId, &mut Hearer)| {
            std::mem::take(&mut hearer.has_missed).then_some(*id)
        };
        self.hearers.iter_mut().filter_map(missed).collect()
    }

    /// Who hears a notification on this channel.
    pub fn hearers(&self, channel: &[u8]) -> impl Iterator<Item = HearerId> {
        let all = self.channels.get(channel).into_iter().flatten();
        let heard = all.filter(|(_, from)| **from <= self.ended);
        heard.map(|(id, _)| *id)
    }

    /// The connection is lost: everything is to be listened to anew.
    pub fn lost(&mut self) {
        let again = self.begun + 1;
        for hearers in self.channels.values_mut() {
            for (id, from) in hearers {
                if *from <= self.ended
                    && let Some(hearer) = self.hearers.get_mut(id)
                {
                    hearer.has_missed = true;
                }
                *from = again;
            }
        }
        self.is_open = false;
        self.under_way = false;
        self.rest.clear();
        self.listened.clear();
        self.to_unlisten.clear();
        self.to_listen = self.channels.keys().cloned().collect();
    }
}

#[cfg(test)]
mod tests;
