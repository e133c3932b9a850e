//! Who takes over: the most advanced standby, if that is far enough.

use std::collections::BTreeSet;

use super::fence::parted;
use super::lineage::written;
use super::observation::{Answer, Attempt, Observation, Postmaster};
use super::policy::{Durability, Policy};
use super::promote::accepted_loss;
use super::record::{Candidate, Cause, Fall, Proof, Record};
use crate::core::lsn::Lsn;
use crate::core::topology::NodeId;

/// The outcome of an election.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Election {
    /// This one.
    Choose {
        /// Who.
        candidate: Candidate,
        /// Known WAL that it lacks, in bytes.
        lost_bytes: u64,
    },
    /// Not yet, or not without an operator.
    Wait {
        /// For what.
        why: String,
    },
}

/// Elects a successor of the fallen primary, which is fenced. After `waited_us` as long as the
/// timeout it is decided among those that answer.
pub fn elect(
    observation: &Observation,
    policy: &Policy,
    record: &Record,
    fall: &Fall,
    proof: Proof,
    waited_us: u64,
) -> Election {
    if let Some(waiting) = undecided(observation, policy, record, fall, proof)
        .filter(|_| waited_us < policy.timeout_us)
    {
        return Election::Wait { why: waiting };
    }
    let seen = discovered(observation, policy, record, fall, proof);
    let asked = record
        .request
        .filter(|_| accepted_loss(record))
        .and_then(|request| request.to);
    choose(observation, policy, record, fall, &seen, asked)
}

/// The standbys of which each would be promoted without an operator if the primary failed now, by the
/// same rules as in an election; none when no primary is known.
pub fn promotable(observation: &Observation, policy: &Policy, record: &Record) -> Vec<NodeId> {
    let Some(primary) = record.primary else {
        return Vec::new();
    };
    let fall = Fall {
        node: primary,
        cause: Cause::Dead,
        written: written(observation, primary, record.timeline),
    };
    let seen = standbys(observation, policy, record, primary);
    // An operator who named one is not asked again.
    let record = Record {
        request: None,
        ..record.clone()
    };
    let chosen = |standby: &&Seen<'_>| {
        let only = Some(standby.node);
        let election = choose(observation, policy, &record, &fall, &seen, only);
        matches!(election, Election::Choose { .. })
    };
    seen.iter()
        .filter(chosen)
        .map(|standby| standby.node)
        .collect()
}

/// Whether an operator's `FAILOVER`, which accepts losses, could end with a new primary: the one that is
/// asked for, if one is. If not, why.
pub(super) fn replaceable(
    observation: &Observation,
    policy: &Policy,
    record: &Record,
    primary: NodeId,
    asked: Option<NodeId>,
) -> Result<(), String> {
    let seen = standbys(observation, policy, record, primary);
    let could = |standby: &Seen<'_>| {
        standby.answer.timeline == record.timeline
            && asked.is_none_or(|to| to == standby.node)
            && fitness(observation, policy, record, standby.node).is_ok()
    };
    match seen.iter().any(could) {
        true => Ok(()),
        false => Err(nobody(observation, policy, record, &seen)),
    }
}

/// The standbys that answer.
fn standbys<'a>(
    observation: &'a Observation,
    policy: &Policy,
    record: &Record,
    primary: NodeId,
) -> Vec<Seen<'a>> {
    let others = policy.ids().filter(|node| *node != primary);
    let seen = others.filter_map(|node| {
        let answer = observation.answer(node, policy.timeout_us)?;
        let ours = record.system.is_none_or(|system| system == answer.system);
        (ours && answer.standby().is_some()).then_some(Seen { node, answer })
    });
    seen.collect()
}

