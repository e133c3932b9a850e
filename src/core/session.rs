//! What a session may be shown: its consistency level and its mark.
//!
//! The mark says where and when the session's last transaction ended: a node, an incarnation and
//! the probe counter. It costs a few words and no traffic. It becomes a WAL position only when the
//! session wants to move, through any probe of that node that was sent after it.

use std::fmt;
use std::str::FromStr;

use super::gauge::Gauge;
use super::lsn::{Lsn, Timeline};
use super::topology::{Incarnation, Life, NodeId, NodeView, Topology};
use super::visibility::{FinishedIds, primary_shows};

/// How fresh a session's reads must be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Level {
    /// Any healthy standby's state.
    Eventual,
    /// Everything this session wrote, and nothing older than what it has already seen.
    #[default]
    Session,
    /// The primary's state.
    Primary,
}

impl Level {
    /// Every level, in the order in which they are documented.
    pub const ALL: [Self; 3] = [Self::Eventual, Self::Session, Self::Primary];

    /// The name used in configuration, in `SET causeway.consistency` and in hints.
    pub fn name(self) -> &'static str {
        match self {
            Self::Eventual => "eventual",
            Self::Session => "session",
            Self::Primary => "primary",
        }
    }
}

/// The text names no consistency level.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a consistency level: use eventual, session or primary")]
pub struct InvalidLevel;

impl FromStr for Level {
    type Err = InvalidLevel;

    fn from_str(text: &str) -> Result<Self, InvalidLevel> {
        Self::ALL
            .into_iter()
            .find(|level| level.name().eq_ignore_ascii_case(text))
            .ok_or(InvalidLevel)
    }
}

/// Which of a primary's positions covers what the session did there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cover {
    /// The commit was flushed before it was acknowledged, and with it all that the transaction had seen.
    Flush,
    /// Nothing of the session's own is at stake. What it was shown may be somebody's asynchronous commit,
    /// from whichever proxy: the end of what was visible covers it.
    Shown,
    /// The session's own commit, or one of which this proxy knows, may have been asynchronous: covered
    /// alike, and a promotion may have lost it.
    Insert,
    /// The client was told that the outcome is unknown, or it was no transaction's: all that is generated
    /// covers it, and whether a promotion has lost it is no news.
    Unknown,
}

/// Where a session's last transaction ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// On which node.
    pub node: NodeId,
    /// In which of its lives.
    pub incarnation: Incarnation,
    /// The node's probe counter as the transaction ended.
    pub probe: u64,
    /// Which position to read off a later probe.
    pub cover: Cover,
    /// Who showed the session what it has seen.
    pub origin: ShownBy,
}

impl Mark {
    /// The standby whose state the primary is to be proved to show, in which life, and since which probe.
    fn standby(&self) -> Option<(NodeId, Incarnation, u64)> {
        match self.origin {
            ShownBy::Standby => Some((self.node, self.incarnation, self.probe)),
            ShownBy::StandbyBefore {
                node,
                incarnation,
                probe,
            } => Some((node, incarnation, probe)),
            ShownBy::Primary | ShownBy::LostStandby => None,
        }
    }
}

/// Who showed a session what it has seen: decides what proof a move to the primary needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShownBy {
    /// The primary: it goes on showing it.
    Primary,
    /// A standby: the primary may not show it yet.
    Standby,
    /// A standby whose incarnation is over; the mark was moved to the primary's WAL.
    LostStandby,
    /// A standby, of which the primary is still to be proved to show it, and the primary since.
    StandbyBefore {
        /// Which standby.
        node: NodeId,
        /// In which of its lives.
        incarnation: Incarnation,
        /// Its probe counter as that was.
        probe: u64,
    },
}

/// A position that certainly includes everything the session has seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Upper {
    /// The timeline on which the position counts.
    pub timeline: Timeline,
    /// The position.
    pub lsn: Lsn,
}

/// What a session has seen may be missing from the present history: a promotion has lost it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Broken {
    /// A position that includes everything that the session has seen; none if it never became known.
    pub seen: Option<Lsn>,
    /// The timeline on which it saw that.
    pub from: Timeline,
    /// The primary's timeline.
    pub to: Timeline,
    /// Where the first ends in the history of the second; none where that is not known.
    pub fork: Option<Lsn>,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { from, to, .. } = self;
        match (self.seen, self.fork) {
            (Some(seen), Some(fork)) => write!(
                f,
                "this session has seen timeline {from} up to {seen}, but timeline {to} leaves it at {fork}"
            ),
            (None, Some(fork)) => write!(
                f,
                "timeline {to} leaves timeline {from}, which this session has seen, at {fork}"
            ),
            (_, None) => write!(
                f,
                "timeline {to} is not known to descend from timeline {from}, which this session has seen"
            ),
        }
    }
}

