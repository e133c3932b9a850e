//! Literals that stand for the moment at which a text is parsed: `'now'`, `'today'` and their kin.
//!
//! PostgreSQL makes a time of such a literal when it parses the text (manual, "Date/Time Types", "Special
//! Values"), so that a statement that one session has prepared says another time than one prepared now.

use super::Lexical;
use super::words::{Token, tokens};

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
        let lexical = Lexical::from(false);
        assert!(tells_time(b"SELECT 'it\\'s now'", lexical));
        assert!(!tells_time(b"SELECT 'it\\'s known'", lexical));
        assert!(tells_time(b"SELECT '\xff', 'now'", Lexical::default()));
    }
}
