//! The independent checker: every write's note, held against the table and against each other.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::time::{Duration, Instant};

use super::world::World;
use super::writers::{Fate, Write};

/// Everything that was noted.
pub(crate) struct History(pub(crate) Vec<Write>);

/// What the check found.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) writes: usize,
    pub(crate) acknowledged: usize,
    pub(crate) unknown: usize,
    pub(crate) refused: usize,
    /// Acknowledged and not there.
    pub(crate) lost: Vec<String>,
    /// Refused and there all the same.
    pub(crate) came_true: Vec<String>,
    /// Acknowledged by a server after another had taken its place.
    pub(crate) two_primaries: Vec<String>,
}

impl History {
    /// Writes on a route that began and were acknowledged within a span of time.
    pub(crate) fn acknowledged_within(&self, via: &str, from: Instant, to: Instant) -> usize {
        let within = |write: &&Write| {
            write.fate == Fate::Acknowledged
                && write.via == via
                && write.begun > from
                && write.ended < to
        };
        self.0.iter().filter(within).count()
    }

    /// Writes through proxies that were not acknowledged, in the servers' words or ours.
    pub(crate) fn failures(&self) -> Vec<String> {
        let failed = self.0.iter().filter(|write| {
            write.fate != Fate::Acknowledged && write.via.starts_with('p') && !is_node(&write.via)
        });
        failed
            .map(|write| format!("{}: {}", write.via, write.said))
            .collect()
    }

    /// The longest time after a moment in which nothing was acknowledged through a proxy.
    pub(crate) fn longest_gap_since(&self, moment: Instant) -> Duration {
        let acknowledged = self.0.iter().filter(|write| {
            write.fate == Fate::Acknowledged && !is_node(&write.via) && write.ended > moment
        });
        let mut moments: Vec<_> = acknowledged.map(|write| write.ended).collect();
        moments.push(moment);
        moments.sort();
        let gaps = moments.windows(2).map(|pair| pair[1] - pair[0]);
        gaps.max().unwrap_or_default()
    }

    /// Holds the notes against each other and against what the present primary has.
    pub(crate) async fn check(&self, world: &World) -> Found {
        let primary = world.node(world.primary().await);
        let text = "SELECT COALESCE(string_agg(session || ' ' || number, ','), '') FROM history";
        let login = world.cluster.application();
        let client = primary.connect(login).await.unwrap();
        let rows: String = client.query_one(text, &[]).await.unwrap().get(0);
        let there: HashSet<&str> = rows.split(',').collect();
        let is_there =
            |write: &Write| there.contains(&*format!("{} {}", write.session, write.number));
        let mut found = Found {
            writes: self.0.len(),
            ..Found::default()
        };
        for write in &self.0 {
            match write.fate {
                Fate::Acknowledged => found.acknowledged += 1,
                Fate::Refused => found.refused += 1,
                Fate::Unknown => found.unknown += 1,
            }
            if write.fate == Fate::Acknowledged && !is_there(write) {
                found.lost.push(self.tell(write));
            }
            if write.fate == Fate::Refused && is_there(write) {
                found.came_true.push(self.tell(write));
            }
        }
        found.two_primaries = self.two_primaries();
        found
    }

    /// A timeline is one server's; and once a later one has acknowledged something, nothing that begins
    /// afterwards is acknowledged on an earlier one.
    fn two_primaries(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut first: BTreeMap<i32, (&str, Instant)> = BTreeMap::new();
        let acknowledged = || self.0.iter().filter(|w| w.fate == Fate::Acknowledged);
        for write in acknowledged() {
            let entry = first
                .entry(write.timeline)
                .or_insert((&write.node, write.ended));
            entry.1 = entry.1.min(write.ended);
            if entry.0 != write.node {
                wrong.push(format!("two servers on one timeline: {}", self.tell(write)));
            }
        }
        for write in acknowledged() {
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

/// Servers are `pg1` and on, proxies `p1` and on.
fn is_node(via: &str) -> bool {
    via.starts_with("pg")
}

impl Found {
    /// Fails if a promise was broken.
    pub(crate) fn assert_kept(&self, what: &str) {
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
            "{} writes: {} acknowledged, {} of unknown outcome, {} refused; lost {} {:?}; two primaries {} \
             {:?}; refused and there {} {:?}",
            self.writes,
            self.acknowledged,
            self.unknown,
            self.refused,
            self.lost.len(),
            few(&self.lost),
            self.two_primaries.len(),
            few(&self.two_primaries),
            self.came_true.len(),
            few(&self.came_true),
        )
    }
}