/// What a session has seen, as one mark, and the standby it prefers.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    mark: Option<Mark>,
    /// The mark as a position, once a later probe has answered; it does not change again.
    upper: Option<Upper>,
    /// The timeline on which the mark was made.
    timeline: Timeline,
    testimony: Option<Testimony>,
    home: Option<NodeId>,
    /// The mark before an outcome became unknown: the client was told of the latter, so that only
    /// what this one stands for can be lost to it unawares.
    certain: Option<Certain>,
    /// What it was told beside its answers and has not been taken in: the latest of each life.
    told: Vec<Told>,
}

/// Somebody's commit of which a session was told: a mark, and the timeline on which it was made.
#[derive(Clone, Copy, Debug)]
struct Told {
    mark: Mark,
    timeline: Timeline,
}

/// A mark that was replaced by one of unknown outcome.
#[derive(Clone, Copy, Debug)]
struct Certain {
    mark: Mark,
    upper: Option<Upper>,
    timeline: Timeline,
}

impl Seen {
    /// The mark, if the session has seen anything.
    pub fn mark(&self) -> Option<&Mark> {
        self.mark.as_ref()
    }

    /// The standby that served the session last.
    pub fn home(&self) -> Option<NodeId> {
        self.home
    }

    /// A transaction ended on a standby whose state it was allowed to see.
    pub fn read_on_standby(&mut self, node: NodeId, at: LifeAt<'_>) {
        self.home = Some(node);
        self.set(node, at, Cover::Flush, ShownBy::Standby);
    }

    /// A transaction ended on the primary.
    pub fn ended_on_primary(&mut self, node: NodeId, at: LifeAt<'_>, cover: Cover) {
        let cover = match cover {
            // Another session's may have been read.
            Cover::Shown if at.gauge.may_show_unflushed() => Cover::Insert,
            // The connection was told otherwise at its login.
            Cover::Flush if at.gauge.is_asynchronous() => Cover::Insert,
            _ => cover,
        };
        // Its commit stands behind the ones of which it was told before.
        let over = |told: &Told| told.mark.incarnation == at.incarnation;
        self.told.retain(|told| !over(told));
        self.set(node, at, cover, ShownBy::Primary);
    }

    /// The client is about to be told of a commit that this node, a primary, shows: a notification comes
    /// once its transaction is visible. Taken in by [`Seen::follow`], for what the session had seen before
    /// may have to be judged first.
    pub fn told_by_primary(&mut self, node: NodeId, at: LifeAt<'_>) {
        let last = self
            .told
            .pop_if(|last| last.mark.incarnation == at.incarnation);
        let was_insert = last.is_some_and(|last| last.mark.cover == Cover::Insert);
        let cover = match was_insert || at.gauge.may_show_unflushed() {
            true => Cover::Insert,
            false => Cover::Shown,
        };
        self.told.push(Told {
            mark: Mark {
                node,
                incarnation: at.incarnation,
                probe: at.gauge.sent(),
                cover,
                origin: ShownBy::Primary,
            },
            timeline: at.gauge.timeline(),
        });
    }

    fn set(&mut self, node: NodeId, at: LifeAt<'_>, cover: Cover, origin: ShownBy) {
        let (incarnation, probe) = (at.incarnation, at.gauge.sent());
        self.certain = match (cover, self.mark) {
            (Cover::Unknown, Some(mark)) if mark.cover != Cover::Unknown => Some(Certain {
                mark,
                upper: self.upper,
                timeline: self.timeline,
            }),
            (Cover::Unknown, _) => self.certain,
            _ => None,
        };
        self.mark = Some(Mark {
            node,
            incarnation,
            probe,
            cover,
            origin,
        });
        self.upper = None;
        self.testimony = None;
        self.timeline = at.gauge.timeline();
    }

    /// The mark as a position, if a probe sent after it has answered.
    pub fn upper(&mut self, topology: &Topology) -> Option<Upper> {
        if self.upper.is_none() {
            let mark = self.mark?;
            let gauge = topology.node(mark.node)?.gauge_of(mark.incarnation)?;
            let bound = gauge.first_after(mark.probe)?;
            let position = bound.position;
            let lsn = match mark.cover {
                Cover::Flush if !bound.asynchronous => position.flush,
                // The default has changed, and the connection may not have been told.
                Cover::Flush => position.flush.max(position.commits),
                Cover::Shown | Cover::Insert if mark.origin == ShownBy::Primary => position.commits,
                // A standby may have shown what the primary did not yet, but nothing that is not flushed.
                Cover::Shown | Cover::Insert => position.commits.max(position.flush),
                // It may be committed, and not be shown yet; or no snapshot tells of it.
                Cover::Unknown => position.insert,
            };
            self.upper = Some(Upper {
                timeline: bound.timeline,
                lsn,
            });
        }
        self.upper
    }

