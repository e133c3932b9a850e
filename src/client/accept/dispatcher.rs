//! Accepting clients and dealing them out to the workers.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::login;
use crate::client::outcome::told::{Fate, told};
use crate::client::worker::{Common, Worker};
use crate::error::{Kind, Problem};
use crate::wire::reply::Reply;
use crate::wire::socket::Socket;

/// Connections on their way to a worker.
const QUEUE: usize = 256;

/// The acceptor's handle on one worker.
#[derive(Debug)]
pub struct Door {
    queue: mpsc::Sender<std::net::TcpStream>,
    clients: Arc<AtomicUsize>,
}

/// A worker's end: serves what comes in until the door is closed.
#[derive(Debug)]
pub struct Floor {
    queue: mpsc::Receiver<std::net::TcpStream>,
    clients: Arc<AtomicUsize>,
}

/// The two ends of a worker's queue.
pub fn door() -> (Door, Floor) {
    let (sender, receiver) = mpsc::channel(QUEUE);
    let clients = Arc::new(AtomicUsize::new(0));
    (
        Door {
            queue: sender,
            clients: Arc::clone(&clients),
        },
        Floor {
            queue: receiver,
            clients,
        },
    )
}

/// Accepts until `shutdown`, giving each client to the worker that has the fewest.
pub async fn accept(
    listener: TcpListener,
    doors: Vec<Door>,
    common: Arc<Common>,
    shutdown: CancellationToken,
) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shutdown.cancelled() => return,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of file descriptors, most likely: accepting goes on when some are free again.
                tracing::warn!(%error, "accept a client");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let total: usize = doors
            .iter()
            .map(|door| door.clients.load(Ordering::Relaxed))
            .sum();
        if total >= common.rules.load().config.max_clients {
            common.metrics.clients.refused.inc();
            tokio::spawn(turn_away(stream, Arc::clone(&common)));
            continue;
        }
        let fewest = doors
            .iter()
            .min_by_key(|door| door.clients.load(Ordering::Relaxed));
        let Some(door) = fewest else { return };
        let Ok(stream) = stream.into_std() else {
            continue;
        };
        door.clients.fetch_add(1, Ordering::Relaxed);
        if door.queue.send(stream).await.is_err() {
            return;
        }
    }
}

async fn turn_away(stream: TcpStream, common: Arc<Common>) {
    let Ok(mut socket) = Socket::new(stream) else {
        return;
    };
    let problem = Problem::fatal(Kind::TooManyConnections, "sorry, too many clients already")
        .with_hint("Raise max_clients in causeway's configuration.");
    told(&common, Fate::Refused, &problem, &socket);
    let reply = Reply::new().error(&problem);
    // A client that asked for encryption first reads the E as a refusal, too.
    let _ = tokio::time::timeout(Duration::from_secs(1), socket.write_all(reply.as_bytes())).await;
}

/// Serves one worker's clients until its door is closed and the last of them has left, or until
/// `abort`.
pub async fn serve(mut floor: Floor, worker: Arc<Worker>, abort: CancellationToken) {
    let mut sessions = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            stream = floor.queue.recv() => match stream.map(TcpStream::from_std) {
                Some(Ok(stream)) => {
                    let guard = Counted::new(&worker, &floor.clients);
                    let worker = Arc::clone(&worker);
                    sessions.spawn(async move {
                        login::serve(worker, stream).await;
                        drop(guard);
                    });
                }
                Some(Err(error)) => {
                    tracing::warn!(%error, "take over a client");
                    floor.clients.fetch_sub(1, Ordering::Relaxed);
                }
                None => break,
            },
            Some(ended) = sessions.join_next() => report(ended),
            () = abort.cancelled() => return,
        }
    }
    loop {
        tokio::select! {
            ended = sessions.join_next() => match ended {
                Some(ended) => report(ended),
                None => return,
            },
            () = abort.cancelled() => return,
        }
    }
}

fn report(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(%error, "a session panicked; the others go on");
    }
}

/// Counts a client while it lives.
struct Counted {
    worker: Arc<Worker>,
    clients: Arc<AtomicUsize>,
}

impl Counted {
    fn new(worker: &Arc<Worker>, clients: &Arc<AtomicUsize>) -> Self {
        worker.common.metrics.clients.connections.inc();
        Self {
            worker: Arc::clone(worker),
            clients: Arc::clone(clients),
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.worker.common.metrics.clients.connections.dec();
        self.clients.fetch_sub(1, Ordering::Relaxed);
    }
}
