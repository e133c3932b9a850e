//! Writers that note what became of each write, and the check of their notes.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::support::{PATIENCE, Proxy, RUNTIME, block_on, connect, eventually, sqlstate};

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
    /// Starts so many sessions that insert a row each at this pace.
    pub(crate) fn start(proxy: &Proxy, sessions: i32, pace: Duration) -> Self {
        let url = proxy.url();
        block_on(async {
            let client = connect(&url).await;
            let table = "CREATE TABLE IF NOT EXISTS history (session int, number int, PRIMARY KEY (session, number))";
            client.batch_execute(table).await.unwrap();
        });
        let notes = Arc::new(Mutex::new(Vec::new()));
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        for session in 0..sessions {
            let work = write(session, url.clone(), pace, Arc::clone(&notes), stop.clone());
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
    let mut client = connect(&url).await;
    let mut number = 0;
    let insert = "INSERT INTO history VALUES ($1, $2)";
    while !stop.is_cancelled() {
        number += 1;
        let begun = Instant::now();
        let written = async { client.execute(insert, &[&session, &number]).await };
        let (fate, said) = match tokio::time::timeout(PATIENCE, written).await {
            Ok(Ok(_)) => (Fate::Acknowledged, String::new()),
            Ok(Err(error)) => (fate(&error), error.to_string()),
            Err(_) => (Fate::Other, "no answer".to_owned()),
        };
        // Acknowledged after the fault means begun or answered after it; what counts is the answer.
        let at = if fate == Fate::Acknowledged {
            Instant::now()
        } else {
            begun
        };
        let disconnected = fate == Fate::Disconnected;
        notes.lock().push(Write {
            session,
            number,
            fate,
            at,
            said,
        });
        if disconnected {
            client = connect(&url).await;
        }
        tokio::time::sleep(pace).await;
    }
}

fn fate(error: &tokio_postgres::Error) -> Fate {
    match sqlstate(error) {
        "40001" | "57P03" => Fate::Refused,
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
    pub(crate) others: Vec<String>,
}

impl History {
    /// How many writes had this fate.
    pub(crate) fn count(&self, fate: Fate) -> usize {
        self.0.iter().filter(|write| write.fate == fate).count()
    }

    /// Holds the notes against the table.
    pub(crate) fn check(&self, proxy: &Proxy) -> Found {
        let there: HashSet<(i32, i32)> = block_on(async {
            let client = connect(&proxy.url()).await;
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
            others: others.map(|write| write.said.clone()).take(5).collect(),
        }
    }
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} writes: {} acknowledged, of which {} lost; {} of unknown outcome, of which {} are there; \
             {} refused and there all the same; {} sessions lost something unawares; others: {:?}",
            self.writes,
            self.acknowledged,
            self.lost,
            self.unknown,
            self.unknown_there,
            self.came_true,
            self.untold,
            self.others
        )
    }
}
