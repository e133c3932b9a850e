//! Waiting for the client between batches, with an ear for the server that is held and for the end
//! of the proxy.

use std::task::Poll;

use tokio::time::Instant;

use super::hearing::{Hearing, was_told};
use super::inquiry::Inquiry;
use super::kept::{self, Vigil};
use crate::client::attachment::Attachment;
use crate::client::attachment::context::Context;
use crate::client::connection::{Connection, Ending};
use crate::client::outcome::aborted;
use crate::client::relay::{self, is_farewell, is_fatal, is_hot_standby, own_notification};
use crate::client::state::State;
use crate::core::tag::backend;
use crate::core::topology::PATIENCE_US;
use crate::error::{Kind, Problem};
use crate::wire::frame::{HEADER, Piece, Walker};

/// What a held server said to an idle session.
#[derive(Debug, Default)]
struct Heard {
    /// Notices, notifications, parameters: whole messages, since it is idle.
    bytes: Vec<u8>,
    parameters: Vec<Vec<u8>>,
    /// A notification is among it.
    notified: bool,
    /// It has ended the session, in these words.
    farewell: Option<Vec<u8>>,
    /// It has gone, as servers do.
    gone: bool,
}

impl Heard {
    fn is_something(&self) -> bool {
        let quiet = self.bytes.is_empty() && self.parameters.is_empty();
        !quiet || self.farewell.is_some() || self.gone
    }
}

/// What ended the waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Listened {
    /// Something was heard, if only from the server.
    Something,
    /// It is time to ask whether the held connection is still needed.
    Look,
}

/// Waits for more from the client; what a held server says meanwhile is passed on.
pub(super) async fn listen(
    client: &mut Connection,
    state: &mut State,
    context: &mut Context,
    held: &mut Option<Attachment>,
    hearing: Option<&Hearing>,
    (vigil, inquiry): (&Vigil, &Inquiry),
) -> Result<Listened, Ending> {
    let outlives = held
        .as_mut()
        .is_some_and(|held| aborted::may_outlive(held, state, context));
    let kept = held.as_mut().is_some_and(|held| held.server().is_free());
    if kept && let Some(problem) = over(held, context) {
        return Err(leave(held, context, problem).await);
    }
    let process = context.slot.process();
    let Context {
        look_after,
        draining,
        worker,
        database,
        ..
    } = context;
    // PostgreSQL counts the silence of a session outside of a transaction (`idle_session_timeout`).
    let mut silence = match (&held, state.idle_timeout()) {
        (None, Some(bound)) => Some(Box::pin(tokio::time::sleep(bound))),
        (Some(_), _) if kept => {
            let ends = vigil.ends(state.borne_silence());
            ends.map(|ends| Box::pin(tokio::time::sleep_until(ends)))
        }
        _ => None,
    };
    let asks = kept && state.pins().may_have_ended();
    // In a transaction notifications wait for its end.
    let hearing = hearing.filter(|_| kept || held.is_none());
    let mut server = held.as_mut().map(Attachment::server);
    // It may have come together with the answer to a question of our own.
    let mut left_over = server.as_mut().and_then(|server| {
        let processes = (process, server.cancel.process);
        let look = |bytes: &[u8]| whole_frames(bytes, outlives, processes);
        let owes_nothing = server.talk.exchange.owes_nothing();
        owes_nothing.then(|| server.socket.again(look)).flatten()
    });
    let ended = std::future::poll_fn(|cx| {
        if let Some(heard) = left_over.take().filter(Heard::is_something) {
            return Poll::Ready(Ok(Some(heard)));
        }
        if let Some(server) = &mut server
            && !server.talk.exchange.owes_nothing()
        {
            let mut progress = relay::begin(false, false, (process, server.cancel.process));
            match relay::poll_overdue(cx, client, state, server, &mut progress) {
                Poll::Ready(Some(())) => return Poll::Ready(Ok(Some(Heard::default()))),
                Poll::Ready(None) => return Poll::Ready(Err(Lost::Server)),
                Poll::Pending => {}
            }
        } else if let Some(server) = &mut server {
            let processes = (process, server.cancel.process);
            let read = server
                .socket
                .poll_read(cx, |bytes| whole_frames(bytes, outlives, processes));
            match read {
                Poll::Ready(Ok(Some(heard))) => return Poll::Ready(Ok(Some(heard))),
                Poll::Ready(_) => return Poll::Ready(Err(Lost::Server)),
                Poll::Pending => {}
            }
        }
        if let Some(server) = &mut server
            && look_after.poll(cx)
        {
            if kept && !worker.common.pause.is_open(&database.name) {
                return Poll::Ready(Err(Lost::Over));
            }
            if !server.may_go_on(&worker.common.cluster.topology(), PATIENCE_US) {
                return Poll::Ready(Err(if kept { Lost::Over } else { Lost::Server }));
            }
            let now = Instant::now();
            if asks && (vigil.is_due(now) || inquiry.is_due(now)) {
                return Poll::Ready(Err(Lost::Nothing));
            }
        }
        if let Some(hearing) = hearing
            && let Poll::Ready(ended) = hearing.poll(cx, client, state, &worker.common.cluster)
        {
            return Poll::Ready(Err(ended.map_or(Lost::Client, Lost::Deaf)));
        }
        if (kept || server.is_none()) && draining.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(Lost::Us));
        }
        if silence
            .as_mut()
            .is_some_and(|silence| silence.as_mut().poll(cx).is_ready())
        {
            return Poll::Ready(Err(Lost::Patience));
        }
        match client.poll_fill(cx) {
            Poll::Ready(Ok(())) if client.ended => Poll::Ready(Err(Lost::Client)),
            Poll::Ready(Ok(())) => Poll::Ready(Ok(None)),
            Poll::Ready(Err(_)) => Poll::Ready(Err(Lost::Client)),
            Poll::Pending => Poll::Pending,
        }
    })
    .await;
    let lost = match ended {
        Ok(None) => return Ok(Listened::Something),
        Ok(Some(heard)) => {
            if let Some(server) = &mut server {
                for body in &heard.parameters {
                    server.talk.note_parameter(body);
                }
                if heard.notified {
                    was_told(&server.origin, state, &worker.common.cluster);
                }
            }
            if !heard.bytes.is_empty() {
                client.tell(&heard.bytes).await?;
            }
            match (heard.farewell, heard.gone) {
                (Some(frame), _) => {
                    if let Some(held) = held.take() {
                        held.discard(context);
                    }
                    return Err(Ending::Said(frame));
                }
                (None, false) => return Ok(Listened::Something),
                (None, true) => Lost::Server,
            }
        }
        Err(lost) => lost,
    };
    match lost {
        Lost::Nothing => {
            // A server that is about to be stopped is asked nothing.
            let held = held.as_mut();
            let asks = held.is_some_and(|held| kept::may_begin(context, held));
            Ok(match asks {
                true => Listened::Look,
                false => Listened::Something,
            })
        }
        Lost::Client => Err(Ending::Quiet),
        Lost::Deaf(ending) => Err(ending),
        Lost::Patience => Err(Ending::Problem(Problem::fatal(
            Kind::IdleSessionTimeout,
            "terminating connection due to idle-session timeout",
        ))),
        Lost::Us => Err(Ending::Problem(Problem::fatal(
            Kind::AdminShutdown,
            "terminating connection: causeway is shutting down",
        ))),
        Lost::Server if outlives => {
            if let Some(held) = held.take() {
                aborted::transaction_lost(held, state, context);
            }
            Ok(Listened::Something)
        }
        Lost::Server | Lost::Over => {
            let node = held.as_ref().map(|held| held.node_name().clone());
            let over = match lost {
                Lost::Over => over(held, context),
                _ => None,
            };
            let open = held.as_mut().is_some_and(aborted::is_open);
            let farewell = held.as_mut();
            let farewell = farewell.and_then(|held| held.server().talk.farewell.take());
            if let Some(frame) = farewell {
                if let Some(held) = held.take() {
                    held.discard(context);
                }
                return Err(Ending::Said(frame));
            }
            let problem = over.unwrap_or_else(|| match open {
                true => aborted::rolled_back(),
                false => kept::lost(&node.unwrap_or_default()),
            });
            Err(leave(held, context, problem).await)
        }
    }
}

