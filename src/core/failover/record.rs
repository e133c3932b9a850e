//! What is stored before any command runs, so that whoever comes next can go on.
//!
//! There are no clock readings in it: the next reader has another clock. Nodes are numbers into the
//! record's own list of names, because another proxy may list them in another order.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::failsafe::FailsafeState;
use super::policy::FailoverPolicy;
use super::quorum::SyncState;
use crate::core::lsn::{Lsn, Timeline};
use crate::core::topology::NodeId;

/// The cluster's memory.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Record {
    /// Raised by every decision about who leads; servers' agents and control sessions refuse
    /// commands of a lower one, and no client is served on a connection of a lower one.
    pub epoch: u64,
    /// The names of the nodes, in the order in which this record numbers them.
    pub nodes: Vec<String>,
    /// The cluster's system identifier.
    pub system: Option<u64>,
    /// The node that leads, or was the last to do so.
    pub primary: Option<NodeId>,
    /// The timeline that it writes, or wrote.
    pub timeline: Timeline,
    /// What is being done.
    pub phase: Phase,
    /// By which rules commits may have been acknowledged (`durability: quorum`).
    pub sync: SyncState,
    /// `synchronous_standby_names` is, or was, managed here: without quorum it is reset.
    #[serde(default)]
    pub sync_managed: bool,
    /// Nodes whose agents are known to stop a primary whose lease has run out. One whose agent was never
    /// reached, or has been told that nobody decides any more, does not.
    #[serde(default)]
    pub governed: BTreeSet<NodeId>,
    /// Of those, the ones whose agents are to be told so, now that something else promotes, and have not
    /// confirmed it. Agents that others govern are none of this record's business.
    #[serde(default)]
    pub to_release: BTreeSet<NodeId>,
    /// By node, the longest lease that its agent may have been granted, in microseconds, and has not said to
    /// be over. Stored before one is asked for: another proxy's leases may be shorter.
    #[serde(default)]
    pub leases: BTreeMap<NodeId, u64>,
    /// Whose promises may prolong whose lease.
    #[serde(default)]
    pub failsafe: FailsafeState,
    /// Nodes that serve nothing and are not promoted until they have been rejoined.
    pub quarantine: BTreeMap<NodeId, Quarantined>,
    /// Standbys that were to lead and could not be promoted, with where their WAL ends, which was final when they
    /// were chosen: one that holds as much holds whatever theirs could tell of. None while a primary serves.
    #[serde(default)]
    pub given_up: BTreeMap<NodeId, Lsn>,
    /// The primary that was stopped cleanly for a switchover which has not come to its end: it holds everything, and
    /// nobody has served since. It leads again if its successor cannot. None while a primary serves.
    #[serde(default)]
    pub intact: Option<NodeId>,
    /// The epoch in which `fence_command` was begun last. Stored before it is: whoever reads the record next does
    /// not know what became of it.
    #[serde(default)]
    pub fence_begun: Option<u64>,
    /// By quarantined node, how often it was asked to start, and has not come.
    #[serde(default)]
    pub starts: BTreeMap<NodeId, u32>,
    /// Nobody is promoted, by an operator's word: leases are renewed, and what fails is reported.
    #[serde(default)]
    pub paused: bool,
    /// The operator's request that is being worked on.
    pub request: Option<Request>,
    /// The latest request that has been answered, so that it is not taken up again.
    pub answered_request: Option<u64>,
}

