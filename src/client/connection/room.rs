//! How large what a client sends may be: which messages have to come whole, how long those may be, and what
//! is said where there is no room for them.

use crate::core::tag::frontend;
use crate::error::{Kind, Problem};
use crate::shared::memory::MemoryBudget;
use crate::sql::LONGEST_TEXT;
use crate::wire::frame::{self, HEADER, WHOLE};

/// A longer simple query would not be parsed: it is passed on as it comes, and looked at on the way, in
/// bytes.
const MAX_WHOLE_QUERY: usize = LONGEST_TEXT + HEADER + 1;
/// A longer Bind is passed on as it comes, in bytes.
const MAX_WHOLE_BIND: usize = 1024 * 1024;

/// A session holds all that it may.
pub(in crate::client) fn too_much(memory: &MemoryBudget) -> Problem {
    let what = format!(
        "a session cannot hold more than {} bytes of messages, statements and settings",
        memory.session()
    );
    Problem::error(Kind::ProgramLimitExceeded, what)
        .with_hint("Raise memory.session in causeway's configuration.")
}

/// All sessions together hold all that they may.
pub(in crate::client) fn no_room(memory: &MemoryBudget, bytes: usize) -> Problem {
    let detail = format!(
        "Failed on request of size {bytes}: {} of {} bytes are in use by all sessions.",
        memory.held(),
        memory.total()
    );
    Problem::error(Kind::OutOfMemory, "out of memory")
        .with_detail(detail)
        .with_hint("Raise memory.total in causeway's configuration.")
}

/// Whether a large message can be sent on before it has arrived whole.
pub(super) fn may_stream(tag: u8, size: usize, bytes: &[u8]) -> bool {
    match tag {
        frontend::QUERY => size > MAX_WHOLE_QUERY && bytes.len() >= HEADER,
        frontend::FUNCTION_CALL => bytes.len() >= HEADER,
        frontend::BIND if size <= MAX_WHOLE_BIND => false,
        // Its names must be there, because the statement's is replaced.
        frontend::BIND => {
            frame::cstr(&bytes[HEADER..]).is_some_and(|(_, rest)| frame::cstr(rest).is_some())
        }
        _ => false,
    }
}

/// Whether a message of which so much is there may be so long.
pub(super) fn check_size(tag: u8, size: usize, there: usize) -> Result<(), Problem> {
    let limit = match tag {
        // A statement's text is kept for other server connections; PostgreSQL's own bound is 1 GiB.
        frontend::PARSE => return Ok(()),
        frontend::QUERY if size <= MAX_WHOLE_QUERY => return Ok(()),
        frontend::BIND if size <= MAX_WHOLE_BIND => return Ok(()),
        // It streams as soon as its two names are there, and those are short.
        frontend::QUERY | frontend::FUNCTION_CALL | frontend::BIND if there < WHOLE => {
            return Ok(());
        }
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
