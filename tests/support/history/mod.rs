//! The independent checker: what clients were told of each write, held against the table and against
//! each other.

pub mod writers;

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::time::{Duration, Instant};

use tokio_postgres::Client;

use super::{block_on, connect};

pub use writers::{Route, Writers};

/// What the client was told of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is committed.
    Acknowledged,
    /// It did not happen (40001, or on a standby 25006), or was not even begun (57P03).
    Refused,
    /// It may have happened: 08007.
    Unknown,
    /// The session learnt that something it has seen may be lost: LW001.
    ToldOfLoss,
    /// The connection was lost, and with it the answer.
    Disconnected,
    /// Anything else, and no answer at all.
    Other,
}

/// One write.
#[derive(Clone, Debug)]
pub struct Write {
    pub session: i32,
    pub number: i32,
    pub via: String,
    /// Past the proxies.
    pub direct: bool,
    pub fate: Fate,
    pub begun: Instant,
    pub ended: Instant,
    /// Who carried it out, and on which timeline; nobody unless it is acknowledged.
    pub node: String,
    pub timeline: i32,
    pub said: String,
}

/// A write's session and number, as the table has them.
pub type Rows = HashSet<(i32, i32)>;

/// What the table has, by the word of whoever is asked.
pub async fn stored(client: &Client) -> Rows {
    // On the primary, whatever has been seen.
    let sql = "/* causeway: consistency=primary */ SELECT session, number FROM history";
    let rows = client.query(sql, &[]).await.unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

/// Everything that was noted.
#[derive(Default)]
pub struct History(pub Vec<Write>);

/// What the check found.
#[derive(Debug, Default)]
pub struct Found {
    pub writes: usize,
    pub acknowledged: usize,
    pub refused: usize,
    /// Of unknown outcome, whatever the reason, and how many of those happened.
    pub unknown: usize,
    pub unknown_there: usize,
    /// Acknowledged and not there.
    pub lost: Vec<String>,
    /// Refused and there all the same.
    pub came_true: Vec<String>,
    /// Acknowledged by a server after another had taken its place.
    pub two_primaries: Vec<String>,
    /// Sessions that lost something and were not told.
    pub untold: usize,
    /// Sessions that were told of a loss, and those of them that had lost nothing.
    pub told: usize,
    pub false_alarms: usize,
    /// What no client should be told.
    pub others: Vec<String>,
}

/// The longest time since a moment during which nothing was acknowledged through a proxy.
fn longest_gap(notes: &[Write], since: Instant) -> Duration {
    let acknowledged = notes
        .iter()
        .filter(|write| write.fate == Fate::Acknowledged && !write.direct && write.ended > since);
    let mut moments: Vec<_> = acknowledged.map(|write| write.ended).collect();
    moments.push(since);
    moments.sort();
    let gaps = moments.windows(2).map(|pair| pair[1] - pair[0]);
    gaps.max().unwrap_or_default()
}

impl History {
    /// How many writes had this fate.
    pub fn count(&self, fate: Fate) -> usize {
        self.of(fate).count()
    }

    fn of(&self, fate: Fate) -> impl Iterator<Item = &Write> {
        self.0.iter().filter(move |write| write.fate == fate)
    }

    /// How many were acknowledged after this moment.
    pub fn acknowledged_since(&self, moment: Instant) -> usize {
        // An answer that was on its way already may be noted a little later.
        let soon = moment + Duration::from_secs(1);
        let later = |write: &&Write| write.begun > moment || write.ended > soon;
        self.of(Fate::Acknowledged).filter(later).count()
    }

    /// Writes on a route that began and were acknowledged within a span of time.
    pub fn acknowledged_within(&self, via: &str, from: Instant, to: Instant) -> usize {
        let within = |write: &&Write| write.via == via && write.begun > from && write.ended < to;
        self.of(Fate::Acknowledged).filter(within).count()
    }

    /// Writes through proxies that were not acknowledged, in the servers' words or ours.
    pub fn failures(&self) -> Vec<String> {
        let failed = |write: &&Write| write.fate != Fate::Acknowledged && !write.direct;
        let failed = self.0.iter().filter(failed);
        failed
            .map(|write| format!("{}: {}", write.via, write.said))
            .collect()
    }

    pub fn longest_gap_since(&self, moment: Instant) -> Duration {
        longest_gap(&self.0, moment)
    }

    /// Holds the notes against what is asked for through a proxy.
    pub fn check(&self, url: &str) -> Found {
        self.check_rows(&block_on(async { stored(&connect(url).await).await }))
    }

    /// Holds the notes against each other and against what is there.
    pub fn check_rows(&self, there: &Rows) -> Found {
        let is_there = |write: &&Write| there.contains(&(write.session, write.number));
        let lost: Vec<_> = self
            .of(Fate::Acknowledged)
            .filter(|w| !is_there(w))
            .collect();
        let refused = || self.of(Fate::Refused).chain(self.of(Fate::ToldOfLoss));
        let others = || self.of(Fate::Disconnected).chain(self.of(Fate::Other));
        let unknown = || self.of(Fate::Unknown).chain(others());
        let told: HashSet<i32> = self
            .of(Fate::ToldOfLoss)
            .map(|write| write.session)
            .collect();
        let losers: HashSet<i32> = lost.iter().map(|write| write.session).collect();
        Found {
            writes: self.0.len(),
            acknowledged: self.count(Fate::Acknowledged),
            refused: refused().count(),
            unknown: unknown().count(),
            unknown_there: unknown().filter(is_there).count(),
            lost: lost.iter().map(|write| self.tell(write)).collect(),
            came_true: refused()
                .filter(is_there)
                .map(|write| self.tell(write))
                .collect(),
            two_primaries: self.two_primaries(),
            untold: losers.difference(&told).count(),
            told: told.len(),
            false_alarms: told.difference(&losers).count(),
            others: others().map(|write| write.said.clone()).take(5).collect(),
        }
    }

    /// A timeline is one server's; and once a later one has acknowledged something, nothing that begins
    /// afterwards is acknowledged on an earlier one.
    fn two_primaries(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut first: BTreeMap<i32, (&str, Instant)> = BTreeMap::new();
        for write in self.of(Fate::Acknowledged) {
            let entry = first
                .entry(write.timeline)
                .or_insert((&write.node, write.ended));
            entry.1 = entry.1.min(write.ended);
            if entry.0 != write.node {
                wrong.push(format!("two servers on one timeline: {}", self.tell(write)));
            }
        }
        for write in self.of(Fate::Acknowledged) {
            let mut later = first.range(write.timeline + 1..);
            if later.any(|(_, (_, since))| write.begun > *since) {
                wrong.push(format!("after its successor: {}", self.tell(write)));
            }
        }
        wrong
    }

    fn tell(&self, write: &Write) -> String {
        let start = self.0.iter().map(|write| write.begun).min();
        let at = |moment: Instant| moment - start.unwrap_or(moment);
        format!(
            "{}/{} via {} by {} on timeline {} from {:?} to {:?} {}",
            write.session,
            write.number,
            write.via,
            write.node,
            write.timeline,
            at(write.begun),
            at(write.ended),
            write.said
        )
    }
}

impl Found {
    /// Fails if a promise of `durability: quorum` was broken.
    pub fn assert_kept(&self, what: &str) {
        assert!(self.lost.is_empty(), "{what}: {self}");
        assert!(self.two_primaries.is_empty(), "{what}: {self}");
        assert!(self.came_true.is_empty(), "{what}: {self}");
    }
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let few = |all: &[String]| all.iter().take(3).cloned().collect::<Vec<_>>();
        write!(
            f,
            "{} writes: {} acknowledged, {} of unknown outcome ({} happened), {} refused; lost {} {:?}; \
             two primaries {} {:?}; refused and there {} {:?}; sessions that were told of a loss {}, \
             falsely {}, untold {}; {:?}",
            self.writes,
            self.acknowledged,
            self.unknown,
            self.unknown_there,
            self.refused,
            self.lost.len(),
            few(&self.lost),
            self.two_primaries.len(),
            few(&self.two_primaries),
            self.came_true.len(),
            few(&self.came_true),
            self.told,
            self.false_alarms,
            self.untold,
            self.others,
        )
    }
}
