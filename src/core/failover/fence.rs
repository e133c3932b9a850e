//! When an old primary provably acknowledges nothing any more, and what is still missing.

use std::collections::BTreeSet;

use super::detect::seconds;
use super::observation::{Observation, Part, Postmaster};
use super::policy::{Durability, Policy};
use super::record::{Proof, Record};
use crate::core::topology::NodeId;

/// The proof that `old` is harmless, or what to wait for, for people.
pub fn proof(
    observation: &Observation,
    policy: &Policy,
    record: &Record,
    old: NodeId,
) -> Result<Proof, String> {
    let name = policy.name(old);
    let mut missing = Vec::new();
    if let Some(agent) = observation.agent(old, policy.timeout_us) {
        match agent.postmaster {
            // It has heard of this epoch, so that it starts nothing for an older one.
            Postmaster::Stopped { .. } if agent.epoch >= record.epoch => {
                return Ok(Proof::AgentStopped);
            }
            Postmaster::Stopped { .. } => {
                missing.push(format!("for the agent of {name} to confirm this epoch"));
            }
            Postmaster::Primary | Postmaster::Standby => {
                missing.push(format!("for the agent of {name} to stop its server"));
            }
        }
    }
    if in_recovery(observation, policy, old) {
        return Ok(Proof::InRecovery);
    }
    if observation
        .fence_command_done
        .is_some_and(|(node, epoch)| node == old && epoch >= record.epoch)
    {
        return Ok(Proof::FenceCommand);
    }
    if let Durability::Quorum { .. } = policy.durability {
        if record
            .sync
            .met_by(&parted(observation, policy, record, old))
        {
            return Ok(Proof::QuorumDetached);
        }
        missing.push("for enough standbys to detach".to_owned());
    }
    if policy.has_agent(old) {
        let left_us = lease_end_us(observation, policy, old).saturating_sub(observation.now_us);
        if left_us == 0 {
            return Ok(Proof::LeaseRanOut);
        }
        missing.push(format!(
            "for the lease of {name} to run out, {}",
            seconds(left_us)
        ));
    } else if policy.fence_command {
        missing.push(format!("for fence_command to succeed for {name}"));
    } else if policy.unfenced_accepted {
        let left_us = policy
            .routing_lease_us
            .saturating_sub(observation.phase_us());
        if left_us == 0 {
            return Ok(Proof::RoutingOnly);
        }
        let left = seconds(left_us);
        missing.push(format!(
            "for every other proxy to stop routing to {name}, {left}"
        ));
    } else {
        missing.push(format!(
            "for an operator: {name} has no agent, there is no fence_command, and the configuration \
             does not say fencing: routing_only"
        ));
    }
    Err(format!("waiting {}", missing.join(", or ")))
}

/// When a node's lease has certainly run out: no renewal can have been asked for later than this
/// process's last one, or, by whoever led before, later than this leadership began.
pub fn lease_end_us(observation: &Observation, policy: &Policy, node: NodeId) -> u64 {
    let asked_us = observation.node(node).and_then(|facts| facts.renewal_us);
    let latest_us = asked_us
        .unwrap_or_default()
        .max(observation.leadership.since_us);
    latest_us + policy.lease_us + policy.margin_us
}

/// The standbys to which `old` can send nothing any more, and that say so themselves.
pub(super) fn parted(
    observation: &Observation,
    policy: &Policy,
    record: &Record,
    old: NodeId,
) -> BTreeSet<NodeId> {
    let parted = |node: &NodeId| {
        let answer = observation.answer(*node, policy.timeout_us);
        let Some(answer) = answer.filter(|_| *node != old) else {
            return false;
        };
        let ours = record.system.is_none_or(|system| system == answer.system);
        let standby = answer.standby().filter(|standby| standby.detached());
        // The startup process may just be asking for a receiver by the old setting.
        let settled = standby
            .and_then(|standby| standby.detached_since_us)
            .is_some_and(|since| observation.now_us.saturating_sub(since) >= policy.settle_us);
        ours && settled
    };
    policy.ids().filter(parted).collect()
}

fn in_recovery(observation: &Observation, policy: &Policy, node: NodeId) -> bool {
    let answer = observation.answer(node, policy.timeout_us);
    answer.is_some_and(|answer| matches!(answer.part, Part::Standby(_)))
}
