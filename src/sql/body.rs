//! What code in functions and DO may do to the session, as far as its words tell.
//!
//! Nothing is parsed: words, strings and punctuation are enough to say that a body does nothing to its
//! session, and whatever is not certain is taken for the worse. It costs a question, not an error.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::core::statement::Opaque;

use super::conduct::Conduct;
use super::definitions::is_temporary_schema;
use super::system::{asks_about_node, is_of_node, makes_slot, runs_any_text, stays_in_process};
use super::words::{Token, tokens};
use super::work;

/// Procedural languages whose code reaches the session by one of [`DOORS`] alone.
const LANGUAGES: &[&str] = &["plperl", "plperlu", "plpython3u", "pltcl", "pltclu", "plv8"];
const DOORS: &[&str] = &["spi", "plpy", "plv8", "subtransaction"];

/// First words of statements that leave the session as it was, apart from what they call.
const STATEMENTS: &[&str] = &[
    "alter", "analyze", "call", "comment", "copy", "create", "delete", "drop", "explain", "grant",
    "insert", "lock", "merge", "perform", "refresh", "reindex", "revoke", "select", "table",
    "truncate", "update", "vacuum", "values", "with",
];

/// What CREATE says before a relation that its transaction may take along.
const TEMPORARY: &[&str] = &["temp", "temporary", "local", "global"];

/// How deep strings of SQL in strings of SQL are looked into.
const DEEPEST: usize = 3;

/// Steps that reading a body may take for each of its bytes, and in any case: looking at a token, or at a
/// byte of a text that is read. Honest ones take two or three; what takes more is not read to its end.
const STEPS: usize = 16;
const LEAST_STEPS: usize = 4096;

/// What a body says by itself, and whom it names.
#[derive(Debug, Default)]
pub(super) struct Body {
    pub(super) conduct: Conduct,
    /// Names before an opening parenthesis.
    pub(super) calls: HashSet<Box<str>>,
    /// All words.
    pub(super) words: HashSet<Box<str>>,
    /// What it inserts into.
    pub(super) inserts: HashSet<Box<str>>,
    /// What it changes, insertions included.
    pub(super) changes: HashSet<Box<str>>,
}

/// A body that is being read.
#[derive(Default)]
struct Reader {
    body: Body,
    /// Steps that it may still take; none once that was too many.
    left: Option<usize>,
    /// Texts that were read, each with the least depth at which it was.
    texts: HashMap<String, usize>,
}

/// What stands side by side: a body, or a text in it.
struct Level<'t> {
    tokens: &'t [Token],
    depth: usize,
    /// Of SQL that is made at run time, the parts stand in these texts; unknown as long as nobody has asked.
    has_parts: Option<bool>,
}

/// Reads a body. One in a language that is not known may do anything.
pub(super) fn read(language: &str, source: &str) -> Body {
    let mut reader = Reader {
        left: Some(STEPS * source.len() + LEAST_STEPS),
        ..Reader::default()
    };
    match language {
        "sql" | "plpgsql" => reader.read(source, 0),
        _ => {
            let lower = source.to_ascii_lowercase();
            if LANGUAGES.contains(&language) && !DOORS.iter().any(|door| lower.contains(door)) {
                return reader.body;
            }
            reader.opaque(lower.contains("set_config") || lower.contains("set "));
            reader.body.conduct.sets_unnamed = true;
            reader.read_texts(&tokens(source), 0);
        }
    }
    if reader.left.is_none() {
        reader.body.conduct.merge(&Conduct::unread());
    }
    reader.body
}

impl Reader {
    /// Takes so many steps. False if those are too many.
    fn step(&mut self, steps: usize) -> bool {
        work::took(steps);
        self.left = self.left.and_then(|left| left.checked_sub(steps));
        self.left.is_some()
    }

    fn opaque(&mut self, any_name: bool) {
        self.body.conduct.merge_opaque(&Arc::new(Opaque {
            any_name,
            ..Opaque::default()
        }));
    }

    /// Sets a setting by that name; none if the name is not written there.
    fn sets(&mut self, name: Option<&str>) {
        let names = name.filter(|name| name.contains('.'));
        self.sets_here(name);
        self.body.conduct.merge_opaque(&Arc::new(Opaque {
            names: names
                .map(|name| name.to_ascii_lowercase().into())
                .into_iter()
                .collect(),
            any_name: name.is_none(),
            ..Opaque::default()
        }));
    }

