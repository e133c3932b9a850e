//! The data plane's threads: an event loop each, with the sessions that it was given.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::client::accept::dispatcher::{self, Door};
use crate::client::worker::{Common, Worker};

/// One event loop for every two cores: the servers and the clients need some as well, and a second
/// loop on a small machine costs more than it brings (docs/adr/0001-runtime-shape.md).
pub(super) fn by_cores() -> usize {
    std::thread::available_parallelism()
        .map_or(1, usize::from)
        .div_ceil(2)
}

pub(super) struct Workers {
    doors: Vec<Door>,
    threads: Vec<JoinHandle<()>>,
    /// Ends the sessions that have not ended by themselves.
    abort: CancellationToken,
}

impl Workers {
    /// # Errors
    /// A thread or an event loop could not be had.
    pub(super) fn start(common: &Arc<Common>) -> io::Result<Self> {
        let mut all = Self {
            doors: Vec::with_capacity(common.workers),
            threads: Vec::with_capacity(common.workers),
            abort: CancellationToken::new(),
        };
        for index in 0..common.workers {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            let worker = Arc::new(Worker::new(index, Arc::clone(common)));
            let (door, floor) = dispatcher::door();
            let abort = all.abort.clone();
            let thread = std::thread::Builder::new()
                .name(format!("causeway-{index}"))
                .spawn(move || runtime.block_on(dispatcher::serve(floor, worker, abort)))?;
            all.doors.push(door);
            all.threads.push(thread);
        }
        Ok(all)
    }

    /// Where accepted connections are handed in; given once.
    pub(super) fn take_doors(&mut self) -> Vec<Door> {
        std::mem::take(&mut self.doors)
    }

    /// Returns when the last session has ended; what lasts longer than `grace` is ended.
    pub(super) async fn end_within(self, grace: Duration) {
        let Self { threads, abort, .. } = self;
        let ended = tokio::task::spawn_blocking(move || {
            threads.into_iter().for_each(|thread| drop(thread.join()));
        });
        tokio::pin!(ended);
        if tokio::time::timeout(grace, &mut ended).await.is_err() {
            abort.cancel();
            let _ = ended.await;
        }
    }
}
