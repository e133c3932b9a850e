//! When an old primary provably acknowledges nothing any more, and what is still missing.

use std::collections::BTreeSet;

use super::describe::seconds;
use super::facts::View;
use super::facts::observation::{Postmaster, ServerAnswer};
use super::policy::Durability;
use super::record::{Cause, FailedPrimary, FenceProof};
use crate::core::topology::NodeId;

/// The proof that the failed one is harmless, or what to wait for, for people.
pub(super) fn proof(view: View<'_, '_>, failed: &FailedPrimary) -> Result<FenceProof, String> {
    let old = failed.node;
    let (observation, policy, record) = (view.observation, view.policy, view.record);
    let name = policy.name(old);
    let mut missing = Vec::new();
    if let Some(agent) = view.agent(old) {
        let leads = view.answer(old).filter(|answer| answer.primary().is_some());
        match agent.postmaster {
            // Whatever server it stands beside, it is not the one at the node's address.
            Postmaster::Stopped { .. }
                if leads.is_some_and(|answer| answer.at_us > agent.at_us) =>
            {
                missing.push(format!(
                    "for the agent of {name} to stop the server that answers there"
                ));
            }
            // It has heard of this epoch, so that it starts nothing for an older one.
            Postmaster::Stopped { .. } if agent.epoch >= record.epoch => {
                return Ok(FenceProof::AgentStopped);
            }
            Postmaster::Stopped { .. } => {
                missing.push(format!("for the agent of {name} to confirm this epoch"));
            }
            Postmaster::Primary | Postmaster::Standby => {
                missing.push(format!("for the agent of {name} to stop its server"));
            }
        }
    }
    // One that is given up may be about to follow its order to lead.
    let stands_by = view.answer(old).and_then(ServerAnswer::standby).is_some();
    if stands_by && failed.cause != Cause::CandidateGivenUp {
        return Ok(FenceProof::InRecovery);
    }
    if observation
        .fence_command_done
        .is_some_and(|(node, epoch)| node == old && epoch >= record.epoch)
    {
        return Ok(FenceProof::FenceCommand);
    }
    if let Durability::Quorum { .. } = policy.durability {
        if record.sync.met_by(&detached_from(view, old)) {
            return Ok(FenceProof::QuorumDetached);
        }
        missing.push("for enough standbys to detach".to_owned());
    }
    if policy.has_agent(old) && !record.governed.contains(&old) {
        missing.push(format!(
            "for the agent of {name}, which was never known to stop its server when a lease runs out"
        ));
    } else if policy.has_agent(old) {
        let left_us = lease_end_us(view, old).saturating_sub(observation.now_us);
        match (left_us, unconfirmed(view, old)) {
            // It has been seen to be stopped by nobody, and where its agent is gone nobody would.
            (0, None) if stands_by && failed.cause == Cause::CandidateGivenUp => {
                missing.push(format!(
                    "for the agent of {name} to answer, and stop its server"
                ));
            }
            (0, None) => return Ok(FenceProof::LeaseRanOut),
            (0, Some(who)) => missing.push(format!("for {who}")),
            (_, who) => {
                let left = seconds(left_us);
                let and = who.map_or_else(String::new, |who| format!(", and for {who}"));
                missing.push(format!("for the lease of {name} to run out, {left}{and}"));
            }
        }
    } else if policy.fence_command {
        missing.push(format!("for fence_command to succeed for {name}"));
    } else if policy.unfenced_accepted {
        let left_us = policy
            .routing_lease_us
            .saturating_sub(observation.phase_us());
        if left_us == 0 {
            return Ok(FenceProof::RoutingOnly);
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
/// process's last one, or, by whoever led before, later than this leadership began. How long it lasts is
/// what was granted, by whomever, and not what this proxy would grant.
fn lease_end_us(view: View<'_, '_>, node: NodeId) -> u64 {
    let asked_us = view.node(node).and_then(|facts| facts.renewal_us);
    let latest_us = asked_us
        .unwrap_or_default()
        .max(view.observation.leadership.since_us);
    let own_us = view.policy.lease_us;
    let longest_us = view.record.leases.get(&node).copied().unwrap_or(own_us);
    // The margin is for clocks that drift apart during a lease of our own length.
    let drift_us = longest_us.saturating_sub(own_us) / 50;
    let told = view.node(node).and_then(|facts| facts.agent.as_ref());
    let told_us = told
        .and_then(|agent| agent.lease)
        .map(|lease| lease.until_us);
    let end_us = (latest_us + longest_us).max(told_us.unwrap_or_default());
    end_us + drift_us + view.policy.margin_us
}

/// Whom to wait for while a node's agent may still prolong its lease by what others promise, for people.
fn unconfirmed(view: View<'_, '_>, old: NodeId) -> Option<String> {
    let failsafe = &view.record.failsafe;
    let nothing = view.promising_nothing();
    if failsafe.is_over(old, &nothing) {
        return None;
    }
    let name = view.policy.name(old);
    let open: Vec<NodeId> = failsafe
        .members(old)
        .difference(&nothing)
        .copied()
        .collect();
    let promised = open.iter().filter_map(|node| {
        let left_us = view.promise(*node)?.until_us;
        let left = seconds(left_us.saturating_sub(view.observation.now_us));
        Some(format!("{} for {left}", view.policy.name(*node)))
    });
    let promised: Vec<String> = promised.collect();
    let who = view.policy.names(open);
    let more = match promised.is_empty() {
        true => String::new(),
        false => format!(" (promised: {})", promised.join(", ")),
    };
    Some(format!(
        "the agents of {who} to confirm that they let {name} go on no longer{more}"
    ))
}

/// The standbys to which `old` can send nothing any more, and that say so themselves.
pub(super) fn detached_from(view: View<'_, '_>, old: NodeId) -> BTreeSet<NodeId> {
    let detached = |node: &NodeId| {
        let Some(answer) = view.answer(*node) else {
            return false;
        };
        let standby = answer.standby().filter(|standby| standby.detached());
        // The startup process may just be asking for a receiver by the old setting.
        let settled = standby
            .and_then(|standby| standby.detached_since_us)
            .is_some_and(|since_us| view.observation.since_us(since_us) >= view.policy.settle_us);
        view.is_ours(answer) && settled
    };
    view.others(old).filter(detached).collect()
}
