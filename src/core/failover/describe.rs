//! Commands and events in words, with the nodes' names: for logs, status and the printed plan.

use super::command::{Act, Event, Stop};
use super::facts::observation::LifeSign;
use super::failsafe::FailsafeRule;
use super::policy::{Durability, FailoverPolicy};
use super::quorum::CommitRule;
use super::record::{Cause, FenceProof, QuarantineReason, Quarantined, Recovery};
use crate::core::topology::NodeId;

impl std::fmt::Display for LifeSign {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::TakesConnections => f.write_str(
                "it takes connections, and what it was asked waits, perhaps for a lock on a catalogue",
            ),
            Self::Refuses(words) => write!(f, "it refuses the monitoring role: {words}"),
        }
    }
}

impl Act {
    /// The command in words: `stop pg1 immediately`.
    pub fn describe(&self, policy: &FailoverPolicy) -> String {
        let name = |node| policy.name(node);
        match self {
            Self::Hold => "hold clients".to_owned(),
            Self::Release => "release clients".to_owned(),
            Self::CloseBackends(node) => format!("close old connections to {}", name(*node)),
            Self::Detach(node) => format!("detach {}", name(*node)),
            Self::Stop { node, how } => match how {
                Stop::Fast => format!("stop {} cleanly", name(*node)),
                Stop::Immediate => format!("stop {} immediately", name(*node)),
            },
            Self::Fence(node) => format!("run fence_command for {}", name(*node)),
            Self::Promote(node) => format!("promote {}", name(*node)),
            Self::EndReaders(node) => {
                format!(
                    "end the sessions that hold up the replay of {}",
                    name(*node)
                )
            }
            Self::StartAsPrimary(node) => format!("start {} as the primary", name(*node)),
            Self::StartAsStandby { node, primary } => match primary {
                Some(primary) => {
                    format!("start {} as a standby of {}", name(*node), name(*primary))
                }
                None => format!("start {} as a standby of nobody", name(*node)),
            },
            Self::Follow { standby, primary } => {
                format!("let {} follow {}", name(*standby), name(*primary))
            }
            Self::Rejoin {
                node,
                primary,
                copy,
            } => {
                let how = if *copy { "copy" } else { "rewind or copy" };
                format!("rejoin {} to {} ({how})", name(*node), name(*primary))
            }
            Self::ResetSync(node) => format!("let {} wait for nobody", name(*node)),
            Self::SetSync { node, rule } => {
                format!("let {} wait for {}", name(*node), rule.describe(policy))
            }
            Self::ProveSync { node, rule } => {
                let rule = rule.describe(policy);
                format!("see that commits on {} wait for {rule}", name(*node))
            }
            Self::RenewLease { node, .. } => format!("renew the lease of {}", name(*node)),
            Self::Announce(node) => format!("tell the agent of {} the epoch", name(*node)),
            Self::ReleaseLease(node) => format!("let {} run without a lease", name(*node)),
            Self::Heartbeat(node) => format!("heartbeat on {}", name(*node)),
            Self::Checkpoint(node) => format!("checkpoint on {}", name(*node)),
            Self::Report(event) => format!("report: {}", event.describe(policy)),
        }
    }
}

impl FailoverPolicy {
    /// What would keep a node from acknowledging writes, should it be replaced as a primary; `answers`
    /// when its agent does at present.
    pub fn describe_fence(&self, node: NodeId, answers: bool) -> String {
        let quorum = matches!(self.durability, Durability::Quorum { .. });
        let agent = match (self.has_agent(node), answers) {
            (true, true) => Some("its agent"),
            (true, false) => Some("its agent, which does not answer: then its lease"),
            (false, _) => None,
        };
        let means = [
            agent,
            self.fence_command.then_some("fence_command"),
            quorum.then_some("the quorum"),
        ];
        let means: Vec<_> = means.into_iter().flatten().collect();
        match (means.is_empty(), self.unfenced_accepted) {
            (false, _) => means.join(", or "),
            (true, true) => "routing only: who reaches it directly can go on writing".to_owned(),
            (true, false) => "nothing: no standby is promoted while it may run".to_owned(),
        }
    }
}

impl CommitRule {
    /// As `synchronous_standby_names` would have it, with the nodes' names.
    pub fn describe(&self, policy: &FailoverPolicy) -> String {
        let members = policy.names(self.members.iter().copied());
        format!("ANY {} ({members})", self.needed)
    }
}

