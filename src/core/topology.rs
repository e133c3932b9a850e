//! The cluster as it was last measured: an immutable snapshot that every decision reads.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::gauge::{Gauge, Measurement};
use super::lsn::{Lsn, Timeline};
use super::timeline::TimelineHistory;
use super::visibility::{FinishedIds, Snapshot};

/// So many ended lives of a node are remembered. A session that slept through a failover would
/// otherwise have to be told that what it has seen may be lost.
const LIVES: usize = 32;

/// So many lives of primaries are remembered.
const REIGNS: usize = 8;

/// What is under way on a node that does not answer its monitor is left alone for so long, in
/// microseconds: one slow probe, or one lost monitoring connection, says nothing of other connections.
pub const PATIENCE_US: u64 = 10_000_000;
/// The same for what another node can do as well, unseen by the client.
pub const HASTE_US: u64 = 1_000_000;

/// A node's place in the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NodeId(pub u16);

/// As many nodes as a `NodeSet` has bits.
pub const MAX_NODES: usize = u64::BITS as usize;

/// A set of nodes, as a bit each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NodeSet(pub u64);

impl NodeSet {
    /// Adds a node.
    pub fn insert(&mut self, node: NodeId) {
        self.0 |= 1 << node.0;
    }

    /// Whether a node is in it.
    pub fn contains(self, node: NodeId) -> bool {
        self.0 >> node.0 & 1 == 1
    }
}

/// One unbroken life of a node as seen by its monitor, unique over the process's life.
///
/// A restart or a promotion ends it, because a restarted standby can serve an older state than before.
/// A lost monitoring connection does not, where the next one finds the same run of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Incarnation(pub u64);

/// One run of a server: from the moment at which its shared memory was made. Also a crash of one of its
/// processes ends it, after which the same postmaster recovers from disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerRun {
    /// The system identifier.
    pub system: i64,
    /// When the postmaster was started.
    pub postmaster: String,
    /// The checkpointer's process id and start: it lives as long as the shared memory.
    pub checkpointer: String,
}

/// A node's part in replication, with what only that part can tell of visibility.
#[derive(Clone, Debug)]
pub enum Role {
    /// Accepts writes.
    Primary(Snapshot),
    /// In recovery.
    Standby(FinishedIds),
}

/// What is known of a node's present incarnation.
#[derive(Clone, Debug)]
pub struct Life {
    /// Which one.
    pub incarnation: Incarnation,
    /// Primary or standby, as of the latest measurement.
    pub role: Role,
    /// The timeline it follows.
    pub timeline: Timeline,
    /// A primary's history; none on a standby, or where it could not be read.
    pub history: Option<Arc<TimelineHistory>>,
    /// The system identifier, where it could be read.
    pub system: Option<i64>,
    /// The latest measurement: a lower bound of the position from then on.
    pub latest: Measurement,
    /// The counter and earlier measurements.
    pub gauge: Arc<Gauge>,
}

/// A life that goes on if the node answers again and has run on meanwhile.
#[derive(Clone, Debug)]
pub struct Silence {
    /// As it was.
    pub life: Life,
    /// When its monitor lost it, in microseconds.
    pub since_us: u64,
}

/// One configured node.
#[derive(Clone, Debug)]
pub struct NodeView {
    /// Its place in the configuration.
    pub id: NodeId,
    /// Its configured name.
    pub name: Arc<str>,
    /// Its share of reads relative to other standbys.
    pub weight: u32,
    /// It stands in this proxy's zone, or zones are not in use.
    pub near: bool,
    /// The present incarnation; none while it does not answer.
    pub life: Option<Life>,
    /// The incarnation that may go on, while there is none.
    pub silent: Option<Silence>,
    /// The failover controller keeps clients away from it: it was fenced, or stands on another history.
    pub barred: bool,
    /// It is not known whether it still leads: nothing is begun on it, and what is under way goes on for as long as
    /// its agent is known to let it lead: nobody leads in its place before.
    pub suspended: bool,
    /// By an operator's word it takes no new reads.
    pub drained: bool,
    /// The incarnations before, latest first, for marks that still refer to them.
    pub previous: Arc<[(Incarnation, Arc<Gauge>)]>,
}

