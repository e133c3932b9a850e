//! Passing a server's answer to the client, and the client's data to the server, as bytes.
//!
//! Frames are walked, not decoded. What a standby says before its first row or error is held back
//! for as long as it could still be repeated on another node.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

use super::names::Names;
use crate::backend::server::Server;
use crate::board::Board;
use crate::core::exchange::{Copy, Fate, Owed};
use crate::error::{Kind, Problem};
use crate::metrics::Replay;
use crate::wire::frame::{self, HEADER, Piece, Walker};
use crate::wire::reply::error_field;
use crate::wire::socket::Socket;

/// A client may send ahead this much while its last batch is still being answered, in bytes.
const SEND_AHEAD: usize = 64 * 1024;
/// How often a waiting session looks whether its server's node is still alive.
const LOOK_AFTER: Duration = Duration::from_millis(250);

const PARSE_COMPLETE: &[u8] = &[b'1', 0, 0, 0, 4];
const CLOSE_COMPLETE: &[u8] = &[b'3', 0, 0, 0, 4];
const FLUSH: &[u8] = &[b'H', 0, 0, 0, 4];

/// The client's side of a session.
#[derive(Debug)]
pub(super) struct Client {
    /// The connection.
    pub(super) socket: Socket,
    /// What it has sent and nobody has dealt with yet.
    pub(super) inbox: Vec<u8>,
    /// What it is to be sent and could not take yet.
    pub(super) out: Vec<u8>,
    /// It has closed its sending side.
    pub(super) ended: bool,
}

impl Client {
    /// Reads what the client has sent into the inbox.
    pub(super) fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let inbox = &mut self.inbox;
        let read = self.socket.poll_read(cx, |bytes| {
            inbox.extend_from_slice(bytes);
            (bytes.len(), ())
        });
        match read {
            Poll::Ready(Ok(Some(()))) => Poll::Ready(Ok(())),
            Poll::Ready(Ok(None)) => {
                self.ended = true;
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => Poll::Pending,
        }
    }

    /// Removes what has been dealt with, and the buffer with it when nothing is left.
    pub(super) fn consume(&mut self, length: usize) {
        if length >= self.inbox.len() {
            if self.inbox.capacity() > 4096 {
                self.inbox = Vec::new();
            } else {
                self.inbox.clear();
            }
        } else {
            self.inbox.drain(..length);
        }
    }
}

/// How a batch ended.
#[derive(Debug)]
pub(super) enum Outcome {
    /// Everything owed has arrived.
    Done,
    /// The client has to send more before the server goes on (a Sync behind COPY data).
    Open,
    /// The client has seen nothing yet: repeat it elsewhere.
    Repeat(Replay),
    /// The server connection is lost, or its node is.
    ServerLost,
    /// The client connection is lost.
    ClientGone,
    /// The client broke the protocol.
    Broken(Problem),
}

/// A wake-up that survives from batch to batch, so that waiting costs no timer each time.
#[derive(Debug)]
pub(super) struct LookAfter(Pin<Box<Sleep>>);

impl LookAfter {
    pub(super) fn new() -> Self {
        Self(Box::pin(tokio::time::sleep(LOOK_AFTER)))
    }

    /// True about once in `LOOK_AFTER` while polled.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> bool {
        let mut due = false;
        while self.0.as_mut().poll(cx).is_ready() {
            due = true;
            self.0.as_mut().reset(Instant::now() + LOOK_AFTER);
        }
        due
    }
}

/// One batch's passage.
pub(super) struct Relay<'a> {
    pub(super) client: &'a mut Client,
    pub(super) server: &'a mut Server,
    pub(super) names: &'a mut Names,
    pub(super) board: &'a Board,
    pub(super) look_after: &'a mut LookAfter,
    /// Bytes for the server that it could not take yet.
    pub(super) to_server: Vec<u8>,
    /// Bytes of a large message that are still to be passed through.
    pub(super) large: usize,
    /// A Flush must follow the large message, or its answer would wait for the Sync.
    pub(super) flush_after_large: bool,
    /// Bytes of the batch itself that stay in the inbox because it could be repeated.
    pub(super) kept: usize,
    /// Nothing decisive has come yet, and the batch could be repeated.
    pub(super) hold: bool,
    pub(super) repeat: Option<Replay>,
    /// An error reached the client, or would have.
    pub(super) failed: bool,
    /// A transaction ended by ROLLBACK.
    pub(super) rolled_back: bool,
    /// A prepared statement's plan no longer fits its tables.
    pub(super) plan_outdated: bool,
    pub(super) copy_walker: Walker,
}

