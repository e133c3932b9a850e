//! Gathering what a client sends into batches: as much as is routed as one.
//!
//! A batch is a simple query, a function call, or the messages of the extended protocol up to Sync
//! or Flush. Its bytes stay in the session's inbox until its first answer is on its way, so that it
//! can be repeated on another node.

use std::sync::Arc;

use super::names::Names;
use super::worker::Database;
use crate::backend::prepared::{Prepared, Shape};
use crate::core::session::Level;
use crate::core::statement::{Access, Effect, Isolation, Statement, WriteReason};
use crate::error::{Kind, Problem};
use crate::wire::frame::{self, HEADER, WHOLE};

/// An extended batch that grows beyond this without a Sync is sent on in parts, in bytes.
const MAX_BATCH: usize = 4 * WHOLE;
/// A named statement's text may be this long, in bytes: it is kept for other server connections.
const MAX_NAMED_PARSE: usize = 16 * 1024 * 1024;

/// Room for this many messages is kept from batch to batch.
const KEPT_MESSAGES: usize = 8;

/// One message of a batch.
#[derive(Debug)]
pub(super) struct Message {
    /// Its tag.
    pub(super) tag: u8,
    /// Where it begins in the inbox.
    pub(super) start: usize,
    /// Where it ends.
    pub(super) end: usize,
    /// The statement that it parses, binds, describes or closes, if it is a known one.
    pub(super) prepared: Option<Arc<Prepared>>,
    /// It speaks of a named statement.
    pub(super) named: bool,
    /// A Bind of a statement of which the client expects rows of this shape.
    pub(super) shape: Option<Shape>,
    /// A Parse whose name is in use: the server must be made to refuse it.
    pub(super) taken: bool,
}

/// What ends a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// A simple query or a function call: ReadyForQuery follows.
    Query,
    /// Sync: ReadyForQuery follows.
    Sync,
    /// Flush: the server connection stays until a Sync.
    Flush,
    /// The batch is long: what there is goes ahead, as if a Flush stood here.
    Part,
    /// The last message is large: this many of its bytes are still to come and are passed through.
    Large(usize),
}

/// A batch under construction, then complete.
#[derive(Debug)]
pub(super) struct Batch {
    /// Its messages.
    pub(super) messages: Vec<Message>,
    /// Where it ends in the inbox.
    pub(super) length: usize,
    /// What ends it.
    pub(super) end: End,
    /// The strictest access that it needs.
    pub(super) access: Access,
    /// Why it is a write, if it is one.
    pub(super) write_reason: Option<WriteReason>,
    /// A commit in it may be acknowledged before it is flushed.
    pub(super) may_commit_async: bool,
    /// Level asked for by a comment.
    pub(super) level: Option<Level>,
    /// What was wrong with that comment.
    pub(super) hint_fault: Option<Box<str>>,
    /// What its statements do to the session.
    pub(super) effects: Vec<Effect>,
    /// How many statements it runs.
    pub(super) statements: usize,
    /// It brought an error.
    pub(super) failed: bool,
    /// It ended a transaction by rolling it back.
    pub(super) rolled_back: bool,
}

impl Default for Batch {
    fn default() -> Self {
        Self {
            messages: Vec::new(),
            length: 0,
            end: End::Sync,
            access: Access::Neutral,
            write_reason: None,
            may_commit_async: false,
            level: None,
            hint_fault: None,
            effects: Vec::new(),
            statements: 0,
            failed: false,
            rolled_back: false,
        }
    }
}

/// What the inbox holds.
#[derive(Debug)]
pub(super) enum Gathered {
    /// Not yet a whole batch.
    Incomplete,
    /// A batch.
    Batch,
    /// Data of a COPY that has failed: this many bytes are to be dropped.
    Drop(usize),
    /// The client says goodbye.
    Terminate,
}

