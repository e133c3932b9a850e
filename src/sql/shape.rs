//! A statement's shape: its text with literals, comments and runs of white space taken out.
//!
//! Two texts of one shape are the same sequence of tokens apart from the values of literals, so
//! that they may share one classification. The scanner follows PostgreSQL's lexical rules with
//! `standard_conforming_strings = on`, and gives up, rather than guess, on whatever is odd.

/// Marks that stand for literals. Outside quoted identifiers, which keep their quotes, these bytes
/// occur in no text that the scanner accepts, so that a mark cannot be forged.
const STRING: u8 = 0x01;
const INTEGER: u8 = 0x02;
const DECIMAL: u8 = 0x03;
const BITS: u8 = 0x04;
const NATIONAL: u8 = 0x05;
const LIST: u8 = 0x06;

/// What a byte can begin.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Odd,
    Space,
    Word,
    Digit,
    Other,
}

const CLASSES: [Class; 256] = classes();

const fn classes() -> [Class; 256] {
    let mut table = [Class::Odd; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = match byte as u8 {
            b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c => Class::Space,
            b'a'..=b'z' | b'A'..=b'Z' | b'_' | 0x80..=0xff => Class::Word,
            b'0'..=b'9' => Class::Digit,
            0..=0x1f | 0x7f => Class::Odd,
            _ => Class::Other,
        };
        byte += 1;
    }
    table
}

fn class(byte: u8) -> Class {
    CLASSES[byte as usize]
}

fn continues_word(byte: u8) -> bool {
    matches!(class(byte), Class::Word | Class::Digit) || byte == b'$'
}

/// A list of literals that is being read and may fold into one mark.
#[derive(Clone, Copy)]
struct List {
    start: usize,
    items: usize,
    wants_item: bool,
}

/// Turns texts into shapes, one after the other, in one buffer.
#[derive(Default)]
pub(super) struct Scanner {
    shape: Vec<u8>,
    gap: bool,
    list: Option<List>,
    after_in: bool,
}

/// The text holds something whose meaning the scanner will not vouch for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Odd;

impl Scanner {
    /// The shape of the text scanned last, complete only if that scan succeeded.
    pub(super) fn shape(&self) -> &[u8] {
        &self.shape
    }

    /// Gives back memory that one exceptionally long text took.
    pub(super) fn shrink(&mut self, limit: usize) {
        if self.shape.capacity() > limit {
            self.shape.clear();
            self.shape.shrink_to(limit);
        }
    }

    /// Makes a marked copy of a text its shape, for texts that have none.
    pub(super) fn whole(&mut self, mark: u8, text: &[u8]) {
        self.shape.clear();
        self.shape.push(mark);
        self.shape.extend_from_slice(text);
    }

    /// Reads a text; afterwards [`Scanner::shape`] is its shape, preceded by `prefix`.
    pub(super) fn scan(&mut self, prefix: &[u8], text: &[u8]) -> Result<(), Odd> {
        self.shape.clear();
        self.shape.extend_from_slice(prefix);
        self.gap = false;
        self.list = None;
        self.after_in = false;
        let floor = self.shape.len();
        let mut at = 0;
        while let Some(&byte) = text.get(at) {
            let next = text.get(at + 1).copied().unwrap_or(0);
            at = match class(byte) {
                Class::Space => {
                    self.gap = true;
                    at + 1
                }
                Class::Word => self.word(text, at, floor)?,
                Class::Digit => self.number(text, at, floor)?,
                Class::Other => match byte {
                    b'\'' => {
                        let end = plain_string(text, at + 1)?;
                        self.literal(STRING, floor);
                        end
                    }
                    b'-' if next == b'-' => {
                        self.gap = true;
                        line_comment(text, at)
                    }
                    b'/' if next == b'*' => {
                        self.gap = true;
                        block_comment(text, at)?
                    }
                    b'.' if next.is_ascii_digit() => self.number(text, at, floor)?,
                    b'"' => {
                        let end = quoted_identifier(text, at + 1)?;
                        self.verbatim(&text[at..end], floor);
                        end
                    }
                    b'$' if next.is_ascii_digit() => self.parameter(text, at, floor)?,
                    b'$' => {
                        let end = dollar_string(text, at)?;
                        self.literal(STRING, floor);
                        end
                    }
                    _ => {
                        self.punctuation(byte, floor);
                        at + 1
                    }
                },
                Class::Odd => return Err(Odd),
            };
        }
        Ok(())
    }