    /// The same, if only until the transaction ends: whether its commit can be told to be synchronous, and what is
    /// parsed in it means the same elsewhere. A custom setting is read when something runs.
    fn sets_here(&mut self, name: Option<&str>) {
        self.body.conduct.sets_within |= name.is_none_or(|name| !name.contains('.'));
        self.body.conduct.seeds |= name.is_some_and(|name| name.eq_ignore_ascii_case("seed"));
        self.body.conduct.sets_unnamed |=
            name.is_none_or(|name| name.eq_ignore_ascii_case("synchronous_commit"));
    }

    /// Each text is read once: what it says twice is no news.
    fn read(&mut self, source: &str, depth: usize) {
        if !self.step(source.len()) || self.texts.get(source).is_some_and(|read| *read <= depth) {
            return;
        }
        self.texts.insert(source.to_owned(), depth);
        let tokens = &*tokens(source);
        let mut level = Level {
            tokens,
            depth,
            has_parts: None,
        };
        let mut starts = true;
        for (at, token) in tokens.iter().enumerate() {
            if !self.step(1) {
                return;
            }
            let rest = &tokens[at + 1..];
            if let Token::Word(word) = token {
                if starts {
                    self.statement(word, rest, &mut level);
                }
                let before = at.checked_sub(1).and_then(|at| tokens.get(at));
                self.word(word, before, rest, &mut level);
            }
            starts = match token {
                Token::Symbol(symbol) => matches!(symbol, ';' | '>'),
                Token::Word(word) => {
                    matches!(&**word, "begin" | "then" | "else" | "loop" | "atomic")
                }
                Token::Text(_) => false,
            };
        }
    }

    fn read_texts(&mut self, tokens: &[Token], depth: usize) {
        for token in tokens {
            if let Token::Text(text) = token
                && depth < DEEPEST
            {
                self.read(text, depth + 1);
            }
        }
    }

    /// The first word of a statement.
    fn statement(&mut self, word: &str, rest: &[Token], level: &mut Level<'_>) {
        match word {
            // An assignment to a variable of that name.
            _ if matches!(rest.first(), Some(Token::Symbol(':' | '=' | '.'))) => {}
            "set" => self.set(rest),
            "reset" | "discard" | "listen" | "unlisten" | "prepare" | "deallocate" | "load" => {
                self.opaque(false);
                // What it goes back to, it does not say.
                self.body.conduct.sets_unnamed |= matches!(word, "reset" | "discard");
            }
            "notify" => self.body.conduct.notifies = true,
            "create" => {
                self.body.conduct.defines = true;
                // What is not temporary in so many words goes where `search_path` says, which may be `pg_temp`.
                if !rest.first().is_some_and(|token| token.is_any_of(TEMPORARY)) {
                    self.opaque(false);
                }
            }
            "drop" | "alter" => self.body.conduct.defines = true,
            "execute" => self.dynamic(rest, level),
            "truncate" | "copy" => self.changes_next(rest, false),
            _ => {}
        }
    }

    fn word(&mut self, word: &str, before: Option<&Token>, rest: &[Token], level: &mut Level<'_>) {
        let after = |words: &[&str]| before.is_some_and(|token| token.is_any_of(words));
        let called = matches!(rest.first(), Some(Token::Symbol('(')));
        match word {
            "set_config" => self.set_config(rest),
            "setseed" => self.body.conduct.seeds = true,
            _ if called && (stays_in_process(word) || makes_slot(word)) => {
                self.body.conduct.stays = true;
            }
            _ if is_temporary_schema(word) => self.opaque(false),
            "temp" | "temporary"
                if after(&["create", "local", "global", "replace", "into"])
                    && !self.drops_on_commit(rest) =>
            {
                self.opaque(false);
            }
            "hold" if after(&["with"]) => self.opaque(false),
            "execute" if after(&["query", "in", "for"]) => self.dynamic(rest, level),
            "into" if after(&["insert", "merge"]) => self.changes_next(rest, true),
            "from" if after(&["delete"]) => self.changes_next(rest, false),
            "update" if !after(&["for", "do", "on", "or", "key", "before", "after"]) => {
                self.changes_next(rest, false);
            }
            "nextval" | "setval" => self.body.conduct.draws = true,
            "currval" | "lastval" => self.body.conduct.asks = true,
            "pg_notify" => self.body.conduct.notifies = true,
            "deallocate" | "pg_prepared_statements" | "pg_prepared_statement" => {
                self.body.conduct.names = true;
            }
            "pg_listening_channels" => self.body.conduct.asks_channels = true,
            _ if takes_session_lock(word) => self.opaque(false),
            _ if runs_any_text(word) => {
                self.opaque(false);
                self.body.conduct.makes_up = true;
                self.body.conduct.sets_unnamed = true;
            }
            _ => {}
        }
        self.body.conduct.of_node |= speaks_of_node(word, called);
        if called {
            self.body.calls.insert(word.into());
        }
        self.body.words.insert(word.into());
    }

