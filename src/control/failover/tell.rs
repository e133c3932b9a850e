//! What the planner reports, in words.

use tracing::Level;

use crate::core::failover::Policy;
use crate::core::failover::command::{Act, Event};
use crate::core::failover::record::{Cause, Proof, Quarantined, Reason, Way};
use crate::core::topology::NodeId;

/// An event in words.
pub(super) struct Words {
    pub(super) kind: &'static str,
    pub(super) text: String,
    /// ERROR: a human must look. WARN: something stands in the way of clients, or of a node.
    pub(super) level: Level,
}

/// Puts an event into words.
pub(super) fn event(event: &Event, policy: &Policy) -> Words {
    let name = |node: &NodeId| policy.name(*node);
    let mut level = Level::INFO;
    let (kind, text) = match event {
        Event::Found { primary, timeline } => (
            "primary_found",
            format!("{} leads on timeline {timeline}", name(primary)),
        ),
        Event::Fell { node, cause } => {
            level = Level::WARN;
            (
                "primary_failed",
                format!("{} is being replaced: {}", name(node), cause_text(*cause)),
            )
        }
        Event::CalledOff { node, why } => (
            "called_off",
            format!("{} goes on leading: {why}", name(node)),
        ),
        Event::Fenced { node, proof } => (
            "fenced",
            format!(
                "{} takes no more writes: {}",
                name(node),
                proof_text(*proof)
            ),
        ),
        Event::Chosen {
            node,
            end,
            lost_bytes,
            written,
        } => {
            let lost = match lost_bytes {
                0 => "nothing known is lost".to_owned(),
                bytes => format!("{bytes} bytes up to {written} are lost"),
            };
            if *lost_bytes > 0 {
                level = Level::ERROR;
            }
            (
                "candidate_chosen",
                format!("{} is to lead from {end}: {lost}", name(node)),
            )
        }
        Event::Promoted {
            node,
            timeline,
            fork,
            ..
        } => {
            let fork = fork.map_or(String::new(), |fork| format!(", which begins at {fork}"));
            (
                "promoted",
                format!("{} leads on timeline {timeline}{fork}", name(node)),
            )
        }
        Event::Restored(node) => {
            level = Level::WARN;
            (
                "restored",
                format!("{} leads again: nobody could take over", name(node)),
            )
        }
        Event::Quarantined { node, why } => {
            level = match why.way {
                Way::Operator => Level::ERROR,
                Way::Start => Level::INFO,
                Way::Rewind | Way::Copy => Level::WARN,
            };
            (
                "quarantined",
                format!("{} serves nobody: {}", name(node), quarantined(why)),
            )
        }
        Event::Rejoined(node) => ("rejoined", format!("{} is in service again", name(node))),
        Event::Impostor {
            node,
            timeline,
            reason,
        } => {
            level = Level::ERROR;
            (
                "impostor",
                format!(
                    "{} runs as a primary on timeline {timeline} and is not the primary: {}; it is never written to",
                    name(node),
                    reason_text(*reason)
                ),
            )
        }
        Event::Done { request } => ("request_done", format!("request {request} is carried out")),
        Event::Refused { request, why } => (
            "request_refused",
            format!("request {request} is refused: {why}"),
        ),
    };
    Words { kind, text, level }
}

/// Writes the line that an event is worth.
pub(super) fn log(words: &Words) {
    let Words { kind, text, level } = words;
    match *level {
        Level::ERROR => tracing::error!(event = kind, "{text}"),
        Level::WARN => tracing::warn!(event = kind, "{text}"),
        _ => tracing::info!(event = kind, "{text}"),
    }
}

/// What a command does, as a verb phrase.
pub(super) fn doing(act: &Act, policy: &Policy) -> String {
    let name = |node: &NodeId| policy.name(*node);
    match act {
        Act::Hold => "hold statements".to_owned(),
        Act::Release => "release statements".to_owned(),
        Act::CloseBackends(node) => format!("close connections to {}", name(node)),
        Act::Detach(node) => format!("detach {}", name(node)),
        Act::Stop { node, .. } => format!("stop {}", name(node)),
        Act::Fence(node) => format!("run fence_command for {}", name(node)),
        Act::Promote(node) => format!("promote {}", name(node)),
        Act::StartAsPrimary(node) => format!("start {} as the primary", name(node)),
        Act::StartAsStandby { node, .. } => format!("start {} as a standby", name(node)),
        Act::Follow { standby, primary } => {
            format!("send {} after {}", name(standby), name(primary))
        }
        Act::Rejoin { node, .. } => format!("rejoin {}", name(node)),
        Act::SetSync { node, .. } => format!("set synchronous_standby_names on {}", name(node)),
        Act::RenewLease(node) => format!("renew the lease of {}", name(node)),
        Act::Heartbeat(node) => format!("write a heartbeat on {}", name(node)),
        Act::Checkpoint(node) => format!("checkpoint {}", name(node)),
        Act::Report(_) => "report".to_owned(),
    }
}

/// Why a node serves nobody, and how it comes back.
pub(super) fn quarantined(why: &Quarantined) -> String {
    let way = match why.way {
        Way::Start => "it is started as a standby",
        Way::Rewind => "it is rewound",
        Way::Copy => "it is copied from the primary",
        Way::Operator => "an operator must decide, since what was written there would be lost",
    };
    format!("{}; {way}", reason_text(why.reason))
}

fn reason_text(reason: Reason) -> &'static str {
    match reason {
        Reason::OldPrimary => "it led before",
        Reason::ClaimsToLead => "it claims to lead",
        Reason::BeyondFork => "it holds WAL from beyond the fork",
    }
}

fn cause_text(cause: Cause) -> &'static str {
    match cause {
        Cause::Dead => "nothing listens there",
        Cause::Hung => "neither this proxy nor most standbys hear of it",
        Cause::InRecovery => "it is in recovery",
        Cause::Operator => "an operator says so",
        Cause::CandidateLost => "it was lost before it was seen to lead",
        Cause::Switchover => "it was stopped for a switchover that could not be completed",
    }
}

fn proof_text(proof: Proof) -> &'static str {
    match proof {
        Proof::AgentStopped => "its agent has stopped it",
        Proof::LeaseRanOut => "its lease has run out, and its agent has stopped it",
        Proof::FenceCommand => "fence_command has succeeded",
        Proof::QuorumDetached => "too few standbys are attached for it to acknowledge a commit",
        Proof::InRecovery => "it is in recovery",
        Proof::RoutingOnly => "by routing only, as configured",
    }
}