impl FailsafeRule {
    /// Who must promise.
    pub fn describe(&self, policy: &FailoverPolicy) -> String {
        let members = policy.names(self.members.iter().copied());
        match self.needed == self.members.len() {
            true => members,
            false => format!("any {} of {members}", self.needed),
        }
    }
}

impl Event {
    /// The event in words: what happened, to which node, and what follows.
    pub fn describe(&self, policy: &FailoverPolicy) -> String {
        let name = |node| policy.name(node);
        match self {
            Self::Found { primary, timeline } => {
                format!("{} leads on timeline {timeline}", name(*primary))
            }
            Self::PrimaryFailed { node, cause } => {
                format!("{} is being replaced: {}", name(*node), cause.describe())
            }
            Self::CalledOff { node, why } => format!("{} goes on leading: {why}", name(*node)),
            Self::Fenced { node, proof } => {
                format!("{} takes no more writes: {}", name(*node), proof.describe())
            }
            Self::Chosen {
                node,
                end,
                lost_bytes,
                written,
                passed_over,
            } => {
                let lost = match lost_bytes {
                    0 => "nothing known is lost".to_owned(),
                    _ => format!("{lost_bytes} bytes up to {written} are lost"),
                };
                let not = passed_over.map(|(node, replayed)| {
                    let name = name(node);
                    format!("; {name} holds as much, and has replayed it only up to {replayed}")
                });
                let not = not.unwrap_or_default();
                format!("{} is to lead from {end}; {lost}{not}", name(*node))
            }
            Self::Promoted {
                node,
                timeline,
                fork,
                ..
            } => match fork {
                Some(fork) => format!("{} leads on timeline {timeline}, from {fork}", name(*node)),
                None => format!("{} leads on timeline {timeline}", name(*node)),
            },
            Self::Restored(node) => format!("{} leads again: nobody could take over", name(*node)),
            Self::Quarantined { node, why } => {
                format!("{} serves nobody: {}", name(*node), why.describe())
            }
            Self::Rejoined(node) => format!("{} is in service again", name(*node)),
            Self::StrayPrimary {
                node,
                timeline,
                reason,
            } => format!(
                "{} runs as a primary on timeline {timeline}: {}; it is never written to",
                name(*node),
                reason.describe()
            ),
            Self::Done { request } => format!("request {request} is carried out"),
            Self::Refused { request, why } => format!("request {request} is refused: {why}"),
        }
    }
}

impl Quarantined {
    /// Why a node serves nobody, and how it comes back.
    pub fn describe(&self) -> String {
        format!("{}; {}", self.reason.describe(), self.recovery.describe())
    }
}

impl Cause {
    /// The cause in words.
    pub fn describe(self) -> &'static str {
        match self {
            Self::Dead => "its server is not running",
            Self::Hung => "neither the proxy nor most standbys hear of it",
            Self::InRecovery => "it is in recovery",
            Self::Operator => "an operator asked for it",
            Self::CandidateLost => "it was lost while it was being promoted",
            Self::CandidateGivenUp => "it could not be promoted, and another holds as much",
            Self::Switchover => "it could not be stopped cleanly",
        }
    }
}

impl FenceProof {
    /// The proof in words.
    pub fn describe(self) -> &'static str {
        match self {
            Self::AgentStopped => "its agent found the server stopped",
            Self::LeaseRanOut => "its lease has run out, and its agent has stopped it",
            Self::FenceCommand => "fence_command succeeded",
            Self::QuorumDetached => "too few standbys are attached to it to acknowledge a commit",
            Self::InRecovery => "it is in recovery",
            Self::RoutingOnly => "nothing is routed to it, which the operator accepts as enough",
        }
    }
}

impl QuarantineReason {
    /// The reason in words.
    pub fn describe(self) -> &'static str {
        match self {
            Self::OldPrimary => "it led before",
            Self::ClaimsToLead => "it claims to lead and does not",
            Self::Crashed => "its server has crashed",
            Self::OtherCluster => "its system identifier is that of another cluster",
            Self::BeyondFork => "it holds WAL that is not part of the present history",
        }
    }
}

impl Recovery {
    /// The way back in words.
    pub fn describe(self) -> &'static str {
        match self {
            Self::Start => "it can start as a standby as it is",
            Self::Rewind => "it must be rewound or copied anew",
            Self::Copy => "it must be copied anew",
            Self::Operator => "an operator must decide: what was written there would be lost",
        }
    }
}

/// A duration for people: `1.2 s`.
pub(super) fn seconds(us: u64) -> String {
    format!("{}.{} s", us / 1_000_000, us % 1_000_000 / 100_000)
}
