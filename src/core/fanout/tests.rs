//! Rounds as a server takes them up: what is promised is heard once and in order, or told to be missing.

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

#[test]
fn many_channels_are_told_of_one_part_after_the_other() {
    let mut fanout = Fanout::default();
    let (one, other) = (fanout.join(), fanout.join());
    fanout.opened();
    let many = ["a", "b", "c"].map(channel);
    let first = fanout.listen(one, &many);
    assert_eq!(fanout.begin(), change(&["a", "b"], &[]));
    let second = fanout.listen(other, &[channel("a")]);
    assert_eq!(fanout.begin(), None, "one at a time");
    assert!(fanout.ended().is_empty() && !fanout.is_over(first));
    assert_eq!(fanout.hearers(b"a").count(), 0, "not before its end");
    assert_eq!(fanout.begin(), change(&["c"], &[]));
    fanout.ended();
    assert!(fanout.is_over(first) && !fanout.is_over(second));
    assert_eq!(fanout.begin(), Some(Round::Sync));
    // Lost between two parts, all of them come again, and nothing of the one before.
    fanout.ended();
    fanout.listen(one, &[]);
    assert_eq!(fanout.begin(), change(&[], &["b", "c"]));
    fanout.ended();
    fanout.listen(one, &many);
    fanout.lost();
    fanout.opened();
    assert_eq!(fanout.begin(), change(&["a", "b"], &[]));
    fanout.lost();
    fanout.opened();
    assert_eq!(fanout.begin(), change(&["a", "b"], &[]));
    assert!(fanout.ended().is_empty(), "not before its end");
    assert_eq!(fanout.begin(), change(&["c"], &[]));
    assert_eq!(
        fanout.ended(),
        [other],
        "one had been promised nothing again"
    );
    assert_eq!(fanout.begin(), None);
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