/// What is being done.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Phase {
    /// No primary is known yet.
    Looking,
    /// The primary serves.
    Steady,
    /// Promotion 1: the old primary is being made harmless.
    Fencing(FailedPrimary),
    /// Promotion 2: how far has each standby received?
    Discovering(FailedPrimary, FenceProof),
    /// Promotion 3: the candidate is being promoted.
    Promoting(FailedPrimary, FenceProof, Candidate),
    /// Promotion 4: the new primary serves; the others are sent after it.
    Following,
    /// Nobody can take over: the old primary is started again.
    Restoring(FailedPrimary),
    /// Switchover 0: the primary writes what it has in memory to its disk, so that it stops quickly.
    /// Clients notice nothing.
    Checkpointing {
        /// Who is to lead.
        to: NodeId,
    },
    /// Switchover 1: new transactions are held, running ones may end.
    Draining {
        /// Who is to lead.
        to: NodeId,
    },
    /// Switchover 2: the old primary is being stopped cleanly.
    Stopping {
        /// Who is to lead.
        to: NodeId,
    },
    /// Switchover 3: the candidate receives the rest.
    CatchingUp {
        /// Who is to lead.
        to: NodeId,
        /// The old primary's shutdown checkpoint, which the candidate must hold.
        checkpoint: Lsn,
    },
}

/// The failure of a primary.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct FailedPrimary {
    /// The node that led, or that was being promoted.
    pub node: NodeId,
    /// What is wrong with it.
    pub cause: Cause,
    /// The highest position that it is known to have written.
    pub written: Lsn,
}

/// Why a primary is replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Cause {
    /// Nothing listens there, or its agent reports no server.
    Dead,
    /// Neither this proxy nor most standbys hear of it.
    Hung,
    /// It is in recovery.
    InRecovery,
    /// An operator said so.
    Operator,
    /// A candidate was lost before it was seen to lead.
    CandidateLost,
    /// A candidate answered, and could not be promoted.
    CandidateGivenUp,
    /// It was stopped for a switchover that could not be completed.
    Switchover,
}

/// Why the old primary acknowledges nothing any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum FenceProof {
    /// Its agent found the server stopped, in this epoch.
    AgentStopped,
    /// Its lease has certainly run out, and its agent has stopped it.
    LeaseRanOut,
    /// `fence_command` succeeded in this epoch.
    FenceCommand,
    /// Too few standbys are attached to it to acknowledge a commit.
    QuorumDetached,
    /// It is in recovery.
    InRecovery,
    /// The operator accepted that it is kept from clients by routing only.
    RoutingOnly,
}

/// Who is to lead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Candidate {
    pub node: NodeId,
    /// The end of its WAL when it was chosen.
    pub end: Lsn,
    /// It holds all that the old primary wrote: it stopped cleanly.
    pub complete: bool,
}

/// Why and how a node must be rejoined.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Quarantined {
    pub reason: QuarantineReason,
    #[serde(rename = "way")]
    pub recovery: Recovery,
}

/// Why a node is out of service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum QuarantineReason {
    /// It led before.
    OldPrimary,
    /// It claims to lead and does not.
    ClaimsToLead,
    /// It holds WAL beyond the point where the present timeline left its own.
    BeyondFork,
    /// It was a standby, and its server ended without shutting down.
    Crashed,
    /// It is of another cluster: its system identifier is not ours.
    OtherCluster,
}

/// How a node can come back into service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Recovery {
    /// It stopped cleanly and everything it wrote is in the new history: start it as a standby.
    Start,
    /// Rewind it, or copy the primary.
    Rewind,
    /// Copy the primary: its timeline has the number of another one, which rewinding cannot tell.
    Copy,
    /// By an operator: another hand promoted it, and what was written there would be lost.
    Operator,
}

/// What an operator asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Request {
    /// Unique; a higher one is later.
    pub id: u64,
    /// Who is to lead; none for the best.
    pub to: Option<NodeId>,
    pub kind: RequestKind,
}

/// What an operator can ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum RequestKind {
    /// A planned change without loss.
    Switchover,
    /// Replace the primary now, and accept the loss that `plan` has spoken of.
    Failover,
    /// Promote nobody until `Resume`, whatever fails.
    Pause,
    Resume,
}

