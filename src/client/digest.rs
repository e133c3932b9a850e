//! What a server's answer means on its way to the client: every frame is held against what is owed,
//! and passed on, swallowed, or the reason to repeat the batch elsewhere.

use std::collections::VecDeque;

use super::names::Names;
use super::relay::Client;
use crate::backend::prepared::{Held, Shape};
use crate::core::exchange::{Exchange, Fate, Owed};
use crate::core::route::Replay;
use crate::wire::frame::{self, HEADER, Piece, Walker};
use crate::wire::reply::error_field;

const PARSE_COMPLETE: &[u8] = &[b'1', 0, 0, 0, 4];
const CLOSE_COMPLETE: &[u8] = &[b'3', 0, 0, 0, 4];

/// Which side has broken.
pub(super) enum Fault {
    Client,
    Server,
}

/// Walks one chunk from the server.
pub(super) struct Digest<'a> {
    pub(super) client: &'a mut Client,
    pub(super) names: &'a mut Names,
    pub(super) walker: &'a mut Walker,
    pub(super) exchange: &'a mut Exchange,
    pub(super) parsing: &'a mut VecDeque<Option<u64>>,
    pub(super) held: &'a mut Held,
    pub(super) describing: &'a mut VecDeque<(u64, Box<[u8]>)>,
    pub(super) unnamed: &'a mut Option<u64>,
    pub(super) hold: &'a mut bool,
    pub(super) repeat: &'a mut Option<Replay>,
    pub(super) failed: &'a mut bool,
    pub(super) rolled_back: &'a mut bool,
    pub(super) plan_outdated: &'a mut bool,
}

impl Digest<'_> {
    pub(super) fn take(&mut self, chunk: &[u8]) -> (usize, Result<(), Fault>) {
        let mut at = 0;
        // Where the bytes begin that are to be forwarded and have not been put anywhere yet.
        let mut run = 0;
        loop {
            let before = at;
            let (tag, bytes) = match self
                .walker
                .next(chunk, &mut at, |tag| matches!(tag, b'D' | b'd'))
            {
                Err(_) => return (chunk.len(), Err(Fault::Server)),
                Ok(None) => break,
                Ok(Some(Piece::More(_))) => continue,
                Ok(Some(Piece::Frame { tag, bytes } | Piece::Start { tag, bytes })) => (tag, bytes),
            };
            if tag == b'E' && is_farewell(bytes) {
                if self.exchange.owes_nothing() {
                    // All is answered: the session need not know that it is on its own again.
                    self.exchange.gone();
                    let told = self.forward(&chunk[run..before]);
                    return (chunk.len(), told);
                }
                // The connection is as good as lost, and so is this statement; the session is not.
                let told = self.forward(&chunk[run..before]);
                return (chunk.len(), told.and(Err(Fault::Server)));
            }
            if matches!(tag, b'T' | b'n') && self.exchange.describes_named() {
                self.described(bytes);
            }
            let mut renamed = None;
            let mut fate = self
                .exchange
                .received(tag, bytes.get(HEADER).copied().unwrap_or(0));
            match tag {
                b'D' | b'd' | b'T' => {}
                b'1' => {
                    self.parsing.pop_front();
                    if fate == Fate::Forward {
                        self.names.confirmed();
                    }
                }
                b'C' if bytes
                    .get(HEADER..)
                    .is_some_and(|tag| tag.starts_with(b"ROLLBACK")) =>
                {
                    *self.rolled_back = true;
                }
                b'E' => renamed = self.error(bytes),
                // Clients are shown the primary's view.
                b'S' if is_hot_standby(bytes) => fate = Fate::Swallow,
                _ => {}
            }
            if fate == Fate::OutOfStep {
                return (chunk.len(), Err(Fault::Server));
            }
            if let Some(renamed) = renamed {
                self.client.out.extend_from_slice(&chunk[run..before]);
                self.client.out.extend_from_slice(&renamed);
                run = at;
                *self.hold = false;
            } else if fate == Fate::Swallow || self.repeat.is_some() {
                self.client.out.extend_from_slice(&chunk[run..before]);
                if self.repeat.is_some() {
                    self.client.out.clear();
                }
                run = at;
            } else if *self.hold && is_decisive(tag) {
                *self.hold = false;
            }
            if self.exchange.has_fake() && self.repeat.is_none() {
                self.client.out.extend_from_slice(&chunk[run..at]);
                run = at;
                put_fakes(self.exchange, self.names, &mut self.client.out);
            }
        }
        (at, self.forward(&chunk[run..at]))
    }

    fn forward(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        let out = &mut self.client.out;
        if *self.hold || !out.is_empty() {
            out.extend_from_slice(bytes);
            if *self.hold || out.is_empty() {
                return Ok(());
            }
            let written = self
                .client
                .socket
                .write_now(out)
                .map_err(|_| Fault::Client)?;
            if written == out.len() {
                *out = Vec::new();
            } else {
                out.drain(..written);
            }
            return Ok(());
        }
        let written = self
            .client
            .socket
            .write_now(bytes)
            .map_err(|_| Fault::Client)?;
        out.extend_from_slice(&bytes[written..]);
        Ok(())
    }

    fn described(&mut self, bytes: &[u8]) {
        if let Some((id, name)) = self.describing.pop_front() {
            let shape = Shape::of_frame(bytes);
            self.held.set_shape(id, shape);
            self.names.described(&name, id, shape);
        }
    }

    /// An error; if it speaks of a statement by the name that only the server knows, in the client's
    /// terms.
    fn error(&mut self, bytes: &[u8]) -> Option<Vec<u8>> {
        *self.failed = true;
        self.describing.clear();
        for id in self.parsing.drain(..).flatten() {
            self.held.remove(id);
        }
        *self.unnamed = None;
        let field = |code| error_field(bytes, code).unwrap_or_default();
        let sqlstate = field(b'C');
        if sqlstate == b"0A000" && field(b'R') == b"RevalidateCachedQuery" {
            *self.plan_outdated = true;
        } else if *self.hold {
            *self.repeat = Replay::after(sqlstate);
        }
        if self.repeat.is_some() {
            return None;
        }
        let wanted = self.names.wanted_in_vain();
        let renamed = wanted
            .filter(|_| sqlstate == b"42P05")
            .map(|name| with_message(bytes, b"causeway_", name));
        self.names.failed();
        renamed
    }
}

