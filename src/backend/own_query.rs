//! Running a statement of our own on a server connection between two batches of a session.

use std::collections::HashMap;
use std::io;
use std::time::Duration;

use super::prepared::{Prepared, Shape, server_name};
use super::server::Server;
use crate::core::exchange::{Fate, Owed};
use crate::core::tag::{self, backend, frontend, object};
use crate::wire::frame::{self, HEADER};

/// The rows of an answer to a question of our own never take more, in bytes.
const MOST_ROWS: usize = 64 << 20;

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
    pub async fn run_own(&mut self, sql: &[u8], bound: Duration) -> Result<(), OwnQueryError> {
        match tokio::time::timeout(bound, self.own_query(sql, |_, _| {})).await {
            Ok(result) => result,
            Err(_) => Err(io::Error::from(io::ErrorKind::TimedOut).into()),
        }
    }

    /// Runs `sql`, within `bound`, on a connection that owes nothing, and gives its rows as bytes: they
    /// are in the session's client encoding.
    pub async fn rows_own(
        &mut self,
        sql: &[u8],
        bound: Duration,
    ) -> Result<Vec<Vec<Option<Box<[u8]>>>>, OwnQueryError> {
        let (mut rows, mut bytes) = (Vec::new(), 0);
        let each = |tag, frame: &[u8]| {
            if tag == backend::DATA_ROW {
                bytes += frame.len();
                match bytes <= MOST_ROWS {
                    true => rows.extend(frame::raw_row(&frame[HEADER..])),
                    false => rows.clear(),
                }
            }
        };
        match tokio::time::timeout(bound, self.own_query(sql, each)).await {
            Ok(Ok(())) if bytes > MOST_ROWS => {
                Err(io::Error::from(io::ErrorKind::OutOfMemory).into())
            }
            Ok(result) => result.map(|()| rows),
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
        match tokio::time::timeout(bound, self.own_query(sql.as_bytes(), each)).await {
            Ok(result) => result.map(|()| row),
            Err(_) => Err(io::Error::from(io::ErrorKind::TimedOut).into()),
        }
    }

    async fn own_query(
        &mut self,
        sql: &[u8],
        each: impl FnMut(u8, &[u8]),
    ) -> Result<(), OwnQueryError> {
        let mut message = Vec::with_capacity(sql.len() + HEADER + 1);
        frame::write(&mut message, frontend::QUERY, |body| {
            body.extend_from_slice(sql);
            body.push(0);
        });
        self.talk.exchange.sent(Owed::OwnQuery);
        self.talk.unnamed = None;
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
        // SQL that is about to look finds it under one name.
        let exposed = self.talk.exposed.iter();
        let exposed = exposed
            .filter(|(_, id)| self.talk.exposing && **id == prepared.id())
            .map(|(name, _)| name.to_vec())
            .next();
        let mut message = Vec::new();
        let is_new = exposed.is_none() && !self.talk.held.touch(prepared.id());
        let name = exposed.unwrap_or_else(|| prepared.server_name().into_bytes());
        if is_new {
            self.talk.token = prepared.token();
            prepared.write_parse_as(&name, &mut message);
            self.talk.exchange.sent(Owed::OwnParse);
        }
        frame::write(&mut message, tag::frontend::DESCRIBE, |body| {
            body.push(object::STATEMENT);
            body.extend_from_slice(&name);
            body.push(0);
        });
        message.extend_from_slice(frame::SYNC);
        self.talk.exchange.sent(Owed::Describe);
        self.talk.exchange.sent(Owed::Sync);
        self.socket.write_all(&message).await?;
        let mut shape = None;
        self.own_answer(|tag, frame| {
            if matches!(tag, backend::ROW_DESCRIPTION | backend::NO_DATA) {
                shape = Some(Shape::of_frame(frame));
            }
        })
        .await?;
        if is_new {
            self.talk.held.insert(prepared.id());
        }
        let shape = shape.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?;
        self.talk.held.set_shape(prepared.id(), shape);
        Ok(shape)
    }

    /// Prepares a client's statements under its own names and closes what others have prepared here, within
    /// `bound`, on a connection that owes nothing: SQL finds the names that the client has given.
    pub async fn expose<'a>(
        &mut self,
        token: u64,
        names: impl Iterator<Item = (&'a [u8], &'a Prepared)>,
        bound: Duration,
    ) -> Result<(), OwnQueryError> {
        let mut message = Vec::new();
        let mut wanted = HashMap::new();
        for id in self.talk.held.take_all() {
            self.close_own(server_name(token, id).as_bytes(), &mut message);
        }
        let names: Vec<_> = names.collect();
        for (name, prepared) in &names {
            wanted.insert(Box::from(*name), prepared.id());
        }
        let exposed = std::mem::take(&mut self.talk.exposed);
        for (name, id) in &exposed {
            if wanted.get(name) != Some(id) {
                self.close_own(name, &mut message);
            }
        }
        for (name, prepared) in names {
            if exposed.get(name) != Some(&prepared.id()) {
                // In the order in which the client has prepared them.
                prepared.write_parse_as(name, &mut message);
                self.talk.exchange.sent(Owed::OwnParse);
            }
        }
        self.talk.exposed = wanted;
        self.finish_own(message, bound).await
    }

    /// Looks which statements of the protocol the server knows by a name, closes those that are nobody's and
    /// forgets those that are gone, within `bound`, on a connection that owes nothing.
    pub async fn recount(&mut self, bound: Duration) -> Result<(), OwnQueryError> {
        let sql = b"SELECT name FROM pg_catalog.pg_prepared_statements WHERE NOT from_sql";
        let rows = self.rows_own(sql, bound).await?;
        let names = rows.iter().filter_map(|row| row.first()?.as_deref());
        let unknown = self.talk.reconcile(&names.collect::<Vec<_>>());
        let mut message = Vec::new();
        for name in unknown {
            self.close_own(name, &mut message);
        }
        self.finish_own(message, bound).await
    }

    /// Takes back what `expose` did, before another session has the connection.
    pub async fn conceal(&mut self, bound: Duration) -> Result<(), OwnQueryError> {
        let mut message = Vec::new();
        for name in std::mem::take(&mut self.talk.exposed).into_keys() {
            self.close_own(&name, &mut message);
        }
        self.finish_own(message, bound).await
    }

    fn close_own(&mut self, name: &[u8], message: &mut Vec<u8>) {
        frame::write(message, tag::frontend::CLOSE, |body| {
            body.push(object::STATEMENT);
            body.extend_from_slice(name);
            body.push(0);
        });
        self.talk.exchange.sent(Owed::OwnClose);
    }

    async fn finish_own(
        &mut self,
        mut message: Vec<u8>,
        bound: Duration,
    ) -> Result<(), OwnQueryError> {
        if message.is_empty() {
            return Ok(());
        }
        message.extend_from_slice(frame::SYNC);
        self.talk.exchange.sent(Owed::OwnSync);
        self.socket.write_all(&message).await?;
        match tokio::time::timeout(bound, self.own_answer(|_, _| {})).await {
            Ok(result) => result,
            Err(_) => Err(io::Error::from(io::ErrorKind::TimedOut).into()),
        }
    }

    /// Reads until nothing is owed any more.
    async fn own_answer(&mut self, mut each: impl FnMut(u8, &[u8])) -> Result<(), OwnQueryError> {
        let mut refused = None;
        while !self.talk.exchange.owes_nothing() {
            let (tag, bytes) = self.socket.next_frame().await?;
            let body = &bytes[HEADER..];
            if self
                .talk
                .exchange
                .received(tag, body.first().copied().unwrap_or(0))
                == Fate::OutOfStep
            {
                return Err(io::Error::from(io::ErrorKind::InvalidData).into());
            }
            match tag {
                backend::ERROR => refused = Some(bytes),
                backend::PARAMETER_STATUS => self.talk.note_parameter(body),
                // Somebody else's, on a connection that listens: the session is told at its next turn.
                backend::NOTIFICATION => self.talk.unasked.extend_from_slice(&bytes),
                _ => each(tag, &bytes),
            }
        }
        match refused {
            Some(frame) => Err(OwnQueryError::Refused(frame)),
            None => Ok(()),
        }
    }
}
