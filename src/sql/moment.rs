//! Literals that stand for the moment at which a text is parsed: `'now'`, `'today'` and their kin.
//!
//! PostgreSQL makes a time of such a literal when it parses the text (manual, "Date/Time Types", "Special
//! Values"), so that a statement that one session has prepared says another time than one prepared now.

use super::Lexical;
use super::words::{Token, tokens};
use crate::core::plans::Constants;

const WORDS: [&str; 4] = ["now", "today", "tomorrow", "yesterday"];

/// Whether a text has such a literal, or may have one.
pub fn tells_time(text: &[u8], lexical: Lexical) -> bool {
    if !names_moment(text) {
        return false;
    }
    // Where strings end otherwise, any of them may be in one.
    if lexical != Lexical::default() {
        return true;
    }
    let Ok(text) = std::str::from_utf8(text) else {
        return true;
    };
    let literal =
        |token: &Token| matches!(token, Token::Text(text) if names_moment(text.as_bytes()));
    tokens(text).iter().any(literal)
}

/// By what literals in code are read, which PostgreSQL does once for a plan that it keeps.
pub(super) fn settled_by(language: &str, source: &str) -> Constants {
    // Code in other languages has its SQL in strings of its own kind.
    if !matches!(language, "sql" | "plpgsql") {
        return of_literal(source);
    }
    let of_token = |token: &Token| match token {
        Token::Text(text) => of_literal(text),
        _ => Constants::ByNothing,
    };
    let settled = tokens(source).iter().map(of_token).max();
    let mut settled = settled.unwrap_or_default();
    let lower = source.to_ascii_lowercase();
    if equals_null(&lower) {
        settled = settled.max(Constants::BySettings);
    }
    match settled {
        // Nobody knows under what, if it sets that itself.
        Constants::BySettings if SETS.iter().any(|word| lower.contains(word)) => {
            Constants::ByAnything
        }
        settled => settled,
    }
}

/// Words of code that may change how its literals are read.
const SETS: [&str; 4] = ["set_config", "timezone", "datestyle", "intervalstyle"];

/// Whether `= NULL` stands there, which `transform_null_equals` makes another question of.
fn equals_null(lower: &str) -> bool {
    lower.match_indices("null").any(|(at, _)| {
        let before = lower[..at].trim_end();
        before.ends_with('=') && !before.ends_with(":=")
    })
}

/// A time, a date or an amount of money has a digit, or is one of the words; an array has braces, and what
/// backslashes are is a setting too.
fn of_literal(text: &str) -> Constants {
    if names_moment(text.as_bytes()) {
        return Constants::ByAnything;
    }
    let telling = |byte: u8| byte.is_ascii_digit() || matches!(byte, b'\\' | b'{');
    match text.bytes().any(telling) {
        true => Constants::BySettings,
        false => Constants::ByNothing,
    }
}

/// Whether one of the words is there, as a word.
fn names_moment(text: &[u8]) -> bool {
    let mut words = text.split(|byte| !byte.is_ascii_alphabetic());
    words.any(|word| {
        WORDS
            .iter()
            .any(|known| word.eq_ignore_ascii_case(known.as_bytes()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_a_word_in_a_string() {
        for (expected, text) in [
            (true, "SELECT 'now'::timestamptz"),
            (true, "INSERT INTO t VALUES ($1, ' NOW')"),
            (true, "SELECT date 'Today'"),
            (true, "SELECT $$tomorrow 10:00$$::timestamp"),
            (true, "SELECT E'yesterday'::date"),
            (false, "SELECT now()"),
            (false, "SELECT now FROM t WHERE a = 'x'"),
            (false, "SELECT 'knowing', 'nowhere', 'todays'"),
            (false, "SELECT 1 -- 'now'"),
        ] {
            assert_eq!(
                tells_time(text.as_bytes(), Lexical::default()),
                expected,
                "{text}"
            );
        }
        for (expected, language, source) in [
            (
                Constants::ByNothing,
                "plpgsql",
                "BEGIN PERFORM now(); RETURN 'a' || 7; END",
            ),
            (
                Constants::BySettings,
                "plpgsql",
                "BEGIN RETURN date '2026-04-03'; END",
            ),
            (
                Constants::ByAnything,
                "plpgsql",
                "BEGIN RETURN 'Today'::date; END",
            ),
            (
                Constants::ByAnything,
                "plpgsql",
                "BEGIN SET LOCAL datestyle = 'DMY'; RETURN '3/4/2026'::date; END",
            ),
            (Constants::ByNothing, "sql", "SELECT 'a' -- 'now' 7"),
            (Constants::BySettings, "sql", "SELECT 'a\\b'"),
            (Constants::BySettings, "sql", "SELECT '{null}'::text[]"),
            (Constants::BySettings, "sql", "SELECT a =\nNULL FROM t"),
            (
                Constants::ByNothing,
                "plpgsql",
                "BEGIN a := NULL; RETURN a; END",
            ),
            (
                Constants::BySettings,
                "plpython3u",
                "plpy.execute(\"SELECT '3/4/2026'::date\")",
            ),
        ] {
            assert_eq!(settled_by(language, source), expected, "{source}");
        }
        let lexical = Lexical::from(false);
        assert!(tells_time(b"SELECT 'it\\'s now'", lexical));
        assert!(!tells_time(b"SELECT 'it\\'s known'", lexical));
        assert!(tells_time(b"SELECT '\xff', 'now'", Lexical::default()));
    }
}
