//! What a server's answer means on its way to the client: every frame is held against what is owed,
//! and passed on, swallowed, or the reason to repeat the batch elsewhere.

use crate::backend::prepared::{NAME_PREFIX, Shape};
use crate::backend::server::Conversation;
use crate::client::connection::Connection;
use crate::client::state::State;
use crate::client::state::names::Names;
use crate::core::exchange::{Exchange, Fate, Owed, TransactionStatus};
use crate::core::mutant::{Rule, holds};
use crate::core::route::Replay;
use crate::core::tag::{backend, field};
use crate::wire::frame::{self, HEADER, Piece};
use crate::wire::reply::{Reply, error_field};

/// Hexadecimal digits of the token in a statement's name on servers.
const TOKEN: usize = 16;

/// An answer is held back, to be repeated elsewhere if need be, up to so many bytes.
const MOST_HELD: usize = 256 * 1024;

/// Which side has broken.
pub(super) enum Fault {
    Client,
    Server,
}

/// How far an answer has come.
#[derive(Debug, Default)]
pub(in crate::client) struct Progress {
    /// Nothing decisive has come yet, and the batch could be repeated.
    pub(in crate::client) hold: bool,
    /// A standby answers.
    pub(in crate::client) on_standby: bool,
    /// The connection may have been made to listen unseen, which another is then to take over.
    pub(in crate::client) may_listen: bool,
    /// Why it is to be repeated.
    pub(in crate::client) repeat: Option<Replay>,
    /// The client was told of an error.
    pub(in crate::client) failed: bool,
    /// A prepared statement's plan no longer fits its tables.
    pub(in crate::client) plan_outdated: bool,
    /// The server has ended this session, in its own words.
    pub(in crate::client) farewell: Option<Vec<u8>>,
    /// The client's process id, and the server's, which notifications bear.
    pub(in crate::client) processes: (i32, i32),
}

/// Walks one chunk from the server.
pub(super) struct ServerReply<'a> {
    pub(super) client: &'a mut Connection,
    pub(super) state: &'a mut State,
    pub(super) talk: &'a mut Conversation,
    pub(super) progress: &'a mut Progress,
}

