//! Who may hold acknowledged writes: the rules by which a primary may have acknowledged.
//!
//! A primary under `ANY k (S)` acknowledges a commit when `k` standbys of `S` have it on disk. A set
//! `D` of standbys meets every such quorum when fewer than `k` of `S` are outside of `D`. The same
//! count says that, with `D` detached, what is left of `S` can acknowledge nothing.
//!
//! While `synchronous_standby_names` changes, some WAL senders go by the old rule and some by the
//! new one, and commits that were acknowledged by the old rule need not be on any quorum of the
//! new one. Therefore a rule, once it may have been in force, stays in the record until
//! 1. it is the last that the primary was told: what was on its way there before it has been ended,
//! 2. every process of the primary has been seen to go by it, which is more than that a setting shows
//!    it, and
//! 3. `k` standbys of the new rule hold everything that the primary had flushed by then.
//!
//! From then on whatever meets every quorum of the new rule meets one of those `k`, and so finds all
//! that was ever acknowledged. Until then a promotion must meet every quorum of *every* rule
//! recorded. A new rule is recorded before it is sent. So any rule may follow any other, and a crash
//! between two steps leaves the record stricter than need be, never laxer.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::core::lsn::Lsn;
use crate::core::topology::NodeId;

/// `ANY standbys_needed (members)` of `synchronous_standby_names`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct CommitRule {
    /// How many of the members must have a commit before it is acknowledged; at least 1. In a record less by
    /// those that are configured no more, of whom any may have been one; at 0 they may have been enough.
    pub needed: usize,
    /// The standbys that count.
    pub members: BTreeSet<NodeId>,
}

impl CommitRule {
    /// Whether every set of standbys that can acknowledge a commit has a member in `seen`.
    pub fn met_by(&self, seen: &BTreeSet<NodeId>) -> bool {
        self.members.difference(seen).count() < self.needed
    }

    /// The same with other numbers; `place` gives a node's new one, if it is still configured. Who is not
    /// counts as one that cannot be asked.
    pub(super) fn renumbered(&self, place: impl Fn(NodeId) -> Option<NodeId>) -> Self {
        let members: BTreeSet<_> = self.members.iter().filter_map(|m| place(*m)).collect();
        let gone = self.members.len() - members.len();
        Self {
            needed: self.needed.saturating_sub(gone),
            members,
        }
    }
}

impl fmt::Display for CommitRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let members: Vec<_> = self.members.iter().map(|node| node.0.to_string()).collect();
        write!(f, "ANY {} ({})", self.needed, members.join(", "))
    }
}

/// The rules by which acknowledged commits may have been acknowledged.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SyncState {
    /// Oldest first; the last is the one wanted. None: the primary waits, or waited, for nobody.
    /// Empty: rules are not managed.
    pub rules: Vec<Option<CommitRule>>,
    /// What `needed` members of the last rule must hold before the others are forgotten. Set once
    /// the last rule is in force.
    pub barrier: Option<Lsn>,
}

impl SyncState {
    /// Whether `seen` together hold every acknowledged commit; equally, whether a primary from
    /// which all of `seen` have detached can acknowledge nothing.
    pub fn met_by(&self, seen: &BTreeSet<NodeId>) -> bool {
        let met = |rule: &Option<CommitRule>| rule.as_ref().is_some_and(|rule| rule.met_by(seen));
        !self.rules.is_empty() && self.rules.iter().all(met)
    }

    /// The rule that is wanted; none while there is none, or one that nodes which are gone could fulfil.
    pub fn wanted(&self) -> Option<&CommitRule> {
        let rule = self.rules.last()?.as_ref();
        rule.filter(|rule| rule.needed > 0)
    }

    /// Notes that a rule may come into force; it is the wanted one from now on.
    pub fn add(&mut self, rule: Option<CommitRule>) {
        self.rules.retain(|known| *known != rule);
        self.rules.push(rule);
        self.barrier = None;
    }

    /// Notes that a rule may have been in force, although another is wanted.
    pub fn admit(&mut self, rule: Option<CommitRule>) {
        if !self.rules.contains(&rule) {
            self.rules.insert(0, rule);
            self.barrier = None;
        }
    }

    /// Several rules may be in force, or what one acknowledged is not yet held by the next.
    pub fn changing(&self) -> bool {
        self.rules.len() > 1
    }

    /// Forgets every rule but the wanted one.
    pub fn settle(&mut self) {
        if let Some(last) = self.rules.pop() {
            self.rules = vec![last];
        }
        self.barrier = None;
    }
}
