//! Messages that Causeway itself sends to clients, encoded by pgwire. Relayed traffic never comes here.

use bytes::BytesMut;
use pgwire::messages::Message;
use pgwire::messages::data::{DataRow, FieldDescription, RowDescription};
use pgwire::messages::response::{
    CommandComplete, ErrorResponse, NoticeResponse, ReadyForQuery, TransactionStatus as PgStatus,
};
use pgwire::messages::startup::{Authentication, NegotiateProtocolVersion, ParameterStatus};

use crate::core::exchange::TransactionStatus;
use crate::core::tag::{self, field};
use crate::error::Problem;

/// `text`'s type oid, which every column of ours has.
const TEXT_OID: u32 = 25;

/// Bytes on their way to a client.
#[derive(Debug, Default)]
pub struct Reply {
    bytes: BytesMut,
}

impl Reply {
    pub fn new() -> Self {
        Self::default()
    }

    /// What has been composed.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Appends bytes that are messages already.
    pub fn raw(mut self, bytes: &[u8]) -> Self {
        self.bytes.extend_from_slice(bytes);
        self
    }

    fn put(mut self, message: &impl Message) -> Self {
        // Encoding into memory fails for no message that is composed here.
        if let Err(error) = message.encode(&mut self.bytes) {
            tracing::error!(%error, "encode a reply");
        }
        self
    }

    pub fn error(self, problem: &Problem) -> Self {
        let severity = if problem.fatal { "FATAL" } else { "ERROR" };
        self.put(&ErrorResponse::new(fields(severity, problem)))
    }

    /// NoticeResponse, as a warning.
    pub fn warning(self, problem: &Problem) -> Self {
        self.put(&NoticeResponse::new(fields("WARNING", problem)))
    }

    /// An authentication request or its happy end.
    pub fn authentication(self, message: &Authentication) -> Self {
        self.put(message)
    }

    pub fn parameter(self, name: &str, value: &str) -> Self {
        self.put(&ParameterStatus::new(name.to_owned(), value.to_owned()))
    }

    pub fn key_data(mut self, process: i32, key: &[u8]) -> Self {
        self.bytes.extend_from_slice(&[tag::backend::KEY_DATA]);
        self.bytes
            .extend_from_slice(&(8 + key.len() as u32).to_be_bytes());
        self.bytes.extend_from_slice(&process.to_be_bytes());
        self.bytes.extend_from_slice(key);
        self
    }

    /// NegotiateProtocolVersion. The manual speaks of the minor version; servers send, and libpq
    /// expects, the whole number with the major version in its upper half.
    pub fn negotiate(self, minor: u16, unknown: &[String]) -> Self {
        self.put(&NegotiateProtocolVersion::new(
            (3 << 16) | i32::from(minor),
            unknown.to_vec(),
        ))
    }

    /// RowDescription of text columns.
    pub fn columns(self, names: &[&str]) -> Self {
        let fields = names
            .iter()
            .map(|name| FieldDescription::new((*name).to_owned(), 0, 0, TEXT_OID, -1, -1, 0))
            .collect();
        self.put(&RowDescription::new(fields))
    }

    /// DataRow of text values.
    pub fn row(self, values: &[&str]) -> Self {
        let mut data = BytesMut::new();
        for value in values {
            data.extend_from_slice(&(value.len() as u32).to_be_bytes());
            data.extend_from_slice(value.as_bytes());
        }
        self.put(&DataRow::new(data, values.len() as i16))
    }

    /// DataRow of text values, some of which may be NULL.
    pub fn values(self, values: &[Option<String>]) -> Self {
        let mut data = BytesMut::new();
        for value in values {
            let length = value.as_ref().map_or(-1, |value| value.len() as i32);
            data.extend_from_slice(&length.to_be_bytes());
            data.extend_from_slice(value.as_deref().unwrap_or_default().as_bytes());
        }
        self.put(&DataRow::new(data, values.len() as i16))
    }

    pub fn complete(self, tag: &str) -> Self {
        self.put(&CommandComplete::new(tag.to_owned()))
    }

    pub fn ready(self, status: TransactionStatus) -> Self {
        self.put(&ReadyForQuery::new(match status {
            TransactionStatus::Idle => PgStatus::Idle,
            TransactionStatus::InTransaction => PgStatus::Transaction,
            TransactionStatus::Failed => PgStatus::Error,
        }))
    }
}

fn fields(severity: &str, problem: &Problem) -> Vec<(u8, String)> {
    let mut fields = vec![
        (field::SEVERITY, severity.to_owned()),
        (field::SEVERITY_NAME, severity.to_owned()),
        (field::SQLSTATE, problem.kind.sqlstate().to_owned()),
        (field::MESSAGE, problem.message.clone()),
    ];
    fields.extend(
        problem
            .detail
            .iter()
            .map(|text| (field::DETAIL, text.clone())),
    );
    fields.extend(problem.hint.iter().map(|text| (field::HINT, text.clone())));
    fields
}

/// The value of one field of an ErrorResponse or NoticeResponse frame, header included.
pub fn error_field(frame: &[u8], field: u8) -> Option<&[u8]> {
    let mut rest = frame.get(super::frame::HEADER..)?;
    loop {
        let (&code, after) = rest.split_first()?;
        let (value, after) = super::frame::cstr(after)?;
        if code == field {
            return Some(value);
        }
        rest = after;
    }
}

/// What an ErrorResponse frame says, for a log.
pub fn error_text(frame: &[u8]) -> String {
    let of = |code| error_field(frame, code).map(String::from_utf8_lossy);
    let (message, sqlstate) = (of(field::MESSAGE), of(field::SQLSTATE));
    format!(
        "{} (SQLSTATE {})",
        message.unwrap_or_default(),
        sqlstate.unwrap_or_default()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    #[test]
    fn errors_carry_their_fields() {
        let problem = Problem::fatal(Kind::InvalidPassword, "no").with_hint("try again");
        let reply = Reply::new().error(&problem);
        let frame = reply.as_bytes();
        assert_eq!(
            super::super::frame::peek(frame),
            Ok(Some((b'E', frame.len())))
        );
        let field =
            |code| error_field(frame, code).map(|v| String::from_utf8_lossy(v).into_owned());
        assert_eq!(field(b'C').as_deref(), Some("28P01"));
        assert_eq!(field(b'S').as_deref(), Some("FATAL"));
        assert_eq!(field(b'H').as_deref(), Some("try again"));
        assert_eq!(field(b'D'), None);
    }

    #[test]
    fn frames_are_whole() {
        let reply = Reply::new()
            .columns(&["a", "b"])
            .row(&["1", "two"])
            .complete("SHOW")
            .parameter("TimeZone", "UTC")
            .key_data(7, b"abcd")
            .negotiate(2, &["_pq_.x".to_owned()])
            .ready(TransactionStatus::Idle);
        let mut rest = reply.as_bytes();
        let mut tags = String::new();
        while let Ok(Some((tag, size))) = super::super::frame::peek(rest) {
            tags.push(char::from(tag));
            rest = &rest[size..];
        }
        assert_eq!(tags, "TDCSKvZ");
        assert!(rest.is_empty());
    }
}
