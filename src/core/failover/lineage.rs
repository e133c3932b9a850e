//! Timelines as branches: whether what a node holds is part of another's history.

use super::observation::{Answer, Observation};
use crate::core::lsn::{Lsn, Timeline};
use crate::core::topology::NodeId;

/// How a standby's WAL stands to a primary's history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kin {
    /// All of it is part of that history.
    Within,
    /// It goes on beyond this point, at which the history left its timeline.
    Beyond(Lsn),
    /// Its timeline is no part of that history.
    Stranger,
    /// The history has not been read yet.
    Unknown,
}

/// Compares what `node` holds with the history of `primary`.
pub(super) fn kin(node: &Answer, primary: &Answer) -> Kin {
    if node.timeline == primary.timeline {
        return Kin::Within;
    }
    if node.timeline > primary.timeline {
        return Kin::Stranger;
    }
    let Some(history) = &primary.history else {
        return Kin::Unknown;
    };
    match history
        .iter()
        .find(|switch| switch.timeline == node.timeline)
    {
        None => Kin::Stranger,
        Some(switch) if node.end() > switch.end => Kin::Beyond(switch.end),
        Some(_) => Kin::Within,
    }
}

/// Where the history of `answer` left a timeline.
pub(super) fn fork(answer: &Answer, timeline: Timeline) -> Option<Lsn> {
    let history = answer.history.as_ref()?;
    let switch = history.iter().find(|switch| switch.timeline == timeline)?;
    Some(switch.end)
}

/// The highest position that `node` is known to have written on `timeline`: by its own word, or by
/// what it told its standbys.
pub(super) fn written(observation: &Observation, node: NodeId, timeline: Timeline) -> Lsn {
    let mut highest = Lsn(0);
    for (index, facts) in observation.nodes.iter().enumerate() {
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
