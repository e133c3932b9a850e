//! Writers that note of each write where it went, what became of it, and who acknowledged it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::task::JoinSet;
use tokio_postgres::{Client, NoTls};
use tokio_util::sync::CancellationToken;

use super::history::History;
use crate::support::becomes;

/// A way to the data.
#[derive(Clone, Debug)]
pub(crate) struct Route {
    pub(crate) via: String,
    pub(crate) url: String,
    /// Past the proxies.
    pub(crate) direct: bool,
}

/// What the client was told of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It is committed.
    Acknowledged,
    /// A proxy says that it did not happen.
    Refused,
    /// Anything may have become of it.
    Unknown,
}

/// One write.
#[derive(Clone, Debug)]
pub(crate) struct Write {
    pub(crate) session: i32,
    pub(crate) number: i32,
    pub(crate) via: String,
    pub(crate) fate: Fate,
    pub(crate) begun: Instant,
    pub(crate) ended: Instant,
    /// Who acknowledged it.
    pub(crate) timeline: i32,
    pub(crate) node: String,
    pub(crate) said: String,
}

/// Sessions that write.
pub(crate) struct Writers {
    notes: Arc<Mutex<Vec<Write>>>,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

const PACE: Duration = Duration::from_millis(20);
/// More than `hold_timeout`.
const PATIENCE: Duration = Duration::from_secs(25);
const INSERT: &str = "\
INSERT INTO history VALUES ($1, $2)
RETURNING ('x' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8))::bit(32)::int4,
          current_setting('cluster_name')";

impl Writers {
    /// Starts so many sessions on each route; their numbers begin after `first`.
    pub(crate) fn start(routes: &[Route], each: usize, first: i32) -> Self {
        let notes = Arc::new(Mutex::new(Vec::new()));
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        let mut session = first;
        for route in routes
            .iter()
            .flat_map(|route| std::iter::repeat_n(route, each))
        {
            session += 1;
            let (notes, stop) = (Arc::clone(&notes), stop.clone());
            tasks.spawn(write(session, route.clone(), notes, stop));
        }
        Self { notes, stop, tasks }
    }

    /// Waits until so many writes that began after now have been acknowledged on this route.
    pub(crate) async fn acknowledged_via(&self, via: &str, count: usize) {
        let since = Instant::now();
        becomes(
            &format!("{count} writes through {via} are acknowledged"),
            async || {
                let notes = self.notes.lock();
                let fresh = notes.iter().filter(|write| {
                    write.fate == Fate::Acknowledged && write.via == via && write.begun > since
                });
                fresh.count() >= count
            },
        )
        .await;
    }

    /// Lets all writes end and gives the notes.
    pub(crate) async fn stop(mut self) -> History {
        self.stop.cancel();
        while self.tasks.join_next().await.is_some() {}
        History(std::mem::take(&mut self.notes.lock()))
    }
}

async fn write(session: i32, route: Route, notes: Arc<Mutex<Vec<Write>>>, stop: CancellationToken) {
    let mut number = 0;
    let mut client: Option<Client> = None;
    while !stop.is_cancelled() {
        tokio::time::sleep(PACE).await;
        let Some(connected) = client.as_ref().filter(|client| !client.is_closed()) else {
            client = open(&route.url).await;
            continue;
        };
        number += 1;
        let begun = Instant::now();
        let wait = if route.direct { PATIENCE / 5 } else { PATIENCE };
        let asked = async { connected.query_one(INSERT, &[&session, &number]).await };
        let answered = tokio::time::timeout(wait, asked).await;
        let mut note = Write {
            session,
            number,
            via: route.via.clone(),
            fate: Fate::Unknown,
            begun,
            ended: Instant::now(),
            timeline: 0,
            node: String::new(),
            said: String::new(),
        };
        match answered {
            Ok(Ok(row)) => {
                note.fate = Fate::Acknowledged;
                (note.timeline, note.node) = (row.get(0), row.get(1));
            }
            Ok(Err(error)) => {
                let code = error.code().map_or("none", |code| code.code());
                note.said = format!("{code}: {error}");
                // A standby that is written to directly says 25006, at length.
                if code == "25006" {
                    continue;
                }
                if !route.direct && matches!(code, "40001" | "57P03" | "LW001") {
                    note.fate = Fate::Refused;
                }
            }
            Err(_) => {
                note.said = "no answer".to_owned();
                client = None;
            }
        }
        notes.lock().push(note);
    }
}

async fn open(url: &str) -> Option<Client> {
    let opened = tokio::time::timeout(Duration::from_secs(2), tokio_postgres::connect(url, NoTls));
    let (client, connection) = opened.await.ok()?.ok()?;
    tokio::spawn(connection);
    Some(client)
}
