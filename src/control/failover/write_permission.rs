//! What a record means for clients: who may be written to, and who serves nobody.

use crate::core::failover::record::{Phase, Record};
use crate::core::topology::{NodeId, NodeSet, Ruling, Writer};

/// The ruling that a record stands for.
pub(super) fn by(record: &Record) -> Ruling {
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
    Ruling {
        epoch: record.epoch,
        writer,
        barred,
        suspended: NodeSet::default(),
    }
}

/// For a proxy that may not rely on its record any more: another may have been promoted, if not before its agent
/// lets this one lead no more, as what is under way on it goes on until then.
pub(super) fn blind(record: &Record, goes_on: bool) -> Ruling {
    let mut ruling = by(record);
    ruling.writer = Writer::Nobody;
    if let Some(primary) = record.primary {
        match goes_on {
            true => ruling.suspended.insert(primary),
            false => ruling.barred.insert(primary),
        }
    }
    ruling
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
