//! What gathering needs of the session: its statements by name, and room for what it sends.

use std::collections::HashSet;
use std::sync::Arc;

use super::message::{Message, malformed};
use super::room::{no_room, too_much};
use crate::backend::prepared::{Prepared, Reading};
use crate::backend::settings::Reread;
use crate::client::database::{Database, NoRoom};
use crate::client::state::names::Names;
use crate::core::statement::{Effect, Step};
use crate::core::tag::frontend;
use crate::error::{Kind, Problem};
use crate::shared::memory::Share;
use crate::sql::Lexical;
use crate::wire::frame;

/// What gathering needs of the session.
pub(in crate::client) struct Gatherer<'a> {
    /// The session's names.
    pub(in crate::client) names: &'a mut Names,
    /// The database's statements.
    pub(in crate::client) database: &'a Database,
    /// How the session's texts are read.
    pub(in crate::client) lexical: Lexical,
    /// The settings that decide what a text means.
    pub(in crate::client) reading: Reading,
    /// Counts what the client has under way.
    pub(in crate::client) share: &'a mut Share,
}

/// What stands before a message in the same batch, noted as it comes: each message may be a Parse.
#[derive(Clone, Debug, Default)]
pub(super) struct Before {
    /// A statement drops everything that is prepared.
    pub(super) drops_all: bool,
    /// Settings may be others by then.
    sets: bool,
    /// Names that are given to statements in SQL.
    taken: HashSet<Box<str>>,
}

impl Before {
    /// A statement with these effects.
    pub(super) fn note(&mut self, effects: &[Step]) {
        for step in effects {
            match &step.effect {
                Effect::Set { .. }
                | Effect::ResetAll
                | Effect::DiscardAll
                | Effect::Opaque(_)
                | Effect::SetsWithin
                | Effect::Execute(_)
                | Effect::End { .. }
                | Effect::Rollback { .. }
                | Effect::RollbackTo(_) => self.sets = true,
                Effect::Prepare { name, .. } if !self.taken.contains(name) => {
                    self.taken.insert(name.clone());
                }
                _ => {}
            }
        }
    }

    /// Whether this name is another statement's by then.
    fn takes(&self, name: &[u8]) -> bool {
        !self.taken.is_empty()
            && std::str::from_utf8(name).is_ok_and(|name| self.taken.contains(name))
    }
}

impl Gatherer<'_> {
    pub(super) fn parse(
        &mut self,
        body: &[u8],
        message: &mut Message,
        before: &Before,
    ) -> Result<Option<Problem>, Problem> {
        let (name, rest) = frame::cstr(body).ok_or_else(|| malformed("Parse"))?;
        message.named = !name.is_empty();
        if message.named
            && !before.drops_all
            && let Some(known) = self.names.get(name)
        {
            message.prepared = Some(Arc::clone(known));
            message.as_parsed = known.rereads(&self.reading) == Reread::AsOfThen;
            message.taken = true;
            self.names.parse_in_vain(name);
            return Ok(None);
        }
        if message.named && !before.drops_all && (before.takes(name) || self.names.is_in_sql(name))
        {
            // The server knows whose it is, and refuses.
            message.named = false;
            self.names.parse_in_vain(name);
            return Ok(None);
        }
        if message.named {
            if self.names.are_too_many() {
                let what = "a session cannot have more than 100000 prepared statements";
                return Ok(Some(Problem::error(Kind::ProgramLimitExceeded, what)));
            }
            let basis = self.names.basis_bytes(Some(&self.reading.basis));
            if let Err(problem) = self.room_for(Names::BESIDE + name.len(), rest.len() + basis) {
                return Ok(Some(problem));
            }
        }
        let reading = (!before.sets).then_some(&self.reading);
        let prepared = self
            .database
            .prepare(rest, message.named, self.lexical, reading);
        let prepared = match prepared {
            Ok(prepared) => prepared.ok_or_else(|| malformed("Parse"))?,
            Err(NoRoom) => return Ok(Some(no_room(self.database.memory(), rest.len()))),
        };
        self.names.parse(name, Arc::clone(&prepared));
        message.prepared = Some(prepared);
        Ok(None)
    }

    /// Room for what has arrived of messages, in bytes; what is announced must fit into what one session
    /// may hold.
    pub(super) fn reserve(&mut self, arrived: usize, announced: usize) -> Result<(), Problem> {
        let memory = self.database.memory();
        if announced > memory.session() {
            return Err(too_much(memory));
        }
        match self.database.reserve(self.share, arrived) {
            true => Ok(()),
            false => Err(no_room(memory, announced)),
        }
    }

    /// Room for what the session keeps by itself, and a text of so many bytes.
    pub(super) fn room_for(&self, bytes: usize, text: usize) -> Result<(), Problem> {
        let memory = self.database.memory();
        if self.names.bytes() + bytes + text > memory.session() {
            return Err(too_much(memory));
        }
        match memory.has_room(bytes) {
            true => Ok(()),
            false => Err(no_room(memory, bytes)),
        }
    }

    /// Behind what sets something, a statement of before is still read as before.
    pub(super) fn refer(&mut self, name: &[u8], message: &mut Message, before: &Before) {
        message.named = !name.is_empty();
        let Some(known) = self.names.get(name).cloned() else {
            message.unknown = name.is_empty();
            return;
        };
        message.prepared = Some(Arc::clone(&known));
        if !message.named {
            return;
        }
        let shape = self.names.shape(name);
        message.shape = shape.filter(|_| message.tag == frontend::BIND);
        let reread = known.rereads(&self.reading);
        message.as_parsed = reread == Reread::AsOfThen || before.sets && known.basis().is_some();
        // A client that knows the shape of its rows is told when it has changed; it must ask anew.
        if known.is_outdated() && shape.is_none() || reread == Reread::Now {
            self.renew(name, &known, message);
        } else {
            self.database.keep_up(&known, self.lexical);
        }
    }

    fn renew(&mut self, name: &[u8], known: &Prepared, message: &mut Message) {
        let reading = Some(&self.reading);
        let renewed = self
            .database
            .prepare(known.body(), true, self.lexical, reading);
        if let Ok(Some(renewed)) = renewed {
            self.names.renew(name, Arc::clone(&renewed));
            message.prepared = Some(renewed);
            message.as_parsed = false;
        }
    }
}
