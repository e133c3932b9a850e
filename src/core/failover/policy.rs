//! What the operator configured about failover.

use crate::core::topology::NodeId;

/// Everything that is configured and that a plan depends on.
#[derive(Clone, Debug)]
pub struct FailoverPolicy {
    /// Who promotes.
    pub mode: Mode,
    /// What an acknowledgement is worth.
    pub durability: Durability,
    /// A node that has not answered for this long is hung or cut off, in microseconds.
    pub timeout_us: u64,
    /// How long an agent lets its primary run after the lease was asked for, in microseconds.
    pub lease_us: u64,
    /// Added to a lease before it counts as run out: clocks may differ in speed, and the agent
    /// needs time to stop its server. In microseconds.
    pub margin_us: u64,
    /// How long a changed setting must have been seen before every process of that server is
    /// taken to have read it, in microseconds.
    pub settle_us: u64,
    /// Longest wait for a checkpoint before a switchover is called off, in microseconds.
    pub checkpoint_us: u64,
    /// Longest wait for running transactions before a switchover is called off, in microseconds.
    pub drain_us: u64,
    /// Longest wait for a clean stop, for the candidate's catching up, and for a start, each, in
    /// microseconds.
    pub stop_us: u64,
    /// Longest wait for a candidate that answers, gets on with nothing and does not lead, while another could
    /// take its place, in microseconds.
    pub promote_us: u64,
    /// How long another proxy may route writes without having read the record again, in
    /// microseconds; 0 when there is only one.
    pub routing_lease_us: u64,
    /// A `fence_command` is configured.
    pub fence_command: bool,
    /// A `rejoin_command` is configured, for nodes without an agent.
    pub rejoin_command: bool,
    /// `fencing: routing_only`: the operator accepts that an old primary without an agent is kept from
    /// clients by routing only.
    pub unfenced_accepted: bool,
    /// Agents may prolong a lease by each other's promises.
    pub failsafe: bool,
    /// The zone of the deciding proxy; its nodes win ties.
    pub zone: Option<String>,
    /// The nodes, in configuration order; `NodeId` is the index.
    pub nodes: Vec<NodePolicy>,
}

/// What is configured about one node.
#[derive(Clone, Debug)]
pub struct NodePolicy {
    pub name: String,
    /// Where it stands.
    pub zone: Option<String>,
    /// The highest wins among equally advanced candidates; 0 is never promoted.
    pub promote_priority: u32,
    /// An agent runs beside it, which stops its server when the lease runs out.
    pub agent: bool,
}

/// Who promotes (`failover.mode`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Causeway does.
    Automatic,
    /// Causeway does when an operator says so.
    Manual,
    /// Something else does; roles and timelines are followed.
    Observe,
}

/// What an acknowledgement is worth (`failover.durability`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Acknowledged is on the primary's disk.
    Async {
        /// Promote without asking only if at most this much known WAL is lost, in bytes; none
        /// means any amount.
        max_lost_bytes: Option<u64>,
    },
    /// Acknowledged is also on the disk of so many standbys.
    Quorum {
        /// How many; at least 1.
        standbys: usize,
    },
}

impl FailoverPolicy {
    /// A node's name; "node 7" for one that is not configured.
    pub fn name(&self, node: NodeId) -> String {
        match self.nodes.get(usize::from(node.0)) {
            Some(node) => node.name.clone(),
            None => format!("node {}", node.0),
        }
    }

    /// All nodes, in order.
    pub fn ids(&self) -> impl Iterator<Item = NodeId> + use<> {
        (0..self.nodes.len()).map(|index| NodeId(u16::try_from(index).unwrap_or(u16::MAX)))
    }

    /// Whether an agent runs beside a node.
    pub fn has_agent(&self, node: NodeId) -> bool {
        let node = self.nodes.get(usize::from(node.0));
        node.is_some_and(|node| node.agent)
    }

    /// Several names for a sentence: `pg1, pg2`.
    pub fn names(&self, nodes: impl IntoIterator<Item = NodeId>) -> String {
        let names: Vec<_> = nodes.into_iter().map(|node| self.name(node)).collect();
        if names.is_empty() {
            "none".to_owned()
        } else {
            names.join(", ")
        }
    }
}
