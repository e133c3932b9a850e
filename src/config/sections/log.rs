//! The section `log`: what is logged, and how.

use crate::config::section::{Read, Section};
use crate::config::values::{log_filter, one_of};

/// What is logged, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// Filter in `tracing` syntax, such as `info` or `pgcauseway=debug`.
    pub filter: String,
    pub format: LogFormat,
}

/// The shape of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For eyes.
    Text,
    /// One JSON object per line.
    Json,
}

pub(super) fn log(section: &mut Section<'_>) -> Read<Log> {
    let formats = [("text", LogFormat::Text), ("json", LogFormat::Json)];
    let filter = section.or("filter", "info".to_owned(), log_filter);
    let format = section.or("format", LogFormat::Text, one_of(&formats));
    Ok(Log {
        filter: filter?,
        format: format?,
    })
}