impl ServerReply<'_> {
    pub(super) fn take(&mut self, chunk: &[u8]) -> (usize, Result<(), Fault>) {
        let mut at = 0;
        // Where the bytes begin that are to be forwarded and have not been put anywhere yet.
        let mut run = 0;
        loop {
            let before = at;
            let (tag, bytes, whole) = match self.talk.walker.next(chunk, &mut at, |tag| {
                matches!(tag, backend::DATA_ROW | backend::COPY_DATA)
            }) {
                Err(_) => return (chunk.len(), Err(Fault::Server)),
                Ok(None) => break,
                Ok(Some(Piece::More(_))) => continue,
                Ok(Some(Piece::Frame { tag, bytes })) => (tag, bytes, true),
                Ok(Some(Piece::Start { tag, bytes })) => (tag, bytes, false),
            };
            if tag == backend::ERROR && is_fatal(bytes) && !is_farewell(bytes) {
                // The session's own doing, such as idle_in_transaction_session_timeout.
                self.progress.farewell = Some(bytes.to_vec());
                let told = self.forward(&chunk[run..before]);
                return (chunk.len(), told.and(Err(Fault::Server)));
            }
            if tag == backend::ERROR && is_farewell(bytes) {
                if self.talk.exchange.owes_nothing() {
                    // All is answered: the session need not know that it is on its own again.
                    self.talk.exchange.gone();
                    let told = self.forward(&chunk[run..before]);
                    return (chunk.len(), told);
                }
                // The connection is as good as lost, and so is this statement; the session need not be.
                self.talk.farewell = Some(bytes.to_vec());
                let told = self.forward(&chunk[run..before]);
                return (chunk.len(), told.and(Err(Fault::Server)));
            }
            if matches!(tag, backend::ROW_DESCRIPTION | backend::NO_DATA)
                && self.talk.exchange.describes_named()
            {
                self.described(bytes, whole);
            }
            if tag == backend::ERROR && self.talk.exchange.parses() {
                self.state.names.refused_to_parse();
            }
            let mut renamed = None;
            let mut fate = self
                .talk
                .exchange
                .received(tag, bytes.get(HEADER).copied().unwrap_or(0));
            match tag {
                backend::DATA_ROW | backend::COPY_DATA | backend::ROW_DESCRIPTION => {}
                backend::PARSE_COMPLETE => {
                    self.talk.parsing.pop_front();
                    if fate == Fate::Forward {
                        self.state.names.confirmed();
                    }
                }
                backend::PARAMETER_STATUS if is_hot_standby(bytes) => fate = Fate::Swallow,
                backend::PARAMETER_STATUS => {
                    self.talk.note_parameter(&bytes[HEADER..]);
                    if fate == Fate::Forward
                        && let Some((name, value)) = frame::parameter(&bytes[HEADER..])
                    {
                        self.state.reported(&name, &value);
                        match self.state.application_name.in_place_of(&name, &value) {
                            None => {}
                            Some(told) if told.is_empty() => fate = Fate::Swallow,
                            Some(told) => {
                                let frame = Reply::new().parameter(&name, &told);
                                renamed = Some(frame.as_bytes().to_vec());
                            }
                        }
                    }
                }
                backend::COMMAND_COMPLETE => {
                    let tag = bytes.get(HEADER..).unwrap_or_default();
                    self.state.flushes.completed(tag);
                }
                // It comes by the connection that listens for the session.
                backend::NOTIFICATION if self.is_heard_elsewhere(bytes) => fate = Fate::Swallow,
                backend::NOTIFICATION if self.client.owes_ready => {
                    self.talk.unasked.extend_from_slice(bytes);
                    fate = Fate::Swallow;
                }
                backend::NOTIFICATION => {
                    self.state.after.told = true;
                    renamed = self.notification(bytes);
                }
                backend::ERROR => renamed = self.error(bytes),
                _ => {}
            }
            // In a failed transaction it was refused before it began.
            let unbegun = tag == backend::ERROR
                && self.talk.exchange.status() == TransactionStatus::Failed
                && error_field(bytes, field::SQLSTATE) == Some(b"25P02");
            if let Some(finished) = self.talk.exchange.take_finished().filter(|_| !unbegun) {
                let done = bytes.get(HEADER..).unwrap_or_default();
                self.state.finished(&finished, done, self.talk);
            }
            match tag {
                // What is repeated on another node has not failed.
                backend::ERROR if self.progress.repeat.is_none() => {
                    self.progress.failed = true;
                    self.state.failed();
                }
                backend::READY if fate != Fate::OutOfStep => {
                    let status = bytes
                        .get(HEADER)
                        .copied()
                        .and_then(TransactionStatus::from_byte);
                    let status = status.unwrap_or_default();
                    self.state.ready(status, self.talk);
                    let unseen = self.progress.may_listen && self.state.is_in_doubt();
                    if status == TransactionStatus::Idle
                        && fate == Fate::Forward
                        && (unseen || self.state.channels.holds_up())
                    {
                        // It comes once the notifications before it are there, and what was listened to
                        // is heard from then on.
                        self.client.owes_ready = true;
                        self.progress.hold = false;
                        fate = Fate::Swallow;
                    }
                }
                _ => {}
            }
            if fate == Fate::OutOfStep {
                return (chunk.len(), Err(Fault::Server));
            }
            if let Some(renamed) = renamed {
                self.client.out.extend_from_slice(&chunk[run..before]);
                self.client.out.extend_from_slice(&renamed);
                run = at;
                self.progress.hold = false;
            } else if fate == Fate::Swallow || self.progress.repeat.is_some() {
                self.client.out.extend_from_slice(&chunk[run..before]);
                if self.progress.repeat.is_some() {
                    self.client.out.clear();
                }
                run = at;
            } else if self.progress.hold && is_decisive(tag) {
                self.progress.hold = false;
            }
            if self.talk.exchange.has_fake() && self.progress.repeat.is_none() {
                self.client.out.extend_from_slice(&chunk[run..at]);
                run = at;
                put_fakes(
                    &mut self.talk.exchange,
                    &mut self.state.names,
                    &mut self.client.out,
                );
            }
        }
        (at, self.forward(&chunk[run..at]))
    }

    fn forward(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        let out = &mut self.client.out;
        if out.len() > MOST_HELD {
            self.progress.hold = false;
        }
        if self.progress.hold || !out.is_empty() {
            out.extend_from_slice(bytes);
            if self.progress.hold || out.is_empty() {
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

    fn described(&mut self, bytes: &[u8], whole: bool) {
        // Of a description that comes in parts the shape is not known.
        if let Some((id, name)) = self.talk.describing.pop_front()
            && whole
        {
            let shape = Shape::of_frame(bytes);
            self.talk.held.set_shape(id, shape);
            self.state.names.described(&name, id, shape);
        }
    }

    /// An error; if it speaks of a statement by the name that only the server knows, in the client's
    /// terms.
    fn error(&mut self, bytes: &[u8]) -> Option<Vec<u8>> {
        self.talk.describing.clear();
        for id in self.talk.parsing.drain(..).flatten() {
            self.talk.held.remove(id);
        }
        self.talk.unnamed = None;
        self.talk.unshelve();
        self.talk.doubt_exposed();
        let field = |code| error_field(bytes, code).unwrap_or_default();
        let sqlstate = field(field::SQLSTATE);
        if sqlstate == b"0A000" && field(field::ROUTINE) == b"RevalidateCachedQuery" {
            self.progress.plan_outdated = true;
        } else if self.progress.hold {
            // What the primary refuses is refused, though it might be asked again.
            let standby = self.progress.on_standby;
            let why = Replay::after(sqlstate);
            self.progress.repeat = why.filter(|why| standby || *why == Replay::NodeLost);
        }
        if self.progress.repeat.is_some() {
            return None;
        }
        self.in_own_words(bytes, sqlstate)
    }

    /// An error that speaks of a statement by the name that only the server knows, in the client's terms.
    fn in_own_words(&mut self, bytes: &[u8], sqlstate: &[u8]) -> Option<Vec<u8>> {
        let message = error_field(bytes, field::MESSAGE)?;
        let (id, length) = server_name_in(message)?;
        if sqlstate == b"26000" {
            self.talk.held.remove(id);
        }
        let names = &self.state.names;
        let in_vain = names.wanted_in_vain().filter(|_| sqlstate == b"42P05");
        let name = in_vain.or_else(|| names.name_of(id))?;
        Some(with_message(bytes, length, name))
    }

    fn is_heard_elsewhere(&self, bytes: &[u8]) -> bool {
        channel_of(bytes).is_some_and(|channel| self.state.channels.has(channel))
    }

    /// A notification of the session's own bears the process id that the client was told at its login.
    fn notification(&self, bytes: &[u8]) -> Option<Vec<u8>> {
        own_notification(bytes, self.progress.processes)
    }
}

/// The channel of a NotificationResponse.
fn channel_of(frame: &[u8]) -> Option<&[u8]> {
    let (channel, _) = frame::cstr(frame.get(HEADER + 4..)?)?;
    Some(channel)
}

/// A NotificationResponse with the client's own process id in place of its server's; none when it is
/// somebody else's.
pub(in crate::client) fn own_notification(frame: &[u8], processes: (i32, i32)) -> Option<Vec<u8>> {
    let (own, server) = processes;
    let process = frame.get(HEADER..)?.first_chunk::<4>()?;
    if i32::from_be_bytes(*process) != server || !holds(Rule::OwnProcessId) {
        return None;
    }
    let mut renamed = frame.to_vec();
    renamed[HEADER..HEADER + 4].copy_from_slice(&own.to_be_bytes());
    Some(renamed)
}

/// Whether a server ends the session.
pub(in crate::client) fn is_fatal(frame: &[u8]) -> bool {
    matches!(
        error_field(frame, field::SEVERITY_NAME),
        Some(b"FATAL" | b"PANIC")
    )
}

/// The number in a statement's name on servers, where a text speaks of one, and how long the name is.
fn server_name_in(text: &[u8]) -> Option<(u64, usize)> {
    let prefix = NAME_PREFIX.as_bytes();
    let at = text.windows(prefix.len()).position(|part| part == prefix)?;
    let rest = text.get(at + prefix.len()..)?;
    let (token, rest) = rest.split_at_checked(TOKEN)?;
    if !token.iter().all(u8::is_ascii_hexdigit) || rest.first() != Some(&b'_') {
        return None;
    }
    let digits = rest[1..].iter().take_while(|byte| byte.is_ascii_digit());
    let (id, count) = digits.fold((0u64, 0), |(id, count), digit| {
        (
            id.wrapping_mul(10).wrapping_add(u64::from(digit - b'0')),
            count + 1,
        )
    });
    Some((id, prefix.len() + TOKEN + 1 + count))
}

/// An error frame in which a statement's name on servers, so many bytes long, is replaced.
fn with_message(frame: &[u8], length: usize, word: &[u8]) -> Vec<u8> {
    let body = &frame[HEADER..];
    let prefix = NAME_PREFIX.as_bytes();
    let Some(at) = body.windows(prefix.len()).position(|part| part == prefix) else {
        return frame.to_vec();
    };
    let mut renamed = Vec::with_capacity(frame.len() + word.len());
    frame::write(&mut renamed, backend::ERROR, |out| {
        out.extend_from_slice(&body[..at]);
        out.extend_from_slice(word);
        out.extend_from_slice(body.get(at + length..).unwrap_or_default());
    });
    renamed
}

/// Notifications as whole frames, each that is the session's own under its own process id.
pub(in crate::client) fn in_own_name(frames: &[u8], processes: (i32, i32)) -> Vec<u8> {
    let mut walker = frame::Walker::default();
    let (mut at, mut told) = (0, Vec::with_capacity(frames.len()));
    while let Ok(Some(Piece::Frame { bytes, .. })) = walker.next(frames, &mut at, |_| false) {
        match own_notification(bytes, processes) {
            Some(own) => told.extend_from_slice(&own),
            None => told.extend_from_slice(bytes),
        }
    }
    told
}

/// Whether a server takes its leave: it shuts down, crashes, or was told to end this session.
pub(in crate::client) fn is_farewell(frame: &[u8]) -> bool {
    let field = |code| error_field(frame, code).unwrap_or_default();
    matches!(field(field::SEVERITY_NAME), b"FATAL" | b"PANIC")
        && matches!(
            field(field::SQLSTATE),
            b"57P01" | b"57P02" | b"57P03" | b"57P05"
        )
}

/// Whether the client learns something by this frame that could differ on another node.
fn is_decisive(tag: u8) -> bool {
    !matches!(
        tag,
        backend::PARSE_COMPLETE
            | backend::BIND_COMPLETE
            | backend::CLOSE_COMPLETE
            | backend::PARAMETER_DESCRIPTION
            | backend::ROW_DESCRIPTION
            | backend::NO_DATA
            | backend::PARAMETER_STATUS
    )
}

/// Whether a ParameterStatus frame is `in_hot_standby`.
pub(in crate::client) fn is_hot_standby(bytes: &[u8]) -> bool {
    frame::cstr(&bytes[HEADER..]).is_some_and(|(name, _)| name == b"in_hot_standby")
}

/// Answers in the server's place what was not sent to it.
pub(super) fn put_fakes(exchange: &mut Exchange, names: &mut Names, out: &mut Vec<u8>) {
    while let Some(fake) = exchange.next_fake() {
        match fake {
            Owed::FakeParse => {
                names.confirmed();
                out.extend_from_slice(frame::PARSE_COMPLETE);
            }
            _ => {
                names.confirmed();
                out.extend_from_slice(frame::CLOSE_COMPLETE);
            }
        }
    }
}