    fn word(&mut self, text: &[u8], at: usize, floor: usize) -> Result<usize, Odd> {
        let mut end = at + 1;
        while end < text.len() && continues_word(text[end]) {
            end += 1;
        }
        let follower = text.get(end).copied().unwrap_or(0);
        if end == at + 1 && matches!(follower, b'\'' | b'&') {
            match (text[at] | 0x20, follower) {
                (b'e', b'\'') => {
                    let end = escape_string(text, end + 1)?;
                    self.literal(STRING, floor);
                    return Ok(end);
                }
                (b'b' | b'x', b'\'') => {
                    let end = plain_string(text, end + 1)?;
                    self.literal(BITS, floor);
                    return Ok(end);
                }
                (b'n', b'\'') => {
                    let end = plain_string(text, end + 1)?;
                    self.literal(NATIONAL, floor);
                    return Ok(end);
                }
                // U&'…' and U&"…": their meaning hangs on an UESCAPE that may follow.
                (b'u', b'&') if matches!(text.get(end + 1), Some(b'\'' | b'"')) => return Err(Odd),
                _ => {}
            }
        }
        let word = &text[at..end];
        self.verbatim(word, floor);
        self.after_in = word.eq_ignore_ascii_case(b"in");
        Ok(end)
    }

    fn number(&mut self, text: &[u8], at: usize, floor: usize) -> Result<usize, Odd> {
        let (end, mark) = number(text, at)?;
        self.literal(mark, floor);
        Ok(end)
    }

    fn parameter(&mut self, text: &[u8], at: usize, floor: usize) -> Result<usize, Odd> {
        let mut end = at + 1;
        while end < text.len() && text[end].is_ascii_digit() {
            end += 1;
        }
        if text
            .get(end)
            .is_some_and(|&byte| class(byte) == Class::Word)
        {
            return Err(Odd);
        }
        let list = self.list;
        self.verbatim(&text[at..end], floor);
        self.list = list.and_then(List::with_item);
        Ok(end)
    }

    fn literal(&mut self, mark: u8, floor: usize) {
        let list = self.list;
        self.verbatim(&[mark], floor);
        self.list = list.and_then(List::with_item);
    }

    fn punctuation(&mut self, byte: u8, floor: usize) {
        let list = self.list;
        let after_in = self.after_in;
        match (byte, list) {
            (b')' | b']', Some(list)) if !list.wants_item && list.items > 1 => {
                self.shape.truncate(list.start);
                self.shape.push(LIST);
                self.gap = false;
                self.verbatim(&[byte], floor);
            }
            (b',', Some(list)) if !list.wants_item => {
                self.verbatim(b",", floor);
                self.list = Some(List {
                    wants_item: true,
                    ..list
                });
            }
            _ => {
                self.verbatim(&[byte], floor);
                if byte == b'[' || (byte == b'(' && after_in) {
                    let start = self.shape.len();
                    self.list = Some(List {
                        start,
                        items: 0,
                        wants_item: true,
                    });
                }
            }
        }
    }

    fn verbatim(&mut self, token: &[u8], floor: usize) {
        if self.gap {
            self.gap = false;
            if self.shape.len() > floor {
                self.shape.push(b' ');
            }
        }
        self.shape.extend_from_slice(token);
        self.list = None;
        self.after_in = false;
    }
}

impl List {
    fn with_item(self) -> Option<Self> {
        self.wants_item.then_some(Self {
            items: self.items + 1,
            wants_item: false,
            ..self
        })
    }
}

/// The first byte that is neither white space nor part of a comment.
pub(super) fn skip_blank(text: &[u8], mut at: usize) -> usize {
    while let Some(&byte) = text.get(at) {
        let next = text.get(at + 1).copied().unwrap_or(0);
        at = match byte {
            _ if class(byte) == Class::Space => at + 1,
            b'-' if next == b'-' => line_comment(text, at),
            b'/' if next == b'*' => match block_comment(text, at) {
                Ok(end) => end,
                Err(Odd) => return at,
            },
            _ => return at,
        };
    }
    at
}

fn line_comment(text: &[u8], at: usize) -> usize {
    text[at..]
        .iter()
        .position(|byte| matches!(byte, b'\n' | b'\r'))
        .map_or(text.len(), |length| at + length)
}

/// The end of the block comment that begins here; comments nest.
pub(super) fn block_comment(text: &[u8], mut at: usize) -> Result<usize, Odd> {
    let mut depth = 0_usize;
    while at + 1 < text.len() {
        match (text[at], text[at + 1]) {
            (b'/', b'*') => {
                depth += 1;
                at += 2;
            }
            (b'*', b'/') => {
                depth -= 1;
                at += 2;
                if depth == 0 {
                    return Ok(at);
                }
            }
            _ => at += 1,
        }
    }
    Err(Odd)
}

