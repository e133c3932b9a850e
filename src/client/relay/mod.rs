//! Passing a server's answer to the client, and the client's data to the server, as bytes.
//!
//! Frames are walked, not decoded. What a standby says before its first row or error is held back
//! for as long as it could still be repeated on another node.

#[cfg(any(test, fuzzing))]
pub(super) mod any_bytes;
pub(super) mod render;
mod server_reply;

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

use self::server_reply::{Fault, Progress, ServerReply, put_fakes};
pub(super) use self::server_reply::{
    in_own_name, is_farewell, is_fatal, is_hot_standby, own_notification,
};
use super::connection::Connection;
use super::state::State;
use crate::backend::server::Server;
use crate::core::exchange::Copy;
use crate::core::route::Replay;
use crate::core::tag::frontend;
use crate::core::topology::{HASTE_US, PATIENCE_US};
use crate::error::{Kind, Problem};
use crate::shared::cluster::ClusterState;
use crate::sql::catalog::Catalog;
use crate::sql::{Skim, Skimmed};
use crate::wire::frame::{self, Piece};
use crate::wire::reply::Reply;

/// A client may send ahead this much while its last batch is still being answered, in bytes.
const SEND_AHEAD: usize = 64 * 1024;
/// How often a waiting session looks whether its server's node is still alive.
const LOOK_AFTER: Duration = Duration::from_millis(250);
/// A client may pause for about 30 s in the middle of a message.
const MOST_STALLED: u32 = 120;

