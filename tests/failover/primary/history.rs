//! Writers that note what became of each write, and the check of their notes.

use std::collections::HashSet;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::task::JoinSet;
use tokio_postgres::{Client, NoTls};
use tokio_util::sync::CancellationToken;

use crate::support::{BOUND, RUNTIME, block_on, connect, eventually, sqlstate};

/// What the client was told of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Fate {
    /// It is committed.
    Acknowledged,
    /// It did not happen: 40001, or it was not even begun: 57P03, LW001.
    Refused,
    /// It may have happened: 08007.
    Unknown,
    /// The session learnt that something it has seen may be lost.
    ToldOfLoss,
    /// The connection was lost.
    Disconnected,
    /// Anything else.
    Other,
}

/// One write.
#[derive(Clone, Debug)]
pub(crate) struct Write {
    pub(crate) session: i32,
    pub(crate) number: i32,
    pub(crate) fate: Fate,
    pub(crate) begun: Instant,
    pub(crate) at: Instant,
    pub(crate) said: String,
}

/// Sessions that write.
pub(crate) struct Writers {
    notes: Arc<Mutex<Vec<Write>>>,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

impl Writers {
    /// Starts so many sessions that insert a row each at this pace, every other one in a block.
    pub(crate) fn start(url: &str, sessions: i32, pace: Duration) -> Self {
        let url = url.to_owned();
        block_on(async {
            let client = connect(&url).await;
            let table = "CREATE TABLE IF NOT EXISTS history (session int, number int, PRIMARY KEY (session, number))";
            client.batch_execute(table).await.unwrap();
        });
        Self::start_as(&url, 0..sessions, pace)
    }

    /// The same with these numbers, for a table that exists.
    pub(crate) fn start_as(url: &str, sessions: Range<i32>, pace: Duration) -> Self {
        let notes = Arc::new(Mutex::new(Vec::new()));
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        for session in sessions {
            let (url, notes) = (url.to_owned(), Arc::clone(&notes));
            let work = write(session, url, pace, notes, stop.clone());
            tasks.spawn_on(work, RUNTIME.handle());
        }
        Self { notes, stop, tasks }
    }

    /// The moment from which on something is awaited.
    pub(crate) fn mark(&self) -> Instant {
        Instant::now()
    }

    /// Waits until so many writes more have been acknowledged.
    pub(crate) fn wait_acknowledged(&self, more: usize) {
        let count = || self.count();
        let before = count();
        eventually("writes are acknowledged", || count() >= before + more);
    }

    /// The longest time since this moment during which no write was acknowledged.
    pub(crate) fn longest_gap_since(&self, moment: Instant) -> Duration {
        let notes = self.notes.lock();
        let acknowledged = notes
            .iter()
            .filter(|write| write.fate == Fate::Acknowledged);
        let mut moments: Vec<_> = acknowledged.map(|write| write.at).collect();
        moments.retain(|at| *at > moment);
        moments.push(moment);
        moments.sort();
        let gaps = moments.windows(2).map(|pair| pair[1] - pair[0]);
        gaps.max().unwrap_or_default()
    }

    fn count(&self) -> usize {
        let notes = self.notes.lock();
        let acknowledged = notes
            .iter()
            .filter(|write| write.fate == Fate::Acknowledged);
        acknowledged.count()
    }

