//! Everything that is known at one moment, frozen with the time.
//!
//! Times are microseconds of one monotonic clock of this process. An answer's time is when its
//! question was *sent*: what it says was so at some moment after that.

use std::collections::BTreeSet;

use crate::core::failover::failsafe::FailsafeRule;
use crate::core::failover::quorum::CommitRule;
use crate::core::failover::record::Request;
use crate::core::lsn::{Lsn, Timeline};
use crate::core::timeline::{Ancestry, TimelineHistory};
use crate::core::topology::NodeId;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Observation {
    pub now_us: u64,
    /// Whether this proxy decides.
    pub leadership: Leadership,
    /// When this process first saw the record with its present epoch and phase label. After a restart or a change
    /// of leader that is later than when the phase began, so waits only get longer.
    pub phase_since_us: u64,
    /// The nodes; `NodeId` is the index.
    pub nodes: Vec<NodeFacts>,
    /// The highest epoch that clients of this proxy have gone by: they follow no lower one.
    pub ruled_epoch: u64,
    /// What an operator asks for and has not withdrawn.
    pub request: Option<Request>,
    /// Transactions of clients that are open on the primary, on every proxy.
    pub open_transactions: u32,
    /// This proxy holds its clients' new statements.
    pub holding: bool,
    /// The node and epoch of the latest `fence_command` of this process that exited with 0.
    pub fence_command_done: Option<(NodeId, u64)>,
    /// Those of the latest one that ended otherwise.
    pub fence_command_failed: Option<(NodeId, u64)>,
    /// Those of the `fence_command` of this process that is under way.
    pub fence_command_under_way: Option<(NodeId, u64)>,
    /// The node and epoch of this process's latest CHECKPOINT that has ended, well or not.
    pub checkpoint_ended: Option<(NodeId, u64)>,
    /// When the latest heartbeat was sent.
    pub heartbeat_us: Option<u64>,
    /// The rule of commits that this process was the last to set; none while another is being set.
    pub rule_order: Option<RuleOrder>,
}

/// A rule of commits as it was set on a server.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RuleOrder {
    pub node: NodeId,
    pub epoch: u64,
    pub rule: CommitRule,
    /// When it had been set, and no earlier order was on its way there any more.
    pub set_us: u64,
    /// A moment from which every process of that server certainly went by it, once that is known.
    pub in_force_us: Option<u64>,
}

/// The right to decide: the leader's lease in etcd, or the lock on the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Leadership {
    /// Since when without a gap; from the start of the process at the earliest. Whoever led before
    /// asked for no lease of an agent after this.
    pub since_us: u64,
    /// Until when, if it is held.
    pub until_us: Option<u64>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct NodeFacts {
    /// Its latest answer, however old.
    pub answer: Option<ServerAnswer>,
    /// How the latest attempt to ask it ended.
    pub attempt: Attempt,
    /// Its latest sign of life that was no answer, however old.
    pub sign: Option<SignOfLife>,
    /// What its agent said; none if it was never reached.
    pub agent: Option<AgentAnswer>,
    /// When a lease was last asked for that may have reached its agent.
    pub renewal_us: Option<u64>,
    /// When its agent was last asked to let it run without a lease.
    pub release_us: Option<u64>,
    /// When it was last asked to start as a standby.
    pub start_us: Option<u64>,
    /// The state of a rejoin, by its agent or by `rejoin_command`.
    pub job: RejoinJob,
    /// An operator keeps new reads from it, and may be about to stop it.
    pub drained: bool,
    /// This proxy's connections to it that were opened in an older epoch.
    pub stale_connections: u32,
}

/// How an attempt to ask a node ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Attempt {
    /// There was none yet.
    #[default]
    None,
    Answered,
    /// Refused or reset: nothing listens there.
    Refused,
    /// No answer within the deadline.
    TimedOut,
}

/// That a server lives, although it says nothing of itself.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SignOfLife {
    /// When it was asked for.
    pub at_us: u64,
    pub kind: LifeSign,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum LifeSign {
    /// It answers whoever connects, before a login; its answers to what it was asked are late. They may wait
    /// for a lock.
    TakesConnections,
    /// It answers in words of its own that are no answer; they are here for people.
    Refuses(String),
}

