//! A message of the client's, as far as it was looked at.

use std::sync::Arc;

use crate::backend::prepared::{Prepared, Shape};
use crate::core::exchange::Effects;
use crate::core::tag::frontend;
use crate::error::{Kind, Problem};
use crate::wire::frame;

/// One message of a batch.
#[derive(Debug)]
pub(in crate::client) struct Message {
    /// Its tag.
    pub(in crate::client) tag: u8,
    /// Where it begins in the inbox.
    pub(in crate::client) start: usize,
    /// Where it ends.
    pub(in crate::client) end: usize,
    /// The statement that it parses, binds, describes or closes, if it is a known one.
    pub(in crate::client) prepared: Option<Arc<Prepared>>,
    /// It speaks of a named statement.
    pub(in crate::client) named: bool,
    /// A Bind of a statement of which the client expects rows of this shape.
    pub(in crate::client) shape: Option<Shape>,
    /// Where the server has to parse it anew, it is to read constants as it did first.
    pub(in crate::client) as_parsed: bool,
    /// A Parse whose name is in use: the server must be made to refuse it.
    pub(in crate::client) taken: bool,
    /// The server is to say what is wrong with it.
    pub(in crate::client) malformed: bool,
    /// It speaks of the unnamed statement, and the session has none.
    pub(in crate::client) unknown: bool,
    /// What running it does to the session: of a simple query, or of an Execute.
    pub(in crate::client) effects: Effects,
}

impl Message {
    pub(super) fn new(tag: u8, start: usize, end: usize) -> Self {
        Self {
            tag,
            start,
            end,
            prepared: None,
            named: false,
            shape: None,
            as_parsed: false,
            taken: false,
            malformed: false,
            unknown: false,
            effects: None,
        }
    }
}

/// A message that cannot be made sense of.
pub(super) fn malformed(what: &str) -> Problem {
    Problem::fatal(
        Kind::ProtocolViolation,
        format!("invalid message format: {what}"),
    )
}

/// Whether a message, which is there as a whole, has the parts that it cannot be understood without.
pub(super) fn is_well_formed(tag: u8, body: &[u8]) -> bool {
    let text = |body| frame::cstr(body).map(|(_, rest)| rest);
    match tag {
        frontend::QUERY | frontend::EXECUTE => text(body).is_some(),
        frontend::PARSE | frontend::BIND => text(body).and_then(text).is_some(),
        frontend::DESCRIBE | frontend::CLOSE => body.get(1..).and_then(text).is_some(),
        frontend::SYNC | frontend::FLUSH => body.is_empty(),
        _ => true,
    }
}

/// Messages that a frontend may send after startup (manual, "Message Formats").
pub(super) fn is_known(tag: u8) -> bool {
    matches!(
        tag,
        frontend::BIND
            | frontend::CLOSE
            | frontend::COPY_DATA
            | frontend::COPY_DONE
            | frontend::COPY_FAIL
            | frontend::DESCRIBE
            | frontend::EXECUTE
            | frontend::FLUSH
            | frontend::FUNCTION_CALL
            | frontend::PARSE
            | frontend::QUERY
            | frontend::SYNC
            | frontend::TERMINATE
    )
}
