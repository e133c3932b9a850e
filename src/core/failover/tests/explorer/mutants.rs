//! Planners and agents that are wrong on purpose: the search must find each out.

use super::proxy::TICK_US;
use crate::core::failover::command::{Act, Command};
use crate::core::failover::facts::Observation;
use crate::core::failover::facts::observation::{AgentFailsafe, ReplicationRole};
use crate::core::failover::failsafe::FailsafeState;
use crate::core::failover::plan::Plan;
use crate::core::failover::policy::FailoverPolicy;
use crate::core::failover::quorum::CommitRule;
use crate::core::failover::record::{Candidate, Cause, FailedPrimary, FenceProof, Phase, Record};
use crate::core::topology::NodeId;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mutant {
    None,
    /// Promotes without waiting for proof.
    SkipsTheFence,
    /// Promotes the first standby in the list.
    PromotesTheFirst,
    /// Forgets old rules as soon as it wants another.
    ForgetsRules,
    /// Takes a lease for run out before it has.
    CountsLeasesShort,
    /// Takes every lease for one of its own length.
    ForgetsLongerLeases,
    /// Takes what a restarted standby has replayed for all that it holds.
    TakesReplayForAll,
    /// Reckons that a lease runs out where none was ever granted.
    BelievesInLeases,
    /// Promotes with one standby seen, whoever may hold what was acknowledged.
    TrustsAnyone,
    /// An agent's restart loses what it has promised.
    ForgetsPromises,
    /// The asker counts a promise from when it hears of it.
    CountsFromTheAnswer,
    /// A standby's agent promises although it streams from nobody, or from another.
    PromisesWithoutFollowing,
    /// It promises although it knows of a later decision.
    PromisesToOldEpochs,
    /// One promise is enough where all are needed.
    AsksTooFew,
    /// What was promised keeps nobody from promoting.
    PromotesDespitePromises,
    /// An agent that was away leaves its server another lease, and asks nobody.
    LeavesOnePeriodMore,
    /// Forgets the rule that an agent may still go by as soon as another is wanted.
    ForgetsFailsafeRules,
    /// Waits for a candidate that answers for ever.
    WaitsForTheCandidate,
    /// Takes a candidate that is given up for harmless since it is in recovery, and has it stopped by nobody.
    TrustsRecovery,
    /// Forgets who was given up, and how far that one goes.
    ForgetsWhoWasGivenUp,
    /// Forgets who was stopped for a switchover, and could lead again.
    ForgetsWhoIsIntact,
    /// Has that one lead again before the other is stopped, which may still follow its order.
    GoesBackUnfenced,
}

/// Makes a plan wrong.
pub(super) fn mutate(
    mutant: Mutant,
    before: &Record,
    planned: &mut Plan,
    observation: &Observation,
    policy: &FailoverPolicy,
) {
    match mutant {
        Mutant::SkipsTheFence => {
            if let Phase::Fencing(failed) = planned.next.phase.clone() {
                planned.next.phase = Phase::Discovering(failed, FenceProof::AgentStopped);
            }
        }
        Mutant::PromotesTheFirst => {
            if let Phase::Promoting(_, _, candidate) = &mut planned.next.phase {
                let first = policy.ids().find(|node| {
                    let answer = observation.answer(*node, policy.timeout_us);
                    answer.is_some_and(|answer| answer.standby().is_some())
                });
                if !matches!(before.phase, Phase::Promoting(..)) {
                    *candidate = Candidate {
                        node: first.unwrap_or(candidate.node),
                        ..*candidate
                    };
                }
            }
        }
        Mutant::BelievesInLeases => {
            planned.next.governed.insert(NodeId(0));
        }
        Mutant::ForgetsRules => planned.next.sync.settle(),
        Mutant::TrustsAnyone => {
            if let Phase::Discovering(..) = planned.next.phase {
                planned.next.sync.rules = vec![Some(CommitRule {
                    needed: 1,
                    members: std::collections::BTreeSet::new(),
                })];
            }
        }
        Mutant::TrustsRecovery => {
            if let Phase::Fencing(failed) = planned.next.phase.clone()
                && failed.cause == Cause::CandidateGivenUp
            {
                planned.commands.retain(
                    |command| !matches!(command.act, Act::Stop { node, .. } if node == failed.node),
                );
                planned.next.phase = Phase::Discovering(failed, FenceProof::AgentStopped);
            }
        }
        Mutant::ForgetsWhoWasGivenUp => planned.next.given_up.clear(),
        Mutant::ForgetsWhoIsIntact => planned.next.intact = None,
        Mutant::GoesBackUnfenced => {
            if let Phase::Fencing(failed) = planned.next.phase.clone()
                && let Some(node) = planned.next.intact
                && failed.cause == Cause::CandidateGivenUp
            {
                let epoch = planned.next.epoch;
                let act = Act::StartAsPrimary(node);
                planned.commands = vec![Command { epoch, act }];
                let cause = Cause::Switchover;
                planned.next.phase = Phase::Restoring(FailedPrimary {
                    node,
                    cause,
                    ..failed
                });
            }
        }
        Mutant::ForgetsFailsafeRules => {
            for rules in planned.next.failsafe.rules.values_mut() {
                rules.drain(..rules.len() - 1);
            }
        }
        // The others are wrong elsewhere.
        _ => {}
    }
}

/// Makes what is planned on wrong.
pub(super) fn blind(mutant: Mutant, observation: &mut Observation, record: &mut Record) {
    match mutant {
        Mutant::CountsLeasesShort => {
            let leases = record.leases.values_mut();
            leases.for_each(|lease_us| *lease_us = TICK_US.min(*lease_us));
        }
        Mutant::WaitsForTheCandidate => {
            if let Phase::Promoting(..) = record.phase {
                observation.phase_since_us = observation.now_us;
            }
        }
        Mutant::ForgetsLongerLeases => record.leases.clear(),
        Mutant::TakesReplayForAll => {
            for facts in &mut observation.nodes {
                if let Some(answer) = &mut facts.answer
                    && let ReplicationRole::Standby(standby) = &mut answer.role
                {
                    standby.replayed_all = true;
                }
            }
        }
        _ => {}
    }
    if mutant == Mutant::PromotesDespitePromises {
        record.failsafe = FailsafeState::default();
        for facts in &mut observation.nodes {
            if let Some(agent) = &mut facts.agent {
                agent.failsafe = Some(AgentFailsafe::default());
            }
        }
    }
}
