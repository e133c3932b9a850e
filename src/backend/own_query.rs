//! Running a statement of our own on a server connection between two batches of a session.

use std::io;
use std::time::Duration;

use bytes::BytesMut;
use postgres_protocol::message::frontend;

use super::prepared::{Prepared, Shape};
use super::server::Server;
use crate::core::exchange::{Fate, Owed};
use crate::core::tag::{self, backend, object};
use crate::wire::frame::{self, HEADER};

/// ParameterStatus messages that a statement brought about, by name.
pub type Reported = Vec<(String, String)>;

/// One row's values in text format; none for NULL.
pub type Row = Vec<Option<String>>;

/// Why a statement of our own failed.
#[derive(Debug, thiserror::Error)]
pub enum OwnQueryError {
    /// The connection is unusable.
    #[error("the server connection failed: {0}")]
    Io(#[from] io::Error),
    /// The server refused; the ErrorResponse frame.
    #[error("the server refused the statement")]
    Refused(Vec<u8>),
}

impl Server {
    /// Runs `sql`, within `bound`, on a connection that owes nothing.
    pub async fn run_own(&mut self, sql: &str, bound: Duration) -> Result<Reported, OwnQueryError> {
        let mut reported = Reported::new();
        let each = |tag, frame: &[u8]| {
            if tag == backend::PARAMETER_STATUS {
                reported.extend(frame::parameter(&frame[HEADER..]));
            }
        };
        match tokio::time::timeout(bound, self.own_query(sql, each)).await {
            Ok(result) => result.map(|()| reported),
            Err(_) => Err(io::Error::from(io::ErrorKind::TimedOut).into()),
        }
    }

    /// Runs `sql`, within `bound`, on a connection that owes nothing, and gives its last row.
    pub async fn ask_own(&mut self, sql: &str, bound: Duration) -> Result<Row, OwnQueryError> {
        let mut row = Row::new();
        let each = |tag, frame: &[u8]| {
            if tag == backend::DATA_ROW {
                row = frame::row(&frame[HEADER..]).unwrap_or_default();
            }
        };
        match tokio::time::timeout(bound, self.own_query(sql, each)).await {
            Ok(result) => result.map(|()| row),
            Err(_) => Err(io::Error::from(io::ErrorKind::TimedOut).into()),
        }
    }

    async fn own_query(
        &mut self,
        sql: &str,
        each: impl FnMut(u8, &[u8]),
    ) -> Result<(), OwnQueryError> {
        let mut message = BytesMut::new();
        frontend::query(sql, &mut message)?;
        self.exchange.sent(Owed::OwnQuery);
        self.unnamed = None;
        self.socket.write_all(&message).await?;
        self.own_answer(each).await
    }

    /// Prepares a statement, unless the connection holds it, and asks for the shape of its rows, within
    /// `bound`, on a connection that owes nothing.
    pub async fn describe_own(
        &mut self,
        prepared: &Prepared,
        bound: Duration,
    ) -> Result<Shape, OwnQueryError> {
        match tokio::time::timeout(bound, self.own_describe(prepared)).await {
            Ok(result) => result,
            Err(_) => Err(io::Error::from(io::ErrorKind::TimedOut).into()),
        }
    }

    async fn own_describe(&mut self, prepared: &Prepared) -> Result<Shape, OwnQueryError> {
        let name = prepared.server_name();
        let mut message = Vec::new();
        let is_new = !self.held.touch(prepared.id());
        if is_new {
            prepared.write_parse(&name, &mut message);
            self.exchange.sent(Owed::OwnParse);
        }
        frame::write(&mut message, tag::frontend::DESCRIBE, |body| {
            body.push(object::STATEMENT);
            body.extend_from_slice(name.as_bytes());
            body.push(0);
        });
        message.extend_from_slice(frame::SYNC);
        self.exchange.sent(Owed::Describe);
        self.exchange.sent(Owed::Sync);
        self.socket.write_all(&message).await?;
        let mut shape = None;
        self.own_answer(|tag, frame| {
            if matches!(tag, backend::ROW_DESCRIPTION | backend::NO_DATA) {
                shape = Some(Shape::of_frame(frame));
            }
        })
        .await?;
        if is_new {
            self.held.insert(prepared.id());
        }
        let shape = shape.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?;
        self.held.set_shape(prepared.id(), shape);
        Ok(shape)
    }

    /// Reads until nothing is owed any more.
    async fn own_answer(&mut self, mut each: impl FnMut(u8, &[u8])) -> Result<(), OwnQueryError> {
        let mut refused = None;
        while !self.exchange.owes_nothing() {
            let (tag, bytes) = self.socket.next_frame().await?;
            let body = &bytes[HEADER..];
            if self
                .exchange
                .received(tag, body.first().copied().unwrap_or(0))
                == Fate::OutOfStep
            {
                return Err(io::Error::from(io::ErrorKind::InvalidData).into());
            }
            match tag {
                backend::ERROR => refused = Some(bytes),
                _ => each(tag, &bytes),
            }
        }
        self.exchange.take_own_failure();
        match refused {
            Some(frame) => Err(OwnQueryError::Refused(frame)),
            None => Ok(()),
        }
    }
}
