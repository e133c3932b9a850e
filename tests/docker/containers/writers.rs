//! Writers of our own, one on each proxy, and the history of what was acknowledged to them.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use tokio_postgres::{Client, NoTls};
use tokio_util::sync::CancellationToken;

use super::rig::{ANSWER, Proxy, Rig};
use crate::support::eventually;

const PACE: Duration = Duration::from_millis(20);
/// More than `hold_timeout`.
const PATIENCE: Duration = Duration::from_secs(40);

/// A write that was acknowledged: who wrote it, its number, when it was begun.
type Note = (i32, i32, Instant);

/// Sessions that write.
pub(crate) struct Writers {
    runtime: Runtime,
    acknowledged: Arc<Mutex<Vec<Note>>>,
    stop: CancellationToken,
    tasks: JoinSet<()>,
    proxies: usize,
}

impl Writers {
    /// Makes their table and starts them.
    pub(crate) fn start(proxies: &[Proxy]) -> Self {
        let runtime = Runtime::new().unwrap();
        let table = "CREATE TABLE history (session int, number int, PRIMARY KEY (session, number))";
        runtime.block_on(async {
            let client = open(&proxies[0]).await.unwrap();
            client.batch_execute(table).await.unwrap();
        });
        let mut writers = Self {
            runtime,
            acknowledged: Arc::default(),
            stop: CancellationToken::new(),
            tasks: JoinSet::new(),
            proxies: proxies.len(),
        };
        for (session, proxy) in (0..).zip(proxies) {
            let (notes, stop) = (Arc::clone(&writers.acknowledged), writers.stop.clone());
            let writing = write(session, proxy.clone(), notes, stop);
            writers.tasks.spawn_on(writing, writers.runtime.handle());
        }
        writers
    }

    /// Waits until so many writes that began after now are acknowledged through each proxy.
    pub(crate) fn acknowledged(&self, count: usize) {
        let since = Instant::now();
        eventually("writes through both proxies are acknowledged", || {
            let notes = self.acknowledged.lock();
            let fresh = |session: i32| {
                let own = notes.iter().filter(|note| note.0 == session);
                own.filter(|note| note.2 > since).count()
            };
            (0..)
                .take(self.proxies)
                .all(|session| fresh(session) >= count)
        });
    }

    /// Ends them and looks on the primary for everything that was acknowledged.
    pub(crate) fn stop_and_check(mut self, rig: &Rig) {
        self.stop.cancel();
        self.runtime
            .block_on(async { while self.tasks.join_next().await.is_some() {} });
        let rows = rig.inside(
            &rig.settled().primary,
            &[
                "psql",
                "-XAtq",
                "-d",
                "demo",
                "-c",
                "SELECT session, number FROM history",
            ],
        );
        let rows = rows.expect("the primary is asked");
        let there: HashSet<&str> = rows.lines().collect();
        let notes = self.acknowledged.lock();
        let lost: Vec<_> = notes
            .iter()
            .map(|(session, number, _)| format!("{session}|{number}"))
            .filter(|note| !there.contains(&**note))
            .collect();
        println!("{} writes of our own were acknowledged", notes.len());
        assert!(notes.len() >= 200 && lost.is_empty(), "lost: {lost:?}");
    }
}

async fn write(session: i32, proxy: Proxy, notes: Arc<Mutex<Vec<Note>>>, stop: CancellationToken) {
    let mut client = None;
    let mut number = 0;
    while !stop.is_cancelled() {
        tokio::time::sleep(PACE).await;
        let Some(connected) = client
            .as_ref()
            .filter(|client: &&Client| !client.is_closed())
        else {
            client = open(&proxy).await;
            continue;
        };
        number += 1;
        let begun = Instant::now();
        let insert = "INSERT INTO history VALUES ($1, $2)";
        let asked = async { connected.execute(insert, &[&session, &number]).await };
        match tokio::time::timeout(PATIENCE, asked).await {
            Ok(Ok(1)) => notes.lock().push((session, number, begun)),
            // Refused, or of unknown outcome: nothing was promised.
            Ok(_) => {}
            Err(_) => client = None,
        }
    }
}

async fn open(proxy: &Proxy) -> Option<Client> {
    let url = format!("postgresql://demo:demo@{}/demo", proxy.sql);
    let connected =
        tokio::time::timeout(ANSWER, async { tokio_postgres::connect(&url, NoTls).await });
    let (client, connection) = connected.await.ok()?.ok()?;
    tokio::spawn(connection);
    Some(client)
}
