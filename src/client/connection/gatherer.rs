//! What gathering needs of the session: its statements by name, and room for what it sends.

use std::sync::Arc;

use super::message::{Message, malformed};
use super::room::{no_room, too_much};
use crate::client::database::{Database, NoRoom};
use crate::client::state::names::Names;
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
    /// The settings that decide what a text means, as a number.
    pub(in crate::client) meaning: u64,
    /// Counts what the client has under way.
    pub(in crate::client) share: &'a mut Share,
}

impl Gatherer<'_> {
    pub(super) fn parse(
        &mut self,
        body: &[u8],
        message: &mut Message,
        all_dropped: bool,
    ) -> Result<Option<Problem>, Problem> {
        let (name, rest) = frame::cstr(body).ok_or_else(|| malformed("Parse"))?;
        message.named = !name.is_empty();
        if message.named && !all_dropped && self.names.get(name).is_some() {
            message.prepared = self.names.get(name).cloned();
            message.taken = true;
            self.names.parse_in_vain(name);
            return Ok(None);
        }
        if message.named {
            if self.names.are_too_many() {
                let what = "a session cannot have more than 100000 prepared statements";
                return Ok(Some(Problem::error(Kind::ProgramLimitExceeded, what)));
            }
            if let Err(problem) = self.room_for(Names::BESIDE + name.len(), rest.len()) {
                return Ok(Some(problem));
            }
        }
        let prepared = self
            .database
            .prepare(rest, message.named, self.lexical, self.meaning);
        let prepared = match prepared {
            Ok(prepared) => prepared.ok_or_else(|| malformed("Parse"))?,
            Err(NoRoom) => return Ok(Some(no_room(self.database.memory(), rest.len()))),
        };
        self.names.parse(name, Arc::clone(&prepared));
        message.prepared = Some(prepared);
        Ok(None)
    }

    /// Room for so many bytes of messages.
    pub(super) fn reserve(&mut self, bytes: usize) -> Result<(), Problem> {
        let memory = self.database.memory();
        if bytes > memory.session() {
            return Err(too_much(memory));
        }
        match self.database.reserve(self.share, bytes) {
            true => Ok(()),
            false => Err(no_room(memory, bytes)),
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

    pub(super) fn refer(&mut self, name: &[u8], message: &mut Message) {
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
        // A client that knows the shape of its rows is told when it has changed; it must ask anew.
        if known.is_outdated() && shape.is_none() {
            let renewed = self
                .database
                .prepare(known.body(), true, self.lexical, self.meaning);
            if let Ok(Some(renewed)) = renewed {
                self.names.renew(name, Arc::clone(&renewed));
                message.prepared = Some(renewed);
            }
        } else {
            self.database.keep_up(&known, self.lexical);
        }
    }
}
