//! Gathering what a client sends into batches: as much as is routed as one.
//!
//! A batch is a simple query, a function call, or the messages of the extended protocol up to Sync
//! or Flush. Its bytes stay in the session's inbox until its first answer is on its way, so that it
//! can be repeated on another node.

use std::sync::Arc;

use super::UNCOUNTED;
use super::gatherer::{Before, Gatherer};
use super::message::{Message, is_known, is_well_formed, malformed};
use super::room::{check_size, may_stream};
use crate::client::state::names::{Names, portal_bytes};
use crate::core::exchange::Effects;
use crate::core::plans::Constants;
use crate::core::session::Level;
use crate::core::statement::{Access, Effect, Isolation, Statement, Step, WriteReason, bound};
use crate::core::tag::{frontend, object};
use crate::core::traces::Knowledge;
use crate::error::{Kind, Problem};
use crate::wire::frame::{self, HEADER, WHOLE};

/// An extended batch that grows beyond this without a Sync is sent on in parts, in bytes.
const MAX_BATCH: usize = 4 * WHOLE;

/// Room for this many messages is kept from batch to batch.
const KEPT_MESSAGES: usize = 8;

/// What ends a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::client) enum End {
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
pub(in crate::client) struct Batch {
    /// Its messages.
    pub(in crate::client) messages: Vec<Message>,
    /// Where it ends in the inbox, and by what.
    pub(in crate::client) length: usize,
    pub(in crate::client) end: End,
    /// The strictest access that it needs; why it is a write, if it is one.
    pub(in crate::client) access: Access,
    pub(in crate::client) write_reason: Option<WriteReason>,
    /// A commit in it may be acknowledged before it is flushed.
    pub(in crate::client) may_commit_async: bool,
    pub(in crate::client) may_run_code: bool,
    /// How definitions were known when it began.
    pub(in crate::client) knowledge: Knowledge,
    pub(in crate::client) may_flush_nothing: bool,
    pub(in crate::client) settled: Constants,
    /// Level asked for by a comment, and what was wrong with that comment.
    pub(in crate::client) level: Option<Level>,
    pub(in crate::client) hint_fault: Option<Box<str>>,
    /// What its statements do to the session, by text.
    effects: Vec<Arc<[Step]>>,
    /// How many statements it runs.
    pub(in crate::client) statements: usize,
    /// What a Parse behind all of that is to heed.
    before: Before,
    /// There is no room for it; its last message is what went too far.
    pub(in crate::client) refused: Option<Problem>,
    /// It binds a portal that stays until it is closed or the transaction ends.
    names_portals: bool,
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
            may_run_code: false,
            knowledge: None,
            may_flush_nothing: false,
            settled: Constants::default(),
            level: None,
            hint_fault: None,
            effects: Vec::new(),
            statements: 0,
            before: Before::default(),
            refused: None,
            names_portals: false,
        }
    }
}

/// What the inbox holds.
#[derive(Debug)]
pub(in crate::client) enum Gathered {
    /// Not yet a whole batch.
    Incomplete,
    /// A batch.
    Batch,
    /// Data of a COPY that has failed: this many bytes are to be dropped.
    Drop(usize),
    /// The client says goodbye.
    Terminate,
}

