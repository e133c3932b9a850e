//! Why a client gets no session.

use std::io;

use crate::error::Problem;

pub(super) enum Refusal {
    Problem(Problem),
    /// In a server's words.
    Frame(Vec<u8>),
    /// Its TLS came to nothing, for this reason; it has been told by TLS itself.
    Handshake(String),
    /// It is gone, or not worth an answer.
    Silent,
}

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Self {
        Self::Problem(problem)
    }
}

impl From<io::Error> for Refusal {
    fn from(_: io::Error) -> Self {
        Self::Silent
    }
}
