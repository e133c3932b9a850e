//! Statement text in, [`Statement`] out: what it needs and what it leaves behind.
//!
//! `shape` reduces a text to a key, `cache` remembers classifications by key, `classify` makes
//! them with PostgreSQL's grammar and the primary's function catalogue.

mod cache;
pub mod catalog;
mod classify;
mod functions;
mod hint;
mod settings;
mod shape;
mod tree;
mod verdict;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use crate::core::statement::{Access, Effect, PinReason, Statement, Step, WriteReason};

pub use catalog::{Catalog, FunctionRow};

/// Longer texts are not parsed: they go to the primary.
pub const LONGEST_TEXT: usize = 64 * 1024;

/// In a cache key, before and after a hint. No shape starts with it.
const HINT_MARK: u8 = 0x07;
/// In a key for [`Classifier::refused_by_standby`], before a text that has no shape.
const TEXT_MARK: u8 = 0x08;

/// Classifies texts, and remembers. One for each worker: it is not shared.
pub struct Classifier {
    scanner: shape::Scanner,
    prefix: Vec<u8>,
    known: cache::Cache<Arc<Statement>>,
    refused: cache::Cache<()>,
    catalog_version: u64,
    capacity: usize,
}

impl Classifier {
    /// Remembers up to `capacity` shapes.
    pub fn new(capacity: usize) -> Self {
        Self {
            scanner: shape::Scanner::default(),
            prefix: Vec::new(),
            known: cache::Cache::new(capacity),
            refused: cache::Cache::new(capacity),
            catalog_version: 0,
            capacity,
        }
    }

    /// How many shapes it was made for.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// What a text needs and leaves behind. `standard_conforming_strings` is the session's
    /// setting: when it is off, a text with a backslash means something else than it seems to.
    pub fn classify(
        &mut self,
        text: &[u8],
        catalog: &Catalog,
        standard_conforming_strings: bool,
    ) -> Arc<Statement> {
        if self.catalog_version != catalog.version() {
            self.catalog_version = catalog.version();
            self.known.clear();
        }
        if text.len() > LONGEST_TEXT {
            return Arc::new(self.unexamined(text, WriteReason::TooLarge));
        }
        let readable = standard_conforming_strings || !text.contains(&b'\\');
        let has_shape = readable && self.key(text);
        if has_shape && let Some(known) = self.known.get(self.scanner.shape()) {
            return known;
        }
        match std::str::from_utf8(text) {
            Ok(text) if readable => self.examine(text, has_shape, catalog),
            _ => Arc::new(self.unexamined(text, WriteReason::NotReady)),
        }
    }

    /// A standby refused this text: from now on its shape goes to the primary.
    pub fn refused_by_standby(&mut self, text: &[u8]) {
        let has_shape = text.len() <= LONGEST_TEXT && self.key(text);
        if !has_shape {
            self.text_key(text);
        }
        self.refused.insert(self.scanner.shape(), ());
        if let Some(known) = self.known.get(self.scanner.shape()) {
            self.known
                .insert(self.scanner.shape(), Arc::new(refused(&known)));
        }
    }

    fn examine(&mut self, text: &str, has_shape: bool, catalog: &Catalog) -> Arc<Statement> {
        let mut classified = classify::classify(text, catalog);
        if !has_shape {
            self.text_key(text.as_bytes());
        }
        if self.refused.get(self.scanner.shape()).is_some() {
            classified.statement = refused(&classified.statement);
        }
        classified.statement.hint = hint::find(text.as_bytes()).map(hint::parse);
        let statement = Arc::new(classified.statement);
        if has_shape && classified.by_shape {
            self.known
                .insert(self.scanner.shape(), Arc::clone(&statement));
        }
        statement
    }

    /// Puts the text's cache key into the scanner's buffer; false if it has none.
    fn key(&mut self, text: &[u8]) -> bool {
        self.prefix.clear();
        if let Some(hint) = hint::find(text) {
            if hint.iter().any(u8::is_ascii_control) {
                return false;
            }
            self.prefix.push(HINT_MARK);
            self.prefix.extend_from_slice(hint);
            self.prefix.push(HINT_MARK);
        }
        self.scanner.scan(&self.prefix, text).is_ok()
    }

    fn text_key(&mut self, text: &[u8]) {
        self.scanner.whole(TEXT_MARK, text);
    }

    /// For a text that is not parsed. Unless its first word promises that it leaves the session as
    /// it was, and unless nothing can follow it, the session must keep its server connection.
    fn unexamined(&mut self, text: &[u8], reason: WriteReason) -> Statement {
        let mut statement = Statement::unexamined(reason);
        let single = self.scanner.scan(&[], text).is_ok() && self.scanner.is_single();
        self.scanner.shrink(LONGEST_TEXT);
        if !single || !leaves_no_trace(text) {
            statement.effects = Arc::from([Step {
                statement: 0,
                effect: Effect::Pin(PinReason::Settings),
            }]);
        } else {
            statement.effects = Arc::from([]);
        }
        statement.hint = hint::find(text).map(hint::parse);
        statement
    }
}

fn refused(statement: &Statement) -> Statement {
    let mut statement = statement.clone();
    if statement.access != Access::Write {
        statement.access = Access::Write;
        statement.write_reason = Some(WriteReason::RefusedByStandby);
    }
    statement
}

fn leaves_no_trace(text: &[u8]) -> bool {
    let text = &text[shape::skip_blank(text, 0)..];
    let length = text
        .iter()
        .take_while(|byte| byte.is_ascii_alphabetic())
        .count();
    [
        &b"insert"[..],
        b"update",
        b"delete",
        b"merge",
        b"values",
        b"copy",
    ]
    .iter()
    .any(|word| text[..length].eq_ignore_ascii_case(word))
}
