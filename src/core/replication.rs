//! A replication connection, as far as it is looked at: for how long it may stay on its node, where its
//! frames begin, and whether it is in the middle of something. Its bytes are passed on however they come.

use super::tag::{backend, frontend};
use super::topology::{Incarnation, NodeId, PATIENCE_US, Topology};

/// What ties a replication connection to its node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bond {
    pub node: NodeId,
    incarnation: Incarnation,
    /// The client has named the node, whatever its role.
    named: bool,
}

impl Bond {
    /// To the node that was named, or to the primary; none while clients may not use it.
    pub fn new(named: Option<NodeId>, topology: &Topology) -> Option<Self> {
        let node = match named {
            Some(node) => topology.node(node),
            None => topology.primary(),
        }?;
        Some(Self {
            node: node.id,
            incarnation: node.usable()?.incarnation,
            named: named.is_some(),
        })
    }

    /// Whether it still holds: a node that was named may be promoted or restarted, but the primary is to
    /// be the primary all the time. Either may be silent for a while.
    pub fn holds(&self, topology: &Topology, now_us: u64) -> bool {
        let Some(node) = topology.node(self.node) else {
            return false;
        };
        if self.named && node.usable().is_some() {
            return true;
        }
        let replaced = || {
            let primary = topology.primary();
            primary.is_some_and(|primary| primary.id != self.node)
        };
        let silent = node.silent.as_ref().filter(|_| self.named);
        let incarnation = silent.map_or(self.incarnation, |silence| silence.life.incarnation);
        node.keeps(incarnation, now_us, PATIENCE_US) && (self.named || !replaced())
    }

    pub fn is_named(&self) -> bool {
        self.named
    }
}

/// What has passed on a replication connection that was idle at first.
#[derive(Debug)]
pub struct Passage {
    up: Frames,
    down: Frames,
    /// Queries and Syncs that are still to be answered by a ReadyForQuery.
    owed: usize,
    /// The transaction's status in the last ReadyForQuery.
    status: u8,
    streaming: bool,
}

impl Default for Passage {
    fn default() -> Self {
        Self {
            up: Frames::default(),
            down: Frames::default(),
            owed: 0,
            status: b'I',
            streaming: false,
        }
    }
}

impl Passage {
    /// Bytes from the client.
    pub fn sent(&mut self, bytes: &[u8]) {
        let owed = &mut self.owed;
        self.up.pass(bytes, |tag, _| {
            if matches!(
                tag,
                frontend::QUERY | frontend::SYNC | frontend::FUNCTION_CALL
            ) {
                *owed += 1;
            }
        });
    }

    /// Bytes from the server; whether a ReadyForQuery was among them.
    pub fn heard(&mut self, bytes: &[u8]) -> bool {
        let Self {
            owed,
            status,
            streaming,
            ..
        } = self;
        let mut ready = false;
        self.down.pass(bytes, |tag, first| match tag {
            backend::READY => {
                *owed = owed.saturating_sub(1);
                *status = first;
                *streaming = false;
                ready = true;
            }
            backend::COPY_BOTH => *streaming = true,
            _ => {}
        });
        ready
    }

    /// Whether the server is still to answer something.
    pub fn is_waiting(&self) -> bool {
        self.owed > 0
    }

    /// Whether nothing is under way that would end by itself: a stream of WAL does not.
    pub fn may_be_cut(&self) -> bool {
        self.streaming || self.owed == 0 && self.status == b'I'
    }

    /// Whether the client can be told something of ours: no frame of the server is half passed.
    pub fn is_between_frames(&self) -> bool {
        self.down.known == 0 && self.down.left == 0
    }
}

/// Finds where frames begin in bytes that come in any pieces.
#[derive(Debug, Default)]
struct Frames {
    /// Tag, length word, and the body's first byte if it has one.
    head: [u8; 6],
    known: usize,
    /// Bytes of the frame's body that are still to come.
    left: usize,
    /// A length word made no sense: nothing is known of frames any more.
    lost: bool,
}

impl Frames {
    /// Calls `frame` with the tag and the first byte of each frame that begins in `bytes`.
    fn pass(&mut self, mut bytes: &[u8], mut frame: impl FnMut(u8, u8)) {
        while !self.lost && !bytes.is_empty() {
            if self.left > 0 {
                let part = self.left.min(bytes.len());
                self.left -= part;
                bytes = &bytes[part..];
                continue;
            }
            self.head[self.known] = bytes[0];
            self.known += 1;
            bytes = &bytes[1..];
            let [tag, a, b, c, d, first] = self.head;
            let length = u32::from_be_bytes([a, b, c, d]) as usize;
            match (self.known, length) {
                (5, 0..4) => self.lost = true,
                (5, 4) => {
                    frame(tag, 0);
                    self.known = 0;
                }
                (6, _) => {
                    frame(tag, first);
                    self.left = length - 5;
                    self.known = 0;
                }
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(tag: u8, body: &[u8]) -> Vec<u8> {
        let length = (body.len() as u32 + 4).to_be_bytes();
        [&[tag][..], &length, body].concat()
    }

    #[test]
    fn what_ends_by_itself_is_not_cut() {
        let mut passage = Passage::default();
        assert!(passage.may_be_cut() && !passage.is_waiting());
        // A base backup.
        passage.sent(&frame(b'Q', b"BASE_BACKUP\0"));
        assert!(!passage.heard(&frame(b'H', b"\0\0\0")));
        passage.heard(&frame(b'd', b"Z"));
        assert!(!passage.may_be_cut() && passage.is_waiting());
        assert!(passage.heard(&[frame(b'C', b"SELECT\0"), frame(b'Z', b"I")].concat()));
        assert!(passage.may_be_cut() && !passage.is_waiting());
        // A stream of WAL.
        passage.sent(&frame(b'Q', b"START_REPLICATION 0/0\0"));
        assert!(!passage.may_be_cut());
        passage.heard(&frame(b'W', b"\0\0\0"));
        passage.sent(&frame(b'd', b"r"));
        assert!(passage.may_be_cut() && passage.is_waiting());
        // A transaction, in two batches that were sent at once.
        let mut passage = Passage::default();
        let batches = [frame(b'Q', b"BEGIN\0"), frame(b'P', b""), frame(b'S', b"")];
        passage.sent(&batches.concat());
        assert!(passage.heard(&frame(b'Z', b"T")));
        assert!(passage.is_waiting());
        passage.heard(&frame(b'Z', b"T"));
        assert!(!passage.may_be_cut() && !passage.is_waiting());
    }

    #[test]
    fn nonsense_is_passed_on_and_not_understood() {
        let mut passage = Passage::default();
        passage.heard(b"d\0\0\0\x03");
        assert!(!passage.is_between_frames());
        assert!(!passage.heard(&frame(b'Z', b"I")));
    }

    proptest! {
        #[test]
        fn pieces_are_as_good_as_the_whole(
            bodies in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..9), 1..9),
            size in 1..9usize,
        ) {
            let frames = bodies.iter().map(|body| frame(b'd', body));
            let ends: Vec<_> = frames.clone().scan(0, |at, frame| {
                *at += frame.len();
                Some(*at)
            }).collect();
            let bytes: Vec<u8> = frames.flatten().collect();
            let mut passage = Passage::default();
            let mut at = 0;
            for piece in bytes.chunks(size) {
                passage.heard(piece);
                at += piece.len();
                prop_assert_eq!(passage.is_between_frames(), ends.contains(&at));
            }
        }
    }
}