impl LifeSign {
    /// What an error of the server's own says of its life: `53300` that it has no room, `28P01` that it does
    /// not know the role, and so on, and each that it lives. One that goes, comes up, or cannot read what
    /// is its own says nothing.
    pub fn of_error(sqlstate: &str, words: &str) -> Option<Self> {
        let dying = ["57P", "58", "XX"];
        let says = !dying.iter().any(|class| sqlstate.starts_with(class));
        says.then(|| Self::Refuses(words.to_owned()))
    }
}

/// What a server said of itself.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ServerAnswer {
    /// When it was asked.
    pub at_us: u64,
    /// `IDENTIFY_SYSTEM`'s system identifier.
    pub system: u64,
    /// The timeline that it writes, or replays: never from `pg_control_checkpoint()`, which is
    /// stale until the first checkpoint after a promotion.
    pub timeline: Timeline,
    /// That of `timeline`; none while it has not been read.
    pub history: Option<TimelineHistory>,
    /// `synchronous_standby_names`, as parsed; none for empty, when nobody is waited for.
    pub rule: Option<CommitRule>,
    /// When `rule` was first seen as it is, without a change since.
    pub rule_since_us: u64,
    pub role: ReplicationRole,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ReplicationRole {
    Primary(PrimaryFacts),
    Standby(StandbyFacts),
}

/// What only a primary tells.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct PrimaryFacts {
    /// `pg_current_wal_flush_lsn()`.
    pub flush: Lsn,
    /// Whoever receives WAL from it. A clean stop waits until each of them has confirmed all of it.
    pub attached: Vec<Attached>,
    /// By whose names more than one receives from it, and confirms what it receives: who is none of our standbys
    /// may acknowledge commits.
    pub doubled: BTreeSet<NodeId>,
    /// Whose commits wait for no standby's disk, whatever `synchronous_standby_names` says.
    pub early: EarlyCommits,
}

/// A row of `pg_stat_replication`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Attached {
    /// Its application name.
    pub name: String,
    /// Which node that is, if it is one.
    pub node: Option<NodeId>,
    /// It has confirmed all that had been written at this moment.
    pub confirmed_us: u64,
}

/// Where `synchronous_commit` is below `on`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct EarlyCommits {
    /// For everybody.
    pub server: bool,
    /// For whom, in words.
    pub whose: Vec<String>,
}

/// What only a standby tells.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct StandbyFacts {
    /// `pg_last_wal_receive_lsn()`; none before it has asked for a stream since its server was started.
    pub received: Option<Lsn>,
    /// It has been seen to look in vain for more WAL than it has replayed, since its server was started.
    pub replayed_all: bool,
    /// `pg_last_wal_replay_lsn()`.
    pub replayed: Lsn,
    /// Where `primary_conninfo` points.
    pub upstream: Upstream,
    /// Its WAL receiver, if there is one.
    pub receiver: Option<Receiver>,
    /// When it was first seen with an empty `primary_conninfo` and no WAL receiver, without a
    /// change since; none if it is not so.
    pub detached_since_us: Option<u64>,
}

/// Where a standby's `primary_conninfo` points.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Upstream {
    /// Nowhere: it is empty.
    #[default]
    Nowhere,
    /// At a configured node.
    Node(NodeId),
    Elsewhere,
}

/// A row of `pg_stat_wal_receiver`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Receiver {
    /// From which node, if it is a configured one.
    pub from: Option<NodeId>,
    /// `status = 'streaming'`.
    pub streaming: bool,
    /// `received_tli`. A receiver can be `streaming` on a timeline that has ended.
    pub timeline: Timeline,
    /// When new WAL was last seen to have arrived: a moment before which it certainly had.
    pub fresh_us: u64,
    /// `latest_end_lsn`: how far the sender said that it was.
    pub sender_at: Lsn,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct AgentAnswer {
    /// When it was asked.
    pub at_us: u64,
    /// The highest epoch that it was told; it refuses commands of lower ones.
    pub epoch: u64,
    /// What its server does.
    pub postmaster: Postmaster,
    /// The timeline that its server wrote, if that was a primary, runs no more, and has not shut down.
    pub crashed_primary: Option<Timeline>,
    /// When its server last got on with its recovery, or with what it replays, while it runs.
    pub moved_us: Option<u64>,
    /// It lets its server run as a primary only under a lease.
    pub governed: bool,
    /// The lease that it keeps at present.
    pub lease: Option<AgentLease>,
    /// Its part in a failsafe; none if it knows of no such thing.
    pub failsafe: Option<AgentFailsafe>,
}

