//! Sessions that write, and note of each write where it went and what became of it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::task::JoinSet;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Error, NoTls};
use tokio_util::sync::CancellationToken;

use super::super::{RUNTIME, becomes, block_on, eventually, sqlstate};
use super::{Fate, History, Write, longest_gap};

/// What they write to.
pub const TABLE: &str =
    "CREATE TABLE IF NOT EXISTS history (session int, number int, PRIMARY KEY (session, number))";
const INSERT: &str = "\
INSERT INTO history VALUES ($1, $2)
RETURNING ('x' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8))::bit(32)::int4,
          current_setting('cluster_name')";
/// For a connection; a host that is cut off never answers.
const CONNECT: Duration = Duration::from_secs(2);
/// Between two attempts to connect; a server that refuses one starts a process to say so.
const AGAIN: Duration = Duration::from_millis(20);

/// A way to the data, and how it is gone.
#[derive(Clone, Debug)]
pub struct Route {
    pub via: String,
    pub url: String,
    /// Past the proxies.
    pub direct: bool,
    /// Between the writes of a session.
    pub pace: Duration,
    /// How long an answer is waited for; through a proxy more than `hold_timeout`.
    pub patience: Duration,
    /// Sessions of odd numbers write between BEGIN and COMMIT.
    pub blocks: bool,
}

impl Route {
    /// Through a proxy.
    pub fn through(via: &str, url: &str, pace: Duration) -> Self {
        Self {
            via: via.to_owned(),
            url: url.to_owned(),
            direct: false,
            pace,
            patience: Duration::from_secs(60),
            blocks: false,
        }
    }

    /// To a server.
    pub fn directly(via: &str, url: &str, pace: Duration) -> Self {
        Self {
            direct: true,
            ..Self::through(via, url, pace)
        }
    }
}

/// The sessions at work.
pub struct Writers {
    notes: Arc<Mutex<Vec<Write>>>,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

impl Writers {
    /// Starts sessions of these numbers on their routes; the table is there.
    pub fn start(sessions: impl IntoIterator<Item = (i32, Route)>) -> Self {
        let mut writers = Self {
            notes: Arc::default(),
            stop: CancellationToken::new(),
            tasks: JoinSet::new(),
        };
        for (session, route) in sessions {
            let work = write(
                session,
                route,
                Arc::clone(&writers.notes),
                writers.stop.clone(),
            );
            writers.tasks.spawn_on(work, RUNTIME.handle());
        }
        writers
    }

    fn acknowledged(&self, is: impl Fn(&Write) -> bool) -> usize {
        let notes = self.notes.lock();
        let acknowledged = notes
            .iter()
            .filter(|write| write.fate == Fate::Acknowledged);
        acknowledged.filter(|write| is(write)).count()
    }

    /// Waits until so many writes more have been acknowledged.
    pub fn wait_acknowledged(&self, more: usize) {
        let before = self.acknowledged(|_| true);
        eventually("writes are acknowledged", || {
            self.acknowledged(|_| true) >= before + more
        });
    }

    /// Waits until so many writes that began after now have been acknowledged on this route.
    pub async fn acknowledged_via(&self, via: &str, count: usize) {
        let since = Instant::now();
        let what = format!("{count} writes through {via} are acknowledged");
        becomes(&what, async || {
            self.acknowledged(|write| write.via == via && write.begun > since) >= count
        })
        .await;
    }

    /// The longest time since this moment during which no write was acknowledged.
    pub fn longest_gap_since(&self, moment: Instant) -> Duration {
        longest_gap(&self.notes.lock(), moment)
    }

    /// Lets all writes end and gives the notes.
    pub async fn end(mut self) -> History {
        self.stop.cancel();
        while self.tasks.join_next().await.is_some() {}
        History(std::mem::take(&mut self.notes.lock()))
    }

    /// The same where nothing is asynchronous.
    pub fn stop(self) -> History {
        block_on(self.end())
    }
}

async fn write(session: i32, route: Route, notes: Arc<Mutex<Vec<Write>>>, stop: CancellationToken) {
    let mut number = 0;
    let mut client: Option<Client> = None;
    while !stop.is_cancelled() {
        let Some(connected) = client.as_ref().filter(|client| !client.is_closed()) else {
            client = open(&route.url).await;
            if client.is_none() {
                tokio::time::sleep(AGAIN).await;
            }
            continue;
        };
        number += 1;
        let block = route.blocks && session % 2 == 1;
        let begun = Instant::now();
        let written = insert(connected, block, session, number);
        let answered = tokio::time::timeout(route.patience, written).await;
        let mut note = Write {
            session,
            number,
            via: route.via.clone(),
            direct: route.direct,
            fate: Fate::Other,
            begun,
            ended: Instant::now(),
            node: String::new(),
            timeline: 0,
            said: "no answer".to_owned(),
        };
        match answered {
            Ok(Ok((timeline, node))) => {
                (note.fate, note.timeline, note.node) = (Fate::Acknowledged, timeline, node);
                note.said.clear();
            }
            Ok(Err(error)) => {
                note.fate = fate(&error);
                note.said = error
                    .as_db_error()
                    .map_or_else(|| error.to_string(), ToString::to_string);
                if block && !connected.is_closed() {
                    let _ = connected
                        .batch_execute("ROLLBACK /* after an error */")
                        .await;
                }
            }
            Err(_) => client = None,
        }
        notes.lock().push(note);
        tokio::time::sleep(route.pace).await;
    }
}

/// The timeline and the name of the server that wrote.
async fn insert(
    client: &Client,
    block: bool,
    session: i32,
    number: i32,
) -> Result<(i32, String), Error> {
    if block {
        client.batch_execute("BEGIN").await?;
    }
    // Some at one go and some, as drivers do, by a statement that is prepared first and closed afterwards.
    let row = match session % 2 == 0 {
        true => {
            let typed: [(&(dyn ToSql + Sync), Type); 2] =
                [(&session, Type::INT4), (&number, Type::INT4)];
            client.query_typed_one(INSERT, &typed).await?
        }
        false => client.query_one(INSERT, &[&session, &number]).await?,
    };
    if block {
        client.batch_execute("COMMIT").await?;
    }
    Ok((row.get(0), row.get(1)))
}

fn fate(error: &Error) -> Fate {
    match sqlstate(error) {
        "40001" | "57P03" | "25006" => Fate::Refused,
        "LW001" => Fate::ToldOfLoss,
        "08007" => Fate::Unknown,
        "none" => Fate::Disconnected,
        _ => Fate::Other,
    }
}

async fn open(url: &str) -> Option<Client> {
    let opened = tokio::time::timeout(CONNECT, tokio_postgres::connect(url, NoTls));
    let (client, connection) = opened.await.ok()?.ok()?;
    tokio::spawn(connection);
    Some(client)
}
