//! What is explored: how large a cluster, under which policy, and what may go wrong.

use super::action::Action;
use super::mutants::Mutant;
use super::proxy::policy;
use crate::core::failover::policy::{Durability, FailoverPolicy};

/// What is explored.
#[derive(Clone, Debug)]
pub(super) struct Setup {
    pub(super) policy: FailoverPolicy,
    pub(super) proxies: usize,
    /// How many mishaps there are at most, and of which kinds.
    pub(super) faults: u8,
    pub(super) kinds: Vec<Kind>,
    pub(super) writes: u8,
    pub(super) ticks: u8,
    /// No agent has been given a lease yet: the proxies have just come, or come back.
    pub(super) fresh: bool,
    /// The primary has a lease from a proxy that granted longer ones: of so many ticks.
    pub(super) longer_lease: Option<u8>,
    /// An operator asks for a switchover at some moment.
    pub(super) switchover: bool,
    /// Or for a failover to the third node.
    pub(super) failover: bool,
    /// The primary's agent still goes by an older rule than the record wants, with these members.
    pub(super) older_rule: Option<Vec<u16>>,
    /// What has happened before the search begins.
    pub(super) before: Vec<Action>,
    pub(super) mutant: Mutant,
}

/// Kinds of mishaps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A postmaster or a host is gone.
    Crash,
    /// A standby is restarted.
    Restart,
    /// A server, or a host, stands still and goes on at any later moment.
    Freeze,
    /// The network is cut and mended.
    Cut,
    /// The deciding proxy is restarted, or another is elected while the first is half-way.
    Proxy,
    /// An agent is restarted.
    Agent,
    /// A standby cannot be promoted, and says nothing of that.
    Obstruct,
}

impl Setup {
    pub(super) fn asynchronous() -> Self {
        Self {
            policy: policy(true),
            proxies: 1,
            faults: 1,
            kinds: vec![Kind::Crash, Kind::Freeze, Kind::Cut, Kind::Proxy],
            writes: 1,
            ticks: 3,
            fresh: false,
            longer_lease: None,
            switchover: false,
            failover: false,
            older_rule: None,
            before: Vec::new(),
            mutant: Mutant::None,
        }
    }

    pub(super) fn quorum(agents: bool) -> Self {
        let mut setup = Self::asynchronous();
        setup.policy = policy(agents);
        setup.policy.durability = Durability::Quorum { standbys: 1 };
        setup
    }

    /// With failsafe among the agents.
    pub(super) fn failsafe(mut self) -> Self {
        self.policy.failsafe = true;
        self.ticks = 5;
        self
    }

    pub(super) fn is_quorum(&self) -> bool {
        matches!(self.policy.durability, Durability::Quorum { .. })
    }
}