/// Why the session that keeps this idle connection is over, if it is.
fn over(held: &mut Option<Attachment>, context: &Context) -> Option<Problem> {
    let common = &context.worker.common;
    let database = &context.database.name;
    if !common.pause.is_open(database) {
        return Some(kept::paused(database));
    }
    kept::is_over(held.as_mut()?, &common.cluster.topology())
}

async fn leave(held: &mut Option<Attachment>, context: &Context, problem: Problem) -> Ending {
    let Some(mut held) = held.take() else {
        return Ending::Problem(problem);
    };
    let ending = kept::last_words(&mut held, problem).await;
    held.discard(context);
    ending
}

/// Takes whole frames only, so that the next batch's answer begins with a frame. What differs between
/// a standby and the primary is not the client's business.
fn whole_frames(bytes: &[u8], outlives: bool, processes: (i32, i32)) -> (usize, Heard) {
    let mut walker = Walker::default();
    let mut at = 0;
    let mut heard = Heard::default();
    while let Ok(Some(Piece::Frame { tag, bytes })) = walker.next(bytes, &mut at, |_| false) {
        match tag {
            backend::PARAMETER_STATUS if is_hot_standby(bytes) => {}
            // A server's farewell is no news to a session that goes on without it.
            backend::ERROR if outlives && is_farewell(bytes) => heard.gone = true,
            backend::ERROR if is_fatal(bytes) => heard.farewell = Some(bytes.to_vec()),
            backend::NOTIFICATION => {
                heard.notified = true;
                match own_notification(bytes, processes) {
                    Some(own) => heard.bytes.extend_from_slice(&own),
                    None => heard.bytes.extend_from_slice(bytes),
                }
            }
            _ => {
                if tag == backend::PARAMETER_STATUS {
                    heard.parameters.push(bytes[HEADER..].to_vec());
                }
                heard.bytes.extend_from_slice(bytes);
            }
        }
    }
    (at, heard)
}

enum Lost {
    /// Nothing is lost; the held connection is worth a question.
    Nothing,
    /// A connection that was kept is to be given up.
    Over,
    /// The session has been silent for as long as it had asked for.
    Patience,
    Client,
    /// The session is to end for what it has not heard.
    Deaf(Ending),
    Server,
    /// The proxy is ending.
    Us,
}