/// Elects among these standbys; the one that is asked for, if one is.
fn choose(
    observation: &Observation,
    policy: &Policy,
    record: &Record,
    fall: &Fall,
    seen: &[Seen<'_>],
    asked: Option<NodeId>,
) -> Election {
    let fallen = policy.name(fall.node);
    let ids: BTreeSet<NodeId> = seen.iter().map(|standby| standby.node).collect();
    let forced = accepted_loss(record);
    if let Durability::Quorum { .. } = policy.durability {
        // An operator who asks for a failover accepts losses only where none can be excluded.
        if !record.sync.met_by(&ids) && !forced {
            let why = missing_quorum(policy, record, &ids);
            return Election::Wait { why };
        }
    }
    // A candidate that was lost may have been promoted meanwhile; nobody else was.
    let present = |standby: &&Seen| {
        let lost = standby.node == fall.node && fall.cause == Cause::CandidateLost;
        let timeline = standby.answer.timeline;
        timeline == record.timeline || lost && timeline > record.timeline
    };
    let furthest = seen.iter().filter(present).map(|standby| standby.end());
    let furthest = furthest.max().unwrap_or_default();
    let fit = |standby: &&Seen| fitness(observation, policy, record, standby.node).is_ok();
    let best = seen
        .iter()
        .filter(present)
        .filter(fit)
        .filter(|standby| asked.is_none_or(|to| to == standby.node))
        .max_by_key(|standby| standby.rank(policy));
    let Some(best) = best else {
        let why = nobody(observation, policy, record, seen);
        return Election::Wait { why };
    };
    let candidate = Candidate {
        node: best.node,
        end: best.end(),
        complete: false,
    };
    let lost_bytes = fall.written.max(furthest).bytes_since(best.end());
    let name = policy.name(best.node);
    let refusal = match policy.durability {
        _ if forced => None,
        Durability::Quorum { .. } => (best.end() < furthest).then(|| {
            // What keeps that one away may be in an operator's power, and costs no write.
            let why = |standby: &Seen<'_>| fitness(observation, policy, record, standby.node).err();
            let holders = seen.iter().filter(present);
            let mut holders = holders.filter(|standby| standby.end() == furthest);
            let why = holders.find_map(why).map(|why| format!(" ({why})"));
            let why = why.unwrap_or_default();
            format!("{name} may be promoted but lacks writes that another standby holds{why}")
        }),
        Durability::Async { max_lost_bytes } => {
            let most = max_lost_bytes.filter(|most| lost_bytes > *most);
            most.map(|most| {
                format!(
                    "promoting {name} would lose {lost_bytes} bytes that {fallen} has written, \
                     more than max_lost_bytes ({most})"
                )
            })
        }
    };
    match refusal {
        Some(why) => Election::Wait {
            why: format!("{why}; waiting for an operator: FAILOVER accepts the loss"),
        },
        None => Election::Choose {
            candidate,
            lost_bytes,
        },
    }
}

/// Whether a node may be promoted at all; if not, why.
pub(super) fn fitness(
    observation: &Observation,
    policy: &Policy,
    record: &Record,
    node: NodeId,
) -> Result<(), String> {
    let name = policy.name(node);
    let configured = policy.nodes.get(usize::from(node.0));
    if configured.is_none_or(|node| node.promote_priority == 0) {
        return Err(format!("{name} has promote_priority 0"));
    }
    if record.quarantine.contains_key(&node) {
        return Err(format!("{name} is quarantined"));
    }
    if observation.node(node).is_some_and(|facts| facts.drained) {
        return Err(format!("{name} is drained; UNDRAIN {name} lets it lead"));
    }
    // Its agent would stop it for want of a lease.
    if policy.has_agent(node) {
        let agent = observation.agent(node, policy.timeout_us);
        match agent.map(|agent| agent.postmaster) {
            None => return Err(format!("the agent of {name} does not answer")),
            Some(Postmaster::Stopped { .. }) => return Err(format!("{name} is not running")),
            Some(_) => {}
        }
    }
    Ok(())
}

/// A standby whose position is final.
struct Seen<'a> {
    node: NodeId,
    answer: &'a Answer,
}