impl NodeView {
    /// The present incarnation, if clients may begin something on it.
    pub fn usable(&self) -> Option<&Life> {
        self.life.as_ref().filter(|_| !self.is_closed())
    }

    /// Whether clients are kept from beginning anything on it.
    pub fn is_closed(&self) -> bool {
        self.barred || self.suspended
    }

    /// Whether an operator's word keeps new work from it, which holds while it is no primary.
    pub fn is_drained(&self) -> bool {
        self.drained && self.as_primary().is_none()
    }

    /// The gauge of an incarnation that is present or has just ended.
    pub fn gauge_of(&self, incarnation: Incarnation) -> Option<&Arc<Gauge>> {
        match &self.life {
            Some(life) if life.incarnation == incarnation => Some(&life.gauge),
            None if self.is_silent(incarnation) => {
                self.silent.as_ref().map(|silence| &silence.life.gauge)
            }
            _ => {
                let mut ended = self.previous.iter();
                let found = ended.find(|(ended, _)| *ended == incarnation);
                found.map(|(_, gauge)| gauge)
            }
        }
    }

    /// The node does not answer its monitor. Nothing new is begun on it until it does.
    pub fn fall_silent(&mut self, now_us: u64) {
        if let Some(life) = self.life.take() {
            let since_us = now_us;
            self.silent = Some(Silence { life, since_us });
        }
    }

    /// The life goes on, or the next one begins; true when one has ended.
    pub fn live(&mut self, life: Life) -> bool {
        let goes_on = |known: &Life| known.incarnation == life.incarnation;
        let silent = self.silent.as_ref().map(|silence| &silence.life);
        let known = self.life.as_ref().or(silent);
        let ended = known.is_some_and(|known| !goes_on(known)) && self.end_life();
        self.silent = None;
        self.life = Some(life);
        ended
    }

    /// Whether what is under way on a connection of this incarnation may go on: the node has not been
    /// restarted or promoted since, as far as is known, and has not been silent for longer than
    /// `patience_us`. What breaks a connection shows on its own socket.
    pub fn keeps(&self, incarnation: Incarnation, now_us: u64, patience_us: u64) -> bool {
        if self.barred {
            return false;
        }
        match (&self.life, &self.silent) {
            (Some(life), _) => life.incarnation == incarnation,
            (None, Some(silence)) => {
                let silent_us = now_us.saturating_sub(silence.since_us);
                silence.life.incarnation == incarnation && silent_us < patience_us
            }
            (None, None) => false,
        }
    }

    fn is_silent(&self, incarnation: Incarnation) -> bool {
        let silent = self.silent.as_ref();
        silent.is_some_and(|silence| silence.life.incarnation == incarnation)
    }

    /// Whether nothing has come of it but another measurement: the node is what it was, in the same life,
    /// and may be used as before.
    pub fn stands_as(&self, before: &Self) -> bool {
        let standing = |node: &Self| {
            let life = node.life.as_ref().map(|life| {
                let leads = matches!(life.role, Role::Primary(_));
                (
                    life.incarnation,
                    leads,
                    life.timeline,
                    life.system,
                    life.history.is_some(),
                )
            });
            let silent = node.silent.as_ref().map(|silence| silence.life.incarnation);
            (
                life,
                silent,
                (node.barred, node.suspended),
                node.drained,
                node.weight,
                node.near,
            )
        };
        standing(self) == standing(before)
    }

    /// The present life is over.
    pub fn end_life(&mut self) -> bool {
        let silent = self.silent.take().map(|silence| silence.life);
        let Some(life) = self.life.take().or(silent) else {
            return false;
        };
        let ended = [(life.incarnation, life.gauge)];
        let before = self.previous.iter().take(LIVES - 1).cloned();
        self.previous = ended.into_iter().chain(before).collect();
        true
    }

    /// The present life, if the node is a primary.
    pub fn as_primary(&self) -> Option<(&Life, &Snapshot)> {
        match self.usable() {
            Some(life) => match &life.role {
                Role::Primary(snapshot) => Some((life, snapshot)),
                Role::Standby(_) => None,
            },
            None => None,
        }
    }