    /// True when the mark's incarnation is over and no probe after the mark was ever answered.
    pub fn is_stranded(&mut self, topology: &Topology) -> bool {
        let Some(mark) = self.mark else { return false };
        let life = topology.node(mark.node).and_then(|node| node.life.as_ref());
        let over = life.is_none_or(|life| life.incarnation != mark.incarnation);
        over && self.upper(topology).is_none()
    }

    /// Moves a stranded mark to the primary's WAL as of now.
    ///
    /// A standby replays only what the primary has flushed, so the primary's flush position from
    /// now on includes whatever the lost standby may have shown; and a restarted primary has
    /// recovered everything that it had flushed.
    pub fn rebase(&mut self, node: NodeId, primary: &Life) {
        let Some(mark) = &mut self.mark else { return };
        mark.node = node;
        mark.incarnation = primary.incarnation;
        mark.probe = primary.gauge.sent();
        if mark.origin == ShownBy::Standby {
            mark.origin = ShownBy::LostStandby;
        }
        self.upper = None;
        self.testimony = None;
        self.timeline = primary.timeline;
    }

    /// Carries the mark over a failover: onto the primary's timeline where what the session has seen
    /// is part of its history. Otherwise the mark starts anew and the session must be told.
    ///
    /// `lossless`: nothing that was acknowledged and flushed can be missing after a promotion, so that
    /// a mark whose position never became known is carried over as well.
    pub fn follow(&mut self, topology: &Topology, lossless: bool) -> Result<(), Broken> {
        let mut kept = self.judge(topology, lossless);
        for Told { mark, timeline } in std::mem::take(&mut self.told) {
            let mut told = Self {
                mark: Some(mark),
                timeline,
                ..Self::default()
            };
            kept = kept.and(told.judge(topology, lossless));
            self.take_in(told, topology);
        }
        kept
    }

    /// The mark covers what the session was told as well.
    fn take_in(&mut self, mut told: Self, topology: &Topology) {
        let Some(mark) = told.mark else { return };
        let primary = topology.primary().and_then(|n| Some((n, n.as_primary()?)));
        // Over: it says nothing of what the session has seen since, as the primary's WAL of now does.
        if !told.lives_on(mark, topology)
            && let Some((node, (life, _))) = primary
        {
            told.rebase(node.id, life);
        }
        let Some(mut mark) = told.mark else { return };
        if let Some(before) = self.mark {
            if self.timeline > told.timeline {
                return;
            }
            mark.origin = match before.origin {
                ShownBy::Standby => ShownBy::StandbyBefore {
                    node: before.node,
                    incarnation: before.incarnation,
                    probe: before.probe,
                },
                other => other,
            };
            match before.cover {
                Cover::Insert => mark.cover = Cover::Insert,
                Cover::Unknown => {
                    self.certain = Some(Certain {
                        mark,
                        upper: None,
                        timeline: told.timeline,
                    });
                    mark.cover = Cover::Unknown;
                }
                Cover::Flush | Cover::Shown => {}
            }
        }
        self.mark = Some(mark);
        self.upper = None;
        self.timeline = told.timeline;
    }

    /// Carries the mark over, apart from what the session was told since.
    fn judge(&mut self, topology: &Topology, lossless: bool) -> Result<(), Broken> {
        let (Some(mark), Some(node)) = (self.mark, topology.primary()) else {
            return Ok(());
        };
        let Some((primary, _)) = node.as_primary() else {
            return Ok(());
        };
        // Nearly always, and then nothing needs to be looked up.
        if self.timeline >= primary.timeline {
            return Ok(());
        }
        let upper = self.upper(topology);
        let from = upper.map_or(self.timeline, |upper| upper.timeline);
        if from >= primary.timeline || self.lives_on(mark, topology) && upper.is_none() {
            return Ok(());
        }
        if mark.cover == Cover::Unknown {
            let kept = self.follow_certain(topology, lossless);
            self.rebase(node.id, primary);
            self.shown_by_promoted();
            return kept;
        }
        let fork = primary.history.as_ref().and_then(|h| h.end_of(from));
        let kept = match (upper, fork) {
            (Some(upper), Some(fork)) => upper.lsn <= fork,
            // The node that showed it was promoted.
            (None, Some(_)) if mark.node == node.id && mark.origin == ShownBy::Standby => true,
            _ => false,
        };
        match upper {
            Some(upper) if kept => {
                self.upper = Some(Upper {
                    timeline: primary.timeline,
                    ..upper
                });
                self.timeline = primary.timeline;
                self.shown_by_promoted();
                return Ok(());
            }
            _ => self.rebase(node.id, primary),
        }
        self.shown_by_promoted();
        if kept || (lossless && mark.cover != Cover::Insert) {
            return Ok(());
        }
        Err(Broken {
            seen: upper.map(|upper| upper.lsn),
            from,
            to: primary.timeline,
            fork,
        })
    }

