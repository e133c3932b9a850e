//! Running a statement of our own on a server connection between two batches of a session.

use std::io;
use std::time::Duration;

use bytes::BytesMut;
use postgres_protocol::message::frontend;

use super::server::Server;
use crate::core::exchange::{Fate, Owed};
use crate::wire::frame::{self, HEADER};

/// ParameterStatus messages that a statement brought about, by name.
pub type Reported = Vec<(String, String)>;

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
        match tokio::time::timeout(bound, self.own_query(sql)).await {
            Ok(result) => result,
            Err(_) => Err(io::Error::from(io::ErrorKind::TimedOut).into()),
        }
    }

    async fn own_query(&mut self, sql: &str) -> Result<Reported, OwnQueryError> {
        let mut message = BytesMut::new();
        frontend::query(sql, &mut message)?;
        self.exchange.sent(Owed::OwnQuery);
        self.unnamed = None;
        self.socket.write_all(&message).await?;
        let mut reported = Vec::new();
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
                b'S' => reported.extend(frame::parameter(body)),
                b'E' => refused = Some(bytes),
                _ => {}
            }
        }
        self.exchange.take_own_failure();
        match refused {
            Some(frame) => Err(OwnQueryError::Refused(frame)),
            None => Ok(reported),
        }
    }
}