    /// The present life, if the node is a standby.
    pub fn as_standby(&self) -> Option<(&Life, &FinishedIds)> {
        match self.usable() {
            Some(life) => match &life.role {
                Role::Standby(finished) => Some((life, finished)),
                Role::Primary(_) => None,
            },
            None => None,
        }
    }
}

/// Who may be written to, in the failover controller's judgement.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Writer {
    /// Whoever is measured to be primary: nobody here decides about it.
    #[default]
    Measured,
    /// This node, on this timeline or a later one.
    Only(NodeId, Timeline),
    /// Nobody: statements that need a primary are held.
    Nobody,
}

/// What the failover controller lets clients do, for a time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ruling {
    pub epoch: u64,
    pub writer: Writer,
    /// From whom clients are kept away.
    pub barred: NodeSet,
    /// On whom nothing is begun.
    pub suspended: NodeSet,
}

/// One life of a node as the primary.
#[derive(Clone, Debug)]
pub struct Reign {
    pub incarnation: Incarnation,
    /// The system identifier.
    pub system: Option<i64>,
    pub timeline: Timeline,
    pub history: Option<Arc<TimelineHistory>>,
    pub gauge: Arc<Gauge>,
}

/// All configured nodes at one moment.
#[derive(Clone, Debug, Default)]
pub struct Topology {
    /// In configuration order; `NodeId` is the index.
    pub nodes: Vec<NodeView>,
    /// Who may be written to.
    pub writer: Writer,
    /// Rises with every change of who may be written to; 0 without a failover controller.
    pub epoch: u64,
    /// The present primary's life, or the last one's, and those before it, latest first.
    pub reigns: Arc<[Reign]>,
}

impl Topology {
    /// Goes by a ruling from now on.
    pub fn rule(&mut self, ruling: Ruling) {
        self.epoch = ruling.epoch;
        self.writer = ruling.writer;
        for node in &mut self.nodes {
            node.barred = ruling.barred.contains(node.id);
            node.suspended = ruling.suspended.contains(node.id);
        }
        self.remember_primary();
    }

    /// The ruling that is gone by.
    pub fn ruling(&self) -> Ruling {
        let mut ruling = Ruling {
            epoch: self.epoch,
            writer: self.writer,
            ..Ruling::default()
        };
        for node in &self.nodes {
            if node.barred {
                ruling.barred.insert(node.id);
            }
            if node.suspended {
                ruling.suspended.insert(node.id);
            }
        }
        ruling
    }

    /// The time of the ruling has run out: nobody is written to, except by what is under way, if that still `goes_on`.
    pub fn expire(&mut self, goes_on: bool) {
        if let Writer::Only(primary, _) = self.writer {
            self.writer = Writer::Nobody;
            if let Some(node) = self.nodes.get_mut(usize::from(primary.0)) {
                node.suspended = true;
            }
        }
        for node in self.nodes.iter_mut().filter(|node| node.suspended) {
            (node.suspended, node.barred) = (goes_on, !goes_on || node.barred);
        }
    }

    /// A node by its place.
    pub fn node(&self, id: NodeId) -> Option<&NodeView> {
        self.nodes.get(usize::from(id.0))
    }

    /// The node that accepts writes: of several that say so, the one on the highest timeline.
    ///
    /// Two primaries on one timeline are a split brain, and then there is none: writing to either
    /// could be writing to the wrong one.
    pub fn primary(&self) -> Option<&NodeView> {
        match self.writer {
            Writer::Measured => self.measured_primary(),
            Writer::Nobody => None,
            Writer::Only(id, timeline) => self.node(id).filter(|node| {
                let life = node.as_primary();
                life.is_some_and(|(life, _)| life.timeline >= timeline)
            }),
        }
    }

