//! What a record means for clients: who may be written to, and who serves nobody.

use crate::core::failover::record::{Phase, Record};
use crate::core::route::NodeSet;
use crate::core::topology::{NodeId, Topology, Writer};

/// What the cluster is to show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct WritePermission {
    pub(super) epoch: u64,
    pub(super) writer: Writer,
    pub(super) barred: NodeSet,
}

impl WritePermission {
    /// The permission that a record stands for.
    pub(super) fn of(record: &Record) -> Self {
        let writer = match record.serving() {
            Some(node) if !record.holds() => Writer::Only(node, record.timeline),
            _ => Writer::Nobody,
        };
        let mut barred = NodeSet::default();
        record
            .quarantine
            .keys()
            .for_each(|node| barred.insert(*node));
        if let Some(replaced) = replaced(record) {
            barred.insert(replaced);
        }
        Self {
            epoch: record.epoch,
            writer,
            barred,
        }
    }

    /// Whether this is what the cluster shows.
    pub(super) fn stands_on(self, topology: &Topology) -> bool {
        let mut nodes = topology.nodes.iter();
        topology.epoch == self.epoch
            && topology.writer == self.writer
            && nodes.all(|node| node.barred == self.barred.contains(node.id))
    }

    /// For a proxy that may not rely on its record any more: another may have been promoted.
    pub(super) fn blind(self, record: &Record) -> Self {
        let mut barred = self.barred;
        if let Some(primary) = record.primary {
            barred.insert(primary);
        }
        Self {
            writer: Writer::Nobody,
            barred,
            ..self
        }
    }
}

/// The node whose connections must not be used any more, although it may still think that it leads.
fn replaced(record: &Record) -> Option<NodeId> {
    match &record.phase {
        Phase::Fencing(failed)
        | Phase::Discovering(failed, _)
        | Phase::Promoting(failed, _, _)
        | Phase::Restoring(failed) => Some(failed.node),
        Phase::Stopping { .. } | Phase::CatchingUp { .. } => record.primary,
        Phase::Looking
        | Phase::Steady
        | Phase::Following
        | Phase::Checkpointing { .. }
        | Phase::Draining { .. } => None,
    }
}
