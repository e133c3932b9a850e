//! Prepared statements that outlive a server connection.
//!
//! A client's statement is known by its text and parameter types, by the settings that decide what a text
//! means, and by the changes of definitions that came before it. Each distinct one has a number, under
//! which it is prepared, when first needed, on any server connection that runs it. So a thousand sessions
//! with the same statement share one plan per connection, under whatever names.

mod held;
mod reading;
mod registry;

use std::hash::Hasher;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ahash::AHasher;
use arc_swap::ArcSwap;

pub use self::held::Held;
pub use self::reading::{Basis, Reading};
pub use self::registry::Registry;

use crate::backend::settings::{Reread, Settings};
use crate::core::statement::Statement;
use crate::core::tag;
use crate::shared::memory::Share;
use crate::wire::frame;

/// Before the token and the number in a statement's name on servers.
pub const NAME_PREFIX: &str = "causeway_";

/// A statement's name on servers. Nobody can guess the token, so that no client's own name can mean
/// another session's statement.
pub fn server_name(token: u64, id: u64) -> String {
    format!("{NAME_PREFIX}{token:016x}_{id}")
}

/// What a statement needs and does, by one version of the catalogue.
#[derive(Debug)]
struct Classified {
    statement: Arc<Statement>,
    catalog_version: u64,
}

/// What a text's meaning depends on beside the text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sense {
    /// [`Settings::meaning`](super::settings::Settings::meaning), or a session's own number where its
    /// temporary objects hide others'.
    pub settings: u64,
    /// Changes of definitions that have been seen in the database.
    pub definitions: u64,
}

/// A statement as `Parse` described it.
#[derive(Debug)]
pub struct Prepared {
    /// Unique among the statements of one database.
    id: u64,
    token: u64,
    /// The Parse message's body behind the name: text, zero, parameter types.
    body: Arc<[u8]>,
    classified: ArcSwap<Classified>,
    /// Counts the text.
    _share: Share,
    /// Under what it was first parsed; none where nobody knows.
    reading: Option<Reading>,
    /// Changes of definitions that had been seen when it was first parsed.
    definitions: u64,
    /// A standby refused to run it.
    refused: AtomicBool,
    /// Its plan no longer fits its tables: it must be prepared under a new number.
    stale: AtomicBool,
}

impl Prepared {
    /// How it is understood under what is in force now.
    pub fn rereads(&self, now: &Reading) -> Reread {
        match &self.reading {
            Some(then) if then.meaning != now.meaning => {
                now.basis.settings().rereads(then.basis.settings())
            }
            _ => Reread::Same,
        }
    }

    /// What is in force now, but with the constants' settings as they were when it was parsed.
    pub fn reading_of(&self, now: &Settings) -> Settings {
        match &self.reading {
            Some(then) => now.with_constants_of(then.basis.settings()),
            None => now.clone(),
        }
    }

    /// The settings under which it was first parsed.
    pub fn basis(&self) -> Option<&Arc<Basis>> {
        self.reading.as_ref().map(|reading| &reading.basis)
    }

    /// What it takes with the settings, which others may share, in bytes.
    fn bytes(&self) -> usize {
        self.body.len() + self.basis().map_or(0, |basis| basis.bytes())
    }

    /// The name that it has on server connections.
    pub fn server_name(&self) -> String {
        server_name(self.token, self.id)
    }

    /// What the names of all statements have in common.
    pub fn token(&self) -> u64 {
        self.token
    }

    /// Its number.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// What it needs and does.
    pub fn statement(&self) -> Arc<Statement> {
        Arc::clone(&self.classified.load().statement)
    }

    /// The version of the catalogue by which that was found.
    pub fn catalog_version(&self) -> u64 {
        self.classified.load().catalog_version
    }

    /// It was looked at by a newer catalogue.
    pub fn reclassify(&self, statement: Arc<Statement>, catalog_version: u64) {
        self.classified.store(Arc::new(Classified {
            statement,
            catalog_version,
        }));
        // A standby may have had a reason that is gone.
        self.refused.store(false, Ordering::Relaxed);
    }

    /// The text, zero, and parameter types.
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    /// Appends the Parse message that prepares it under `name`.
    pub fn write_parse(&self, name: &str, out: &mut Vec<u8>) {
        self.write_parse_as(name.as_bytes(), out);
    }

    /// The same under a client's own name.
    pub fn write_parse_as(&self, name: &[u8], out: &mut Vec<u8>) {
        frame::write(out, tag::frontend::PARSE, |body| {
            body.extend_from_slice(name);
            body.push(0);
            body.extend_from_slice(&self.body);
        });
    }

    /// Remembers that it must go to the primary.
    pub fn refuse(&self) {
        self.refused.store(true, Ordering::Relaxed);
    }

    /// Whether a standby refused it.
    pub fn is_refused(&self) -> bool {
        self.refused.load(Ordering::Relaxed)
    }

    /// Marks its plans as outdated everywhere.
    pub fn outdate(&self) {
        self.stale.store(true, Ordering::Relaxed);
    }

    /// Whether its plans are outdated.
    pub fn is_outdated(&self) -> bool {
        self.stale.load(Ordering::Relaxed)
    }
}

/// The columns that a statement's rows have, as its description gave them: names and types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape(u64);

impl Shape {
    /// Of the answer to Describe: a RowDescription frame, or NoData.
    pub fn of_frame(frame: &[u8]) -> Self {
        let mut hasher = AHasher::default();
        let mut rest = frame.get(frame::HEADER + 2..).unwrap_or_default();
        // Per column behind its name: table 4, column 2, type 4, size 2, modifier 4, format 2 bytes.
        while let Some((name, column)) = frame::cstr(rest)
            && let Some((numbers, next)) = column.split_first_chunk::<18>()
        {
            hasher.write(name);
            hasher.write(&numbers[6..16]);
            rest = next;
        }
        Self(hasher.finish())
    }
}
