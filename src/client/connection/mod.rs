//! The client's side of a session: what it has sent, what it is owed, and the only door through which
//! anything is said to it.

pub(super) mod batch;
pub(super) mod gatherer;
pub(super) mod message;
pub(super) mod room;

use std::io;
use std::task::{Context, Poll};
use std::time::Duration;

use crate::error::Problem;
use crate::shared::memory::Share;
use crate::wire::socket::Socket;

/// Bound on statements of our own and on writing an error to a client.
pub(super) const OWN_BOUND: Duration = Duration::from_secs(10);

/// What a client may have under way without being counted, in bytes.
pub(super) const UNCOUNTED: usize = 16 * 1024;

/// How a session ends.
#[derive(Debug)]
pub(super) enum Ending {
    /// The client said goodbye or is gone.
    Quiet,
    /// The client is told why.
    Problem(Problem),
    /// The client is told in a server's words: an ErrorResponse frame.
    Said(Vec<u8>),
}

impl From<Problem> for Ending {
    fn from(problem: Problem) -> Self {
        Self::Problem(problem)
    }
}

/// A client's connection.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) socket: Socket,
    /// What it has sent and nobody has dealt with yet.
    pub(super) inbox: Vec<u8>,
    /// What it is to be sent and could not take yet.
    pub(super) out: Vec<u8>,
    /// It has closed its sending side.
    pub(super) ended: bool,
    /// Everything up to the next Sync is skipped, as a server does after an error.
    pub(super) skipping: bool,
    /// The end of an answer, ReadyForQuery, is still to be said.
    pub(super) owes_ready: bool,
    /// Counts what is under way.
    pub(super) share: Share,
    /// Bytes of a message, or of failed COPY data, that are still to be dropped.
    drop_bytes: usize,
}

impl Connection {
    pub(super) fn new(mut socket: Socket, share: Share) -> Self {
        // A client need not wait for its greeting before it goes on.
        let inbox = socket.take_rest();
        Self {
            socket,
            inbox,
            out: Vec::new(),
            ended: false,
            skipping: false,
            owes_ready: false,
            share,
            drop_bytes: 0,
        }
    }

    /// Reads what the client has sent into the inbox.
    pub(super) fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let inbox = &mut self.inbox;
        let read = self.socket.poll_read(cx, |bytes| {
            inbox.extend_from_slice(bytes);
            (bytes.len(), ())
        });
        match read {
            Poll::Ready(Ok(Some(()))) => {
                self.drop_data();
                let there = self.inbox.len();
                if there > UNCOUNTED && there > self.share.bytes() {
                    self.share.set(there);
                }
                Poll::Ready(Ok(()))
            }
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
        if self.share.bytes() > 0 {
            self.count(0);
        }
    }

    /// Counts what has arrived, what is to be sent, and so many bytes `beside` them.
    pub(super) fn count(&mut self, beside: usize) {
        let there = self.inbox.len() + self.out.len() + beside;
        if there > UNCOUNTED || self.share.bytes() > 0 {
            self.share.set(if there > UNCOUNTED { there } else { 0 });
        }
    }

    /// Drops the next `bytes` of what the client sends, also of what is still to come.
    pub(super) fn drop_next(&mut self, bytes: usize) {
        self.drop_bytes += bytes;
        self.drop_data();
    }

    fn drop_data(&mut self) {
        if self.drop_bytes > 0 {
            let part = self.drop_bytes.min(self.inbox.len());
            self.consume(part);
            self.drop_bytes -= part;
        }
    }

    /// Says something to the client, behind what it is still to be sent; within a bound.
    pub(super) async fn tell(&mut self, bytes: &[u8]) -> Result<(), Ending> {
        let mut rest = bytes;
        if self.out.is_empty() {
            match self.socket.write_now(bytes) {
                Ok(written) if written == bytes.len() => return Ok(()),
                Ok(written) => rest = &bytes[written..],
                Err(_) => return Err(Ending::Quiet),
            }
        }
        // What is given up in the middle stays in front of what is said next.
        self.out.extend_from_slice(rest);
        let (socket, out) = (&mut self.socket, &mut self.out);
        let flush = std::future::poll_fn(|cx| socket.poll_write(cx, out));
        match tokio::time::timeout(OWN_BOUND, flush).await {
            Ok(Ok(())) => Ok(()),
            _ => Err(Ending::Quiet),
        }
    }

    /// Says something to the client, behind what it is still to be sent, for as long as it is there: it
    /// reads its answers as it likes.
    pub(super) async fn pass(&mut self, bytes: &[u8]) -> Result<(), Ending> {
        self.out.extend_from_slice(bytes);
        self.count(0);
        let (socket, out) = (&mut self.socket, &mut self.out);
        let flush = std::future::poll_fn(|cx| socket.poll_write(cx, out));
        let flushed = flush.await;
        self.count(0);
        flushed.map_err(|_| Ending::Quiet)
    }

    /// Whether the client has left, looked at this very moment: what it asked for is not to be run.
    pub(super) fn has_left(&mut self) -> bool {
        self.ended || self.socket.is_closed()
    }
}
