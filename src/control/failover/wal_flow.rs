//! Whether WAL flows at a standby: from afar a replay that stands still and a receiver that receives
//! nothing both look like lag. Said as it is, and once.

use crate::core::failover::facts::observation::{ReplicationRole, ServerAnswer};
use crate::shared::operator::OperatorState;

/// A receiver is replaced within this when its standby is sent after another primary.
const PATIENCE_US: u64 = 1_000_000;

/// What was seen of one standby.
#[derive(Debug, Default)]
pub(super) struct WalFlow {
    /// Since when nothing streams to it.
    dry_since_us: Option<u64>,
}

impl WalFlow {
    /// The node does not answer: what was wrong with it before is not known to be so.
    pub(super) fn forget(operator: &OperatorState, node: &str) {
        for kind in ["receiver", "replay"] {
            operator.problems.report(node, kind, None);
        }
    }

    /// Takes note of an answer, and tells what is new.
    pub(super) fn see(
        &mut self,
        operator: &OperatorState,
        node: &str,
        answer: &ServerAnswer,
        paused: bool,
        now_us: u64,
    ) {
        let dry = match &answer.role {
            ReplicationRole::Primary(_) => false,
            ReplicationRole::Standby(facts) => {
                !facts.receiver.is_some_and(|receiver| receiver.streaming)
            }
        };
        let since_us = *self.dry_since_us.get_or_insert(now_us);
        if !dry {
            self.dry_since_us = None;
        }
        if !dry || now_us.saturating_sub(since_us) >= PATIENCE_US {
            let text = dry.then(|| RECEIVES_NOTHING.to_owned());
            match (operator.problems.report(node, "receiver", text), dry) {
                (true, true) => tracing::warn!(node, "standby {RECEIVES_NOTHING}"),
                (true, false) => tracing::info!(node, "standby receives WAL again"),
                (false, _) => {}
            }
        }
        let text = paused.then(|| REPLAY_PAUSED.to_owned());
        match (operator.problems.report(node, "replay", text), paused) {
            (true, true) => tracing::warn!(node, "standby {REPLAY_PAUSED}"),
            (true, false) => tracing::info!(node, "standby replays again"),
            (false, _) => {}
        }
    }
}

const RECEIVES_NOTHING: &str = "receives no WAL: its WAL receiver does not stream";
const REPLAY_PAUSED: &str =
    "has its replay paused: pg_wal_replay_resume() lets it go on, unless a promotion is under way";