/// What gathering needs of the session.
pub(super) struct Gatherer<'a> {
    /// The session's names.
    pub(super) names: &'a mut Names,
    /// The database's statements.
    pub(super) database: &'a Database,
    /// The session's `standard_conforming_strings`.
    pub(super) standard_strings: bool,
}

impl Batch {
    /// Takes further messages from the inbox until the batch is complete.
    pub(super) fn gather(
        &mut self,
        inbox: &[u8],
        mut gatherer: Gatherer<'_>,
    ) -> Result<Gathered, Problem> {
        loop {
            let rest = inbox.get(self.length..).unwrap_or_default();
            let header = frame::peek(rest)
                .map_err(|error| Problem::fatal(Kind::ProtocolViolation, error.to_string()))?;
            let Some((tag, size)) = header else {
                return Ok(Gathered::Incomplete);
            };
            if !is_known(tag) {
                let what = format!("invalid frontend message type {tag}");
                return Err(Problem::fatal(Kind::ProtocolViolation, what));
            }
            if matches!(tag, b'd' | b'c' | b'f') {
                if self.messages.is_empty() {
                    // The server ignores it too.
                    return Ok(Gathered::Drop(size));
                }
                // Data right behind its COPY, without waiting for the server to ask for it.
                self.end = End::Part;
                return Ok(Gathered::Batch);
            }
            if rest.len() < size && (size <= WHOLE || !may_stream(tag, rest)) {
                check_size(tag, size, rest.len())?;
                return Ok(Gathered::Incomplete);
            }
            let there = rest.len().min(size);
            let body = &rest[HEADER..there];
            let (start, end) = (self.length, self.length + there);
            self.length = end;
            let mut message = Message {
                tag,
                start,
                end,
                prepared: None,
                named: false,
                shape: None,
                taken: false,
            };
            match tag {
                b'X' => return Ok(Gathered::Terminate),
                b'Q' if size == there => {
                    let (text, _) = frame::cstr(body).ok_or_else(|| malformed("Query"))?;
                    let statement = gatherer.database.classify(text, gatherer.standard_strings);
                    self.runs(&statement, false);
                }
                b'P' if size == there => gatherer.parse(body, &mut message)?,
                b'Q' | b'P' | b'F' => {
                    self.runs(&Statement::unexamined(WriteReason::TooLarge), false);
                    if tag == b'P' {
                        gatherer.names.parse_unkept();
                    }
                }
                b'B' => {
                    let (_portal, names) = frame::cstr(body).ok_or_else(|| malformed("Bind"))?;
                    let (name, _) = frame::cstr(names).ok_or_else(|| malformed("Bind"))?;
                    gatherer.refer(name, &mut message);
                    match &message.prepared {
                        Some(prepared) => self.runs(&prepared.statement, prepared.is_refused()),
                        None => self.runs(&Statement::unexamined(WriteReason::Command), false),
                    }
                }
                b'D' | b'C' => {
                    let (kind, name) = body.split_first().ok_or_else(|| malformed("Describe"))?;
                    let (name, _) = frame::cstr(name).ok_or_else(|| malformed("Describe"))?;
                    if *kind == b'S' {
                        gatherer.refer(name, &mut message);
                        if tag == b'C' {
                            gatherer.names.close_message(name);
                        }
                    }
                }
                // To these the server objects without answering any message in particular.
                b'S' | b'H' if !body.is_empty() => return Err(malformed("Sync or Flush")),
                b'E' | b'S' | b'H' => {}
                _ => {
                    let what = format!("message type \"{}\" is out of order", char::from(tag));
                    return Err(Problem::fatal(Kind::ProtocolViolation, what));
                }
            }
            self.messages.push(message);
            self.end = match tag {
                _ if there < size => End::Large(size - there),
                b'Q' | b'F' => End::Query,
                b'S' => End::Sync,
                b'H' => {
                    // Until the Sync it is an open transaction, and what follows may write.
                    if self.access == Access::Read {
                        self.strictest(Access::Write, Some(WriteReason::Transaction));
                    }
                    End::Flush
                }
                _ if self.length > MAX_BATCH => {
                    // What follows is not known yet and may write.
                    self.strictest(Access::Write, Some(WriteReason::TooLarge));
                    End::Part
                }
                _ => continue,
            };
            return Ok(Gathered::Batch);
        }
    }

