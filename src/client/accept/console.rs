//! The console's messages: simple queries in, the answers of whoever knows them out.

use std::sync::Arc;
use std::time::Duration;

use pgwire::messages::startup::Authentication;

use crate::client::cancels::Slot;
use crate::client::worker::Worker;
use crate::core::exchange::TransactionStatus;
use crate::core::tag::frontend;
use crate::error::{Kind, Problem};
use crate::shared::admin::Console;
use crate::wire::frame;
use crate::wire::reply::Reply;
use crate::wire::socket::Socket;

/// A command is never longer, in bytes.
const LONGEST: usize = 16_384;
/// Bound on writing an answer.
const WRITE_BOUND: Duration = Duration::from_secs(10);
/// Bytes in a cancel key.
const KEY: usize = 4;

/// Only those who are configured.
pub(super) fn admit(admins: &[String], user: &str) -> Result<(), Problem> {
    if admins.iter().any(|admin| admin == user) {
        return Ok(());
    }
    let what = format!("user \"{user}\" may not use the console");
    Err(Problem::fatal(Kind::InsufficientPrivilege, what)
        .with_hint("Name it under admin.users in causeway's configuration."))
}

/// Serves the console until the client leaves or the proxy shuts down.
pub(super) async fn serve(worker: &Arc<Worker>, mut socket: Socket, user: &str) {
    let slot = worker.common.cancels.register(KEY);
    converse(worker, &mut socket, user, &slot).await;
    worker.common.cancels.unregister(&slot);
}

async fn converse(worker: &Arc<Worker>, socket: &mut Socket, user: &str, slot: &Slot) {
    let common = &worker.common;
    let mut skipping = false;
    let mut reply = greeting(slot);
    // What came while a command was carried out.
    let mut ahead = None;
    loop {
        let written = tokio::time::timeout(WRITE_BOUND, socket.write_all(reply.as_bytes())).await;
        if !matches!(written, Ok(Ok(()))) {
            return;
        }
        let message = match ahead.take() {
            Some(message) => Some(message),
            None => tokio::select! {
                message = next(socket) => message,
                () = common.draining.cancelled() => return farewell(socket).await,
            },
        };
        reply = match message {
            Some((frontend::QUERY, body)) => {
                skipping = false;
                let text = frame::cstr(&body).map_or(&body[..], |(text, _)| text);
                let text = String::from_utf8_lossy(text);
                slot.begin();
                let answering = answer(&*common.console, user, &text);
                tokio::pin!(answering);
                // Given up, a command is dropped: a PAUSE takes itself back.
                let reply = loop {
                    tokio::select! {
                        biased;
                        reply = &mut answering => break reply,
                        message = next(socket), if ahead.is_none() => match message {
                            Some((frontend::TERMINATE, _)) | None => return,
                            Some(message) => ahead = Some(message),
                        },
                        () = slot.cancelled() => break canceled(),
                        () = common.draining.cancelled() => return farewell(socket).await,
                    }
                };
                slot.end();
                reply
            }
            Some((frontend::SYNC, _)) => {
                skipping = false;
                Reply::new().ready(TransactionStatus::Idle)
            }
            Some((
                frontend::PARSE
                | frontend::BIND
                | frontend::DESCRIBE
                | frontend::EXECUTE
                | frontend::CLOSE
                | frontend::FUNCTION_CALL,
                _,
            )) if !skipping => {
                skipping = true;
                let problem = Problem::error(
                    Kind::FeatureNotSupported,
                    "the console takes simple queries only",
                );
                Reply::new().error(&problem)
            }
            Some((frontend::TERMINATE, _)) | None => return,
            Some(_) => Reply::new(),
        };
    }
}

async fn farewell(socket: &mut Socket) {
    let problem = Problem::fatal(
        Kind::AdminShutdown,
        "terminating connection due to administrator command",
    );
    let farewell = Reply::new().error(&problem);
    let _ = tokio::time::timeout(WRITE_BOUND, socket.write_all(farewell.as_bytes())).await;
}

fn canceled() -> Reply {
    let problem = Problem::error(
        Kind::QueryCanceled,
        "canceling statement due to user request",
    )
    .with_detail("A PAUSE is taken back; a switchover or failover that was ordered goes on.");
    Reply::new().error(&problem).ready(TransactionStatus::Idle)
}

/// The next message; none when the client is gone, or sends what is none.
async fn next(socket: &mut Socket) -> Option<(u8, Vec<u8>)> {
    let read = socket.read_buffered(|bytes| match frame::peek(bytes) {
        Ok(None) => (0, None),
        Ok(Some((tag, size))) if size <= LONGEST => {
            let body = bytes.get(frame::HEADER..size);
            (size, body.map(|body| Some((tag, body.to_vec()))))
        }
        _ => (bytes.len(), Some(None)),
    });
    read.await.ok().flatten().flatten()
}

fn greeting(slot: &Slot) -> Reply {
    // PgBouncer, too, puts its own version where a server's is expected.
    let version = concat!(env!("CARGO_PKG_VERSION"), "/causeway");
    let parameters = [
        ("server_version", version),
        ("client_encoding", "UTF8"),
        ("server_encoding", "UTF8"),
        ("standard_conforming_strings", "on"),
        ("DateStyle", "ISO"),
        ("TimeZone", "UTC"),
        ("is_superuser", "on"),
    ];
    let reply = Reply::new().authentication(&Authentication::Ok);
    let reply = parameters
        .into_iter()
        .fold(reply, |reply, (name, value)| reply.parameter(name, value));
    reply
        .key_data(slot.process(), slot.key())
        .ready(TransactionStatus::Idle)
}

/// Answers one message, in which several commands may stand; the first that fails ends it.
async fn answer(console: &dyn Console, user: &str, text: &str) -> Reply {
    let mut reply = Reply::new();
    let mut commands = text.split(';').map(str::trim).filter(|c| !c.is_empty());
    let Some(mut command) = commands.next() else {
        return reply.raw(frame::EMPTY_QUERY).ready(TransactionStatus::Idle);
    };
    loop {
        match console.run(user, command).await {
            Ok(answer) => {
                if !answer.columns.is_empty() {
                    reply = reply.columns(&answer.columns);
                    for row in &answer.rows {
                        reply = reply.values(row);
                    }
                }
                reply = reply.complete(answer.tag);
            }
            Err(problem) => return reply.error(&problem).ready(TransactionStatus::Idle),
        }
        match commands.next() {
            Some(next) => command = next,
            None => return reply.ready(TransactionStatus::Idle),
        }
    }
}