/// A lease as its agent tells of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AgentLease {
    /// In which it was granted last.
    pub epoch: u64,
    /// Until when it lasts, at the latest.
    pub until_us: u64,
    /// What others have promised prolongs it, or its agent's restart: nobody has renewed it since.
    pub prolonged: bool,
    /// When a proxy, whichever, was last seen to have renewed it.
    pub renewed_us: Option<u64>,
}

/// An agent's part in a failsafe.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct AgentFailsafe {
    /// Why it cannot ask other agents, if it cannot.
    pub unable: Option<String>,
    /// The rule that it goes by while it has a lease.
    pub rule: Option<FailsafeRule>,
    /// What it has promised and is not over.
    pub promise: Option<AgentPromise>,
}

/// That a node's server is granted no lease.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct AgentPromise {
    /// The name of the node that it was given to.
    pub to: String,
    /// Until when, at the latest.
    pub until_us: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Postmaster {
    /// It is not running.
    Stopped {
        /// The position of the shutdown checkpoint, after a clean stop of a primary.
        checkpoint: Option<Lsn>,
        /// A standby that did not shut down: it was killed, or its machine was.
        crashed: bool,
    },
    /// It is running, not in recovery.
    Primary,
    /// It is running, in recovery.
    Standby,
}

/// A rejoin, as last reported.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum RejoinJob {
    /// None was asked for.
    #[default]
    None,
    /// It is done, and the server was started.
    Done {
        /// When this was first seen.
        at_us: u64,
    },
    /// It is under way.
    Running,
    Failed {
        /// When this was first seen.
        at_us: u64,
        /// Why, without secrets.
        detail: String,
    },
}

impl Observation {
    pub fn node(&self, node: NodeId) -> Option<&NodeFacts> {
        self.nodes.get(usize::from(node.0))
    }

    /// A node's answer, if it is younger than `timeout_us` and no later attempt has failed.
    pub fn answer(&self, node: NodeId, timeout_us: u64) -> Option<&ServerAnswer> {
        let facts = self.node(node)?;
        let answer = facts.answer.as_ref()?;
        let young = self.since_us(answer.at_us) < timeout_us;
        (young && facts.attempt == Attempt::Answered).then_some(answer)
    }

    /// How long a node has not answered, in microseconds; since this leadership began if it never
    /// did.
    pub fn silent_us(&self, node: NodeId) -> u64 {
        let answered = self.node(node).and_then(|facts| facts.answer.as_ref());
        let since = answered.map_or(self.leadership.since_us, |answer| answer.at_us);
        self.since_us(since)
    }

    /// How long a node has given no sign of life, in microseconds: neither an answer nor another one.
    pub fn lifeless_us(&self, node: NodeId) -> u64 {
        let sign = self.node(node).and_then(|facts| facts.sign.as_ref());
        let since_us = sign.map_or(u64::MAX, |sign| self.since_us(sign.at_us));
        self.silent_us(node).min(since_us)
    }

    /// An agent's answer, if it is younger than `timeout_us`.
    pub fn agent(&self, node: NodeId, timeout_us: u64) -> Option<&AgentAnswer> {
        let agent = self.node(node)?.agent.as_ref()?;
        let young = self.since_us(agent.at_us) < timeout_us;
        young.then_some(agent)
    }

    /// How long the present phase has lasted as far as this process knows, in microseconds.
    pub fn phase_us(&self) -> u64 {
        self.since_us(self.phase_since_us)
    }

    /// That this rule was set on a node in this epoch, and no other since.
    pub fn rule_order(&self, node: NodeId, epoch: u64, rule: &CommitRule) -> Option<&RuleOrder> {
        let order = self.rule_order.as_ref()?;
        let same = order.node == node && order.epoch == epoch && order.rule == *rule;
        same.then_some(order)
    }