    /// Judges what was known for certain before an outcome became unknown.
    fn follow_certain(&mut self, topology: &Topology, lossless: bool) -> Result<(), Broken> {
        let Some(certain) = self.certain.take() else {
            return Ok(());
        };
        let mut before = Self {
            mark: Some(certain.mark),
            upper: certain.upper,
            timeline: certain.timeline,
            ..Self::default()
        };
        before.judge(topology, lossless)
    }

    /// A promoted node had replayed all of the timeline that it left, and shows it.
    fn shown_by_promoted(&mut self) {
        if let Some(mark) = &mut self.mark {
            mark.origin = ShownBy::Primary;
        }
    }

    fn lives_on(&self, mark: Mark, topology: &Topology) -> bool {
        let life = topology.node(mark.node).and_then(NodeView::usable);
        life.is_some_and(|life| life.incarnation == mark.incarnation)
    }

    /// True when the primary is known to show everything that the session has seen on standbys.
    pub fn shown_by_primary(&mut self, topology: &Topology) -> bool {
        let Some(mark) = self.mark else { return true };
        let Some((primary, snapshot)) = topology.primary().and_then(NodeView::as_primary) else {
            return false;
        };
        if mark.origin == ShownBy::Primary {
            return true;
        }
        let shown_before = mark.standby().and_then(|(node, ..)| topology.node(node));
        let life = shown_before.and_then(|node| node.life.as_ref());
        if life.is_some_and(|life| life.incarnation == primary.incarnation) {
            // It was promoted, and goes on showing what it had replayed.
            return true;
        }
        if self.present(topology).is_none()
            && let Some(testimony) = self.testify(mark, topology)
        {
            self.testimony = Some(testimony);
        }
        let Some(testimony) = &self.testimony else {
            return false;
        };
        // What runs on the witness now did not end before.
        let now = self
            .present(topology)
            .map_or(&[][..], |(_, finished)| &finished.still_running);
        primary_shows(snapshot, &testimony.finished, now)
    }

    /// The witness as it is now, if it still lives the life in which it was asked.
    fn present<'a>(&self, topology: &'a Topology) -> Option<(&'a Life, &'a FinishedIds)> {
        let witness = self.testimony.as_ref()?;
        topology
            .node(witness.node)?
            .as_standby()
            .filter(|(life, _)| life.incarnation == witness.incarnation)
    }

    /// Asks a standby what was certainly finished where the session has read: the standby itself,
    /// or once that life is over, another that has replayed at least as much.
    fn testify(&mut self, mark: Mark, topology: &Topology) -> Option<Testimony> {
        let itself = mark.standby().and_then(|(node, incarnation, probe)| {
            let node = topology.node(node)?;
            let found = node.as_standby()?;
            let lives = found.0.incarnation == incarnation;
            lives.then_some((probe, (node.id, found)))
        });
        let (node, (life, finished)) = match itself {
            Some((probe, found)) if found.1.0.latest.probe > probe => found,
            Some(_) => return None,
            None => {
                let upper = self.upper(topology)?;
                let standbys = topology
                    .nodes
                    .iter()
                    .filter_map(|node| Some((node.id, node.as_standby()?)));
                standbys
                    .filter(|(_, (life, _))| life.timeline == upper.timeline)
                    .find(|(_, (_, finished))| finished.at_least >= upper.lsn)?
            }
        };
        Some(Testimony {
            node,
            incarnation: life.incarnation,
            finished: finished.clone(),
        })
    }
}

/// What a standby held to be finished at a moment when it had everything that the session has seen.
///
/// It is kept until the primary shows it: the standby's latest answer would be a moving target,
/// which a primary under load never quite reaches.
#[derive(Clone, Debug)]
struct Testimony {
    node: NodeId,
    incarnation: Incarnation,
    finished: FinishedIds,
}

/// The incarnation in which a transaction ran, as its server connection knows it.
#[derive(Clone, Copy, Debug)]
pub struct LifeAt<'a> {
    /// Which one.
    pub incarnation: Incarnation,
    /// Its probe counter and history.
    pub gauge: &'a Gauge,
}
