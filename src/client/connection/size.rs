//! How large a message may be, and which need not have arrived whole before it is sent on.

use crate::error::{Kind, Problem};
use crate::sql::LONGEST_TEXT;
use crate::wire::frame::{self, HEADER, WHOLE};

/// A longer simple query would not be parsed: it is passed on as it comes, and looked at on the way, in
/// bytes.
const MAX_WHOLE_QUERY: usize = LONGEST_TEXT + HEADER + 1;
/// A longer Bind is passed on as it comes, in bytes.
const MAX_WHOLE_BIND: usize = 1024 * 1024;

/// Messages that a frontend may send after startup (manual, "Message Formats").
pub(super) fn is_known(tag: u8) -> bool {
    matches!(
        tag,
        b'B' | b'C' | b'd' | b'c' | b'f' | b'D' | b'E' | b'H' | b'F' | b'P' | b'Q' | b'S' | b'X'
    )
}

/// Whether a large message can be sent on before it has arrived whole.
pub(super) fn may_stream(tag: u8, size: usize, bytes: &[u8]) -> bool {
    match tag {
        b'Q' => size > MAX_WHOLE_QUERY && bytes.len() >= HEADER,
        b'F' => bytes.len() >= HEADER,
        b'B' if size <= MAX_WHOLE_BIND => false,
        // Its names must be there, because the statement's is replaced.
        b'B' => frame::cstr(&bytes[HEADER..]).is_some_and(|(_, rest)| frame::cstr(rest).is_some()),
        _ => false,
    }
}

pub(super) fn check_size(tag: u8, size: usize, there: usize) -> Result<(), Problem> {
    let limit = match tag {
        // A statement's text is kept for other server connections; PostgreSQL's own bound is 1 GiB.
        b'P' => return Ok(()),
        b'Q' if size <= MAX_WHOLE_QUERY => return Ok(()),
        b'B' if size <= MAX_WHOLE_BIND => return Ok(()),
        // It streams as soon as its two names are there, and those are short.
        b'Q' | b'F' | b'B' if there < WHOLE => return Ok(()),
        _ => WHOLE,
    };
    if size <= limit {
        return Ok(());
    }
    let what = format!(
        "message \"{}\" of {size} bytes is too long",
        char::from(tag)
    );
    Err(Problem::fatal(Kind::ProgramLimitExceeded, what))
}
