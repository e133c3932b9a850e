//! The cluster as it was last measured: an immutable snapshot that every decision reads.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::gauge::{Gauge, Measurement};
use super::lsn::Timeline;
use super::visibility::{Finished, Snapshot};

/// A node's place in the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NodeId(pub u16);

/// One unbroken life of a node as seen by its monitor, unique over the process's life.
///
/// A lost monitoring connection, a restart or a change of timeline ends it, because a restarted
/// standby can serve an older state than before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Incarnation(pub u64);

/// A node's part in replication, with what only that part can tell of visibility.
#[derive(Clone, Debug)]
pub enum Role {
    /// Accepts writes.
    Primary(Snapshot),
    /// In recovery.
    Standby(Finished),
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
    /// The latest measurement: a lower bound of the position from then on.
    pub latest: Measurement,
    /// The counter and earlier measurements.
    pub gauge: Arc<Gauge>,
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
    /// The present incarnation; none while it is not reachable.
    pub life: Option<Life>,
    /// The incarnation before, for marks that still refer to it.
    pub previous: Option<(Incarnation, Arc<Gauge>)>,
}

impl NodeView {
    /// The gauge of an incarnation that is present or has just ended.
    pub fn gauge_of(&self, incarnation: Incarnation) -> Option<&Arc<Gauge>> {
        match (&self.life, &self.previous) {
            (Some(life), _) if life.incarnation == incarnation => Some(&life.gauge),
            (_, Some((ended, gauge))) if *ended == incarnation => Some(gauge),
            _ => None,
        }
    }

    /// The present life, if the node is a primary.
    pub fn as_primary(&self) -> Option<(&Life, &Snapshot)> {
        match &self.life {
            Some(life) => match &life.role {
                Role::Primary(snapshot) => Some((life, snapshot)),
                Role::Standby(_) => None,
            },
            None => None,
        }
    }

    /// The present life, if the node is a standby.
    pub fn as_standby(&self) -> Option<(&Life, &Finished)> {
        match &self.life {
            Some(life) => match &life.role {
                Role::Standby(finished) => Some((life, finished)),
                Role::Primary(_) => None,
            },
            None => None,
        }
    }
}

/// All configured nodes at one moment.
#[derive(Clone, Debug, Default)]
pub struct Topology {
    /// In configuration order; `NodeId` is the index.
    pub nodes: Vec<NodeView>,
}

impl Topology {
    /// A node by its place.
    pub fn node(&self, id: NodeId) -> Option<&NodeView> {
        self.nodes.get(usize::from(id.0))
    }

    /// The node that accepts writes: of several that say so, the one on the highest timeline.
    ///
    /// Two primaries on one timeline are a split brain, and then there is none: writing to either
    /// could be writing to the wrong one.
    pub fn primary(&self) -> Option<&NodeView> {
        let mut best: Option<(&NodeView, Timeline)> = None;
        let mut tied = false;
        for node in &self.nodes {
            let Some((life, _)) = node.as_primary() else {
                continue;
            };
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
        Some(Lag {
            bytes: primary.latest.position.flush.bytes_since(replayed),
            us: primary.gauge.age_of(replayed, measured_us),
        })
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
