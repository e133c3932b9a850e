//! What code in functions and DO may do to the session, as far as its words tell.
//!
//! Nothing is parsed: words, strings and punctuation are enough to say that a body does nothing to its
//! session, and whatever is not certain is taken for the worse. It costs a question, not an error.

use std::collections::HashSet;
use std::sync::Arc;

use crate::core::statement::Opaque;

use super::conduct::Conduct;
use super::definitions::is_temporary_schema;
use super::system::{asks_about_node, is_of_node, runs_any_text};
use super::words::{Token, tokens};

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

/// Reads a body. One in a language that is not known may do anything.
pub(super) fn read(language: &str, source: &str) -> Body {
    let mut body = Body::default();
    match language {
        "sql" | "plpgsql" => body.read(source, 0),
        _ => {
            let lower = source.to_ascii_lowercase();
            if LANGUAGES.contains(&language) && !DOORS.iter().any(|door| lower.contains(door)) {
                return body;
            }
            body.opaque(lower.contains("set_config") || lower.contains("set "));
            body.read_texts(&tokens(source), 0);
        }
    }
    body
}

impl Body {
    fn opaque(&mut self, any_name: bool) {
        self.conduct.merge_opaque(&Arc::new(Opaque {
            any_name,
            ..Opaque::default()
        }));
    }

    /// Sets a setting by that name; none if the name is not written there.
    fn sets(&mut self, name: Option<&str>) {
        let names = name.filter(|name| name.contains('.'));
        self.conduct.merge_opaque(&Arc::new(Opaque {
            names: names
                .map(|name| name.to_ascii_lowercase().into())
                .into_iter()
                .collect(),
            any_name: name.is_none(),
            ..Opaque::default()
        }));
    }

