//! How a session's settings have its texts read: encoding and string constants.

use std::borrow::Cow;

/// What bytes beyond ASCII mean in a client's encoding, as far as finding quotes and words goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Encoding {
    #[default]
    Utf8,
    /// Bytes of ASCII always are what they seem: LATIN1 and its kin, and the EUC encodings.
    AsciiSafe,
    /// SJIS and SHIFT_JIS_2004: two bytes, of which the second may look like a backslash or a letter, but
    /// for half-width letters of one.
    ShiftJis,
    /// BIG5, GBK, UHC and JOHAB: two bytes, the second like that.
    TwoBytes,
    /// GB18030: two bytes like that, or four with digits among them.
    Gb18030,
}

/// A byte beyond ASCII, or one of a character that has such a byte, as the parser sees it: a letter that no
/// text has.
const PRIVATE_USE: u32 = 0xe000;

/// No character's later bytes are below this: PostgreSQL refuses a text in which one is.
const LEAST_LATER_BYTE: u8 = b'0';

impl Encoding {
    /// By its name in `client_encoding`.
    pub fn named(name: &str) -> Self {
        let letters = name.chars().filter(char::is_ascii_alphanumeric);
        let name: String = letters.map(|c| c.to_ascii_uppercase()).collect();
        match name.as_str() {
            "UTF8" | "UNICODE" => Self::Utf8,
            "SJIS" | "MSKANJI" | "SHIFTJIS" | "WIN932" | "WINDOWS932" | "SHIFTJIS2004" => {
                Self::ShiftJis
            }
            "BIG5" | "WIN950" | "WINDOWS950" | "GBK" | "WIN936" | "WINDOWS936" | "UHC"
            | "WIN949" | "WINDOWS949" | "JOHAB" => Self::TwoBytes,
            "GB18030" => Self::Gb18030,
            _ => Self::AsciiSafe,
        }
    }

    /// How many bytes a character has that begins with these (PostgreSQL's `pg_encoding_mblen`).
    fn length(self, lead: u8, next: Option<u8>) -> usize {
        match self {
            _ if lead.is_ascii() => 1,
            Self::Utf8 | Self::AsciiSafe => 1,
            Self::ShiftJis if (0xa1..=0xdf).contains(&lead) => 1,
            Self::Gb18030 if next.is_some_and(|next| next.is_ascii_digit()) => 4,
            Self::ShiftJis | Self::TwoBytes | Self::Gb18030 => 2,
        }
    }

    /// A text in which no byte seems to be what it is not; none where the server refuses it.
    fn plain(self, text: &[u8]) -> Option<String> {
        let mut plain = String::with_capacity(2 * text.len());
        let mut rest = text;
        while let Some(&lead) = rest.first() {
            let length = self.length(lead, rest.get(1).copied());
            let (character, later) = rest.split_at_checked(length)?;
            rest = later;
            if lead.is_ascii() {
                plain.push(char::from(lead));
                continue;
            }
            if character[1..].iter().any(|byte| *byte < LEAST_LATER_BYTE) {
                return None;
            }
            let letters = character.iter();
            plain.extend(letters.filter_map(|byte| char::from_u32(PRIVATE_USE + u32::from(*byte))));
        }
        Some(plain)
    }
}

/// The settings of a session that its texts are read by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lexical {
    /// Off, a backslash in a plain string is an escape.
    pub standard_conforming_strings: bool,
    /// The client's encoding.
    pub encoding: Encoding,
}

impl Default for Lexical {
    fn default() -> Self {
        Self::from(true)
    }
}

/// `standard_conforming_strings` of a session that speaks UTF-8.
impl From<bool> for Lexical {
    fn from(standard_conforming_strings: bool) -> Self {
        Self {
            standard_conforming_strings,
            encoding: Encoding::Utf8,
        }
    }
}

impl Lexical {
    /// A server has said what a setting is from now on.
    pub fn reported(&mut self, name: &str, value: &str) {
        match name {
            "standard_conforming_strings" => self.standard_conforming_strings = value == "on",
            "client_encoding" => self.encoding = Encoding::named(value),
            _ => {}
        }
    }

    /// A number for what else than text and settings decides what a text means; 0 as a rule.
    pub fn number(self) -> u64 {
        let encoding = self.encoding as u64;
        encoding << 1 | u64::from(!self.standard_conforming_strings)
    }

    /// The text as the parser takes it, and its shape is made of; none if it does not mean what it seems
    /// to. In an encoding that is not looked up, letters beyond ASCII become others, which only makes names
    /// unknown.
    pub(super) fn read(self, text: &[u8]) -> Option<Cow<'_, str>> {
        if !self.standard_conforming_strings && text.contains(&b'\\') {
            return None;
        }
        match (std::str::from_utf8(text), self.encoding) {
            (Ok(text), Encoding::Utf8) => Some(text.into()),
            (Ok(text), _) if text.is_ascii() => Some(text.into()),
            (_, Encoding::Utf8) => None,
            (_, Encoding::AsciiSafe) => Some(text.iter().map(|byte| char::from(*byte)).collect()),
            (_, encoding) => encoding.plain(text).map(Cow::from),
        }
    }
}
