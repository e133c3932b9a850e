//! Clients that write and read what they wrote, until told to stop; what fails is tried again.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio_postgres::{Client, NoTls};
use tokio_util::sync::CancellationToken;

use crate::support::{RUNTIME, block_on, eventually};

/// Sessions at one time.
const SESSIONS: i32 = 4;
/// Between the cycles of a session.
const PACE: Duration = Duration::from_millis(20);

/// The clients; gone when dropped.
pub(crate) struct Load {
    cycles: Arc<AtomicU64>,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

impl Load {
    pub(crate) fn start(url: &str) -> Self {
        let (stop, cycles) = (CancellationToken::new(), Arc::new(AtomicU64::new(0)));
        let mut tasks = JoinSet::new();
        for session in 0..SESSIONS {
            let (url, stop, cycles) = (url.to_owned(), stop.clone(), Arc::clone(&cycles));
            let work = async move {
                tokio::select! {
                    () = live(&url, session, &cycles) => {}
                    () = stop.cancelled() => {}
                }
            };
            tasks.spawn_on(work, RUNTIME.handle());
        }
        Self {
            cycles,
            stop,
            tasks,
        }
    }

    /// Waits for so many cycles from now on.
    pub(crate) fn wait(&self, more: u64) {
        let done = || self.cycles.load(Ordering::Relaxed);
        let before = done();
        eventually("statements are answered", || done() >= before + more);
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.cancel();
        block_on(async { while self.tasks.join_next().await.is_some() {} });
    }
}

async fn live(url: &str, session: i32, cycles: &AtomicU64) {
    loop {
        if let Ok((client, connection)) = tokio_postgres::connect(url, NoTls).await {
            tokio::spawn(connection);
            while !client.is_closed() {
                if cycle(&client, session).await.is_ok() {
                    cycles.fetch_add(1, Ordering::Relaxed);
                }
                tokio::time::sleep(PACE).await;
            }
        }
        tokio::time::sleep(PACE).await;
    }
}

async fn cycle(client: &Client, session: i32) -> Result<(), tokio_postgres::Error> {
    let write = "INSERT INTO load VALUES ($1, now())";
    client.execute(write, &[&session]).await?;
    let read = "SELECT count(*) FROM load WHERE session = $1";
    client.query_one(read, &[&session]).await?;
    client.query_one(read, &[&session]).await?;
    client
        .batch_execute("BEGIN READ ONLY; SELECT 1 FROM load LIMIT 1; COMMIT")
        .await
}
