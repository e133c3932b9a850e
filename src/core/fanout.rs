//! One listening connection for many sessions: who hears which channel, and from when on.
//!
//! The connection works in rounds of one message each: a change of what it listens to, or nothing but a
//! Sync. A server that is idle sends the notifications that are pending before ReadyForQuery, so that at a
//! round's end everything has been read that was acknowledged before the round was begun (PostgreSQL's
//! `ProcessNotifyInterrupt` in `PostgresMain`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

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
    /// The last round that was begun has not ended.
    under_way: bool,
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

    /// The round that is to be begun now, if one is.
    pub fn begin(&mut self) -> Option<Round> {
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
        Some(Round::Change { listen, unlisten })
    }

    /// The round that was under way has ended. Those are given who hear again, and have missed what was
    /// said while there was no connection.
    pub fn ended(&mut self) -> Vec<HearerId> {
        self.under_way = false;
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
        self.listened.clear();
        self.to_unlisten.clear();
        self.to_listen = self.channels.keys().cloned().collect();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    fn channel(name: &str) -> Channel {
        Arc::from(name.as_bytes())
    }

    fn change(listen: &[&str], unlisten: &[&str]) -> Option<Round> {
        let all = |names: &[&str]| names.iter().map(|name| channel(name)).collect();
        Some(Round::Change {
            listen: all(listen),
            unlisten: all(unlisten),
        })
    }

    #[test]
    fn a_channel_is_heard_from_a_round_that_was_begun_later() {
        let mut fanout = Fanout::default();
        let (one, other) = (fanout.join(), fanout.join());
        fanout.opened();
        assert_eq!(fanout.begin(), None, "nobody wants anything");
        let first = fanout.listen(one, &[channel("a")]);
        assert_eq!(fanout.begin(), change(&["a"], &[]));
        let second = fanout.listen(other, &[channel("a"), channel("b")]);
        assert_eq!(fanout.begin(), None, "one at a time");
        fanout.ended();
        assert!(fanout.is_over(first) && !fanout.is_over(second));
        assert_eq!(fanout.hearers(b"a").collect::<Vec<_>>(), [one]);
        assert_eq!(fanout.begin(), change(&["b"], &[]));
        fanout.ended();
        assert_eq!(fanout.hearers(b"a").collect::<Vec<_>>(), [one, other]);
        let waits = fanout.ask();
        assert_eq!(fanout.begin(), Some(Round::Sync));
        fanout.ended();
        assert!(fanout.is_over(waits));
        fanout.leave(other);
        assert_eq!(fanout.begin(), change(&[], &["b"]));
        fanout.ended();
        assert_eq!(fanout.begin(), None);
    }

    #[test]
    fn what_is_given_up_and_wanted_again_is_listened_to_once() {
        let mut fanout = Fanout::default();
        let one = fanout.join();
        fanout.opened();
        fanout.listen(one, &[channel("a")]);
        fanout.begin();
        fanout.ended();
        fanout.listen(one, &[]);
        assert_eq!(fanout.hearers(b"a").count(), 0);
        fanout.listen(one, &[channel("a")]);
        assert_eq!(fanout.begin(), Some(Round::Sync));
        fanout.ended();
        fanout.listen(one, &[]);
        assert_eq!(fanout.begin(), change(&[], &["a"]));
        // Wanted again while that is on its way.
        fanout.listen(one, &[channel("a")]);
        fanout.ended();
        assert_eq!(fanout.hearers(b"a").count(), 0);
        assert_eq!(fanout.begin(), change(&["a"], &[]));
    }

    #[test]
    fn after_a_loss_those_who_heard_are_told() {
        let mut fanout = Fanout::default();
        let (one, other) = (fanout.join(), fanout.join());
        fanout.opened();
        fanout.listen(one, &[channel("a")]);
        fanout.begin();
        assert!(fanout.ended().is_empty());
        let second = fanout.listen(other, &[channel("a")]);
        fanout.begin();
        fanout.lost();
        assert_eq!(fanout.begin(), None, "there is no connection");
        fanout.opened();
        assert_eq!(fanout.begin(), change(&["a"], &[]));
        assert_eq!(fanout.hearers(b"a").count(), 0, "not before its end");
        assert_eq!(fanout.ended(), [one], "the other was not promised anything");
        assert!(fanout.is_over(second));
        assert_eq!(fanout.hearers(b"a").count(), 2);
    }

    const SESSIONS: usize = 3;
    const CHANNELS: [&str; 3] = ["a", "b", "c"];

    #[derive(Clone, Debug)]
    enum Act {
        /// Somebody's NOTIFY is committed and acknowledged.
        Notify(usize),
        /// A session's LISTEN or UNLISTEN is committed: these are its channels from now on.
        Listen(usize, [bool; CHANNELS.len()]),
        /// A session waits for a round.
        Wait(usize),
        /// The next round is sent, if one is due.
        Begin,
        /// The server takes up what it was sent, and answers.
        Serve,
        /// The server says what is pending, by itself.
        Tell,
        /// The next message from the server arrives.
        Arrive,
        Lose,
        Open,
    }

    enum Said {
        Note(usize, usize),
        Ready,
    }

    /// What a session is entitled to.
    #[derive(Default)]
    struct Promise {
        channels: [Option<Listened>; CHANNELS.len()],
        waits: Vec<(u64, usize)>,
        heard: Vec<usize>,
        warned: usize,
    }

    /// A channel that a session listens to.
    #[derive(Clone, Copy)]
    struct Listened {
        round: u64,
        /// Nothing from before this may be heard.
        asked: usize,
        /// Everything from this on is to be heard, once LISTEN was answered.
        answered: Option<usize>,
    }

    /// A server, its queue of notifications, and the connection in between.
    #[derive(Default)]
    struct World {
        fanout: Fanout,
        ids: Vec<HearerId>,
        promises: Vec<Promise>,
        /// Channels of the notifications that were committed.
        queue: Vec<usize>,
        /// Up to where the server has read for this connection.
        read: usize,
        listens: BTreeSet<Channel>,
        sent: VecDeque<Round>,
        said: VecDeque<Said>,
        owed_warnings: Vec<usize>,
    }

    impl World {
        fn new() -> Self {
            let mut world = Self::default();
            for _ in 0..SESSIONS {
                world.ids.push(world.fanout.join());
                world.promises.push(Promise::default());
                world.owed_warnings.push(0);
            }
            world
        }

        /// Reads what is pending; what it listens to at this moment counts, whenever that began.
        fn tell(&mut self) {
            while let Some(at) = self.queue.get(self.read) {
                if self.listens.contains(CHANNELS[*at].as_bytes()) {
                    self.said.push_back(Said::Note(self.read, *at));
                }
                self.read += 1;
            }
        }

        fn serve(&mut self) {
            let Some(round) = self.sent.pop_front() else {
                return;
            };
            if let Round::Change { listen, unlisten } = round {
                if self.listens.is_empty() {
                    self.read = self.queue.len();
                }
                self.listens.extend(listen);
                unlisten.iter().for_each(|gone| {
                    self.listens.remove(gone);
                });
            }
            self.tell();
            self.said.push_back(Said::Ready);
        }

        fn arrive(&mut self) {
            match self.said.pop_front() {
                None => {}
                Some(Said::Note(number, at)) => {
                    let heard: Vec<_> = self.fanout.hearers(CHANNELS[at].as_bytes()).collect();
                    for (session, id) in self.ids.iter().enumerate() {
                        if !heard.contains(id) {
                            continue;
                        }
                        let promise = &mut self.promises[session];
                        let listened = promise.channels[at].expect("it listens to that");
                        assert!(number >= listened.asked, "from before its LISTEN");
                        assert!(promise.heard.last().is_none_or(|last| *last < number));
                        promise.heard.push(number);
                    }
                }
                Some(Said::Ready) => {
                    let warned = self.fanout.ended();
                    for (session, id) in self.ids.iter().enumerate() {
                        self.promises[session].warned += usize::from(warned.contains(id));
                    }
                    self.answer();
                }
            }
        }

        /// Answers whoever waits for a round that is over now.
        fn answer(&mut self) {
            let (fanout, queue) = (&self.fanout, &self.queue);
            for promise in &mut self.promises {
                for listened in promise.channels.iter_mut().flatten() {
                    if listened.answered.is_none() && fanout.is_over(listened.round) {
                        listened.answered = Some(queue.len());
                    }
                }
                let (over, waits) = std::mem::take(&mut promise.waits)
                    .into_iter()
                    .partition(|(round, _)| fanout.is_over(*round));
                promise.waits = waits;
                for (_, until) in over {
                    for (number, at) in queue.iter().enumerate().take(until) {
                        let entitled = promise.channels[*at].is_some_and(|listened| {
                            listened.answered.is_some_and(|from| from <= number)
                        });
                        assert!(
                            !entitled || promise.heard.contains(&number),
                            "{number} was missed"
                        );
                    }
                }
            }
        }

        fn act(&mut self, act: &Act) {
            match act {
                Act::Notify(at) => self.queue.push(*at),
                Act::Listen(session, wanted) => {
                    let names = CHANNELS.iter().zip(wanted).filter(|(_, wanted)| **wanted);
                    let names: Vec<_> = names.map(|(name, _)| channel(name)).collect();
                    let round = self.fanout.listen(self.ids[*session], &names);
                    let asked = self.queue.len();
                    let channels = self.promises[*session].channels.iter_mut();
                    for (known, wanted) in channels.zip(wanted) {
                        *known = wanted.then(|| {
                            known.unwrap_or(Listened {
                                round,
                                asked,
                                answered: None,
                            })
                        });
                    }
                }
                Act::Wait(session) => {
                    let round = self.fanout.ask();
                    let until = self.queue.len();
                    self.promises[*session].waits.push((round, until));
                }
                Act::Begin => self.sent.extend(self.fanout.begin()),
                Act::Serve => self.serve(),
                Act::Tell => self.tell(),
                Act::Arrive => self.arrive(),
                Act::Lose if self.fanout.is_open() => {
                    self.fanout.lost();
                    self.sent.clear();
                    self.said.clear();
                    self.listens.clear();
                    for (session, promise) in self.promises.iter_mut().enumerate() {
                        let mut heard = false;
                        for listened in promise.channels.iter_mut().flatten() {
                            heard |= listened.answered.take().is_some();
                            listened.round = self.fanout.begun + 1;
                            listened.asked = self.queue.len();
                        }
                        if heard && self.owed_warnings[session] == promise.warned {
                            self.owed_warnings[session] += 1;
                        }
                        // Those who wait are let go: nothing more will come of it.
                        promise.waits.clear();
                    }
                }
                Act::Open if !self.fanout.is_open() => self.fanout.opened(),
                Act::Lose | Act::Open => {}
            }
        }

        /// Everything that is owed comes, and all who wait are answered.
        fn settle(&mut self) {
            self.act(&Act::Open);
            for session in 0..SESSIONS {
                self.act(&Act::Wait(session));
            }
            for _ in 0..8 {
                self.act(&Act::Begin);
                self.serve();
                while !self.said.is_empty() {
                    self.arrive();
                }
            }
            for (session, promise) in self.promises.iter().enumerate() {
                assert!(promise.waits.is_empty(), "somebody still waits");
                assert_eq!(promise.warned, self.owed_warnings[session]);
                let listened = promise.channels.iter().flatten();
                assert!(listened.into_iter().all(|l| l.answered.is_some()));
            }
        }
    }

    fn act() -> impl Strategy<Value = Act> {
        prop_oneof![
            6 => (0..CHANNELS.len()).prop_map(Act::Notify),
            4 => (0..SESSIONS, any::<[bool; 3]>()).prop_map(|(s, c)| Act::Listen(s, c)),
            3 => (0..SESSIONS).prop_map(Act::Wait),
            5 => Just(Act::Begin),
            5 => Just(Act::Serve),
            3 => Just(Act::Tell),
            8 => Just(Act::Arrive),
            1 => Just(Act::Lose),
            2 => Just(Act::Open),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn each_session_hears_what_it_would_have_heard_alone(acts in prop::collection::vec(act(), 0..120)) {
            let mut world = World::new();
            acts.iter().for_each(|act| world.act(act));
            world.settle();
        }
    }
}
