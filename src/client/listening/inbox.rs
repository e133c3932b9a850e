//! What a session has heard and not taken yet.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;

use crate::backend::server::Origin;
use crate::core::fanout::Channel;
use crate::error::{Kind, Problem};
use crate::shared::memory::Share;

/// What a note takes beside its bytes.
const BESIDE: usize = 64;

/// A frame for several sessions, counted once.
#[derive(Debug)]
pub(super) struct Note {
    pub(super) frame: Vec<u8>,
    /// Who shows the commit that it tells of; none if it tells of none.
    pub(super) from: Option<Arc<Origin>>,
    /// Given back with it.
    pub(super) _shares: [Share; 2],
}

/// What there is for a session.
#[derive(Debug)]
pub(in crate::client) enum Heard {
    /// Whole frames, and who shows what they tell of, each of its lives once.
    Frames(Vec<u8>, Vec<Arc<Origin>>),
    /// Nothing more will come: the session is to end.
    Over(Problem),
}

#[derive(Debug, Default)]
pub(super) struct Inbox(Mutex<Queue>);

#[derive(Debug, Default)]
struct Queue {
    /// Each with its channel; none for what everybody is told.
    notes: VecDeque<(Option<Channel>, Arc<Note>)>,
    bytes: usize,
    over: Option<Problem>,
    waker: Option<Waker>,
}

impl Queue {
    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// The first frames, of at most so many bytes, but one at least.
    fn take(&mut self, most: usize) -> Option<Heard> {
        if let Some(problem) = &self.over {
            return Some(Heard::Over(problem.clone()));
        }
        let (mut frames, mut from) = (Vec::new(), Vec::<Arc<Origin>>::new());
        while let Some((_, note)) = self.notes.front()
            && (frames.is_empty() || frames.len() + note.frame.len() <= most)
        {
            frames.extend_from_slice(&note.frame);
            if let Some(origin) = &note.from {
                let known = |last: &Arc<Origin>| last.incarnation == origin.incarnation;
                if !from.last().is_some_and(known) {
                    from.push(Arc::clone(origin));
                }
            }
            self.bytes -= note.frame.len() + BESIDE;
            self.notes.pop_front();
        }
        (!frames.is_empty()).then_some(Heard::Frames(frames, from))
    }
}

impl Inbox {
    /// Puts a note behind the others, unless the session would then have left more than `most` bytes lie.
    pub(super) fn push(&self, channel: Option<&Channel>, note: &Arc<Note>, most: usize) {
        let mut queue = self.0.lock();
        let bytes = queue.bytes + note.frame.len() + BESIDE;
        if queue.over.is_some() {
            return;
        }
        if bytes > most {
            drop(queue);
            return self.end(too_slow());
        }
        queue.bytes = bytes;
        queue.notes.push_back((channel.cloned(), Arc::clone(note)));
        queue.wake();
    }

    /// The session is to end.
    pub(super) fn end(&self, problem: Problem) {
        let mut queue = self.0.lock();
        queue.notes.clear();
        queue.bytes = 0;
        queue.over.get_or_insert(problem);
        queue.wake();
    }

    /// Drops what came on other channels than these: it is not listened to any more.
    pub(super) fn retain(&self, channels: &BTreeSet<Channel>) {
        let mut queue = self.0.lock();
        let Queue { notes, bytes, .. } = &mut *queue;
        notes.retain(|(channel, note)| {
            let keep = channel.as_ref().is_none_or(|c| channels.contains(c));
            if !keep {
                *bytes -= note.frame.len() + BESIDE;
            }
            keep
        });
    }

    /// Waits for nothing but the session's end.
    pub(super) fn poll_over(&self, cx: &Context<'_>) -> Poll<Problem> {
        let mut queue = self.0.lock();
        match &queue.over {
            Some(problem) => Poll::Ready(problem.clone()),
            None => {
                queue.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    /// Bytes that wait.
    pub(super) fn bytes(&self) -> usize {
        self.0.lock().bytes
    }

    /// All that there is, if there is anything.
    pub(super) fn take(&self) -> Option<Heard> {
        self.0.lock().take(usize::MAX)
    }

    /// Waits for something, and gives at most so many bytes of it.
    pub(super) fn poll(&self, cx: &Context<'_>, most: usize) -> Poll<Heard> {
        let mut queue = self.0.lock();
        match queue.take(most) {
            Some(heard) => Poll::Ready(heard),
            None => {
                queue.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

/// The client does not take its notifications.
pub(super) fn too_slow() -> Problem {
    Problem::fatal(
        Kind::ProgramLimitExceeded,
        "terminating connection: too many notifications wait for the client to read them",
    )
    .with_hint("A session that listens should read what it is sent; UNLISTEN ends that.")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shared::memory::MemoryBudget;

    fn note(budget: &Arc<MemoryBudget>, text: &str) -> Arc<Note> {
        let shares = [budget.share(), budget.share()];
        Arc::new(Note {
            frame: text.as_bytes().to_vec(),
            from: None,
            _shares: shares,
        })
    }

    fn frames(heard: Option<Heard>) -> String {
        match heard {
            Some(Heard::Frames(bytes, _)) => String::from_utf8(bytes).unwrap(),
            Some(Heard::Over(problem)) => problem.kind.sqlstate().to_owned(),
            None => String::new(),
        }
    }

    #[test]
    fn notes_come_in_order_until_their_channel_is_given_up() {
        let budget = Arc::new(MemoryBudget::new(1000, 1000));
        let (a, b): (Channel, Channel) = (Arc::from(&b"a"[..]), Arc::from(&b"b"[..]));
        let inbox = Inbox::default();
        for (channel, text) in [
            (Some(&a), "1"),
            (Some(&b), "2"),
            (None, "3"),
            (Some(&a), "4"),
        ] {
            inbox.push(channel, &note(&budget, text), 10_000);
        }
        inbox.retain(&BTreeSet::from([a]));
        assert_eq!(inbox.bytes(), 3 * (1 + BESIDE));
        let cx = Context::from_waker(Waker::noop());
        let Poll::Ready(heard) = inbox.poll(&cx, 2) else {
            panic!("there is something");
        };
        assert_eq!(frames(Some(heard)), "13");
        assert_eq!(frames(inbox.take()), "4");
        assert!(inbox.take().is_none() && inbox.poll(&cx, 2).is_pending());
        assert_eq!(inbox.bytes(), 0);
    }

    #[test]
    fn who_lets_too_much_lie_is_ended() {
        let budget = Arc::new(MemoryBudget::new(1000, 1000));
        let inbox = Inbox::default();
        let most = 2 * (2 + BESIDE);
        for text in ["11", "22"] {
            inbox.push(None, &note(&budget, text), most);
        }
        assert_eq!(inbox.bytes(), most);
        inbox.push(None, &note(&budget, "3"), most);
        inbox.push(None, &note(&budget, "4"), most);
        assert_eq!((frames(inbox.take()), inbox.bytes()), ("54000".into(), 0));
    }
}
