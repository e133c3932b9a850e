//! Asking one node's agent at a steady pace what its server does.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::facts::Facts;
use crate::agent::api::{Failsafe, JobState, Lease, Role, Status};
use crate::agent::client::AgentClient;
use crate::core::failover::facts::observation::{
    AgentAnswer, AgentFailsafe, AgentLease, AgentPromise, Postmaster, RejoinJob,
};
use crate::core::failover::failsafe::FailsafeRule;
use crate::core::lsn::Timeline;
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
            let asked = self.agent.status(BOUND).await;
            let asked = asked.map_err(|error| error.to_string());
            match asked.and_then(|status| self.of_our_server(status)) {
                Ok(status) => {
                    self.note(at_us, &status);
                    self.tell_of_failsafe(&status);
                    self.tell_of_control(&status);
                    if self.operator.problems.report(&self.node, "agent", None) {
                        tracing::info!(node = self.node, "agent answers again");
                    }
                }
                Err(error) => {
                    if self
                        .operator
                        .problems
                        .report(&self.node, "agent", Some(error.clone()))
                    {
                        tracing::warn!(node = self.node, %error, "agent does not answer");
                    }
                }
            }
            let wanted = self.facts.agent_wanted(self.id);
            let _ = tokio::time::timeout(PACE, wanted).await;
        }
    }

    /// The status, unless it is that of a server of another cluster than the one at the node's address, or,
    /// while that has never answered, than the cluster that is led here.
    fn of_our_server(&self, status: Status) -> Result<Status, String> {
        let own = self.facts.last_answer(self.id).map(|answer| answer.system);
        let meant = own.or_else(|| self.agent.expected());
        let found = status.system_identifier.as_deref();
        let found: Option<u64> = found.and_then(|system| system.parse().ok());
        match (meant, found) {
            (Some(meant), Some(found)) if meant != found => Err(format!(
                "the agent at {} is beside a server of another cluster: its system identifier is {found}, and \
                 {meant} is meant",
                self.agent.url()
            )),
            _ => Ok(status),
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
                JobState::Done | JobState::Failed if job.epoch < status.highest_epoch => {
                    RejoinJob::None
                }
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
            crashed_primary: crashed_primary(status),
            moved_us: status
                .postmaster
                .still_ms
                .map(|still| at_us.saturating_sub(still.saturating_mul(1_000))),
            governed: status.governed,
            lease: status.lease.as_ref().map(|lease| self.lease(lease)),
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

    /// A directory of data that is none: it may as well be a volume that is not there, and nothing is done to it.
    fn tell_of_control(&self, status: &Status) {
        let unread = !status.postmaster.running && status.cluster_state.is_none();
        let text = unread.then(|| {
            "its server is not running, and its pg_control cannot be read: an operator must restore or copy its data"
                .to_owned()
        });
        if self.operator.problems.report(&self.node, "data", text) && unread {
            tracing::error!(node = self.node, "its pg_control cannot be read");
        }
    }

    fn lease(&self, lease: &Lease) -> AgentLease {
        AgentLease {
            epoch: lease.epoch,
            until_us: self.until_us(lease.remaining_ms),
            prolonged: lease.prolonged || lease.holder.is_empty(),
            // Two answers tell.
            renewed_us: None,
        }
    }

    /// When what an agent says to be left is over, at the latest: its clock may be slower, and a started
    /// millisecond is not told.
    fn until_us(&self, remaining_ms: u64) -> u64 {
        let left_us = remaining_ms.saturating_mul(1_000);
        let now_us = self.facts.now_us();
        now_us.saturating_add(left_us + left_us / 50 + 1_000)
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
        let promise = told.promise.as_ref().map(|promise| AgentPromise {
            to: promise.to.clone(),
            until_us: self.until_us(promise.remaining_ms),
        });
        AgentFailsafe {
            unable: told.unable.clone(),
            rule,
            promise,
        }
    }
}

/// What a primary wrote that ended without shutting down.
fn crashed_primary(status: &Status) -> Option<Timeline> {
    let primary = status.role == Some(Role::Primary) && !status.unfinished_rejoin;
    let state = status.cluster_state.as_deref();
    let crashed = state.is_some_and(|state| !state.starts_with("shut down"));
    let stopped = primary && crashed && !status.postmaster.running;
    status.timeline.filter(|_| stopped).map(Timeline)
}

/// Whether a standby ended without shutting down. One that was shut down is somebody's will.
fn crashed(status: &Status) -> bool {
    let standby = status.role == Some(Role::Standby) && !status.unfinished_rejoin;
    let state = status.cluster_state.as_deref();
    standby && state.is_some_and(|state| !state.starts_with("shut"))
}