    /// Lets all writes end and gives the notes.
    pub(crate) fn stop(mut self) -> History {
        self.stop.cancel();
        block_on(async { while self.tasks.join_next().await.is_some() {} });
        let notes = self.notes.lock();
        History(notes.clone())
    }
}

async fn write(
    session: i32,
    url: String,
    pace: Duration,
    notes: Arc<Mutex<Vec<Write>>>,
    stop: CancellationToken,
) {
    let Some(mut client) = reconnect(&url, &stop).await else {
        return;
    };
    let mut number = 0;
    while !stop.is_cancelled() {
        number += 1;
        let begun = Instant::now();
        let written = insert(&client, session, number);
        let (fate, said) = match tokio::time::timeout(BOUND, written).await {
            Ok(Ok(())) => (Fate::Acknowledged, String::new()),
            Ok(Err(error)) => {
                let said = error
                    .as_db_error()
                    .map_or_else(|| error.to_string(), ToString::to_string);
                (fate(&error), said)
            }
            Err(_) => (Fate::Other, "no answer".to_owned()),
        };
        // Acknowledged after the fault means begun or answered after it; what counts is the answer.
        let at = if fate == Fate::Acknowledged {
            Instant::now()
        } else {
            begun
        };
        notes.lock().push(Write {
            session,
            number,
            fate,
            begun,
            at,
            said,
        });
        if client.is_closed() {
            let Some(next) = reconnect(&url, &stop).await else {
                return;
            };
            client = next;
        } else if fate != Fate::Acknowledged && session % 2 == 1 {
            let _ = client.batch_execute("ROLLBACK /* after an error */").await;
        }
        tokio::time::sleep(pace).await;
    }
}

async fn insert(client: &Client, session: i32, number: i32) -> Result<(), tokio_postgres::Error> {
    let insert = "INSERT INTO history VALUES ($1, $2)";
    if session % 2 == 0 {
        client.execute(insert, &[&session, &number]).await?;
        return Ok(());
    }
    client.batch_execute("BEGIN").await?;
    client.execute(insert, &[&session, &number]).await?;
    client.batch_execute("COMMIT").await
}

/// Tries until somebody answers.
async fn reconnect(url: &str, stop: &CancellationToken) -> Option<Client> {
    while !stop.is_cancelled() {
        let login = tokio_postgres::connect(url, NoTls);
        if let Ok(Ok((client, connection))) = tokio::time::timeout(BOUND, login).await {
            tokio::spawn(connection);
            return Some(client);
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    None
}

fn fate(error: &tokio_postgres::Error) -> Fate {
    match sqlstate(error) {
        // 25006: written directly to what has become a standby.
        "40001" | "57P03" | "25006" => Fate::Refused,
        "LW001" => Fate::ToldOfLoss,
        "08007" => Fate::Unknown,
        "none" => Fate::Disconnected,
        _ => Fate::Other,
    }
}

/// Everything that was noted.
pub(crate) struct History(Vec<Write>);

/// What the check found.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) writes: usize,
    pub(crate) acknowledged: usize,
    /// Acknowledged and not there.
    pub(crate) lost: usize,
    /// Refused and there all the same.
    pub(crate) came_true: usize,
    pub(crate) unknown: usize,
    pub(crate) unknown_there: usize,
    /// Sessions that lost something and were not told.
    pub(crate) untold: usize,
    /// Sessions that were told of a loss, and those of them that had lost nothing.
    pub(crate) told: usize,
    pub(crate) false_alarms: usize,
    pub(crate) others: Vec<String>,
    /// Session and number of some that are lost.
    pub(crate) which: Vec<(i32, i32)>,
}

impl History {
    /// How many writes had this fate.
    pub(crate) fn count(&self, fate: Fate) -> usize {
        self.0.iter().filter(|write| write.fate == fate).count()
    }

    /// How many were acknowledged after this moment.
    pub(crate) fn acknowledged_since(&self, moment: Instant) -> usize {
        // An answer that was on its way already may be noted a little later.
        let soon = moment + Duration::from_secs(1);
        let later = |write: &&Write| {
            write.fate == Fate::Acknowledged && (write.begun > moment || write.at > soon)
        };
        self.0.iter().filter(later).count()
    }

    /// Holds the notes against the table.
    pub(crate) fn check(&self, url: &str) -> Found {
        let there: HashSet<(i32, i32)> = block_on(async {
            let client = connect(url).await;
            // On the primary, whatever has been seen.
            client
                .batch_execute("SET causeway.consistency = 'primary'")
                .await
                .unwrap();
            let rows = client
                .query("SELECT session, number FROM history", &[])
                .await;
            let rows = rows.unwrap();
            rows.iter().map(|row| (row.get(0), row.get(1))).collect()
        });
        let is_there = |write: &&Write| there.contains(&(write.session, write.number));
        let of = |fate: Fate| self.0.iter().filter(move |write| write.fate == fate);
        let lost: Vec<_> = of(Fate::Acknowledged).filter(|w| !is_there(w)).collect();
        let told: HashSet<i32> = of(Fate::ToldOfLoss).map(|write| write.session).collect();
        let losers: HashSet<i32> = lost.iter().map(|write| write.session).collect();
        let others = self
            .0
            .iter()
            .filter(|write| matches!(write.fate, Fate::Other | Fate::Disconnected));
        Found {
            writes: self.0.len(),
            acknowledged: self.count(Fate::Acknowledged),
            lost: lost.len(),
            came_true: of(Fate::Refused).filter(is_there).count()
                + of(Fate::ToldOfLoss).filter(is_there).count(),
            unknown: self.count(Fate::Unknown),
            unknown_there: of(Fate::Unknown).filter(is_there).count(),
            untold: losers.difference(&told).count(),
            told: told.len(),
            false_alarms: told.difference(&losers).count(),
            others: others.map(|write| write.said.clone()).take(5).collect(),
            which: lost.iter().map(|w| (w.session, w.number)).take(5).collect(),
        }
    }
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} writes: {} acknowledged, of which {} lost; {} of unknown outcome, of which {} are there; \
             {} refused and there all the same; {} sessions lost something unawares; {} sessions were told of a loss, {} of them for nothing; \
             others: {:?}; lost are {:?}",
            self.writes,
            self.acknowledged,
            self.lost,
            self.unknown,
            self.unknown_there,
            self.came_true,
            self.untold,
            self.told,
            self.false_alarms,
            self.others,
            self.which
        )
    }
}
