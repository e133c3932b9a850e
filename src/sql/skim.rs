//! What a text that is not parsed may do to its session, by its words, as it passes: of any length, in
//! little memory.
//!
//! Strings, comments and code are not told apart: code stands in strings, and what is in none only adds a
//! question about a name that nobody has set. What is not certain is taken for the worse.

use std::collections::BTreeSet;
use std::mem;
use std::ops::Deref;

use crate::core::statement::Opaque;

use super::catalog::Catalog;
use super::conduct::{Conduct, MOST_NAMES};

/// Longer words and names are nobody's, in bytes.
const LONGEST: usize = 256;
/// So many symbols after SET may be a comment's.
const LONGEST_COMMENT: u16 = 1_000;

/// What was found.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Skimmed {
    /// Custom settings that it may make.
    pub names: BTreeSet<Box<str>>,
    /// It may make up a setting's name.
    pub any_name: bool,
    /// It may change definitions.
    pub defines: bool,
    /// It may drop what is prepared.
    pub forgets: bool,
}

impl Skimmed {
    fn name(&mut self, name: Vec<u8>) {
        if !name.contains(&b'.') || name.ends_with(b".") {
            return;
        }
        match String::from_utf8(name) {
            Ok(name) if name.len() <= LONGEST && self.names.len() < MOST_NAMES => {
                self.names.insert(name.to_ascii_lowercase().into());
            }
            Ok(name) if self.names.contains(&*name) => {}
            _ => self.any_name = true,
        }
    }

    fn conduct(&mut self, conduct: &Conduct) {
        self.defines |= conduct.defines;
        if let Some(opaque) = &conduct.opaque {
            self.any_name |= opaque.any_name;
            if self.any_name && self.names.len() >= MOST_NAMES {
                return;
            }
            for name in &opaque.names {
                self.name(name.as_bytes().to_vec());
            }
        }
    }

    pub(super) fn into_opaque(self) -> Opaque {
        Opaque {
            by_chance: false,
            names: self.names.into_iter().collect(),
            any_name: self.any_name,
            parameters: Box::default(),
        }
    }
}

/// Where a setting's name is expected.
#[derive(Debug, Default)]
enum Place {
    #[default]
    Elsewhere,
    /// Behind SET.
    Set,
    /// Behind SET and what may be a comment: so many symbols more, and any name may be the setting's.
    Comment(u16),
    /// In a name behind SET, or in what may be a comment there.
    Name(Vec<u8>, u16),
    /// Behind `set_config`.
    Call,
    /// Behind its parenthesis.
    Argument,
    /// In the string behind that.
    Text(Vec<u8>),
    /// Behind that string.
    Said,
}

/// A look at a text that comes in parts.
#[derive(Debug)]
pub struct Skim<C> {
    catalog: C,
    word: Vec<u8>,
    /// The word before, which is that of a call, should a parenthesis follow.
    last: Vec<u8>,
    place: Place,
    /// A relation's name is expected.
    names_relation: bool,
    /// The word before was one, or a schema's.
    named_relation: bool,
    /// A SET is put together at run time, if anything is.
    makes_up: bool,
    /// Something may be.
    executes: bool,
    found: Skimmed,
}

impl<C: Deref<Target = Catalog>> Skim<C> {
    pub fn new(catalog: C) -> Self {
        Self {
            catalog,
            word: Vec::new(),
            last: Vec::new(),
            place: Place::default(),
            names_relation: false,
            named_relation: false,
            makes_up: false,
            executes: false,
            found: Skimmed::default(),
        }
    }

    /// Looks at the next part.
    pub fn feed(&mut self, part: &[u8]) {
        for &byte in part {
            if byte.is_ascii_alphanumeric() || byte == b'_' || !byte.is_ascii() {
                if self.word.len() <= LONGEST {
                    self.word.push(byte.to_ascii_lowercase());
                }
                continue;
            }
            if !self.word.is_empty() {
                self.word();
            }
            // A text in quotes keeps its spaces and signs.
            match &mut self.place {
                Place::Text(text) if byte != b'\'' => text.push(byte),
                _ if byte.is_ascii_whitespace() => {}
                _ => self.symbol(byte),
            }
            if let Place::Text(name) | Place::Name(name, _) = &self.place
                && name.len() > LONGEST
            {
                self.found.any_name = true;
                self.place = Place::Elsewhere;
            }
        }
    }