impl Relay<'_> {
    /// Sends what stands in `to_server` and relays until nothing is owed.
    pub(super) async fn run(&mut self) -> Outcome {
        self.fakes();
        std::future::poll_fn(|cx| self.poll(cx)).await
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Outcome> {
        loop {
            if !self.to_server.is_empty()
                && let Poll::Ready(Err(_)) = self.server.socket.poll_write(cx, &mut self.to_server)
            {
                // What the server said before it closed may still be there to be read.
                self.to_server.clear();
            }
            if !self.client.out.is_empty() && !self.hold {
                match self.client.socket.poll_write(cx, &mut self.client.out) {
                    Poll::Ready(Err(_)) => return Poll::Ready(Outcome::ClientGone),
                    Poll::Ready(Ok(())) | Poll::Pending => {}
                }
            }
            let client_waits = self.client.out.is_empty() || self.hold;
            if client_waits
                && self.to_server.is_empty()
                && self.large == 0
                && let Some(outcome) = self.ended()
            {
                return Poll::Ready(outcome);
            }
            let mut progress = false;
            if client_waits {
                match self.poll_server(cx) {
                    Poll::Ready(Ok(())) => progress = true,
                    Poll::Ready(Err(outcome)) => return Poll::Ready(outcome),
                    Poll::Pending => {}
                }
            }
            match self.poll_client(cx) {
                Poll::Ready(Ok(())) => progress = true,
                Poll::Ready(Err(outcome)) => return Poll::Ready(outcome),
                Poll::Pending => {}
            }
            if !progress {
                let look = self.look_after.poll(cx);
                if look && !self.server.is_current(&self.board.topology()) {
                    return Poll::Ready(self.lost());
                }
                return Poll::Pending;
            }
        }
    }

    fn ended(&mut self) -> Option<Outcome> {
        let exchange = &self.server.exchange;
        if exchange.owes_nothing() && exchange.copy() == Copy::No {
            return Some(match self.repeat.take() {
                Some(why) => Outcome::Repeat(why),
                None => {
                    // Held back and never decided: a batch without rows, such as Parse and Flush.
                    self.hold = false;
                    if !self.client.out.is_empty() {
                        return None;
                    }
                    Outcome::Done
                }
            });
        }
        exchange.awaits_sync_after_copy().then_some(Outcome::Open)
    }

    fn lost(&mut self) -> Outcome {
        match self.repeat.take() {
            Some(why) => Outcome::Repeat(why),
            None if self.hold => Outcome::Repeat(Replay::NodeLost),
            None => Outcome::ServerLost,
        }
    }

    fn poll_server(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Outcome>> {
        let Self {
            client,
            server,
            names,
            hold,
            repeat,
            failed,
            rolled_back,
            plan_outdated,
            ..
        } = self;
        let Server {
            socket,
            walker,
            exchange,
            parsing,
            held,
            unnamed,
            ..
        } = &mut **server;
        let mut digest = Digest {
            client,
            names,
            walker,
            exchange,
            parsing,
            held,
            unnamed,
            hold,
            repeat,
            failed,
            rolled_back,
            plan_outdated,
        };
        match socket.poll_read(cx, |chunk| digest.take(chunk)) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(Some(Ok(())))) => Poll::Ready(Ok(())),
            Poll::Ready(Ok(Some(Err(Fault::Client)))) => Poll::Ready(Err(Outcome::ClientGone)),
            Poll::Ready(Ok(Some(Err(Fault::Server))))
            | Poll::Ready(Ok(None))
            | Poll::Ready(Err(_)) => Poll::Ready(Err(self.lost())),
        }
    }

    fn poll_client(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Outcome>> {
        let copying = self.server.exchange.copy() != Copy::No;
        if self.large > 0 || copying {
            if !self.to_server.is_empty() {
                return Poll::Pending;
            }
            if !self.client.inbox.is_empty() {
                let moved = if self.large > 0 {
                    Ok(self.pass_large())
                } else {
                    self.pass_copy()
                };
                match moved {
                    Ok(true) => return Poll::Ready(Ok(())),
                    Ok(false) => {}
                    Err(problem) => return Poll::Ready(Err(Outcome::Broken(problem))),
                }
            }
        } else if self.client.inbox.len() >= SEND_AHEAD {
            return Poll::Pending;
        }
        if self.client.ended {
            return if self.large > 0 || copying {
                Poll::Ready(Err(Outcome::ClientGone))
            } else {
                Poll::Pending
            };
        }
        let before = self.client.inbox.len();
        match self.client.poll_fill(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Err(_)) => Poll::Ready(Err(Outcome::ClientGone)),
            // A client that leaves in the middle of an answer, with nothing more to ask.
            Poll::Ready(Ok(())) if self.client.ended && before <= self.kept => {
                Poll::Ready(Err(Outcome::ClientGone))
            }
            Poll::Ready(Ok(())) => Poll::Ready(Ok(())),
        }
    }

    /// Passes on more of a large message; true when anything was.
    fn pass_large(&mut self) -> bool {
        let part = self.large.min(self.client.inbox.len());
        self.send(part);
        self.large -= part;
        if self.large == 0 && self.flush_after_large {
            self.to_server.extend_from_slice(FLUSH);
        }
        part > 0
    }

    /// Passes on COPY data; true when anything was.
    fn pass_copy(&mut self) -> Result<bool, Problem> {
        let mut at = 0;
        let mut ended = false;
        let mut skip = None;
        loop {
            let before = at;
            let piece = self
                .copy_walker
                .next(&self.client.inbox, &mut at, |tag| tag == b'd')
                .map_err(|error| Problem::fatal(Kind::ProtocolViolation, error.to_string()))?;
            match piece {
                Some(Piece::Frame {
                    tag: b'c' | b'f', ..
                }) => ended = true,
                Some(
                    Piece::Frame { tag: b'd', .. }
                    | Piece::Start { tag: b'd', .. }
                    | Piece::More(_),
                ) => {}
                // The server ignores these while it reads COPY data.
                Some(Piece::Frame {
                    tag: b'S' | b'H', ..
                }) => skip = Some((before, at)),
                Some(Piece::Frame { tag, .. } | Piece::Start { tag, .. }) => {
                    let what =
                        format!("unexpected message type 0x{tag:02X} during COPY from stdin");
                    return Err(Problem::fatal(Kind::ProtocolViolation, what));
                }
                None => break,
            }
            if ended || skip.is_some() {
                break;
            }
        }
        if at == 0 {
            return Ok(false);
        }
        let pass = skip.map_or(at, |(from, _)| from);
        self.send(pass);
        self.client.consume(at - pass);
        if ended {
            self.server.exchange.copy_ended();
        }
        Ok(true)
    }

    /// Sends the first bytes of the inbox to the server and removes them.
    fn send(&mut self, length: usize) {
        let bytes = &self.client.inbox[..length];
        let written = self.server.socket.write_now(bytes).unwrap_or(length);
        self.to_server.extend_from_slice(&bytes[written..]);
        self.client.consume(length);
    }

    fn fakes(&mut self) {
        put_fakes(&mut self.server.exchange, self.names, &mut self.client.out);
    }
}