    /// How long ago a moment is, in microseconds.
    pub fn since_us(&self, at_us: u64) -> u64 {
        self.now_us.saturating_sub(at_us)
    }

    /// The highest position that `node` is known to have written on `timeline`: by its own word, or by
    /// what it told its standbys.
    pub fn written(&self, node: NodeId, timeline: Timeline) -> Lsn {
        let mut highest = Lsn(0);
        for (index, facts) in self.nodes.iter().enumerate() {
            let Some(answer) = &facts.answer else {
                continue;
            };
            if answer.timeline != timeline {
                continue;
            }
            if index == usize::from(node.0) {
                highest = highest.max(answer.end());
            } else if let Some(standby) = answer.standby() {
                highest = highest.max(standby.end());
                if let Some(receiver) = standby.receiver.filter(|r| r.from == Some(node)) {
                    highest = highest.max(receiver.sender_at);
                }
            }
        }
        highest
    }
}

impl AgentAnswer {
    /// What it has promised and is not over at `now_us`.
    pub fn promise(&self, now_us: u64) -> Option<&AgentPromise> {
        let promise = self.failsafe.as_ref()?.promise.as_ref();
        promise.filter(|promise| promise.until_us > now_us)
    }
}

impl ServerAnswer {
    pub fn primary(&self) -> Option<&PrimaryFacts> {
        match &self.role {
            ReplicationRole::Primary(facts) => Some(facts),
            ReplicationRole::Standby(_) => None,
        }
    }

    pub fn standby(&self) -> Option<&StandbyFacts> {
        match &self.role {
            ReplicationRole::Primary(_) => None,
            ReplicationRole::Standby(facts) => Some(facts),
        }
    }

    /// The end of the WAL that it holds.
    pub fn end(&self) -> Lsn {
        match &self.role {
            ReplicationRole::Primary(facts) => facts.flush,
            ReplicationRole::Standby(facts) => facts.end(),
        }
    }

    /// How what it holds stands to the history of `leader`.
    pub fn ancestry(&self, leader: &Self) -> Ancestry {
        if self.timeline == leader.timeline {
            return Ancestry::Shared;
        }
        if self.timeline > leader.timeline {
            return Ancestry::Unrelated;
        }
        match &leader.history {
            Some(history) => history.ancestry(self.timeline, self.end()),
            None => Ancestry::Unknown,
        }
    }
}

impl StandbyFacts {
    /// The end of the WAL that it holds, as far as it knows: received and replayed may each be ahead of the
    /// other.
    pub fn end(&self) -> Lsn {
        self.received.unwrap_or_default().max(self.replayed)
    }

    /// Whether `end` is where its WAL ends. A server that was started reads what it holds as it replays it,
    /// and says nothing of the rest: only once it has come to the end does it ask for more.
    pub fn knows_end(&self) -> bool {
        self.received.is_some() || self.replayed_all
    }

    /// It holds, or may hold, what it has not replayed.
    pub fn has_to_replay(&self) -> bool {
        self.end() > self.replayed || !self.knows_end()
    }

    /// Nothing more can arrive here.
    pub fn detached(&self) -> bool {
        self.upstream == Upstream::Nowhere && self.receiver.is_none()
    }

    /// The node that it streams from on `timeline`.
    pub fn streams(&self, timeline: Timeline) -> Option<NodeId> {
        let receiver = self.receiver?;
        (receiver.streaming && receiver.timeline == timeline)
            .then_some(receiver.from)
            .flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_refuses_lives() {
        for (sqlstate, lives) in [
            ("53300", true),
            ("28P01", true),
            ("28000", true),
            ("3D000", true),
            ("42501", true),
            // It starts up or shuts down, and whether it ever serves is not known.
            ("57P03", false),
            ("57P01", false),
            // It cannot read its files.
            ("58030", false),
            ("XX001", false),
        ] {
            let sign = LifeSign::of_error(sqlstate, "why");
            let expected = lives.then(|| LifeSign::Refuses("why".to_owned()));
            assert_eq!(sign, expected, "{sqlstate}");
        }
    }
}