    fn read(&mut self, source: &str, depth: usize) {
        let tokens = tokens(source);
        let mut starts = true;
        for (at, token) in tokens.iter().enumerate() {
            if let Token::Word(word) = token {
                if starts {
                    self.statement(word, &tokens[at + 1..], &tokens, depth);
                }
                let before = at.checked_sub(1).and_then(|at| tokens.get(at));
                self.word(word, before, &tokens[at + 1..], &tokens, depth);
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
    fn statement(&mut self, word: &str, rest: &[Token], all: &[Token], depth: usize) {
        match word {
            // An assignment to a variable of that name.
            _ if matches!(rest.first(), Some(Token::Symbol(':' | '=' | '.'))) => {}
            "set" => self.set(rest),
            "reset" | "discard" | "listen" | "unlisten" | "prepare" | "deallocate" | "load" => {
                self.opaque(false);
            }
            "notify" => self.conduct.notifies = true,
            "create" => {
                self.conduct.defines = true;
                // What is not temporary in so many words goes where `search_path` says, which may be `pg_temp`.
                if !rest.first().is_some_and(|token| token.is_any_of(TEMPORARY)) {
                    self.opaque(false);
                }
            }
            "drop" | "alter" => self.conduct.defines = true,
            "execute" => self.dynamic(rest, all, depth),
            "truncate" | "copy" => self.changes_next(rest, false),
            _ => {}
        }
    }

    fn word(
        &mut self,
        word: &str,
        before: Option<&Token>,
        rest: &[Token],
        all: &[Token],
        depth: usize,
    ) {
        let after = |words: &[&str]| before.is_some_and(|token| token.is_any_of(words));
        let called = matches!(rest.first(), Some(Token::Symbol('(')));
        match word {
            "set_config" => self.set_config(rest),
            "setseed" => self.opaque(false),
            _ if is_temporary_schema(word) => self.opaque(false),
            "temp" | "temporary"
                if after(&["create", "local", "global", "replace", "into"])
                    && !drops_on_commit(rest) =>
            {
                self.opaque(false);
            }
            "hold" if after(&["with"]) => self.opaque(false),
            "execute" if after(&["query", "in", "for"]) => self.dynamic(rest, all, depth),
            "into" if after(&["insert", "merge"]) => self.changes_next(rest, true),
            "from" if after(&["delete"]) => self.changes_next(rest, false),
            "update" if !after(&["for", "do", "on", "or", "key", "before", "after"]) => {
                self.changes_next(rest, false);
            }
            "nextval" | "setval" => self.conduct.draws = true,
            "currval" | "lastval" => self.conduct.asks = true,
            "pg_notify" => self.conduct.notifies = true,
            "deallocate" | "pg_prepared_statements" | "pg_prepared_statement" => {
                self.conduct.names = true;
            }
            "pg_listening_channels" => self.conduct.asks_channels = true,
            _ if takes_session_lock(word) => self.opaque(false),
            _ if runs_any_text(word) => {
                self.opaque(false);
                self.conduct.makes_up = true;
            }
            _ => {}
        }
        self.conduct.of_node |= speaks_of_node(word, called);
        if called {
            self.calls.insert(word.into());
        }
        self.words.insert(word.into());
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
            self.changes.insert(name.clone());
            if inserts {
                self.inserts.insert(name.clone());
            }
        }
    }

    /// `SET`, where a statement begins.
    fn set(&mut self, rest: &[Token]) {
        let first = rest.first();
        if first.is_some_and(|token| token.is_any_of(&["local", "constraints", "transaction"])) {
            return;
        }
        let session = first.is_some_and(|token| token.is_any_of(&["session"]));
        let mut name = String::new();
        for token in &rest[usize::from(session)..] {
            match token {
                Token::Word(word) if name.is_empty() || name.ends_with('.') => name += word,
                Token::Symbol('.') => name.push('.'),
                _ => break,
            }
        }
        let complete = !name.is_empty() && !name.ends_with('.');
        self.sets(complete.then_some(&name));
    }

    fn set_config(&mut self, rest: &[Token]) {
        let arguments = arguments(rest);
        let local = arguments.get(2).and_then(|argument| argument.last());
        if local.is_some_and(|token| token.is_any_of(&["true"])) {
            return;
        }
        match arguments.first() {
            Some([Token::Text(name)]) => self.sets(Some(name)),
            Some([Token::Text(name), Token::Symbol(':'), ..]) => self.sets(Some(name)),
            _ => self.sets(None),
        }
    }

    /// SQL that is put together at run time.
    fn dynamic(&mut self, rest: &[Token], all: &[Token], depth: usize) {
        let end = rest.iter().position(|token| {
            matches!(token, Token::Symbol(';')) || token.is_any_of(&["using", "loop"])
        });
        let expression = &rest[..end.unwrap_or(rest.len())];
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
            && depth < DEEPEST
        {
            match made_up(expression) {
                None => {}
                Some(Part::Name) => self.conduct.makes_up = true,
                Some(Part::Anything) => {
                    self.conduct.makes_up = true;
                    self.opaque(false);
                }
            }
            // Words may be cut up among the texts.
            self.read(&joined(expression), depth + 1);
            return self.read_texts(expression, depth);
        }
        self.conduct.makes_up = true;
        // Somewhere in the body stands what it runs, or it comes from outside and may be anything.
        let inside = |token: &Token| matches!(token, Token::Text(text) if begins(text, STATEMENTS));
        let known = all.iter().any(inside);
        self.opaque(!known);
        self.read_texts(all, depth);
    }
}

/// What is put into a text at run time.
enum Part {
    /// Names and values, each in quotes where it needs them.
    Name,
    /// Whatever somebody has written.
    Anything,
}

/// What is put into the texts of an expression that makes SQL; none if they stand alone.
fn made_up(expression: &[Token]) -> Option<Part> {
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
                at += arguments(&expression[at..])
                    .iter()
                    .map(|one| one.len() + 1)
                    .sum::<usize>()
                    + 1;
            }
            // Into which variables its row goes.
            Token::Word(word) if &**word == "into" => break,
            Token::Word(word) if matches!(&**word, "format" | "e" | "u") => {}
            Token::Word(_) => return Some(Part::Anything),
            _ => {}
        }
    }
    found
}

/// All texts of an expression, one behind the other.
fn joined(expression: &[Token]) -> String {
    let texts = expression.iter().filter_map(|token| match token {
        Token::Text(text) => Some(text.as_str()),
        _ => None,
    });
    texts.collect()
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

/// The arguments of a call whose opening parenthesis comes first.
fn arguments(rest: &[Token]) -> Vec<&[Token]> {
    let mut found = Vec::new();
    let (mut depth, mut start) = (0_usize, 1);
    for (at, token) in rest.iter().enumerate() {
        match token {
            Token::Symbol('(' | '[') => depth += 1,
            Token::Symbol(')' | ']') => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    found.push(rest.get(start..at).unwrap_or_default());
                    return found;
                }
            }
            Token::Symbol(',') if depth == 1 => {
                found.push(&rest[start..at]);
                start = at + 1;
            }
            _ if depth == 0 => return found,
            _ => {}
        }
    }
    found
}

fn drops_on_commit(rest: &[Token]) -> bool {
    let end = rest
        .iter()
        .position(|token| matches!(token, Token::Symbol(';')));
    let statement = &rest[..end.unwrap_or(rest.len())];
    let words = ["on", "commit", "drop"];
    statement.windows(3).any(|three| {
        three
            .iter()
            .zip(words)
            .all(|(token, word)| token.is_any_of(&[word]))
    })
}

fn takes_session_lock(word: &str) -> bool {
    (word.starts_with("pg_advisory_") || word.starts_with("pg_try_advisory_"))
        && !word.contains("_xact_")
}

fn speaks_of_node(word: &str, called: bool) -> bool {
    is_of_node(word) || (called && (asks_about_node(word) || word == "pg_is_in_recovery"))
}