fn put_fakes(exchange: &mut crate::core::exchange::Exchange, names: &mut Names, out: &mut Vec<u8>) {
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

enum Fault {
    Client,
    Server,
}

/// Walks one chunk from the server.
struct Digest<'a> {
    client: &'a mut Client,
    names: &'a mut Names,
    walker: &'a mut Walker,
    exchange: &'a mut crate::core::exchange::Exchange,
    parsing: &'a mut std::collections::VecDeque<Option<u64>>,
    held: &'a mut crate::backend::prepared::Held,
    unnamed: &'a mut Option<u64>,
    hold: &'a mut bool,
    repeat: &'a mut Option<Replay>,
    failed: &'a mut bool,
    rolled_back: &'a mut bool,
    plan_outdated: &'a mut bool,
}

impl Digest<'_> {
    fn take(&mut self, chunk: &[u8]) -> (usize, Result<(), Fault>) {
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
                b'E' => self.error(bytes),
                // Clients are shown the primary's view.
                b'S' if is_hot_standby(bytes) => fate = Fate::Swallow,
                _ => {}
            }
            if fate == Fate::OutOfStep {
                return (chunk.len(), Err(Fault::Server));
            }
            if fate == Fate::Swallow || self.repeat.is_some() {
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

    fn error(&mut self, bytes: &[u8]) {
        *self.failed = true;
        for id in self.parsing.drain(..).flatten() {
            self.held.remove(id);
        }
        *self.unnamed = None;
        let field = |code| error_field(bytes, code).unwrap_or_default();
        let sqlstate = field(b'C');
        if sqlstate == b"0A000" && field(b'R') == b"RevalidateCachedQuery" {
            *self.plan_outdated = true;
        } else if *self.hold {
            *self.repeat = repeatable(sqlstate);
        }
        if self.repeat.is_none() {
            self.names.failed();
        }
    }
}

/// Whether a standby's error is one that another node would not give (manual, "Hot Standby").
fn repeatable(sqlstate: &[u8]) -> Option<Replay> {
    match sqlstate {
        // Nothing is serializable on a standby, so that this is always a recovery conflict.
        b"40001" | b"40P01" => Some(Replay::RecoveryConflict),
        b"57P01" | b"57P02" | b"57P03" => Some(Replay::NodeLost),
        // Read-only transaction, feature not supported or object in wrong state during recovery.
        b"25006" | b"0A000" | b"55000" => Some(Replay::ReadOnly),
        _ => None,
    }
}

/// Whether the client learns something by this frame that could differ on another node.
fn is_decisive(tag: u8) -> bool {
    !matches!(tag, b'1' | b'2' | b'3' | b't' | b'T' | b'n' | b'N' | b'S')
}

/// Whether a ParameterStatus frame is `in_hot_standby`.
pub(super) fn is_hot_standby(bytes: &[u8]) -> bool {
    frame::cstr(&bytes[HEADER..]).is_some_and(|(name, _)| name == b"in_hot_standby")
}