impl Record {
    pub fn new(policy: &FailoverPolicy) -> Self {
        Self {
            epoch: 0,
            nodes: policy.nodes.iter().map(|node| node.name.clone()).collect(),
            system: None,
            primary: None,
            timeline: Timeline(0),
            phase: Phase::Looking,
            sync: SyncState::default(),
            sync_managed: false,
            governed: BTreeSet::new(),
            to_release: BTreeSet::new(),
            leases: BTreeMap::new(),
            failsafe: FailsafeState::default(),
            quarantine: BTreeMap::new(),
            given_up: BTreeMap::new(),
            intact: None,
            fence_begun: None,
            starts: BTreeMap::new(),
            paused: false,
            request: None,
            answered_request: None,
        }
    }

    /// The node that clients may write to, if there is one at present.
    pub fn serving(&self) -> Option<NodeId> {
        match self.phase {
            Phase::Steady
            | Phase::Following
            | Phase::Checkpointing { .. }
            | Phase::Draining { .. } => self.primary,
            _ => None,
        }
    }

    /// The node that may run as the primary by this record, also while it is being stopped in good order.
    pub fn leading(&self) -> Option<NodeId> {
        match self.phase {
            Phase::Stopping { .. } => self.primary,
            _ => self.serving(),
        }
    }

    /// Whether new statements that need the primary must wait.
    pub fn holds(&self) -> bool {
        !matches!(
            self.phase,
            Phase::Looking | Phase::Steady | Phase::Following | Phase::Checkpointing { .. }
        )
    }

    /// An operator's request that has not been answered.
    pub fn pending(&self, request: Option<Request>) -> Option<Request> {
        request.filter(|request| self.answered_request.is_none_or(|last| request.id > last))
    }

    /// Whether an operator has accepted that something is lost.
    pub fn accepts_loss(&self) -> bool {
        let request = self.request;
        request.is_some_and(|request| request.kind == RequestKind::Failover)
    }

    /// Who is to lead by an operator's `FAILOVER`, if it names somebody.
    pub fn asked_for(&self) -> Option<NodeId> {
        let request = self.request.filter(|_| self.accepts_loss());
        request.and_then(|request| request.to)
    }

    /// Whether its numbers are those of a policy.
    pub fn fits(&self, policy: &FailoverPolicy) -> bool {
        let names = policy.nodes.iter().map(|node| &node.name);
        self.nodes.iter().eq(names)
    }

    /// The same record with the numbers of a policy, in which nodes may have been added, moved, or
    /// removed. What was ordered for the benefit of a removed node is called off. Err: the name of a removed
    /// one that the record cannot do without: it leads, or is being replaced or promoted.
    pub fn renumbered(&self, policy: &FailoverPolicy) -> Result<Self, String> {
        let place = |node: NodeId| -> Result<NodeId, String> {
            let name = self.nodes.get(usize::from(node.0));
            let name = name.ok_or_else(|| format!("node {}", node.0))?;
            let new = policy
                .ids()
                .zip(&policy.nodes)
                .find(|(_, n)| n.name == *name);
            new.map(|(id, _)| id).ok_or_else(|| name.clone())
        };
        let known_place = |node: NodeId| place(node).ok();
        let mut sync = self.sync.clone();
        for rule in sync.rules.iter_mut().flatten() {
            *rule = rule.renumbered(known_place);
        }
        let primary = self.primary.map(place).transpose()?;
        let to_gone = |to: Option<NodeId>| to.is_some_and(|to| place(to).is_err());
        let phase_is_off = to_gone(self.phase.switches_to());
        let mut request = self.request;
        let mut answered_request = self.answered_request;
        if let Some(off) = request.take_if(|request| phase_is_off || to_gone(request.to)) {
            answered_request = Some(off.id.max(answered_request.unwrap_or_default()));
        }
        if let Some(request) = &mut request {
            request.to = request.to.and_then(known_place);
        }
        let phase = match (&self.phase, primary) {
            // It has stopped, or is about to: it is started again.
            (Phase::Stopping { .. } | Phase::CatchingUp { .. }, Some(node)) if phase_is_off => {
                let (cause, written) = (Cause::Switchover, Lsn(0));
                Phase::Restoring(FailedPrimary {
                    node,
                    cause,
                    written,
                })
            }
            _ if phase_is_off => Phase::Following,
            (phase, _) => phase.renumbered(&place)?,
        };
        // What is quarantined and no longer configured is out of the way.
        let quarantine = self.quarantine.iter();
        let quarantine = quarantine.filter_map(|(node, why)| Some((place(*node).ok()?, *why)));
        let given_up = self.given_up.iter();
        let given_up = given_up.filter_map(|(node, end)| Some((place(*node).ok()?, *end)));
        let starts = self.starts.iter();
        let starts = starts.filter_map(|(node, asked)| Some((place(*node).ok()?, *asked)));
        let leases = self.leases.iter();
        let leases = leases.filter_map(|(node, us)| Some((place(*node).ok()?, *us)));
        let known =
            |nodes: &BTreeSet<NodeId>| nodes.iter().filter_map(|node| place(*node).ok()).collect();
        Ok(Self {
            nodes: policy.nodes.iter().map(|node| node.name.clone()).collect(),
            epoch: self.epoch + u64::from(phase_is_off),
            primary,
            phase,
            sync,
            governed: known(&self.governed),
            to_release: known(&self.to_release),
            leases: leases.collect(),
            failsafe: self.failsafe.renumbered(known_place),
            quarantine: quarantine.collect(),
            given_up: given_up.collect(),
            intact: self.intact.and_then(known_place),
            starts: starts.collect(),
            request,
            answered_request,
            ..self.clone()
        })
    }
}

