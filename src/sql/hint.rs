//! Per-statement hints: a comment `/* causeway: key=value, … */` at the head of a text.
//!
//! What is not understood is ignored, as a comment should be, but kept as a fault so that the
//! client can be warned.

use crate::core::statement::Hint;

use super::shape::{block_comment, skip_blank};

/// A hint longer than this is not read: no honest one is.
const LONGEST: usize = 512;

/// The hint's bytes at the head of a text, without the comment's delimiters, if there is one.
/// Only blanks and other comments may stand before it.
pub(super) fn find(text: &[u8]) -> Option<&[u8]> {
    // Nearly every text starts with a word: look at one byte and be done.
    if text.first().is_none_or(u8::is_ascii_alphabetic) {
        return None;
    }
    let head = &text[..skip_blank(text, 0)];
    let mut at = 0;
    while at < head.len() {
        if !head[at..].starts_with(b"/*") {
            at += if head[at..].starts_with(b"--") {
                head[at..]
                    .iter()
                    .position(|byte| matches!(byte, b'\n' | b'\r'))
                    .unwrap_or(head.len() - at)
            } else {
                1
            };
            continue;
        }
        let end = block_comment(head, at).ok()?;
        let body = head[at + 2..end - 2].trim_ascii();
        if let Some((name, rest)) = body.split_at_checked(8)
            && name.eq_ignore_ascii_case(b"causeway")
            && let Some(keys) = rest.trim_ascii_start().strip_prefix(b":")
        {
            return Some(keys);
        }
        at = end;
    }
    None
}

/// What the hint says.
pub(super) fn parse(keys: &[u8]) -> Hint {
    let mut hint = Hint::default();
    if keys.len() > LONGEST {
        hint.fault = Some("causeway hint is too long".into());
        return hint;
    }
    let keys = String::from_utf8_lossy(keys);
    let mut faults = Vec::new();
    for pair in keys
        .split(',')
        .map(str::trim)
        .filter(|pair| !pair.is_empty())
    {
        let (key, value) = pair
            .split_once('=')
            .map_or((pair, ""), |(key, value)| (key.trim(), value.trim()));
        let value = value.trim_matches(['\'', '"']);
        if !key.eq_ignore_ascii_case("consistency") {
            faults.push(format!("unknown key \"{key}\" in causeway hint"));
            continue;
        }
        match value.parse() {
            Ok(level) => hint.consistency = Some(level),
            Err(fault) => faults.push(format!("\"{value}\" in causeway hint is {fault}")),
        }
    }
    if !faults.is_empty() {
        hint.fault = Some(faults.join("; ").into());
    }
    hint
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::session::Level;

    fn hint(text: &str) -> Option<Hint> {
        find(text.as_bytes()).map(parse)
    }

    #[test]
    fn only_a_comment_at_the_head_counts() {
        let primary = Some(Hint {
            consistency: Some(Level::Primary),
            fault: None,
        });
        assert_eq!(
            hint("/* causeway: consistency=primary */ SELECT 1"),
            primary
        );
        assert_eq!(
            hint(" \n/*causeway:consistency = 'PRIMARY'*/SELECT 1"),
            primary
        );
        assert_eq!(
            hint("-- note\n/* a /* b */ */ /* CAUSEWAY : consistency=primary, */ SELECT 1"),
            primary
        );
        assert_eq!(hint("SELECT /* causeway: consistency=primary */ 1"), None);
        assert_eq!(
            hint("-- /* causeway: consistency=primary */\nSELECT 1"),
            None
        );
        assert_eq!(hint("/* causeway consistency=primary */ SELECT 1"), None);
        assert_eq!(hint("/* causeway: consistency=primary"), None);
        assert_eq!(hint(""), None);
    }

    #[test]
    fn faults_are_reported_and_ignored() {
        let found = hint("/* causeway: consistency=primary, speed=high */ SELECT 1").unwrap();
        assert_eq!(found.consistency, Some(Level::Primary));
        assert_eq!(
            found.fault.as_deref(),
            Some("unknown key \"speed\" in causeway hint")
        );
        let found = hint("/* causeway: consistency=maybe */ SELECT 1").unwrap();
        assert_eq!(found.consistency, None);
        assert!(found.fault.unwrap().contains("\"maybe\""));
    }
}