    /// The text has passed.
    pub fn finish(mut self) -> Skimmed {
        self.feed(b";");
        self.found.any_name |= self.makes_up && self.executes;
        self.found
    }

    fn word(&mut self) {
        if let Place::Text(text) = &mut self.place {
            text.append(&mut self.word);
            return;
        }
        mem::swap(&mut self.word, &mut self.last);
        self.word.clear();
        let word = &*self.last;
        self.place = match mem::take(&mut self.place) {
            Place::Set if matches!(word, b"session" | b"local") => Place::Set,
            Place::Set => Place::Name(word.to_vec(), 0),
            Place::Name(mut name, left) if name.ends_with(b".") => {
                name.extend_from_slice(word);
                Place::Name(name, left)
            }
            Place::Name(name, left) => {
                self.found.name(name);
                Place::comment(left, word.len())
            }
            Place::Comment(left) => Place::comment(left, word.len()),
            // The E of E'…'.
            Place::Argument if matches!(word, b"e" | b"n") => Place::Argument,
            Place::Argument | Place::Said => {
                self.found.any_name = true;
                Place::Elsewhere
            }
            Place::Call | Place::Text(_) | Place::Elsewhere => Place::Elsewhere,
        };
        self.named_relation = mem::take(&mut self.names_relation);
        if self.named_relation
            && let Some(relation) = self.catalog.relation(text(word))
        {
            self.found.conduct(&relation.changing);
            self.found.conduct(&relation.reading);
        }
        match word {
            b"set" => self.place = Place::Set,
            b"set_config" => self.place = Place::Call,
            b"execute" => self.executes = true,
            b"create" | b"alter" | b"drop" => self.found.defines = true,
            b"deallocate" | b"discard" => self.found.forgets = true,
            b"into" | b"update" | b"from" | b"join" | b"table" | b"only" | b"copy" | b"using"
            | b"truncate" => self.names_relation = true,
            _ => {}
        }
    }

    fn symbol(&mut self, symbol: u8) {
        if symbol == b'"' {
            // Around a name, or a part of it.
            return;
        }
        self.place = match (mem::take(&mut self.place), symbol) {
            (Place::Set, b'/' | b'-') => Place::Comment(LONGEST_COMMENT),
            (Place::Set, b'\'' | b'%' | b'$') => {
                self.makes_up = true;
                Place::Elsewhere
            }
            // U&"…"
            (Place::Set | Place::Name(..), b'&') => {
                self.found.any_name = true;
                Place::Elsewhere
            }
            (Place::Name(mut name, left), b'.') => {
                name.push(b'.');
                Place::Name(name, left)
            }
            (Place::Name(name, left), _) => {
                // It goes on at run time, or is over.
                self.makes_up |= matches!(symbol, b'\'' | b'%' | b'|');
                let ends = matches!(symbol, b'=' | b';');
                let left = match symbol {
                    b'/' | b'-' => left.max(LONGEST_COMMENT),
                    _ => left,
                };
                self.found.name(name);
                Place::comment(if ends { 0 } else { left }, 1)
            }
            (Place::Comment(_), b'=' | b';') => Place::Elsewhere,
            (Place::Comment(left), b'.') => Place::Name([&*self.last, b"."].concat(), left),
            (Place::Comment(left), _) => Place::comment(left, 1),
            (Place::Call, b'(') => Place::Argument,
            (Place::Argument, b'\'') => Place::Text(Vec::new()),
            // Quotes are doubled in code that stands in a string.
            (Place::Text(text), _) if text.is_empty() => Place::Text(text),
            (Place::Text(text), _) => {
                self.found.name(text);
                Place::Said
            }
            (Place::Said, b'\'') => Place::Said,
            (Place::Said, b',' | b':') => Place::Elsewhere,
            (Place::Argument | Place::Said, _) => {
                self.found.any_name = true;
                Place::Elsewhere
            }
            _ => Place::Elsewhere,
        };
        if symbol == b'('
            && let Some(function) = self.catalog.function(text(&self.last))
        {
            self.found.conduct(&function.conduct);
        }
        // The name goes on behind its schema.
        self.names_relation = symbol == b'.' && self.named_relation;
        self.named_relation = false;
        self.last.clear();
    }
}

impl Place {
    /// In what may be a comment, `used` symbols later.
    fn comment(left: u16, used: usize) -> Self {
        match usize::from(left).saturating_sub(used) {
            0 => Self::Elsewhere,
            left => Self::Comment(left as u16),
        }
    }
}

