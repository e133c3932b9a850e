//! Commands for which nobody has to wait: they are repeated at their own pace.

use std::sync::Arc;

use tokio::task::JoinSet;

use super::executor::Executor;
use crate::core::failover::command::{Act, Command};

/// What was being done, and why it failed.
pub(super) type BackgroundFailure = (String, String);

/// Those under way.
#[derive(Default)]
pub(super) struct Background(JoinSet<Result<(), BackgroundFailure>>);

/// Whether a command is one of these.
pub(super) fn takes(act: &Act) -> bool {
    match act {
        Act::RenewLease(_) | Act::Heartbeat(_) | Act::Checkpoint(_) => true,
        // A standby that comes back while others serve.
        Act::StartAsStandby { primary, .. } => primary.is_some(),
        _ => false,
    }
}

impl Background {
    /// Has a command carried out; `doing` is what it does, in words.
    pub(super) fn send(&mut self, executor: Arc<Executor>, command: Command, doing: String) {
        self.0.spawn(async move {
            let Err(error) = executor.carry_out(&command).await else {
                return Ok(());
            };
            if matches!(command.act, Act::StartAsStandby { .. }) {
                return Err((doing, error.to_string()));
            }
            // What fails with a failed primary is found out and told otherwise.
            tracing::debug!(%error, doing, "failover command");
            Ok(())
        });
    }

    /// Those that have ended in a failure which people should hear of.
    pub(super) fn failed(&mut self) -> Vec<BackgroundFailure> {
        let ended = std::iter::from_fn(|| self.0.try_join_next());
        ended.filter_map(|ended| ended.ok()?.err()).collect()
    }
}
