//! A statement without its comments, to be kept for long and sent again.

use super::shape::skip_blank;

/// The same tokens, one space or line break where there was white space or a comment.
///
/// A line break stays one: behind it, a string may go on. Of a text that the parser has taken.
pub(super) fn compact(text: &str) -> String {
    let mut out = String::with_capacity(text.len().min(256));
    let bytes = text.as_bytes();
    let mut at = 0;
    // Behind a string with escapes; in what it goes on with, there are escapes too.
    let mut escapes = false;
    while let Some(&byte) = bytes.get(at) {
        let blank = skip_blank(bytes, at);
        let end = match byte {
            _ if blank > at => {
                let breaks = text[at..blank].contains(['\n', '\r']);
                out.push(if breaks { '\n' } else { ' ' });
                at = blank;
                continue;
            }
            b'\'' => {
                escapes |= out.ends_with(['e', 'E']) && is_prefix(&out);
                quoted(bytes, at, byte, escapes)
            }
            b'"' => {
                escapes = false;
                quoted(bytes, at, byte, false)
            }
            b'$' => {
                escapes = false;
                dollar(text, at)
            }
            _ if continues_word(byte) => {
                escapes = false;
                let word = bytes[at..].iter();
                let length = word.take_while(|byte| continues_word(**byte) || **byte == b'$');
                at + length.count()
            }
            // Of ASCII.
            _ => {
                escapes = false;
                at + 1
            }
        };
        out.push_str(&text[at..end]);
        at = end;
    }
    out
}

fn continues_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || !byte.is_ascii()
}

/// Whether the letter at the end stands by itself.
fn is_prefix(out: &str) -> bool {
    let before = out.as_bytes().iter().rev().nth(1);
    before.is_none_or(|byte| !continues_word(*byte) && *byte != b'$')
}

/// The end of what a quote opens; a doubled one is a second such thing right behind it.
fn quoted(bytes: &[u8], start: usize, quote: u8, escapes: bool) -> usize {
    let mut at = start + 1;
    while let Some(&byte) = bytes.get(at) {
        match byte {
            _ if byte == quote => return at + 1,
            b'\\' if escapes => at += 2,
            _ => at += 1,
        }
    }
    bytes.len()
}

/// The end of a string in dollars, or of a dollar.
fn dollar(text: &str, start: usize) -> usize {
    let rest = &text[start..];
    let tag = rest[1..].find('$').map(|end| &rest[..end + 2]);
    let is_tag = |tag: &&str| {
        let name = &tag.as_bytes()[1..tag.len() - 1];
        name.iter().all(|byte| continues_word(*byte))
            && !name.first().is_some_and(u8::is_ascii_digit)
    };
    match tag.filter(is_tag) {
        Some(tag) => {
            let inside = start + tag.len();
            let end = text[inside..].find(tag);
            end.map_or(text.len(), |length| inside + length + tag.len())
        }
        None => start + 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_go_and_tokens_stay() {
        for (text, expected) in [
            ("SET a = b", "SET a = b"),
            ("SET  a\t=   b", "SET a = b"),
            ("SET a = public /* note */", "SET a = public "),
            ("SET a /* x /* y */ */ = -- z\n b", "SET a =\nb"),
            ("SET a = '/* no */  -- '", "SET a = '/* no */  -- '"),
            ("SET a = 'it''s  ' /* x */", "SET a = 'it''s  ' "),
            (
                "SET a = \"b  /*\"\"*/\", c  /* x */",
                "SET a = \"b  /*\"\"*/\", c ",
            ),
            (
                "SET a = E'\\'  /* no */'  /* x */",
                "SET a = E'\\'  /* no */' ",
            ),
            (
                "SET a = e'b' \n '\\'  c'  /* x */",
                "SET a = e'b'\n'\\'  c' ",
            ),
            ("SET a = 'b' \n 'c\\'  /* x */", "SET a = 'b'\n'c\\' "),
            (
                "SET a = $q$ /* no */  $q$  /* x */",
                "SET a = $q$ /* no */  $q$ ",
            ),
            ("SET a = $$  $ $$  /* x */", "SET a = $$  $ $$ "),
            ("SET a$b$c = 'x'  /* $b$ */", "SET a$b$c = 'x' "),
            ("SET äö  = 'ü  ß'  -- ä", "SET äö = 'ü  ß' "),
            ("SET tame'\\' /* x */", "SET tame'\\' "),
        ] {
            assert_eq!(compact(text), expected, "{text}");
            assert_eq!(compact(expected), expected, "{text}");
        }
    }

    #[test]
    fn it_takes_whatever_comes() {
        for text in [
            "'", "E'\\", "E'\\ä", "\"", "$", "$a", "$a$", "/*", "--", "$ä$x", "e'\\",
        ] {
            assert_eq!(compact(text).len(), text.len().min(compact(text).len()));
        }
    }
}