impl Batch {
    /// Takes further messages from the inbox until the batch is complete.
    pub(in crate::client) fn gather(
        &mut self,
        inbox: &[u8],
        mut gatherer: Gatherer<'_>,
    ) -> Result<Gathered, Problem> {
        if self.messages.is_empty() {
            self.knowledge = gatherer.database.knowledge();
        }
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
            if matches!(
                tag,
                frontend::COPY_DATA | frontend::COPY_DONE | frontend::COPY_FAIL
            ) {
                if self.messages.is_empty() {
                    // The server ignores it too.
                    return Ok(Gathered::Drop(size));
                }
                // Data right behind its COPY, without waiting for the server to ask for it.
                self.end = End::Part;
                return Ok(Gathered::Batch);
            }
            let there = rest.len().min(size);
            let in_parts = size > WHOLE && may_stream(tag, size, rest);
            if rest.len() < size && !in_parts {
                check_size(tag, size, rest.len())?;
            }
            // What is only announced takes no room from others; it must have some by itself.
            let before = self.length + self.beside();
            let arrived = before + there;
            let announced = before + if in_parts { there } else { size };
            if announced > UNCOUNTED
                && let Err(problem) = gatherer.reserve(arrived, announced)
            {
                return Ok(self.refuse(tag, size, there, problem));
            }
            if rest.len() < size && !in_parts {
                return Ok(Gathered::Incomplete);
            }
            let body = &rest[HEADER..there];
            let (start, end) = (self.length, self.length + there);
            self.length = end;
            let mut message = Message::new(tag, start, end);
            message.malformed = size == there && !is_well_formed(tag, body);
            match tag {
                _ if message.malformed => {}
                frontend::TERMINATE => return Ok(Gathered::Terminate),
                frontend::QUERY if size == there => {
                    let (text, _) = frame::cstr(body).ok_or_else(|| malformed("Query"))?;
                    let statement = gatherer.database.classify(text, gatherer.lexical);
                    self.runs(&statement, false);
                    message.effects = shared(&statement);
                }
                frontend::PARSE => {
                    if let Some(problem) = gatherer.parse(body, &mut message, &self.before)? {
                        self.length = start;
                        return Ok(self.refuse(tag, size, there, problem));
                    }
                }
                frontend::QUERY | frontend::FUNCTION_CALL => {
                    let statement = Statement::unexamined(WriteReason::TooLarge);
                    self.runs(&statement, false);
                    message.effects = shared(&statement);
                }
                frontend::BIND => {
                    let (portal, names) = frame::cstr(body).ok_or_else(|| malformed("Bind"))?;
                    let (name, values) = frame::cstr(names).ok_or_else(|| malformed("Bind"))?;
                    gatherer.refer(name, &mut message, &self.before);
                    self.names_portals |= !portal.is_empty();
                    // The server refuses a statement that it does not know.
                    if let Some(prepared) = &message.prepared {
                        let statement = prepared.statement();
                        self.runs(&statement, prepared.is_refused());
                        let effects = bound(&statement.effects, || frame::bound(values));
                        if !effects.is_empty()
                            && let Err(problem) =
                                gatherer.room_for(portal_bytes(portal, &effects), 0)
                        {
                            self.length = start;
                            return Ok(self.refuse(tag, size, there, problem));
                        }
                        gatherer.names.bound(portal, effects);
                    }
                }
                frontend::EXECUTE => {
                    let (portal, _) = frame::cstr(body).ok_or_else(|| malformed("Execute"))?;
                    message.effects = gatherer.names.portal(portal);
                    self.before.drops_all |= forgets(&message.effects);
                }
                frontend::DESCRIBE | frontend::CLOSE => {
                    let (kind, name) = body.split_first().ok_or_else(|| malformed("Describe"))?;
                    let (name, _) = frame::cstr(name).ok_or_else(|| malformed("Describe"))?;
                    if *kind == object::STATEMENT {
                        gatherer.refer(name, &mut message, &self.before);
                        if tag == frontend::CLOSE {
                            gatherer.names.close_message(name);
                        }
                    }
                }
                frontend::SYNC | frontend::FLUSH => {}
                _ => {
                    let what = format!("message type \"{}\" is out of order", char::from(tag));
                    return Err(Problem::fatal(Kind::ProtocolViolation, what));
                }
            }
            let message_is_refused =
                message.malformed && !matches!(tag, frontend::QUERY | frontend::SYNC);
            self.messages.push(message);
            self.end = match tag {
                // The server skips all up to the next Sync.
                _ if message_is_refused => End::Part,
                _ if there < size => {
                    // What follows a large Bind is not known yet and may write.
                    if tag == frontend::BIND {
                        self.strictest(Access::Write, Some(WriteReason::TooLarge));
                    }
                    End::Large(size - there)
                }
                frontend::QUERY | frontend::FUNCTION_CALL => End::Query,
                frontend::SYNC => End::Sync,
                frontend::FLUSH => {
                    self.may_go_on_writing();
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

    /// It goes no further than this message, for which there is no room.
    fn refuse(&mut self, tag: u8, size: usize, there: usize, problem: Problem) -> Gathered {
        let (start, end) = (self.length, self.length + there);
        self.messages.push(Message::new(tag, start, end));
        self.length = end;
        self.end = End::Large(size - there);
        self.refused = Some(problem);
        Gathered::Batch
    }

    /// The batch that is refused in place of it; and how much of its last message is still to come.
    pub(in crate::client) fn as_refused(&mut self) -> usize {
        let missing = match self.end {
            End::Large(missing) => missing,
            _ => 0,
        };
        self.end = match self.messages.last() {
            Some(Message {
                tag: frontend::QUERY | frontend::FUNCTION_CALL,
                ..
            }) => End::Query,
            Some(Message {
                tag: frontend::SYNC,
                ..
            }) => End::Sync,
            _ => End::Part,
        };
        missing
    }

    /// What its messages take beside their bytes, here and among what is owed, in bytes.
    pub(in crate::client) fn beside(&self) -> usize {
        self.messages.len() * 2 * size_of::<Message>()
    }

    /// How much its texts say that the session is to keep, in bytes.
    pub(in crate::client) fn bytes_to_keep(&self) -> usize {
        let sets = |effect: &Effect| {
            matches!(
                effect,
                Effect::Set { .. } | Effect::Savepoint(_) | Effect::Prepare { .. }
            )
        };
        usize::from(self.effects().any(sets)) * self.length
    }

    /// Whether it makes the session hold more.
    pub(in crate::client) fn may_keep(&self) -> bool {
        self.effects().any(|effect| {
            matches!(
                effect,
                Effect::Set { sql: Some(_), .. }
                    | Effect::Savepoint(_)
                    | Effect::Prepare { .. }
                    | Effect::Opaque(_)
            )
        })
    }

    /// Whether it was gathered under the simple protocol.
    pub(in crate::client) fn is_simple(&self) -> bool {
        matches!(
            self.messages.first(),
            Some(Message {
                tag: frontend::QUERY | frontend::FUNCTION_CALL,
                ..
            })
        )
    }

    /// The client has said nothing more for a while: what there is goes ahead, as a server would have run
    /// it by now. False when nothing of it runs anything.
    pub(in crate::client) fn close_early(&mut self) -> bool {
        let runs = self.runs_something();
        if runs {
            self.may_go_on_writing();
            self.end = End::Part;
        }
        runs
    }

    /// Whether a statement in it is executed.
    pub(in crate::client) fn runs_something(&self) -> bool {
        self.messages
            .iter()
            .any(|message| message.tag == frontend::EXECUTE)
    }

    /// Until the Sync it is an open transaction, and what follows may write.
    fn may_go_on_writing(&mut self) {
        if self.access == Access::Read {
            self.strictest(Access::Write, Some(WriteReason::Transaction));
        }
    }

    /// What its statements do to the session.
    pub(in crate::client) fn effects(&self) -> impl Iterator<Item = &Effect> {
        self.effects
            .iter()
            .flat_map(|steps| steps.iter().map(|step| &step.effect))
    }

    /// Whether its statements leave the session as it is.
    pub(in crate::client) fn has_no_effects(&self) -> bool {
        self.effects.is_empty()
    }

    /// Whether a statement that it runs, parses or describes speaks of prepared statements by name: what
    /// such a statement returns is settled when it is parsed.
    pub(in crate::client) fn names_statements(&self, names: &Names) -> bool {
        let speaks = |step: &Step| match &step.effect {
            Effect::Prepare { name, .. } => names.get(name.as_bytes()).is_some(),
            effect => *effect == Effect::NamesStatements,
        };
        let learns =
            |message: &&Message| matches!(message.tag, frontend::PARSE | frontend::DESCRIBE);
        self.effects.iter().any(|steps| steps.iter().any(speaks))
            || self
                .messages
                .iter()
                .filter(learns)
                .filter_map(|message| message.prepared.as_ref())
                .any(|prepared| prepared.statement().effects.iter().any(speaks))
    }

    /// Leaves nothing but the Sync that ends it; gives how many bytes stand before that.
    pub(in crate::client) fn reduce_to_sync(&mut self) -> usize {
        let last = self.messages.pop();
        let (before, malformed) = last.map_or((0, false), |sync| (sync.start, sync.malformed));
        let length = self.length - before;
        let mut sync = Message::new(frontend::SYNC, 0, length);
        sync.malformed = malformed;
        *self = Self {
            messages: vec![sync],
            length,
            ..Self::default()
        };
        before
    }

    /// Whether it leaves a cursor or a portal open that the transaction goes on with.
    pub(in crate::client) fn opens_portals(&self) -> bool {
        self.names_portals || self.effects().any(|effect| *effect == Effect::Declare)
    }

    /// Whether all it runs is the end of a transaction and the beginning of the next.
    pub(in crate::client) fn only_chains(&self) -> bool {
        self.statements == 1 && self.effects().any(Effect::chains)
    }

    /// Whether its first statement is a ROLLBACK.
    pub(in crate::client) fn begins_with_rollback(&self) -> bool {
        let first = self.effects.first().and_then(|steps| steps.first());
        first.is_some_and(|step| {
            step.statement == 0 && matches!(step.effect, Effect::Rollback { .. })
        })
    }

    /// Whether its first statement ends a transaction, so that nothing that was read in it matters any more.
    pub(in crate::client) fn begins_with_end(&self) -> bool {
        let ends = |steps: &[Step]| {
            steps.first().is_some_and(|step| {
                step.statement == 0
                    && matches!(step.effect, Effect::End { .. } | Effect::Rollback { .. })
            })
        };
        if self.is_simple() {
            return self.effects.first().is_some_and(|steps| ends(steps));
        }
        // What is only bound reads nothing that is shown.
        let mut run = self.messages.iter();
        let first = run.find(|message| message.tag == frontend::EXECUTE);
        first.is_some_and(|message| message.effects.as_deref().is_some_and(ends))
    }

    /// Whether it is a call by the fast path.
    pub(in crate::client) fn calls_function(&self) -> bool {
        matches!(
            self.messages.first(),
            Some(Message {
                tag: frontend::FUNCTION_CALL,
                ..
            })
        )
    }

    /// Whether it only prepares, describes or closes.
    pub(in crate::client) fn runs_nothing(&self) -> bool {
        let harmless = |message: &Message| {
            matches!(
                message.tag,
                frontend::PARSE
                    | frontend::DESCRIBE
                    | frontend::CLOSE
                    | frontend::SYNC
                    | frontend::FLUSH
            )
        };
        self.messages.iter().all(harmless)
    }

    /// Whether it is nothing but a Sync.
    pub(in crate::client) fn is_bare_sync(&self) -> bool {
        matches!(
            self.messages.as_slice(),
            [Message {
                tag: frontend::SYNC,
                malformed: false,
                ..
            }]
        )
    }

    /// Whether what a session listens to matters to it, or may matter to what follows it in the same
    /// transaction.
    pub(in crate::client) fn concerns_channels(&self) -> bool {
        !matches!(self.end, End::Query | End::Sync)
            || self.calls_function()
            || self.effects().any(Effect::concerns_channels)
    }

    /// Whether it may send notifications.
    pub(in crate::client) fn may_notify(&self) -> bool {
        self.calls_function() || self.effects().any(Effect::may_notify)
    }

    /// Whether it opens transactions, and if so, whether all of them may run on a standby.
    pub(in crate::client) fn read_only_transaction(&self) -> Option<bool> {
        let opened = self.effects().filter_map(|effect| match effect {
            Effect::Begin {
                read_only,
                isolation,
            } => Some(*read_only == Some(true) && *isolation != Some(Isolation::Serializable)),
            _ => None,
        });
        opened.reduce(|one, other| one && other)
    }

    /// Whether everything in it speaks of Causeway's own settings, which no server knows.
    ///
    /// So does `DEALLOCATE` of a statement that the client named by the protocol: on the servers it
    /// has another name.
    pub(in crate::client) fn is_own(&self, names: &Names) -> bool {
        if matches!(self.end, End::Large(_)) {
            return false;
        }
        let own = |effect: &Effect| match effect {
            // Twice in one text, the second is for the server to refuse.
            Effect::Deallocate(Some(name)) => {
                self.statements == 1 && names.get(name.as_bytes()).is_some()
            }
            effect => effect.is_own(),
        };
        if self.is_simple() {
            return self.statements > 0
                && self.statements == self.effects().filter(|effect| effect.counts()).count()
                && self.effects().filter(|effect| effect.counts()).all(own);
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
                .all(|m| m.prepared.is_some() || !matches!(m.tag, frontend::PARSE | frontend::BIND))
            && !self.messages.iter().any(|message| message.malformed)
            && statements.all(|prepared| {
                let statement = prepared.statement();
                let effects = || statement.effects.iter().map(|step| &step.effect);
                let counted = || effects().filter(|effect| effect.counts());
                statement.count > 0 && statement.count == counted().count() && counted().all(own)
            })
    }

    /// Empties it for the next, keeping its memory.
    pub(in crate::client) fn clear(&mut self) {
        let mut messages = std::mem::take(&mut self.messages);
        let mut effects = std::mem::take(&mut self.effects);
        messages.clear();
        effects.clear();
        messages.shrink_to(KEPT_MESSAGES);
        effects.shrink_to(KEPT_MESSAGES);
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
        self.may_run_code |= statement.may_run_code;
        self.may_flush_nothing |= statement.may_flush_nothing;
        self.settled = self.settled.max(statement.settled);
        self.statements += statement.count;
        if !statement.effects.is_empty() {
            self.before.note(&statement.effects);
            self.effects.push(Arc::clone(&statement.effects));
        }
        if let Some(hint) = &statement.hint {
            self.level = stricter(self.level, hint.consistency);
            self.hint_fault = hint.fault.clone().or_else(|| self.hint_fault.take());
        }
    }

    fn strictest(&mut self, access: Access, reason: Option<WriteReason>) {
        // A transaction may be declared READ ONLY; other reasons stand.
        let weak = access == self.access && self.write_reason == Some(WriteReason::Transaction);
        if access > self.access || weak && reason.is_some() {
            self.access = access;
            self.write_reason = reason;
        }
    }
}

fn forgets(effects: &Effects) -> bool {
    let drops = |effect: &Effect| matches!(effect, Effect::Deallocate(None) | Effect::DiscardAll);
    effects
        .iter()
        .flat_map(|steps| steps.iter())
        .any(|step| drops(&step.effect))
}

fn shared(statement: &Statement) -> Effects {
    (!statement.effects.is_empty()).then(|| Arc::clone(&statement.effects))
}

/// Of the levels that the statements of one batch ask for, the strictest counts.
fn stricter(one: Option<Level>, other: Option<Level>) -> Option<Level> {
    let rank = |level: &Level| Level::ALL.iter().position(|known| known == level);
    [one, other].into_iter().flatten().max_by_key(rank)
}