impl Cause {
    /// Whether the node was to lead, and may have an order to do so that it has not followed yet.
    pub(super) fn was_candidate(self) -> bool {
        matches!(self, Self::CandidateLost | Self::CandidateGivenUp)
    }
}

impl Phase {
    /// All short names.
    pub const LABELS: [&'static str; 11] = [
        "looking",
        "steady",
        "fencing",
        "discovering",
        "promoting",
        "following",
        "restoring",
        "checkpointing",
        "draining",
        "stopping",
        "catching_up",
    ];

    /// A short name for status and metrics.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Looking => "looking",
            Self::Steady => "steady",
            Self::Fencing(_) => "fencing",
            Self::Discovering(..) => "discovering",
            Self::Promoting(..) => "promoting",
            Self::Following => "following",
            Self::Restoring(_) => "restoring",
            Self::Checkpointing { .. } => "checkpointing",
            Self::Draining { .. } => "draining",
            Self::Stopping { .. } => "stopping",
            Self::CatchingUp { .. } => "catching_up",
        }
    }

    /// Who is to lead by a switchover that is under way.
    fn switches_to(&self) -> Option<NodeId> {
        match self {
            Self::Checkpointing { to }
            | Self::Draining { to }
            | Self::Stopping { to }
            | Self::CatchingUp { to, .. } => Some(*to),
            _ => None,
        }
    }

    fn renumbered(&self, place: &dyn Fn(NodeId) -> Result<NodeId, String>) -> Result<Self, String> {
        let failed = |failed: &FailedPrimary| -> Result<FailedPrimary, String> {
            let node = place(failed.node)?;
            Ok(FailedPrimary {
                node,
                ..failed.clone()
            })
        };
        Ok(match self {
            Self::Looking | Self::Steady | Self::Following => self.clone(),
            Self::Fencing(f) => Self::Fencing(failed(f)?),
            Self::Discovering(f, proof) => Self::Discovering(failed(f)?, *proof),
            Self::Promoting(f, proof, candidate) => {
                let node = place(candidate.node)?;
                Self::Promoting(failed(f)?, *proof, Candidate { node, ..*candidate })
            }
            Self::Restoring(f) => Self::Restoring(failed(f)?),
            Self::Checkpointing { to } => Self::Checkpointing { to: place(*to)? },
            Self::Draining { to } => Self::Draining { to: place(*to)? },
            Self::Stopping { to } => Self::Stopping { to: place(*to)? },
            Self::CatchingUp { to, checkpoint } => Self::CatchingUp {
                to: place(*to)?,
                checkpoint: *checkpoint,
            },
        })
    }
}