fn text(word: &[u8]) -> &str {
    std::str::from_utf8(word).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::super::tests::catalog;
    use super::*;

    fn skim(text: &str, part: usize) -> Skimmed {
        let catalog = catalog();
        let mut skim = Skim::new(&catalog);
        text.as_bytes()
            .chunks(part)
            .for_each(|part| skim.feed(part));
        skim.finish()
    }

    /// What is found, however the text is cut.
    fn found(text: &str) -> String {
        let whole = skim(text, usize::MAX);
        for part in [1, 2, 3, 7] {
            assert_eq!(skim(text, part), whole, "{text}");
        }
        let names: Vec<_> = whole.names.iter().map(|name| &**name).collect();
        let any = if whole.any_name { "*" } else { "" };
        format!("{}{any}", names.join(" "))
    }

    #[test]
    fn settings_are_found_by_name() {
        for (text, expected) in [
            ("INSERT INTO t VALUES (1, 'a set of things; set aside')", ""),
            ("SET work_mem = '1MB'; SET search_path TO a, b", ""),
            (
                "SET a.b = 1; SET SESSION c.d TO 2;set local E.f=3",
                "a.b c.d e.f",
            ),
            ("SET \"A\".\"b\" = 1; SET \"c.d\" = 2", "a.b c.d"),
            (
                "SET /* see x.y */ a.b = 1; SET -- it\n c . d = 1",
                "a.b c.d x.y",
            ),
            ("SET a.b", "a.b"),
            ("UPDATE t SET n = 1, m = 2", ""),
            ("DO $$ BEGIN SET a.b = 1; END $$", "a.b"),
            ("DO $$ BEGIN EXECUTE 'SET a.b = 1'; END $$", "a.b"),
            ("DO $$ BEGIN EXECUTE 'SET ' || n || ' = 1'; END $$", "*"),
            ("DO $$ BEGIN EXECUTE format('SET %I = 1', n); END $$", "*"),
            ("DO $$ BEGIN EXECUTE 'SET app.' || n; END $$", "*"),
            ("INSERT INTO t VALUES ('set ''x'' %')", ""),
            ("SELECT set_config('search_path', '', false)", ""),
            (
                "SELECT pg_catalog . set_config ( 'a.b' , 'c', false)",
                "a.b",
            ),
            ("SELECT set_config(E'a.b'::text, 'c', false)", "a.b"),
            (
                "DO 'BEGIN PERFORM set_config(''a.b'', ''c'', false); END'",
                "a.b",
            ),
            ("SELECT set_config('a.' || x, 'c', false)", "*"),
            ("SELECT set_config(x, 'c', false)", "*"),
            ("SELECT set_config($1, 'c', false)", "*"),
            ("SET U&\"a\\002eb\" = 1", "*"),
        ] {
            assert_eq!(found(text), expected, "{text}");
        }
    }

    #[test]
    fn what_is_called_and_changed_is_looked_up() {
        for (text, expected) in [
            ("SELECT app_tenant('x')", "app.tenant"),
            ("SELECT public.app_tenant ('x')", "app.tenant"),
            ("SELECT app_any('a', 'b')", "*"),
            ("INSERT INTO triggered VALUES (1)", "app.tenant"),
            ("INSERT INTO public.\"triggered\" VALUES (1)", "app.tenant"),
            ("UPDATE ONLY triggered SET n = 1", "app.tenant"),
            ("TRUNCATE TABLE triggered", "app.tenant"),
            ("INSERT INTO t SELECT triggered", ""),
        ] {
            assert_eq!(found(text), expected, "{text}");
        }
        assert!(skim("CREATE TABLE x ()", 9).defines);
        assert!(skim("DEALLOCATE ALL", 9).forgets && !skim("DELETE FROM t", 9).forgets);
    }

    #[test]
    fn little_is_kept_of_a_long_text() {
        let catalog = catalog();
        let mut skim = Skim::new(&catalog);
        for number in 0..100_000 {
            skim.feed(format!("SET a.b{number} = 1;").as_bytes());
            skim.feed(b" and so on ");
        }
        skim.feed(b"SELECT set_config('");
        skim.feed(&vec![b'x'; 1_000_000]);
        assert!(skim.word.len() + skim.last.len() < 1_000);
        let found = skim.finish();
        assert!(found.any_name && found.names.len() == MOST_NAMES);
    }
}
