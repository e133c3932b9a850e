//! The console over the PostgreSQL protocol, between `client`, which carries the messages, and `admin`, which
//! knows the answers and may not be imported there.

use std::pin::Pin;

use crate::error::Problem;

/// The database that is none: who connects to it speaks to Causeway itself.
pub const DATABASE: &str = "causeway";

/// What a command brings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// The names of the columns; none for a command that brings no rows.
    pub columns: Vec<&'static str>,
    /// The rows, each with a value or NULL for every column.
    pub rows: Vec<Vec<Option<String>>>,
    /// The command's tag, such as `SHOW`.
    pub tag: &'static str,
}

/// An answer on its way.
pub type Answering<'a> = Pin<Box<dyn Future<Output = Result<Answer, Problem>> + Send + 'a>>;

pub trait Console: Send + Sync + std::fmt::Debug {
    /// Carries out one command. A command that changes something ends by itself within a bound.
    ///
    /// # Errors
    ///
    /// What is not known or not possible, in PostgreSQL's terms.
    fn run<'a>(&'a self, user: &'a str, command: &'a str) -> Answering<'a>;
}