    fn changes_next(&mut self, rest: &[Token], inserts: bool) {
        let mut rest = rest
            .iter()
            .skip_while(|token| token.is_any_of(&["only", "table"]));
        let mut name = None;
        while let Some(Token::Word(word)) = rest.next() {
            name = Some(word);
            if !matches!(rest.next(), Some(Token::Symbol('.'))) {
                break;
            }
        }
        if let Some(name) = name {
            self.body.changes.insert(name.clone());
            if inserts {
                self.body.inserts.insert(name.clone());
            }
        }
    }

    /// `SET`, where a statement begins.
    fn set(&mut self, rest: &[Token]) {
        let first = rest.first();
        if first.is_some_and(|token| token.is_any_of(&["constraints", "transaction"])) {
            return;
        }
        let local = first.is_some_and(|token| token.is_any_of(&["local"]));
        let session = first.is_some_and(|token| token.is_any_of(&["session"]));
        let mut name = String::new();
        for token in &rest[usize::from(session || local)..] {
            match token {
                Token::Word(word) if name.is_empty() || name.ends_with('.') => name += word,
                Token::Symbol('.') => name.push('.'),
                _ => break,
            }
        }
        let complete = !name.is_empty() && !name.ends_with('.');
        let name = complete.then_some(name.as_str());
        match local {
            true => self.sets_here(name),
            false => self.sets(name),
        }
    }

    fn set_config(&mut self, rest: &[Token]) {
        let arguments = self.arguments(rest);
        let local = arguments.get(2).and_then(|argument| argument.last());
        let name = match arguments.first() {
            Some([Token::Text(name)]) => Some(name.as_str()),
            Some([Token::Text(name), Token::Symbol(':'), ..]) => Some(name.as_str()),
            _ => None,
        };
        match local.is_some_and(|token| token.is_any_of(&["true"])) {
            true => self.sets_here(name),
            false => self.sets(name),
        }
    }

    /// SQL that is put together at run time.
    fn dynamic(&mut self, rest: &[Token], level: &mut Level<'_>) {
        let end = rest.iter().position(|token| {
            matches!(token, Token::Symbol(';')) || token.is_any_of(&["using", "loop"])
        });
        let expression = &rest[..end.unwrap_or(rest.len())];
        if !self.step(expression.len()) {
            return;
        }
        let head = match expression {
            [Token::Word(word), Token::Symbol('('), rest @ ..]
                if matches!(&**word, "format" | "concat") =>
            {
                rest
            }
            [Token::Symbol('('), rest @ ..] => rest,
            all => all,
        };
        if matches!(head, [Token::Word(word), ..] if matches!(&**word, "function" | "procedure")) {
            return;
        }
        if let [Token::Text(text), ..] = head
            && (begins(text, STATEMENTS) || begins(text, &["set", "reset", "notify"]))
            && level.depth < DEEPEST
        {
            let Some(texts) = self.joined(expression) else {
                return;
            };
            match self.made_up(expression) {
                None => {}
                Some(Part::Name) => {
                    self.body.conduct.makes_up = true;
                    // It may be a setting's.
                    self.body.conduct.sets_unnamed |= begins(text, &["set", "reset"])
                        || texts.contains(';')
                        || texts.to_ascii_lowercase().contains("set_config");
                }
                Some(Part::Anything) => {
                    self.body.conduct.makes_up = true;
                    self.body.conduct.sets_unnamed = true;
                    self.opaque(false);
                }
            }
            // Words may be cut up among the texts.
            self.read(&texts, level.depth + 1);
            return self.read_texts(expression, level.depth);
        }
        self.body.conduct.makes_up = true;
        self.body.conduct.sets_unnamed = true;
        // Somewhere in the body stands what it runs, or it comes from outside and may be anything.
        let known = match level.has_parts {
            Some(known) => known,
            None => {
                let part =
                    |token: &Token| matches!(token, Token::Text(text) if begins(text, STATEMENTS));
                let known = level.tokens.iter().any(part);
                level.has_parts = Some(known);
                self.read_texts(level.tokens, level.depth);
                known
            }
        };
        self.opaque(!known);
    }