    /// Remembers who is primary, for as long as there is none and for those that follow. To be called when
    /// that may have changed.
    pub fn remember_primary(&mut self) {
        let Some((life, _)) = self.primary().and_then(NodeView::as_primary) else {
            return;
        };
        let last = self.reigns.first();
        if last.is_some_and(|last| {
            last.incarnation == life.incarnation && last.history.is_some() == life.history.is_some()
        }) {
            return;
        }
        let reign = Reign {
            incarnation: life.incarnation,
            system: life.system,
            timeline: life.timeline,
            history: life.history.clone(),
            gauge: Arc::clone(&life.gauge),
        };
        let before = self.reigns.iter();
        let before = before.filter(|known| known.incarnation != life.incarnation);
        let before = before.take(REIGNS - 1).cloned();
        self.reigns = std::iter::once(reign).chain(before).collect();
    }

    /// The system identifier that more of the nodes have than any other; none if that cannot be told.
    fn prevalent_system(&self) -> Option<i64> {
        let known = |node: &NodeView| {
            let silent = node.silent.as_ref().map(|silence| &silence.life);
            node.life.as_ref().or(silent).and_then(|life| life.system)
        };
        let systems: Vec<i64> = self.nodes.iter().filter_map(known).collect();
        let count = |system: i64| systems.iter().filter(|other| **other == system).count();
        let best = systems
            .iter()
            .copied()
            .max_by_key(|system| count(*system))?;
        let rivals = systems
            .iter()
            .any(|other| *other != best && count(*other) == count(best));
        (!rivals).then_some(best)
    }

    fn measured_primary(&self) -> Option<&NodeView> {
        let mut best: Option<(&NodeView, Timeline)> = None;
        let mut tied = false;
        let mut prevalent = None;
        for node in &self.nodes {
            let Some((life, _)) = node.as_primary() else {
                continue;
            };
            // Timelines of different clusters cannot be compared.
            let rival = best.and_then(|(other, _)| other.life.as_ref());
            if let Some(rival) = rival
                && let (Some(one), Some(other)) = (rival.system, life.system)
                && one != other
            {
                match *prevalent.get_or_insert_with(|| self.prevalent_system()) {
                    Some(system) if system == one => {}
                    Some(system) if system == other => {
                        (best, tied) = (Some((node, life.timeline)), false);
                    }
                    _ => return None,
                }
                continue;
            }
            match best {
                Some((_, timeline)) if timeline > life.timeline => {}
                Some((_, timeline)) if timeline == life.timeline => tied = true,
                _ => {
                    best = Some((node, life.timeline));
                    tied = false;
                }
            }
        }
        if tied {
            None
        } else {
            best.map(|(node, _)| node)
        }
    }

    /// How far a standby was behind the primary when it was last measured: bytes, and
    /// microseconds since the primary was first seen beyond the standby's position. None without a
    /// primary.
    ///
    /// Time that has passed since then is not lag: a standby at rest is measured seldom.
    pub fn lag(&self, life: &Life, now_us: u64) -> Option<Lag> {
        let (primary, _) = self.primary()?.as_primary()?;
        let replayed = life.latest.position.flush;
        let measured_us = life.latest.at_us.min(now_us);
        let since_measured = primary.gauge.age_of(replayed, measured_us);
        Some(Lag {
            bytes: primary.latest.position.flush.bytes_since(replayed),
            us: match primary.gauge.begins_beyond(replayed) {
                true => since_measured.max(self.age_before(primary, replayed, measured_us)),
                false => since_measured,
            },
        })
    }

    /// Microseconds since a former primary was first seen beyond a position that the present one had left
    /// behind when its life began.
    fn age_before(&self, primary: &Life, position: Lsn, now_us: u64) -> u64 {
        let part_of_history = |reign: &&Reign| {
            let same = reign.timeline == primary.timeline;
            let history = primary.history.as_ref();
            let end = history.and_then(|history| history.end_of(reign.timeline));
            same || end.is_some_and(|end| position < end)
        };
        let former = self.reigns.iter();
        let former = former.filter(|reign| reign.incarnation != primary.incarnation);
        let ages = former
            .take_while(part_of_history)
            .map(|reign| reign.gauge.age_of(position, now_us));
        ages.max().unwrap_or(0)
    }
}

/// A standby's distance from the primary.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lag {
    /// WAL that the primary has flushed and the standby has not replayed.
    pub bytes: u64,
    /// Microseconds since the primary was first seen beyond the standby's position.
    pub us: u64,
}
