//! Asking one node's agent at a steady pace what its server does.

use std::sync::Arc;
use std::time::Duration;

use super::facts::Facts;
use crate::agent::api::{JobState, Role, Status};
use crate::control::agent_client::AgentClient;
use crate::core::failover::facts::observation::{AgentAnswer, Postmaster, RejoinJob};
use crate::core::topology::NodeId;
use crate::shared::operator::OperatorState;

/// Between questions.
const PACE: Duration = Duration::from_millis(100);
/// Bound on one question.
const BOUND: Duration = Duration::from_secs(1);

pub(super) struct AgentPoller {
    pub(super) id: NodeId,
    pub(super) agent: Arc<AgentClient>,
    pub(super) facts: Arc<Facts>,
    pub(super) node: String,
    pub(super) operator: Arc<OperatorState>,
}

impl AgentPoller {
    /// Asks until it is dropped. No answer is not told: the last one grows old.
    pub(super) async fn run(self) {
        loop {
            let at_us = self.facts.now_us();
            match self.agent.status(BOUND).await {
                Ok(status) => {
                    self.note(at_us, &status);
                    if self.operator.problems.report(&self.node, "agent", None) {
                        tracing::info!(node = self.node, "agent answers again");
                    }
                }
                Err(error) => {
                    if self
                        .operator
                        .problems
                        .report(&self.node, "agent", Some(error.to_string()))
                    {
                        tracing::warn!(node = self.node, %error, "agent does not answer");
                    }
                }
            }
            let wanted = self.facts.agent_wanted(self.id);
            let _ = tokio::time::timeout(PACE, wanted).await;
        }
    }

    fn note(&self, at_us: u64, status: &Status) {
        let postmaster = match (status.postmaster.running, status.role) {
            (false, _) => Postmaster::Stopped {
                checkpoint: status
                    .shutdown_checkpoint
                    .as_deref()
                    .and_then(|lsn| lsn.parse().ok()),
                crashed: crashed(status),
            },
            (true, Some(Role::Standby)) => Postmaster::Standby,
            (true, Some(Role::Primary) | None) => Postmaster::Primary,
        };
        let job = match &status.job {
            Some(job) => match job.state {
                JobState::Running => RejoinJob::Running,
                // An earlier decision's: it says nothing of the present one.
                JobState::Done if job.epoch < status.highest_epoch => RejoinJob::None,
                JobState::Done => RejoinJob::Done { at_us },
                JobState::Failed => RejoinJob::Failed {
                    at_us,
                    detail: job.detail.clone(),
                },
            },
            None => RejoinJob::None,
        };
        let answer = AgentAnswer {
            at_us,
            epoch: status.highest_epoch,
            postmaster,
            governed: status.governed,
        };
        self.facts.agent_answered(self.id, answer, job);
    }
}

/// Whether a standby ended without shutting down. One that was shut down is somebody's will.
fn crashed(status: &Status) -> bool {
    let standby = status.role == Some(Role::Standby) && !status.unfinished_rejoin;
    let state = status.cluster_state.as_deref();
    standby && state.is_some_and(|state| !state.starts_with("shut"))
}