    /// Whether it was gathered under the simple protocol.
    pub(super) fn is_simple(&self) -> bool {
        matches!(
            self.messages.first(),
            Some(Message {
                tag: b'Q' | b'F',
                ..
            })
        )
    }

    /// Leaves nothing but the Sync that ends it; gives how many bytes stand before that.
    pub(super) fn reduce_to_sync(&mut self) -> usize {
        let before = self.length - HEADER;
        let sync = Message {
            tag: b'S',
            start: 0,
            end: HEADER,
            prepared: None,
            named: false,
            shape: None,
            taken: false,
        };
        *self = Self {
            messages: vec![sync],
            length: HEADER,
            ..Self::default()
        };
        before
    }

    /// Whether it only prepares, describes or closes.
    pub(super) fn runs_nothing(&self) -> bool {
        let harmless = |message: &Message| matches!(message.tag, b'P' | b'D' | b'C' | b'S');
        self.messages.iter().all(harmless)
    }

    /// Whether it is nothing but a Sync.
    pub(super) fn is_bare_sync(&self) -> bool {
        matches!(self.messages.as_slice(), [Message { tag: b'S', .. }])
    }

    /// Whether it opens a transaction, and if so, whether that may run on a standby.
    pub(super) fn read_only_transaction(&self) -> Option<bool> {
        self.effects.iter().find_map(|effect| match effect {
            Effect::Begin {
                read_only,
                isolation,
            } => Some(*read_only == Some(true) && *isolation != Some(Isolation::Serializable)),
            _ => None,
        })
    }

    /// Whether everything in it speaks of Causeway's own settings, which no server knows.
    ///
    /// So does `DEALLOCATE` of a statement that the client named by the protocol: on the servers it
    /// has another name.
    pub(super) fn is_own(&self, names: &Names) -> bool {
        let own = |effect: &Effect| match effect {
            Effect::Deallocate(Some(name)) => names.get(name.as_bytes()).is_some(),
            effect => effect.is_own(),
        };
        if self.is_simple() {
            return self.statements > 0
                && self.statements == self.effects.len()
                && self.effects.iter().all(own);
        }
        let mut statements = self
            .messages
            .iter()
            .filter_map(|m| m.prepared.as_ref())
            .peekable();
        statements.peek().is_some()
            && self
                .messages
                .iter()
                .all(|m| m.prepared.is_some() || !matches!(m.tag, b'P' | b'B'))
            && statements.all(|prepared| {
                let statement = &prepared.statement;
                statement.count > 0
                    && statement.count == statement.effects.len()
                    && statement.effects.iter().all(|step| own(&step.effect))
            })
    }

    /// Empties it for the next, keeping its memory.
    pub(super) fn clear(&mut self) {
        let mut messages = std::mem::take(&mut self.messages);
        let mut effects = std::mem::take(&mut self.effects);
        messages.clear();
        effects.clear();
        messages.shrink_to(KEPT_MESSAGES);
        *self = Self {
            messages,
            effects,
            ..Self::default()
        };
    }

    fn runs(&mut self, statement: &Statement, refused: bool) {
        if refused {
            self.strictest(Access::Write, Some(WriteReason::RefusedByStandby));
        }
        self.strictest(statement.access, statement.write_reason);
        self.may_commit_async |= statement.may_commit_async;
        self.statements += statement.count;
        let effects = statement.effects.iter().map(|step| step.effect.clone());
        self.effects.extend(effects);
        if let Some(hint) = &statement.hint {
            self.level = self.level.max_strict(hint.consistency);
            self.hint_fault = hint.fault.clone().or_else(|| self.hint_fault.take());
        }
    }

