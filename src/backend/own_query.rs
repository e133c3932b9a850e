//! Running a statement of our own on a server connection between two batches of a session.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Weak};
use std::time::Duration;

use super::locally::Locally;
use super::prepared::{NAME_PREFIX, Prepared, Shape, server_name};
use super::server::Server;
use super::settings::{RESET_ALL, Settings};
use crate::core::exchange::{Fate, Owed};
use crate::core::plans::Plans;
use crate::core::residue::Residue;
use crate::core::tag::{self, backend, frontend, object};
use crate::core::traces::Traces;
use crate::wire::frame::{self, HEADER};

/// The rows of an answer to a question of our own never take more, in bytes.
const MOST_ROWS: usize = 64 << 20;

/// With [`RESET_ALL`] before it, DISCARD ALL but for prepared statements and plans, which are the proxy's own;
/// of those it tells whether they are as many as they should be. Its last statement gives a row, and is the
/// only one that does.
const CLEAN: &str = "CLOSE ALL; UNLISTEN *; DISCARD TEMP; DISCARD SEQUENCES; \
    SELECT pg_catalog.pg_advisory_unlock_all(), pg_catalog.count(*) FILTER (WHERE NOT from_sql), \
    pg_catalog.bool_or(from_sql) FROM pg_catalog.pg_prepared_statements";

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

    /// Makes these settings its own, in one round trip within `bound`, on a connection that owes nothing. If
    /// that takes any, and it `disowns`, numbers that were drawn there are forgotten with it.
    ///
    /// # Errors
    ///
    /// When it cannot be told that no others are left, the connection is unusable; these may be refused.
    pub async fn apply(
        &mut self,
        settings: &Arc<Settings>,
        disowns: bool,
        bound: Duration,
    ) -> Result<(), OwnQueryError> {
        let applied = self.applied.take();
        let mut messages = settings.sync(applied.as_deref());
        let disowns = disowns && !messages.is_empty();
        if disowns {
            messages.push(b"DISCARD SEQUENCES".to_vec());
        }
        match self.run_each(&messages, bound, |_, _| {}).await? {
            None => {}
            Some((0, _)) if applied.is_none() => return Err(unclean()),
            Some((_, frame)) => {
                // Those behind the encoding may have been read otherwise than they were meant.
                self.traces.note(true, None);
                return Err(OwnQueryError::Refused(frame));
            }
        }
        self.applied = Some(Arc::clone(settings));
        if disowns {
            self.numbers_of = Weak::new();
            self.has_numbers = false;
        }
        Ok(())
    }

    /// Takes away what sessions may have left, and makes these settings its own, in one round trip within
    /// `bound`, on a connection that owes nothing. What is prepared stays, unless it is not what it should be,
    /// or plans go.
    ///
    /// # Errors
    ///
    /// When it cannot be told that nothing is left, the connection is unusable; the settings may be refused.
    pub async fn clean(
        &mut self,
        settings: &Arc<Settings>,
        with_plans: bool,
        bound: Duration,
    ) -> Result<(), OwnQueryError> {
        self.applied = None;
        // What `random` gives from here on nobody has chosen: neither RESET ALL nor DISCARD ALL sees to that.
        // Without plans, what is prepared is analysed anew, under settings that nobody has chosen for it.
        let plans = match with_plans {
            true => "DISCARD PLANS; DEALLOCATE ALL; ",
            false => "",
        };
        let clean = format!("{plans}SET seed = {}; {CLEAN}", rand::random::<f64>());
        let mut messages = vec![RESET_ALL.to_vec(), clean.into_bytes()];
        messages.extend(settings.sync(Some(&Settings::default())));
        let mut found: Option<Vec<Option<Box<[u8]>>>> = None;
        let each = |tag, frame: &[u8]| {
            if tag == backend::DATA_ROW && found.is_none() {
                found = frame::raw_row(&frame[HEADER..]);
            }
        };
        let refused = self.run_each(&messages, bound, each).await?;
        let found = found.as_deref();
        let Some([_, of_protocol, in_sql]) = found else {
            return Err(unclean());
        };
        if matches!(refused, Some((0 | 1, _))) {
            return Err(unclean());
        }
        if with_plans {
            self.talk.held.clear();
            self.talk.exposed.clear();
            self.plans = Plans::default();
        }
        let known = self.talk.statements().to_string();
        if of_protocol.as_deref() != Some(known.as_bytes()) || in_sql.as_deref() == Some(b"t") {
            let dropped = self.run_own(b"DEALLOCATE ALL", bound).await;
            dropped.map_err(|_| unclean())?;
            self.talk.held.clear();
            self.talk.exposed.clear();
        }
        self.traces = Traces::default();
        self.numbers_of = Weak::new();
        self.has_numbers = false;
        self.talk.listens = false;
        match refused {
            None => {
                self.applied = Some(Arc::clone(settings));
                Ok(())
            }
            Some((_, frame)) => Err(OwnQueryError::Refused(frame)),
        }
    }

    /// Runs several messages in one round trip. The first refusal, and of which of them.
    async fn run_each(
        &mut self,
        messages: &[Vec<u8>],
        bound: Duration,
        each: impl FnMut(u8, &[u8]),
    ) -> io::Result<Option<(usize, Vec<u8>)>> {
        let mut bytes = Vec::new();
        for sql in messages {
            frame::write(&mut bytes, frontend::QUERY, |body| {
                body.extend_from_slice(sql);
                body.push(0);
            });
            self.talk.exchange.sent(Owed::OwnQuery);
        }
        self.talk.unnamed = None;
        let answer = async {
            self.socket.write_all(&bytes).await?;
            self.own_answers(each).await
        };
        match tokio::time::timeout(bound, answer).await {
            Ok(answer) => answer,
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
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
        self.ask_shape(&name, &mut message);
        message.extend_from_slice(frame::SYNC);
        self.talk.exchange.sent(Owed::Sync);
        self.socket.write_all(&message).await?;
        let mut shape = None;
        self.own_answer(shape_into(&mut shape)).await?;
        self.described(prepared, is_new, shape)
    }

    /// Prepares a statement in the middle of a pipeline, unless the connection holds it, with these settings
    /// while it is parsed, and asks for the shape of its rows, within `bound`, on a connection that owes
    /// nothing but the pipeline's end. Refused, all up to that is skipped.
    pub async fn describe_within(
        &mut self,
        prepared: &Prepared,
        settings: &Locally,
        bound: Duration,
    ) -> Result<Shape, OwnQueryError> {
        let mut message = Vec::new();
        let name = prepared.server_name();
        let is_new = !self.talk.held.touch(prepared.id());
        if is_new {
            self.talk.token = prepared.token();
            let each = settings.make.iter();
            each.for_each(|sql| self.execute_within(sql, &mut message));
            prepared.write_parse(&name, &mut message);
            self.talk.exchange.sent(Owed::Parse);
            let each = settings.restore.iter();
            each.for_each(|sql| self.execute_within(sql, &mut message));
        }
        self.ask_shape(name.as_bytes(), &mut message);
        let mut shape = None;
        self.flush_own(message, bound, shape_into(&mut shape))
            .await?;
        self.described(prepared, is_new, shape)
    }

    /// Asks what a statement returns that the connection holds, or is about to.
    fn ask_shape(&mut self, name: &[u8], message: &mut Vec<u8>) {
        frame::write(message, frontend::DESCRIBE, |body| {
            body.push(object::STATEMENT);
            body.extend_from_slice(name);
            body.push(0);
        });
        self.talk.exchange.sent(Owed::Describe);
    }

    /// The server has described a statement, which it may hold from then on.
    fn described(
        &mut self,
        prepared: &Prepared,
        is_new: bool,
        shape: Option<Shape>,
    ) -> Result<Shape, OwnQueryError> {
        if is_new {
            self.talk.held.insert(prepared.id());
        }
        let shape = shape.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?;
        self.talk.held.set_shape(prepared.id(), shape);
        Ok(shape)
    }

    /// Runs a statement in the middle of a pipeline, on a connection that owes nothing but its end.
    pub async fn run_within(&mut self, sql: &[u8], bound: Duration) -> Result<(), OwnQueryError> {
        let mut message = Vec::new();
        self.execute_within(sql, &mut message);
        self.flush_own(message, bound, |_, _| {}).await
    }

    /// By a statement and a portal of our own: the client may have unnamed ones.
    fn execute_within(&mut self, sql: &[u8], message: &mut Vec<u8>) {
        let own = format!("{NAME_PREFIX}{:016x}\0", self.talk.token);
        let own = own.as_bytes();
        let close = |kind, message: &mut Vec<u8>| {
            frame::write(message, tag::frontend::CLOSE, |body| {
                body.push(kind);
                body.extend_from_slice(own);
            });
        };
        // An error may have left it.
        close(object::STATEMENT, message);
        frame::write(message, tag::frontend::PARSE, |body| {
            body.extend_from_slice(own);
            body.extend_from_slice(sql);
            body.extend_from_slice(&[0; 3]);
        });
        frame::write(message, tag::frontend::BIND, |body| {
            body.extend_from_slice(own);
            body.extend_from_slice(own);
            body.extend_from_slice(&[0; 6]);
        });
        frame::write(message, tag::frontend::EXECUTE, |body| {
            body.extend_from_slice(own);
            body.extend_from_slice(&[0; 4]);
        });
        close(object::PORTAL, message);
        close(object::STATEMENT, message);
        for owed in [
            Owed::Close,
            Owed::Parse,
            Owed::Bind,
            Owed::Execute(None),
            Owed::Close,
            Owed::Close,
        ] {
            self.talk.exchange.sent(owed);
        }
    }

    async fn flush_own(
        &mut self,
        mut message: Vec<u8>,
        bound: Duration,
        each: impl FnMut(u8, &[u8]),
    ) -> Result<(), OwnQueryError> {
        frame::write(&mut message, tag::frontend::FLUSH, |_| {});
        self.socket.write_all(&message).await?;
        match tokio::time::timeout(bound, self.own_answer(each)).await {
            Ok(result) => result,
            Err(_) => Err(io::Error::from(io::ErrorKind::TimedOut).into()),
        }
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
        let sql = "SELECT name FROM pg_catalog.pg_prepared_statements WHERE NOT from_sql";
        let rows = self.rows_own(Residue::aside(sql).as_bytes(), bound).await?;
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
    async fn own_answer(&mut self, each: impl FnMut(u8, &[u8])) -> Result<(), OwnQueryError> {
        match self.own_answers(each).await? {
            Some((_, frame)) => Err(OwnQueryError::Refused(frame)),
            None => Ok(()),
        }
    }

    /// The same, with the first refusal, and of which of the messages that were sent.
    async fn own_answers(
        &mut self,
        mut each: impl FnMut(u8, &[u8]),
    ) -> io::Result<Option<(usize, Vec<u8>)>> {
        let (mut refused, mut answered) = (None, 0);
        while !self.talk.exchange.owes_nothing() {
            let (tag, bytes) = self.socket.next_frame().await?;
            let body = &bytes[HEADER..];
            if self
                .talk
                .exchange
                .received(tag, body.first().copied().unwrap_or(0))
                == Fate::OutOfStep
            {
                return Err(io::ErrorKind::InvalidData.into());
            }
            match tag {
                backend::ERROR if refused.is_none() => refused = Some((answered, bytes)),
                backend::READY => answered += 1,
                backend::PARAMETER_STATUS => self.talk.note_parameter(body),
                // Somebody else's, on a connection that listens: the session is told at its next turn.
                backend::NOTIFICATION => self.talk.unasked.extend_from_slice(&bytes),
                _ => each(tag, &bytes),
            }
        }
        Ok(refused)
    }
}

/// Finds the shape of rows in the answer to Describe.
fn shape_into(shape: &mut Option<Shape>) -> impl FnMut(u8, &[u8]) {
    |tag, frame| {
        if matches!(tag, backend::ROW_DESCRIPTION | backend::NO_DATA) {
            *shape = Some(Shape::of_frame(frame));
        }
    }
}

/// Of a connection on which something may be left that cannot be taken away.
fn unclean() -> OwnQueryError {
    io::Error::from(io::ErrorKind::PermissionDenied).into()
}
