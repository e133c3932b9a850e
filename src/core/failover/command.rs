//! What a plan asks for: each command can be repeated, and each carries the epoch.
//!
//! The executor stores the record, then runs the commands in order. No command depends on one before it
//! in the same plan: what must come after another is planned once its effect was seen, so that a node that
//! refuses something holds up nobody else. Neighbours of one kind speak to different nodes and may run at
//! the same time. Before each
//! it checks that it still leads, for longer than the command's own deadline. What may take long is an
//! errand (`Act::is_errand`): it is set going, and its end is a fact of a later plan.

use super::failsafe::FailsafeRule;
use super::quorum::CommitRule;
use super::record::{Cause, FenceProof, QuarantineReason, Quarantined};
use crate::core::lsn::{Lsn, Timeline};
use crate::core::topology::NodeId;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Command {
    /// The record's epoch. An agent, and the control session on a server, refuse a lower one than
    /// they have met.
    pub epoch: u64,
    pub act: Act,
}

/// What can be done.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Act {
    /// Hold clients' new statements that need the primary.
    Hold,
    /// Let them go on.
    Release,
    /// Close this proxy's connections to a node that were opened in an older epoch.
    CloseBackends(NodeId),
    /// Empty a standby's `primary_conninfo` and reload, having first ended every other control
    /// session there: a command of an older epoch may be on its way in one.
    Detach(NodeId),
    /// By its agent: stop the server; at once, whatever it runs as, since a standby may be about to lead. Its
    /// agent must not start it again, and must answer with this epoch from now on. A server that is stopped
    /// already is a success.
    Stop {
        node: NodeId,
        how: Stop,
    },
    /// Run `fence_command` for a node.
    Fence(NodeId),
    /// Promote a standby, by its agent where there is one. A server that leads already is a
    /// success.
    Promote(NodeId),
    /// End the sessions that keep a standby from replaying what it holds. Which those are its server says.
    EndReaders(NodeId),
    /// By its agent: start a stopped server as the primary that it was.
    StartAsPrimary(NodeId),
    /// By its agent: start a stopped server as a standby, of nobody or of a node.
    StartAsStandby {
        node: NodeId,
        /// Whom it is to follow.
        primary: Option<NodeId>,
    },
    /// Point a standby's `primary_conninfo` at a node and reload.
    Follow {
        standby: NodeId,
        /// Whom it is to follow.
        primary: NodeId,
    },
    /// By its agent, or by `rejoin_command`: make a node a standby again. It begins a job.
    Rejoin {
        node: NodeId,
        /// Whom it is to follow.
        primary: NodeId,
        /// Rewinding is out of the question.
        copy: bool,
    },
    /// Reset `synchronous_standby_names` and reload.
    ResetSync(NodeId),
    /// Set `synchronous_standby_names` and reload, having first ended every other session that sets it:
    /// an earlier order may be on its way in one.
    SetSync {
        /// On which server: a primary, or a standby about to be promoted.
        node: NodeId,
        /// The rule, by application names that are the nodes' names.
        rule: CommitRule,
    },
    /// Find out whether every process of a primary goes by the rule that was set there, by a commit that
    /// is seen to wait. A fact of later plans says so.
    ProveSync {
        node: NodeId,
        rule: CommitRule,
    },
    /// Ask an agent to let its server run as a primary for `lease_us`, counted from the moment at
    /// which *the agent* gave the answer that this plan has read: a renewal that comes late
    /// prolongs nothing.
    RenewLease {
        node: NodeId,
        /// By which the agents may prolong it among themselves.
        failsafe: Option<FailsafeRule>,
    },
    /// Tell an agent this epoch: it promises nothing to whoever leads in a lower one.
    Announce(NodeId),
    /// Ask an agent to let its server run without a lease, whatever it runs as.
    ReleaseLease(NodeId),
    /// Write something small on the primary, so that standbys receive something.
    Heartbeat(NodeId),
    /// `CHECKPOINT`: so that `pg_rewind` finds the timeline in the control file, or that a clean stop is
    /// short.
    Checkpoint(NodeId),
    Report(Event),
}

impl Act {
    /// Nobody waits for it: the plans that follow see what became of it, and leases are renewed meanwhile.
    pub fn is_errand(&self) -> bool {
        match self {
            Self::RenewLease { .. }
            | Self::Announce(_)
            | Self::EndReaders(_)
            | Self::Heartbeat(_)
            | Self::Checkpoint(_)
            | Self::ProveSync { .. } => true,
            // A shutdown checkpoint, a crash's recovery, and what an operator's command does, take as long
            // as they take.
            Self::Stop { how, .. } => *how == Stop::Fast,
            Self::StartAsPrimary(_) | Self::StartAsStandby { .. } => true,
            Self::Fence(_) | Self::Rejoin { .. } | Self::ReleaseLease(_) => true,
            _ => false,
        }
    }
}

/// How to stop a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stop {
    /// `pg_ctl stop -m fast`: with a shutdown checkpoint, which standbys receive.
    Fast,
    /// `pg_ctl stop -m immediate`.
    Immediate,
}

/// What people are told. It is told again if the executor is killed before it has noted it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// A primary was found, or another hand has promoted one.
    Found {
        primary: NodeId,
        /// What it writes.
        timeline: Timeline,
    },
    /// The primary is being replaced.
    PrimaryFailed { node: NodeId, cause: Cause },
    /// It came back before anything was decided.
    CalledOff { node: NodeId, why: String },
    /// The old primary acknowledges nothing any more.
    Fenced {
        node: NodeId,
        /// How that is known.
        proof: FenceProof,
    },
    /// A standby has been chosen.
    Chosen {
        node: NodeId,
        /// The end of its WAL.
        end: Lsn,
        /// Known WAL that it lacks, in bytes.
        lost_bytes: u64,
        /// The highest position that the old primary is known to have written: marks and tokens
        /// above the fork up to here name lost writes.
        written: Lsn,
        /// Who holds as much and would have been preferred, had it not replayed only as far as this.
        passed_over: Option<(NodeId, Lsn)>,
    },
    /// A new primary serves.
    Promoted {
        node: NodeId,
        /// What it writes.
        timeline: Timeline,
        /// Where that left the old timeline; none while the history has not been read.
        fork: Option<Lsn>,
        /// Why the old one was replaced.
        cause: Cause,
    },
    /// The old primary serves again, because nobody could take over.
    Restored(NodeId),
    /// A node was taken out of service.
    Quarantined {
        node: NodeId,
        /// Why, and what will bring it back.
        why: Quarantined,
    },
    /// A node is in service again.
    Rejoined(NodeId),
    /// An old primary runs again on an old timeline; it is never written to.
    StrayPrimary {
        node: NodeId,
        timeline: Timeline,
        /// Why it is not the primary.
        reason: QuarantineReason,
    },
    /// A request was carried out.
    Done { request: u64 },
    /// A request was refused or called off; nothing was lost.
    Refused {
        request: u64,
        /// Why, and what to do.
        why: String,
    },
}