/// How a batch ended.
#[derive(Debug)]
pub(in crate::client) enum Outcome {
    /// Everything owed has arrived.
    Done,
    /// The client has to send more before the server goes on (a Sync behind COPY data).
    Open,
    /// The client has seen nothing yet: repeat it elsewhere.
    Repeat(Replay),
    /// Everything has come and the server is gone: what is left of the answer is still to be written.
    Leftover,
    /// The server has ended this session in its own words: an ErrorResponse frame.
    Farewell(Vec<u8>),
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

/// A batch's answer is about to begin; `hold` if the batch could be repeated elsewhere.
pub(super) fn begin(hold: bool, on_standby: bool, processes: (i32, i32)) -> Progress {
    Progress {
        hold,
        on_standby,
        processes,
        ..Progress::default()
    }
}

/// What a server says later to a batch that the client has left open, such as the end of a COPY under the
/// extended protocol. Ready when something was passed on; none when the server is gone.
pub(super) fn poll_overdue(
    cx: &mut Context<'_>,
    client: &mut Connection,
    state: &mut State,
    server: &mut Server,
    progress: &mut Progress,
) -> Poll<Option<()>> {
    let Server { socket, talk, .. } = server;
    let mut reply = ServerReply {
        client,
        state,
        talk,
        progress,
    };
    match socket.poll_read(cx, |chunk| reply.take(chunk)) {
        Poll::Pending => Poll::Pending,
        Poll::Ready(Ok(Some(Ok(())))) => Poll::Ready(Some(())),
        Poll::Ready(_) => Poll::Ready(None),
    }
}

/// One batch's passage.
pub(super) struct Relay<'a> {
    pub(super) client: &'a mut Connection,
    pub(super) state: &'a mut State,
    pub(super) server: &'a mut Server,
    pub(super) cluster: &'a ClusterState,
    pub(super) look_after: &'a mut LookAfter,
    /// Bytes for the server that it could not take yet.
    pub(super) to_server: Vec<u8>,
    /// Bytes of a large message that are still to be passed through.
    pub(super) large: usize,
    /// The look at a large text that passes.
    pub(super) skim: Option<Skim<Arc<Catalog>>>,
    /// A Flush must follow the large message, or its answer would wait for the Sync.
    pub(super) flush_after_large: bool,
    /// Bytes of the batch itself that stay in the inbox because it could be repeated.
    pub(super) kept: usize,
    /// What the batch takes beside its bytes.
    pub(super) beside: usize,
    pub(super) progress: Progress,
    /// Looks in a row that found a message unfinished and nothing new of it.
    pub(super) stalled: u32,
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
            if !self.client.out.is_empty() && !self.progress.hold {
                match self.client.socket.poll_write(cx, &mut self.client.out) {
                    Poll::Ready(Err(_)) => return Poll::Ready(Outcome::ClientGone),
                    Poll::Ready(Ok(())) | Poll::Pending => {}
                }
            }
            let client_waits = self.client.out.is_empty() || self.progress.hold;
            if client_waits
                && self.to_server.is_empty()
                && self.large == 0
                && !self.server.talk.upstream.is_inside()
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
            if progress {
                self.stalled = 0;
            } else {
                let look = self.look_after.poll(cx);
                if look && self.is_owed_by_client() {
                    self.stalled += 1;
                    if self.stalled > MOST_STALLED {
                        let what = "terminating connection: the rest of a message did not come";
                        let problem = Problem::fatal(Kind::ProtocolViolation, what);
                        return Poll::Ready(Outcome::Broken(problem));
                    }
                }
                if look && self.is_given_up() {
                    return Poll::Ready(self.lost());
                }
                self.client.count(self.to_server.len() + self.beside);
                return Poll::Pending;
            }
        }
    }

    /// Another node may do what can be repeated; everything else waits for as long as there is hope.
    fn is_given_up(&self) -> bool {
        let patience_us = match self.progress.hold {
            true => HASTE_US,
            false => PATIENCE_US,
        };
        let topology = self.cluster.topology();
        !self.server.may_go_on(&topology, patience_us)
    }

    /// The rest of a message that has been begun holds the server connection.
    fn is_owed_by_client(&self) -> bool {
        self.to_server.is_empty() && (self.large > 0 || self.server.talk.upstream.is_inside())
    }

    fn ended(&mut self) -> Option<Outcome> {
        let exchange = &self.server.talk.exchange;
        if exchange.owes_nothing() && exchange.copy() == Copy::No {
            return Some(match self.progress.repeat.take() {
                Some(why) => Outcome::Repeat(why),
                None => {
                    // Held back and never decided: a batch without rows, such as Parse and Flush.
                    self.progress.hold = false;
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
        if let Some(frame) = self.progress.farewell.take() {
            return Outcome::Farewell(frame);
        }
        let talk = &self.server.talk;
        if talk.exchange.owes_nothing()
            && !talk.walker.is_inside()
            && self.progress.repeat.is_none()
        {
            // Everything has come; what the client has not taken yet goes on to it.
            self.server.talk.exchange.gone();
            return match self.client.out.is_empty() {
                true => Outcome::Done,
                false => Outcome::Leftover,
            };
        }
        match self.progress.repeat.take() {
            Some(why) => Outcome::Repeat(why),
            None if self.progress.hold => {
                // It comes again from the next node.
                self.client.out.clear();
                Outcome::Repeat(Replay::NodeLost)
            }
            None => Outcome::ServerLost,
        }
    }

    fn poll_server(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Outcome>> {
        let Self {
            client,
            state,
            server,
            progress,
            ..
        } = self;
        let Server { socket, talk, .. } = &mut **server;
        let mut reply = ServerReply {
            client,
            state,
            talk,
            progress,
        };
        match socket.poll_read(cx, |chunk| reply.take(chunk)) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(Some(Ok(())))) => Poll::Ready(Ok(())),
            Poll::Ready(Ok(Some(Err(Fault::Client)))) => Poll::Ready(Err(Outcome::ClientGone)),
            Poll::Ready(Ok(Some(Err(Fault::Server))))
            | Poll::Ready(Ok(None))
            | Poll::Ready(Err(_)) => Poll::Ready(Err(self.lost())),
        }
    }

    fn poll_client(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Outcome>> {
        // A frame of data that was begun before the COPY failed is owed to the server to its end; it
        // ignores it. Otherwise its rest would be read as messages.
        let copying =
            self.server.talk.exchange.copy() != Copy::No || self.server.talk.upstream.is_inside();
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
        if let Some(skim) = &mut self.skim {
            skim.feed(&self.client.inbox[..part]);
        }
        self.send(part);
        self.large -= part;
        if self.large == 0
            && let Some(skim) = self.skim.take()
        {
            self.skimmed(&skim.finish());
        }
        if self.large == 0 && self.flush_after_large {
            self.to_server.extend_from_slice(frame::FLUSH);
        }
        part > 0
    }

    fn skimmed(&mut self, found: &Skimmed) {
        self.state.skimmed(found);
        if found.forgets {
            self.server.talk.forget_prepared();
        }
    }

    /// Passes on COPY data; true when anything was.
    fn pass_copy(&mut self) -> Result<bool, Problem> {
        let mut at = 0;
        let mut ended = false;
        let mut skip = None;
        let failed = self.server.talk.exchange.copy() == Copy::No;
        loop {
            if failed && !self.server.talk.upstream.is_inside() {
                break;
            }
            let before = at;
            let piece = self
                .server
                .talk
                .upstream
                .next(&self.client.inbox, &mut at, |tag| {
                    tag == frontend::COPY_DATA
                })
                .map_err(|error| Problem::fatal(Kind::ProtocolViolation, error.to_string()))?;
            match piece {
                Some(Piece::Frame {
                    tag: frontend::COPY_DONE | frontend::COPY_FAIL,
                    ..
                }) => ended = true,
                Some(
                    Piece::Frame {
                        tag: frontend::COPY_DATA,
                        ..
                    }
                    | Piece::Start {
                        tag: frontend::COPY_DATA,
                        ..
                    }
                    | Piece::More(_),
                ) => {}
                // The server ignores these while it reads COPY data.
                Some(Piece::Frame {
                    tag: frontend::SYNC | frontend::FLUSH,
                    ..
                }) => skip = Some((before, at)),
                Some(Piece::Frame { tag, .. } | Piece::Start { tag, .. }) => {
                    let what =
                        format!("unexpected message type 0x{tag:02X} during COPY from stdin");
                    let error = Problem::error(Kind::ProtocolViolation, what);
                    let reply = Reply::new().error(&error);
                    self.client.out.extend_from_slice(reply.as_bytes());
                    let lost = "terminating connection because protocol synchronization was lost";
                    return Err(Problem::fatal(Kind::ProtocolViolation, lost));
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
            self.server.talk.exchange.copy_ended();
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
        put_fakes(
            &mut self.server.talk.exchange,
            &mut self.state.names,
            &mut self.client.out,
        );
    }
}
