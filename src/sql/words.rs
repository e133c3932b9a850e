//! The words, strings and marks of a function's body, without white space and comments.

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Token {
    /// An identifier or key word, in lower case unless it was quoted.
    Word(Box<str>),
    /// A string's content.
    Text(String),
    /// Anything else; a number is one mark.
    Symbol(char),
}

impl Token {
    pub(super) fn is_any_of(&self, words: &[&str]) -> bool {
        matches!(self, Self::Word(word) if words.contains(&&**word))
    }
}

/// Cuts a body up. What is not closed reaches to the end.
pub(super) fn tokens(source: &str) -> Vec<Token> {
    let mut found = Vec::new();
    let mut rest = source;
    while let Some(first) = rest.chars().next() {
        let length = match first {
            '-' if rest.starts_with("--") => rest.find(['\n', '\r']).unwrap_or(rest.len()),
            '/' if rest.starts_with("/*") => comment(rest),
            '\'' => {
                let escapes = matches!(found.last(), Some(Token::Word(word)) if &**word == "e")
                    && source[..source.len() - rest.len()].ends_with(['e', 'E']);
                if escapes {
                    found.pop();
                }
                let (text, length) = quoted(rest, '\'', escapes);
                found.push(Token::Text(text));
                length
            }
            '"' => {
                let (text, length) = quoted(rest, '"', false);
                found.push(Token::Word(text.into()));
                length
            }
            '$' => match dollar(rest) {
                Some((text, length)) => {
                    found.push(Token::Text(text.to_owned()));
                    length
                }
                None => {
                    found.push(Token::Symbol('$'));
                    1
                }
            },
            c if is_word(c) && !c.is_ascii_digit() => {
                let end = rest.find(|c| !is_word(c) && c != '$').unwrap_or(rest.len());
                found.push(Token::Word(rest[..end].to_ascii_lowercase().into()));
                end
            }
            c if c.is_ascii_digit() => {
                found.push(Token::Symbol('0'));
                rest.find(|c: char| !is_word(c)).unwrap_or(rest.len())
            }
            c => {
                if !c.is_whitespace() {
                    found.push(Token::Symbol(c));
                }
                c.len_utf8()
            }
        };
        rest = &rest[length..];
    }
    found
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || !c.is_ascii()
}

fn comment(text: &str) -> usize {
    let bytes = text.as_bytes();
    let (mut at, mut depth) = (0, 0_usize);
    while at + 1 < bytes.len() {
        match &bytes[at..at + 2] {
            b"/*" => depth += 1,
            b"*/" => depth -= 1,
            _ => {
                at += 1;
                continue;
            }
        }
        at += 2;
        if depth == 0 {
            return at;
        }
    }
    text.len()
}

fn quoted(text: &str, quote: char, escapes: bool) -> (String, usize) {
    let mut content = String::new();
    let mut characters = text.char_indices().skip(1).peekable();
    while let Some((at, c)) = characters.next() {
        if c == quote {
            match characters.peek() {
                Some((_, next)) if *next == quote => {
                    characters.next();
                }
                _ => return (content, at + 1),
            }
        } else if c == '\\' && escapes {
            characters.next();
            // Which character that is hardly matters; that it ends nothing does.
            content.push(' ');
            continue;
        }
        content.push(c);
    }
    (content, text.len())
}

fn dollar(text: &str) -> Option<(&str, usize)> {
    let end = text[1..].find('$')? + 2;
    let tag = &text[..end];
    let name = &tag[1..end - 1];
    if !name.chars().all(is_word) || name.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    let content = &text[end..];
    match content.find(tag) {
        Some(length) => Some((&content[..length], end + length + tag.len())),
        None => Some((content, text.len())),
    }
}

/// Cuts up whatever comes; how many there are of what.
#[cfg(any(test, fuzzing))]
pub(crate) fn scan_any(source: &str) -> usize {
    tokens(source).len()
}
