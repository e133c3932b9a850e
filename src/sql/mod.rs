//! Statement text in, [`Statement`] out: what it needs and what it leaves behind.
//!
//! `shape` reduces a text to a key, `cache` remembers classifications by key, `classify` makes
//! them with PostgreSQL's grammar and the primary's function catalogue.

mod body;
mod cache;
pub mod catalog;
mod classify;
mod code;
mod compact;
mod conduct;
mod definitions;
mod foreign;
mod functions;
mod hint;
mod lexical;
mod moment;
mod settings;
mod shape;
mod skim;
mod system;
mod tree;
mod verdict;
mod words;
mod work;

#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::sync::Arc;

use crate::core::statement::{Access, Statement, WriteReason};

pub use catalog::{Catalog, FunctionRow};
pub use lexical::{Encoding, Lexical};
pub use moment::tells_time;
pub use skim::{Skim, Skimmed};

#[cfg(any(test, fuzzing))]
pub(crate) use words::scan_any;

/// Longer texts are not parsed: they go to the primary, which is asked what they have left.
pub const LONGEST_TEXT: usize = 1024 * 1024;

/// More operators' characters in a row are not parsed.
const LONGEST_RUN: usize = 256;

/// Memory that the scanner keeps between texts.
const KEPT: usize = 64 * 1024;

/// In a cache key, before and after a hint. No shape starts with it.
const HINT_MARK: u8 = 0x07;
/// In a key for [`Classifier::refused_by_standby`], before a text that has no shape.
const TEXT_MARK: u8 = 0x08;
/// In a cache key, before a text in another encoding than UTF-8.
const ENCODING_MARK: u8 = 0x0e;

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

    /// What a text needs and leaves behind, as the session's settings have it read.
    pub fn classify(
        &mut self,
        text: &[u8],
        catalog: &Catalog,
        lexical: impl Into<Lexical>,
    ) -> Arc<Statement> {
        if self.catalog_version != catalog.version() {
            self.catalog_version = catalog.version();
            self.known.clear();
            // A standby may have had a reason that is gone.
            self.refused.clear();
        }
        let lexical = lexical.into();
        let foreign = lexical.encoding != Encoding::Utf8;
        if text.len() > LONGEST_TEXT {
            let statement = unexamined(text, WriteReason::TooLarge, catalog);
            return Arc::new(foreign::settled(statement, foreign));
        }
        // The hot path looks at ASCII and UTF-8 once, in the scanner.
        let translated = foreign && !text.is_ascii();
        let text = match translated.then(|| lexical.read(text)) {
            Some(Some(readable)) => Cow::from(readable.into_owned().into_bytes()),
            None if lexical.standard_conforming_strings || !text.contains(&b'\\') => text.into(),
            _ => {
                let statement = unexamined(text, WriteReason::NotReady, catalog);
                return Arc::new(foreign::settled(statement, foreign));
            }
        };
        let has_shape = self.key(&text, translated);
        if has_shape && let Some(known) = self.known.get(self.scanner.shape()) {
            return known;
        }
        let found = match std::str::from_utf8(&text) {
            Ok(_) if has_long_run(&text) => {
                Arc::new(unexamined(&text, WriteReason::TooLarge, catalog))
            }
            Ok(readable) => self.examine(readable, has_shape, translated, catalog),
            Err(_) => Arc::new(unexamined(&text, WriteReason::NotReady, catalog)),
        };
        self.scanner.shrink(KEPT);
        found
    }

    /// A standby refused this text: until the catalogue changes, its shape goes to the primary.
    pub fn refused_by_standby(&mut self, text: &[u8], lexical: impl Into<Lexical>) {
        let lexical = lexical.into();
        let translated = lexical.encoding != Encoding::Utf8 && !text.is_ascii();
        let text = match translated.then(|| lexical.read(text)) {
            None => Cow::from(text),
            Some(Some(readable)) => Cow::from(readable.into_owned().into_bytes()),
            Some(None) => return,
        };
        let has_shape = text.len() <= LONGEST_TEXT && self.key(&text, translated);
        if !has_shape {
            self.text_key(&text);
        }
        self.refused.insert(self.scanner.shape(), ());
        if let Some(known) = self.known.get(self.scanner.shape()) {
            self.known
                .insert(self.scanner.shape(), Arc::new(refused(&known)));
        }
    }

    fn examine(
        &mut self,
        text: &str,
        has_shape: bool,
        translated: bool,
        catalog: &Catalog,
    ) -> Arc<Statement> {
        let mut classified = classify::classify(text, catalog);
        let text = text.as_bytes();
        if !has_shape {
            self.text_key(text);
        }
        if self.refused.get(self.scanner.shape()).is_some() {
            classified.statement = refused(&classified.statement);
        }
        classified.statement.hint = hint::find(text).map(hint::parse);
        let statement = Arc::new(foreign::settled(classified.statement, translated));
        if has_shape && classified.by_shape {
            self.known
                .insert(self.scanner.shape(), Arc::clone(&statement));
        }
        statement
    }

    /// Puts the text's cache key into the scanner's buffer; false if it has none.
    fn key(&mut self, text: &[u8], translated: bool) -> bool {
        self.prefix.clear();
        if translated {
            self.prefix.push(ENCODING_MARK);
        }
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
}

/// Whether operators' characters follow each other for long. PostgreSQL's scanner takes the square of a
/// run's length for nested comments, and for plus and minus signs.
fn has_long_run(text: &[u8]) -> bool {
    let mut run = 0;
    text.iter().any(|byte| {
        run = if b"~!@#^&|`?+-*/%<>=".contains(byte) {
            run + 1
        } else {
            0
        };
        run > LONGEST_RUN
    })
}

/// A text that is not parsed.
fn unexamined(text: &[u8], reason: WriteReason, catalog: &Catalog) -> Statement {
    let mut statement = Statement::unread(reason, code::of_unread(text, catalog));
    statement.hint = hint::find(text).map(hint::parse);
    statement
}

fn refused(statement: &Statement) -> Statement {
    let mut statement = statement.clone();
    if statement.access != Access::Write {
        statement.access = Access::Write;
        statement.write_reason = Some(WriteReason::RefusedByStandby);
    }
    statement
}