    fn strictest(&mut self, access: Access, reason: Option<WriteReason>) {
        if access > self.access {
            self.access = access;
            self.write_reason = reason;
        }
    }
}

/// Of the levels that the statements of one batch ask for, the strictest counts.
trait Stricter {
    fn max_strict(self, other: Self) -> Self;
}

impl Stricter for Option<Level> {
    fn max_strict(self, other: Self) -> Self {
        let rank = |level: &Level| Level::ALL.iter().position(|known| known == level);
        [self, other].into_iter().flatten().max_by_key(rank)
    }
}

impl Gatherer<'_> {
    fn parse(&mut self, body: &[u8], message: &mut Message) -> Result<(), Problem> {
        let (name, rest) = frame::cstr(body).ok_or_else(|| malformed("Parse"))?;
        message.named = !name.is_empty();
        if message.named && self.names.get(name).is_some() {
            message.prepared = self.names.get(name).cloned();
            message.taken = true;
            self.names.parse_in_vain(name);
            return Ok(());
        }
        if message.named && self.names.is_full() {
            let what = "a session cannot have more than 100000 prepared statements";
            return Err(Problem::fatal(Kind::ProgramLimitExceeded, what));
        }
        let prepared = self
            .database
            .prepare(rest, message.named, self.standard_strings)
            .ok_or_else(|| malformed("Parse"))?;
        self.names.parse(name, Arc::clone(&prepared));
        message.prepared = Some(prepared);
        Ok(())
    }

    fn refer(&mut self, name: &[u8], message: &mut Message) {
        message.named = !name.is_empty();
        let Some(known) = self.names.get(name).cloned() else {
            return;
        };
        message.prepared = Some(Arc::clone(&known));
        if !message.named {
            return;
        }
        let shape = self.names.shape(name);
        message.shape = shape.filter(|_| message.tag == b'B');
        // A client that knows the shape of its rows is told when it has changed; it must ask anew.
        let renewable = known.is_outdated() && shape.is_none();
        if (renewable || self.database.has_outgrown(&known))
            && let Some(renewed) = self
                .database
                .prepare(known.body(), true, self.standard_strings)
        {
            self.names.renew(name, Arc::clone(&renewed));
            message.prepared = Some(renewed);
        }
    }
}

fn malformed(what: &str) -> Problem {
    Problem::fatal(
        Kind::ProtocolViolation,
        format!("invalid message format: {what}"),
    )
}

/// Messages that a frontend may send after startup (manual, "Message Formats").
fn is_known(tag: u8) -> bool {
    matches!(
        tag,
        b'B' | b'C' | b'd' | b'c' | b'f' | b'D' | b'E' | b'H' | b'F' | b'P' | b'Q' | b'S' | b'X'
    )
}

/// Whether a large message can be sent on before it has arrived whole.
fn may_stream(tag: u8, bytes: &[u8]) -> bool {
    match tag {
        b'Q' | b'F' => bytes.len() >= HEADER,
        // A named statement's text has to be kept; an unnamed one's is kept by the server.
        b'P' => bytes.get(HEADER) == Some(&0),
        // Its names must be there, because the statement's is replaced.
        b'B' => frame::cstr(&bytes[HEADER..]).is_some_and(|(_, rest)| frame::cstr(rest).is_some()),
        _ => false,
    }
}

fn check_size(tag: u8, size: usize, there: usize) -> Result<(), Problem> {
    let limit = match tag {
        b'P' => MAX_NAMED_PARSE,
        // It streams as soon as its two names are there, and those are short.
        b'Q' | b'F' | b'B' if there < WHOLE => return Ok(()),
        _ => WHOLE,
    };
    if size <= limit {
        return Ok(());
    }
    let what = format!(
        "message \"{}\" of {size} bytes is too long",
        char::from(tag)
    );
    Err(Problem::fatal(Kind::ProgramLimitExceeded, what))
}