impl Seen<'_> {
    fn end(&self) -> Lsn {
        self.answer.end()
    }

    /// The order of candidates on one timeline.
    fn rank(&self, policy: &Policy) -> impl Ord + use<> {
        let configured = policy.nodes.get(usize::from(self.node.0));
        let priority = configured.map(|node| node.promote_priority);
        let near = configured.is_some_and(|node| node.zone == policy.zone);
        let name = configured.map(|node| std::cmp::Reverse(node.name.clone()));
        (self.end(), priority, near, name)
    }
}

/// Every standby that can receive nothing more, with where it ended.
fn discovered<'a>(
    observation: &'a Observation,
    policy: &Policy,
    record: &Record,
    fall: &Fall,
    proof: Proof,
) -> Vec<Seen<'a>> {
    let parted = parted(observation, policy, record, fall.node);
    let seen = policy.ids().filter_map(|node| {
        let answer = observation.answer(node, policy.timeout_us)?;
        let standby = answer.standby()?;
        let ours = record.system.is_none_or(|system| system == answer.system);
        // With the old server down nothing can arrive, whatever a process still tries. The fallen
        // one itself counts if it is found in recovery: a candidate that was lost and came back.
        let down = matches!(proof, Proof::AgentStopped | Proof::InRecovery);
        let still = if down || node == fall.node {
            standby.detached()
        } else {
            parted.contains(&node)
        };
        (ours && still).then_some(Seen { node, answer })
    });
    seen.collect()
}

/// A standby whose answer may still change the election.
fn undecided(
    observation: &Observation,
    policy: &Policy,
    record: &Record,
    fall: &Fall,
    proof: Proof,
) -> Option<String> {
    let seen = discovered(observation, policy, record, fall, proof);
    let pending = policy.ids().filter(|node| {
        if seen.iter().any(|standby| standby.node == *node)
            || *node == fall.node
            || record.quarantine.contains_key(node)
        {
            return false;
        }
        let Some(facts) = observation.node(*node) else {
            return false;
        };
        let answers = facts.answer.as_ref();
        match facts.attempt {
            Attempt::Refused => false,
            Attempt::Answered => answers.is_some_and(|answer| answer.standby().is_some()),
            Attempt::None | Attempt::TimedOut => observation.silent_us(*node) < policy.timeout_us,
        }
    });
    let pending: Vec<NodeId> = pending.collect();
    let names = policy.names(pending.iter().copied());
    (!pending.is_empty()).then(|| format!("waiting to learn how far {names} has received"))
}

fn missing_quorum(policy: &Policy, record: &Record, seen: &BTreeSet<NodeId>) -> String {
    let unmet = |rule: &&Option<super::quorum::CommitRule>| {
        rule.as_ref().is_none_or(|rule| !rule.met_by(seen))
    };
    match record.sync.rules.iter().find(unmet) {
        Some(Some(rule)) => {
            let missing = policy.names(rule.members.difference(seen).copied());
            let members = policy.names(rule.members.iter().copied());
            format!(
                "commits may have been acknowledged by any {} of {members}, and {missing} cannot \
                 be asked; waiting for them, for the old primary, or for an operator",
                rule.needed
            )
        }
        _ => "commits may have been acknowledged by the old primary alone; waiting for it, or for \
              an operator"
            .to_owned(),
    }
}

fn nobody(
    observation: &Observation,
    policy: &Policy,
    record: &Record,
    seen: &[Seen<'_>],
) -> String {
    let faults = seen.iter().map(|standby| {
        if standby.answer.timeline != record.timeline {
            let name = policy.name(standby.node);
            return format!("{name} is on timeline {}", standby.answer.timeline);
        }
        match fitness(observation, policy, record, standby.node) {
            Err(why) => why,
            Ok(()) => format!("{} was not asked for", policy.name(standby.node)),
        }
    });
    let faults: Vec<String> = faults.collect();
    if faults.is_empty() {
        "no standby answers that could be promoted".to_owned()
    } else {
        format!("no standby can be promoted: {}", faults.join("; "))
    }
}
