//! How a session's settings have its texts read: encoding and string constants.

use std::borrow::Cow;

/// What bytes beyond ASCII mean in a client's encoding, as far as finding quotes goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Encoding {
    #[default]
    Utf8,
    /// Bytes of ASCII always are what they seem: LATIN1 and its kin, and the EUC encodings.
    AsciiSafe,
    /// A character's later bytes may look like a backslash or a letter: SJIS, BIG5, GBK and their kin.
    Unsafe,
}

impl Encoding {
    /// By its name in `client_encoding`.
    pub fn named(name: &str) -> Self {
        let letters = name.chars().filter(char::is_ascii_alphanumeric);
        let name: String = letters.map(|c| c.to_ascii_uppercase()).collect();
        match name.as_str() {
            "UTF8" | "UNICODE" => Self::Utf8,
            "SJIS" | "MSKANJI" | "SHIFTJIS" | "WIN932" | "WINDOWS932" | "SHIFTJIS2004" | "BIG5"
            | "WIN950" | "WINDOWS950" | "GBK" | "WIN936" | "WINDOWS936" | "UHC" | "WIN949"
            | "WINDOWS949" | "GB18030" | "JOHAB" => Self::Unsafe,
            _ => Self::AsciiSafe,
        }
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
    /// Whether a text means what it seems to.
    pub(super) fn can_read(self, text: &[u8]) -> bool {
        (self.standard_conforming_strings || !text.contains(&b'\\'))
            && (self.encoding != Encoding::Unsafe || text.is_ascii())
    }

    /// The text as the parser takes it. In an encoding that is not looked up, letters beyond ASCII become
    /// others, which only makes names unknown.
    pub(super) fn read(self, text: &[u8]) -> Option<Cow<'_, str>> {
        match (std::str::from_utf8(text), self.encoding) {
            (Ok(text), Encoding::Utf8) => Some(text.into()),
            (Ok(text), _) if text.is_ascii() => Some(text.into()),
            (_, Encoding::AsciiSafe) => Some(text.iter().map(|byte| char::from(*byte)).collect()),
            _ => None,
        }
    }
}
