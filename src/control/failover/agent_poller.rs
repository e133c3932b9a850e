//! Asking one node's agent at a steady pace what its server does.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::facts::Facts;
use crate::agent::api::{Failsafe, JobState, Role, Status};
use crate::agent::client::AgentClient;
use crate::core::failover::facts::observation::{
    AgentAnswer, AgentFailsafe, AgentPromise, Postmaster, RejoinJob,
};
use crate::core::failover::failsafe::FailsafeRule;
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
    /// All nodes' names, in order.
    pub(super) names: Vec<String>,
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
                    self.tell_of_failsafe(&status);
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
            failsafe: status.failsafe.as_ref().map(|told| self.failsafe(told)),
        };
        self.facts.agent_answered(self.id, answer, job);
    }
}

impl AgentPoller {
    /// What would be wrong if no proxy renewed its lease.
    fn tell_of_failsafe(&self, status: &Status) {
        let leads = status.lease.is_some() && status.role == Some(Role::Primary);
        let told = status.failsafe.as_ref().filter(|_| leads);
        let trouble = told
            .map(|told| &told.trouble)
            .filter(|text| !text.is_empty());
        let trouble = trouble.map(|text| format!("its lease would end without a proxy: {text}"));
        self.operator
            .problems
            .report(&self.node, "failsafe", trouble);
    }

    fn failsafe(&self, told: &Failsafe) -> AgentFailsafe {
        let rule = told.rule.as_ref().map(|rule| {
            let place = |name: &String| self.names.iter().position(|known| known == name);
            let members = rule.peers.iter().filter_map(|peer| place(&peer.node));
            let members: BTreeSet<_> = members.map(|index| NodeId(index as u16)).collect();
            // Of whom nothing can be asked here counts as one that may promise.
            let unknown = rule.peers.len().saturating_sub(members.len());
            FailsafeRule {
                version: rule.version,
                needed: rule.needed.saturating_sub(unknown),
                members,
            }
        });
        let now_us = self.facts.now_us();
        let promise = told.promise.as_ref().map(|promise| {
            let left_us = promise.remaining_ms.saturating_mul(1_000);
            // Its clock may be slower, and a started millisecond is not told.
            let until_us = now_us.saturating_add(left_us + left_us / 50 + 1_000);
            AgentPromise {
                to: promise.to.clone(),
                until_us,
            }
        });
        AgentFailsafe {
            unable: told.unable.clone(),
            rule,
            promise,
        }
    }
}

/// Whether a standby ended without shutting down. One that was shut down is somebody's will.
fn crashed(status: &Status) -> bool {
    let standby = status.role == Some(Role::Standby) && !status.unfinished_rejoin;
    let state = status.cluster_state.as_deref();
    standby && state.is_some_and(|state| !state.starts_with("shut"))
}