fn quoted_identifier(text: &[u8], mut at: usize) -> Result<usize, Odd> {
    loop {
        match text.get(at) {
            Some(b'"') if text.get(at + 1) == Some(&b'"') => at += 2,
            Some(b'"') => return Ok(at + 1),
            Some(0) | None => return Err(Odd),
            Some(_) => at += 1,
        }
    }
}

/// The end of a string whose opening quote lies before `at`, with its continuations.
fn plain_string(text: &[u8], mut at: usize) -> Result<usize, Odd> {
    loop {
        match text.get(at) {
            Some(b'\'') if text.get(at + 1) == Some(&b'\'') => at += 2,
            Some(b'\'') => match continuation(text, at + 1) {
                Some(next) => at = next,
                None => return Ok(at + 1),
            },
            Some(0) | None => return Err(Odd),
            Some(_) => at += 1,
        }
    }
}

/// The same for `E'…'`. Escapes by number are left to the parser: they can make it refuse.
fn escape_string(text: &[u8], mut at: usize) -> Result<usize, Odd> {
    loop {
        match text.get(at) {
            Some(b'\\') => match text.get(at + 1) {
                Some(b'u' | b'U' | b'x' | b'0'..=b'7' | 0) | None => return Err(Odd),
                Some(_) => at += 2,
            },
            Some(b'\'') if text.get(at + 1) == Some(&b'\'') => at += 2,
            Some(b'\'') => match continuation(text, at + 1) {
                Some(next) => at = next,
                None => return Ok(at + 1),
            },
            Some(0) | None => return Err(Odd),
            Some(_) => at += 1,
        }
    }
}

/// Where a string goes on, if it does: after white space with a line break, and line comments.
fn continuation(text: &[u8], mut at: usize) -> Option<usize> {
    let mut line_break = false;
    loop {
        match text.get(at)? {
            b'\n' | b'\r' => {
                line_break = true;
                at += 1;
            }
            byte if class(*byte) == Class::Space => at += 1,
            b'-' if text.get(at + 1) == Some(&b'-') => at = line_comment(text, at),
            b'\'' if line_break => return Some(at + 1),
            _ => return None,
        }
    }
}

fn dollar_string(text: &[u8], at: usize) -> Result<usize, Odd> {
    let mut open = at + 1;
    while let Some(&byte) = text.get(open) {
        match class(byte) {
            Class::Word => open += 1,
            Class::Digit if open > at + 1 => open += 1,
            _ if byte == b'$' => break,
            _ => return Err(Odd),
        }
    }
    let Some(delimiter) = text.get(at..=open) else {
        return Err(Odd);
    };
    let mut inside = open + 1;
    while let Some(length) = text[inside..].iter().position(|&byte| byte == b'$') {
        let found = inside + length;
        if text[found..].starts_with(delimiter) {
            return Ok(found + delimiter.len());
        }
        inside = found + 1;
    }
    Err(Odd)
}

/// A number's end and its mark. An integer beyond 32 bits is a decimal to PostgreSQL's grammar.
fn number(text: &[u8], at: usize) -> Result<(usize, u8), Odd> {
    let byte = |at: usize| text.get(at).copied().unwrap_or(0);
    let radix: u32 = match (byte(at), byte(at + 1) | 0x20) {
        (b'0', b'x') => 16,
        (b'0', b'o') => 8,
        (b'0', b'b') => 2,
        _ => 10,
    };
    let mut end = if radix == 10 { at } else { at + 2 };
    let mut value = 0_u64;
    let digits = |end: &mut usize, value: &mut u64, leading: bool| {
        let start = *end;
        loop {
            let underscore = byte(*end) == b'_' && (leading || *end > start);
            let place = *end + usize::from(underscore);
            let Some(digit) = (byte(place) as char).to_digit(radix) else {
                break;
            };
            *value = value
                .saturating_mul(u64::from(radix))
                .saturating_add(u64::from(digit));
            *end = place + 1;
        }
    };
    digits(&mut end, &mut value, radix != 10);
    if radix != 10 && end == at + 2 {
        return Err(Odd);
    }
    let mut mark = if value > i32::MAX as u64 {
        DECIMAL
    } else {
        INTEGER
    };
    if radix == 10 {
        if byte(end) == b'.' && byte(end + 1) != b'.' {
            mark = DECIMAL;
            end += 1;
            digits(&mut end, &mut value, false);
        }
        if byte(end) | 0x20 == b'e' {
            mark = DECIMAL;
            end += 1;
            end += usize::from(matches!(byte(end), b'+' | b'-'));
            let exponent = end;
            digits(&mut end, &mut value, false);
            if end == exponent {
                return Err(Odd);
            }
        }
    }
    if class(byte(end)) == Class::Word {
        return Err(Odd);
    }
    Ok((end, mark))
}