    /// All texts of an expression, one behind the other; none if they are too long.
    fn joined(&mut self, expression: &[Token]) -> Option<String> {
        let texts = || {
            expression.iter().filter_map(|token| match token {
                Token::Text(text) => Some(text.as_str()),
                _ => None,
            })
        };
        self.step(texts().map(str::len).sum())
            .then(|| texts().collect())
    }

    /// What is put into the texts of an expression that makes SQL; none if they stand alone.
    fn made_up(&mut self, expression: &[Token]) -> Option<Part> {
        const QUOTING: [&str; 3] = ["quote_ident", "quote_literal", "quote_nullable"];
        let mut found = None;
        let mut at = 0;
        let formats = expression
            .first()
            .is_some_and(|token| token.is_any_of(&["format"]));
        while let Some(token) = expression.get(at) {
            at += 1;
            match token {
                Token::Text(text) if formats && text.replace("%%", "").contains("%s") => {
                    return Some(Part::Anything);
                }
                // What `format` quotes is no concern.
                Token::Text(_) if formats => return Some(Part::Name),
                Token::Word(word) if QUOTING.contains(&&**word) => {
                    found = Some(Part::Name);
                    let arguments = self.arguments(&expression[at..]);
                    at += arguments.iter().map(|one| one.len() + 1).sum::<usize>() + 1;
                }
                // Into which variables its row goes.
                Token::Word(word) if &**word == "into" => break,
                Token::Word(word) if matches!(&**word, "format" | "e" | "u") => {}
                // A variable, or a parameter by its number.
                Token::Word(_) | Token::Symbol('$') => return Some(Part::Anything),
                _ => {}
            }
        }
        found
    }

    /// The arguments of a call whose opening parenthesis comes first.
    fn arguments<'t>(&mut self, rest: &'t [Token]) -> Vec<&'t [Token]> {
        let (found, looked) = arguments(rest, self.left.unwrap_or(0));
        self.step(looked);
        found
    }

    fn drops_on_commit(&mut self, rest: &[Token]) -> bool {
        let end = rest
            .iter()
            .position(|token| matches!(token, Token::Symbol(';')));
        let statement = &rest[..end.unwrap_or(rest.len())];
        let words = ["on", "commit", "drop"];
        self.step(statement.len())
            && statement.windows(3).any(|three| {
                three
                    .iter()
                    .zip(words)
                    .all(|(token, word)| token.is_any_of(&[word]))
            })
    }
}

/// What is put into a text at run time.
enum Part {
    /// Names and values, each in quotes where it needs them.
    Name,
    /// Whatever somebody has written.
    Anything,
}

fn begins(text: &str, words: &[&str]) -> bool {
    let text = text.trim_start();
    let end = text
        .find(|c: char| !c.is_ascii_alphabetic())
        .unwrap_or(text.len());
    words
        .iter()
        .any(|word| text[..end].eq_ignore_ascii_case(word))
}

/// The arguments of a call whose opening parenthesis comes first, and how many tokens it took to find them;
/// of one that does not end, or not within `most`, those before.
fn arguments(rest: &[Token], most: usize) -> (Vec<&[Token]>, usize) {
    let mut found = Vec::new();
    let (mut depth, mut start) = (0_usize, 1);
    for (at, token) in rest.iter().enumerate().take(most) {
        match token {
            Token::Symbol('(' | '[') => depth += 1,
            Token::Symbol(')' | ']') => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    found.push(rest.get(start..at).unwrap_or_default());
                    return (found, at);
                }
            }
            Token::Symbol(',') if depth == 1 => {
                found.push(&rest[start..at]);
                start = at + 1;
            }
            _ if depth == 0 => return (found, at),
            _ => {}
        }
    }
    // One more than there may be, where that is why it ends.
    (found, rest.len().min(most.saturating_add(1)))
}

fn takes_session_lock(word: &str) -> bool {
    (word.starts_with("pg_advisory_") || word.starts_with("pg_try_advisory_"))
        && !word.contains("_xact_")
}

fn speaks_of_node(word: &str, called: bool) -> bool {
    is_of_node(word) || (called && (asks_about_node(word) || word == "pg_is_in_recovery"))
}