/// An error frame in whose message the word that begins with `prefix` is replaced.
fn with_message(frame: &[u8], prefix: &[u8], word: &[u8]) -> Vec<u8> {
    let body = &frame[HEADER..];
    let Some(at) = body.windows(prefix.len()).position(|part| part == prefix) else {
        return frame.to_vec();
    };
    let digits = body[at + prefix.len()..].iter();
    let end = at + prefix.len() + digits.take_while(|byte| byte.is_ascii_digit()).count();
    let mut renamed = Vec::with_capacity(frame.len() + word.len());
    frame::write(&mut renamed, b'E', |out| {
        out.extend_from_slice(&body[..at]);
        out.extend_from_slice(word);
        out.extend_from_slice(&body[end..]);
    });
    renamed
}

/// Whether a server takes its leave: it shuts down, crashes, or was told to end this session.
fn is_farewell(frame: &[u8]) -> bool {
    let field = |code| error_field(frame, code).unwrap_or_default();
    matches!(field(b'V'), b"FATAL" | b"PANIC")
        && matches!(field(b'C'), b"57P01" | b"57P02" | b"57P03")
}

/// Whether the client learns something by this frame that could differ on another node.
fn is_decisive(tag: u8) -> bool {
    !matches!(tag, b'1' | b'2' | b'3' | b't' | b'T' | b'n' | b'N' | b'S')
}

/// Whether a ParameterStatus frame is `in_hot_standby`.
pub(super) fn is_hot_standby(bytes: &[u8]) -> bool {
    frame::cstr(&bytes[HEADER..]).is_some_and(|(name, _)| name == b"in_hot_standby")
}

/// Answers in the server's place what was not sent to it.
pub(super) fn put_fakes(exchange: &mut Exchange, names: &mut Names, out: &mut Vec<u8>) {
    while let Some(fake) = exchange.next_fake() {
        match fake {
            Owed::FakeParse => {
                names.confirmed();
                out.extend_from_slice(PARSE_COMPLETE);
            }
            _ => {
                names.confirmed();
                out.extend_from_slice(CLOSE_COMPLETE);
            }
        }
    }
}
