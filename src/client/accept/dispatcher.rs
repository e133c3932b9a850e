//! Accepting clients and dealing them out to the workers.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::login;
use crate::client::outcome::told::{Consequence, told};
use crate::client::worker::{Common, Worker};
use crate::descriptors::Descriptors;
use crate::error::{Kind, Problem};
use crate::strangers::Stranger;
use crate::wire::reply::Reply;
use crate::wire::socket::Socket;

/// Connections on their way to a worker.
const QUEUE: usize = 256;

/// A connection that has just been accepted.
type Comer = (std::net::TcpStream, Stranger);

/// The acceptor's handle on one worker.
#[derive(Debug)]
pub struct Door {
    queue: mpsc::Sender<Comer>,
    clients: Arc<AtomicUsize>,
}

/// A worker's end: serves what comes in until the door is closed.
#[derive(Debug)]
pub struct Floor {
    queue: mpsc::Receiver<Comer>,
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

/// Accepts for ever, giving each client to the worker that has the fewest; returns when one has ended that was
/// not to. During a shutdown those that come are still answered: with a refusal, and cancel requests as ever.
pub async fn accept(listener: TcpListener, doors: Vec<Door>, common: Arc<Common>) {
    let descriptors = Descriptors::present();
    loop {
        let (stream, from) = match listener.accept().await {
            Ok((stream, from)) => (stream, from.ip()),
            Err(error) => {
                // Out of file descriptors, most likely: accepting goes on when some are free again.
                tracing::warn!(%error, "accept a client");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        if descriptors.is_of_reserve(&stream) {
            // Leases, probes and the store need what is left.
            common.metrics.clients.refused.inc();
            turn_away(stream, &common);
            continue;
        }
        let stranger = common.strangers.admit(from).await;
        let fewest = doors
            .iter()
            .filter(|door| !door.queue.is_closed())
            .min_by_key(|door| door.clients.load(Ordering::Relaxed));
        let Some(door) = fewest else { return };
        let Ok(stream) = stream.into_std() else {
            continue;
        };
        door.clients.fetch_add(1, Ordering::Relaxed);
        let served = door.queue.send((stream, stranger)).await.is_ok();
        if !served && !common.draining.is_cancelled() {
            return;
        }
    }
}

/// Says why, and closes the connection at once.
fn turn_away(stream: TcpStream, common: &Common) {
    let Ok(mut socket) = Socket::new(stream) else {
        return;
    };
    let problem = Problem::fatal(Kind::TooManyConnections, "sorry, too many clients already")
        .with_hint("Raise the limit of open files of causeway's process.");
    told(common, Consequence::Refused, &problem, &socket);
    let reply = Reply::new().error(&problem);
    // A client that asked for encryption first reads the E as a refusal, too.
    let _ = socket.write_now(reply.as_bytes());
}

/// Serves one worker's clients until its door is closed, or a shutdown has begun, and the last of them has left,
/// or until `abort`.
pub async fn serve(mut floor: Floor, worker: Arc<Worker>, abort: CancellationToken) {
    let mut sessions = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            comer = floor.queue.recv() => match comer.map(|(stream, stranger)| {
                TcpStream::from_std(stream).map(|stream| (stream, stranger))
            }) {
                Some(Ok((stream, stranger))) => {
                    let guard = Counted::new(&worker, &floor.clients);
                    let worker = Arc::clone(&worker);
                    sessions.spawn(async move {
                        login::serve(worker, stream, stranger).await;
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
            () = worker.common.draining.cancelled(), if sessions.is_empty() => return,
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
