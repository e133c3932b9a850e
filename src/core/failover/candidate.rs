//! Who takes over: the most advanced standby, if that is far enough.

use std::collections::BTreeSet;

use super::facts::View;
use super::facts::observation::{Attempt, Postmaster, RejoinJob, ServerAnswer, StandbyFacts};
use super::fence::detached_from;
use super::policy::{Durability, FailoverPolicy};
use super::quorum::CommitRule;
use super::record::{Candidate, Cause, FailedPrimary, FenceProof, Record};
use crate::core::lsn::Lsn;
use crate::core::topology::NodeId;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Election {
    Choose {
        candidate: Candidate,
        /// Known WAL that it lacks, in bytes.
        lost_bytes: u64,
        /// The one that would have been chosen had it replayed as much of what it holds, with how far it has.
        passed_over: Option<(NodeId, Lsn)>,
    },
    /// Not yet, or not without an operator.
    Wait { why: String },
}

/// Elects a successor of the failed primary, which is fenced. After `waited_us` as long as the
/// timeout it is decided among those that answer.
pub(super) fn elect(
    view: View<'_, '_>,
    failed: &FailedPrimary,
    proof: FenceProof,
    waited_us: u64,
) -> Election {
    if let Some(waiting) =
        undecided(view, failed, proof).filter(|_| waited_us < view.policy.timeout_us)
    {
        return Election::Wait { why: waiting };
    }
    let mut seen = discovered(view, failed, proof);
    if !view.record.accepts_loss() {
        seen.retain(Contender::knows_end);
    }
    let asked = view.record.asked_for();
    let only = is_bound(failed, proof).then_some(failed.node);
    choose(view, failed, &seen, only.or(asked))
}

/// Whether what a node holds is of the history that is to go on. A candidate that was lost, or given up, may have
/// been promoted before it was stopped; nobody else was.
pub(super) fn is_present(
    view: View<'_, '_>,
    node: NodeId,
    answer: &ServerAnswer,
    lost: bool,
) -> bool {
    let was_candidate = lost || view.record.given_up.contains_key(&node);
    answer.timeline == view.record.timeline
        || was_candidate && answer.timeline > view.record.timeline
}

/// Whether nobody but the failed one itself may be promoted: a candidate that was lost and runs as a standby
/// again may still follow its order to lead.
pub(super) fn is_bound(failed: &FailedPrimary, proof: FenceProof) -> bool {
    proof == FenceProof::InRecovery && failed.cause.was_candidate()
}

/// The standbys of which each would be promoted without an operator if the primary failed now, by the
/// same rules as in an election; none when no primary is known.
pub fn promotable(view: View<'_, '_>) -> Vec<NodeId> {
    let Some(primary) = view.record.primary else {
        return Vec::new();
    };
    let failed = FailedPrimary {
        node: primary,
        cause: Cause::Dead,
        written: view.observation.written(primary, view.record.timeline),
    };
    let mut seen = answering_standbys(view, primary);
    seen.retain(Contender::knows_end);
    // An operator who named one is not asked again.
    let record = Record {
        request: None,
        ..view.record.clone()
    };
    let view = View {
        record: &record,
        ..view
    };
    let chosen = |standby: &&Contender<'_>| {
        let only = Some(standby.node);
        let election = choose(view, &failed, &seen, only);
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
    view: View<'_, '_>,
    primary: NodeId,
    asked: Option<NodeId>,
) -> Result<(), String> {
    let seen = answering_standbys(view, primary);
    let could = |standby: &Contender<'_>| {
        standby.answer.timeline == view.record.timeline
            && asked.is_none_or(|to| to == standby.node)
            && fitness(view, standby.node).is_ok()
    };
    match seen.iter().any(could) {
        true => Ok(()),
        false => Err(nobody(view, &seen)),
    }
}

fn answering_standbys<'a>(view: View<'a, '_>, primary: NodeId) -> Vec<Contender<'a>> {
    let seen = view.others(primary).filter_map(|node| {
        let answer = view.answer(node)?;
        let standby = view.is_ours(answer) && answer.standby().is_some();
        standby.then_some(Contender { node, answer })
    });
    seen.collect()
}

/// Elects among these standbys; the one that is asked for, if one is.
fn choose(
    view: View<'_, '_>,
    failed: &FailedPrimary,
    seen: &[Contender<'_>],
    asked: Option<NodeId>,
) -> Election {
    let old = view.name(failed.node);
    // How far those go that were given up is known, whether or not they can be asked.
    let given_up = &view.record.given_up;
    let mut ids: BTreeSet<NodeId> = seen.iter().map(|standby| standby.node).collect();
    ids.extend(given_up.keys());
    let forced = view.record.accepts_loss();
    // Nobody has served since that one was stopped: it holds whatever was acknowledged by anybody.
    let intact = view.record.intact.filter(|old| ids.contains(old));
    if let Durability::Quorum { .. } = view.policy.durability {
        // An operator who asks for a failover accepts losses only where none can be excluded.
        if intact.is_none() && !view.record.sync.met_by(&ids) && !forced {
            let why = missing_quorum(view, &ids);
            return Election::Wait { why };
        }
    }
    let present = |standby: &&Contender<'_>| {
        let lost = standby.node == failed.node && failed.cause.was_candidate();
        is_present(view, standby.node, standby.answer, lost)
    };
    let furthest = seen.iter().filter(present).map(|standby| standby.end());
    let furthest = furthest.chain(given_up.values().copied());
    let furthest = furthest.max().unwrap_or_default();
    let fit = |standby: &&Contender<'_>| fitness(view, standby.node).is_ok();
    let able: Vec<&Contender<'_>> = seen
        .iter()
        .filter(present)
        .filter(fit)
        .filter(|standby| asked.is_none_or(|to| to == standby.node))
        .collect();
    let rank = |standby: &&&Contender<'_>| {
        let fresh = !given_up.contains_key(&standby.node);
        // What a candidate holds that was promoted unseen was acknowledged to nobody.
        let whole = intact == Some(standby.node);
        (whole, standby.rank(fresh, view.policy))
    };
    let best = able.iter().max_by_key(rank);
    let Some(best) = best else {
        let why = nobody(view, seen);
        return Election::Wait { why };
    };
    let candidate = Candidate {
        node: best.node,
        end: best.end(),
        complete: false,
    };
    let lost_bytes = match intact == Some(best.node) {
        true => 0,
        false => failed.written.max(furthest).bytes_since(best.end()),
    };
    let name = view.name(best.node);
    let refusal = match view.policy.durability {
        _ if forced || intact == Some(best.node) => None,
        Durability::Quorum { .. } => (best.end() < furthest).then(|| {
            // What keeps that one away may be in an operator's power, and costs no write.
            let why = |standby: &Contender<'_>| fitness(view, standby.node).err();
            let holders = seen.iter().filter(present);
            let mut holders = holders.filter(|standby| standby.end() == furthest);
            let why = holders.find_map(why).map(|why| format!(" ({why})"));
            let why = why.unwrap_or_default();
            format!("{name} may be promoted but lacks writes that another standby holds{why}")
        }),
        // What was ordered is a change without loss.
        Durability::Async { .. } if failed.cause.was_candidate() && !view.promotes_unasked() => {
            (lost_bytes > 0)
                .then(|| format!("promoting {name} would lose {lost_bytes} bytes that {old} holds"))
        }
        Durability::Async { max_lost_bytes } => {
            let most = max_lost_bytes.filter(|most| lost_bytes > *most);
            most.map(|most| {
                format!(
                    "promoting {name} would lose {lost_bytes} bytes that {old} has written, \
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
            passed_over: passed_over(view, &able, best),
        },
    }
}

/// The one that would have been chosen by all but what it has replayed.
fn passed_over(
    view: View<'_, '_>,
    able: &[&Contender<'_>],
    best: &Contender<'_>,
) -> Option<(NodeId, Lsn)> {
    let preferred = able
        .iter()
        .max_by_key(|standby| (standby.end(), standby.preference(view.policy)))?;
    (preferred.node != best.node).then(|| (preferred.node, preferred.replayed()))
}

/// Whether a node may be promoted at all; if not, why.
pub(super) fn fitness(view: View<'_, '_>, node: NodeId) -> Result<(), String> {
    let name = view.name(node);
    let configured = view.policy.nodes.get(usize::from(node.0));
    // One that was stopped for a switchover has led before.
    let has_led = view.record.intact == Some(node);
    if configured.is_none_or(|node| node.promote_priority == 0 && !has_led) {
        return Err(format!("{name} has promote_priority 0"));
    }
    if view.is_quarantined(node) {
        return Err(format!("{name} is quarantined"));
    }
    if view.node(node).is_some_and(|facts| facts.drained) {
        return Err(format!("{name} is drained; UNDRAIN {name} lets it lead"));
    }
    // Its agent may be about to stop it, and to change its data.
    if view
        .node(node)
        .is_some_and(|facts| facts.job == RejoinJob::Running)
    {
        return Err(format!("{name} is being rejoined"));
    }
    // Its agent would stop it for want of a lease.
    if view.policy.has_agent(node) {
        let agent = view.agent(node);
        match agent.map(|agent| agent.postmaster) {
            None => return Err(format!("the agent of {name} does not answer")),
            Some(Postmaster::Stopped { .. }) => return Err(format!("{name} is not running")),
            Some(_) => {}
        }
    }
    Ok(())
}

/// A standby whose position is final.
struct Contender<'a> {
    node: NodeId,
    answer: &'a ServerAnswer,
}

impl Contender<'_> {
    fn end(&self) -> Lsn {
        self.answer.end()
    }

    fn knows_end(&self) -> bool {
        self.answer.standby().is_some_and(StandbyFacts::knows_end)
    }

    fn replayed(&self) -> Lsn {
        let standby = self.answer.standby();
        standby.map(|standby| standby.replayed).unwrap_or_default()
    }

    /// The order of candidates on one timeline. What is received decides what is lost; of those who hold the
    /// same, one that has not been tried in vain goes first, and one whose replay stands, as a reader may have
    /// it do, leads only once that is over.
    fn rank(&self, fresh: bool, policy: &FailoverPolicy) -> impl Ord + use<> {
        let preference = self.preference(policy);
        (self.end(), fresh, self.replayed(), preference)
    }

    /// What is configured, and the name last.
    fn preference(&self, policy: &FailoverPolicy) -> impl Ord + use<> {
        let configured = policy.nodes.get(usize::from(self.node.0));
        let priority = configured.map(|node| node.promote_priority);
        let near = configured.is_some_and(|node| node.zone == policy.zone);
        let name = configured.map(|node| std::cmp::Reverse(node.name.clone()));
        (priority, near, name)
    }
}

/// Every standby that can receive nothing more, with where it ended.
fn discovered<'a>(
    view: View<'a, '_>,
    failed: &FailedPrimary,
    proof: FenceProof,
) -> Vec<Contender<'a>> {
    let detached = detached_from(view, failed.node);
    let seen = view.policy.ids().filter_map(|node| {
        let answer = view.answer(node)?;
        let standby = answer.standby()?;
        // With the old server down nothing can arrive, whatever a process still tries. The failed
        // one itself counts if it is found in recovery: a candidate that was lost and came back.
        let down = matches!(proof, FenceProof::AgentStopped | FenceProof::InRecovery);
        let still = if down || node == failed.node {
            standby.detached()
        } else {
            detached.contains(&node)
        };
        (view.is_ours(answer) && still).then_some(Contender { node, answer })
    });
    seen.collect()
}

/// A standby whose answer may still change the election.
fn undecided(view: View<'_, '_>, failed: &FailedPrimary, proof: FenceProof) -> Option<String> {
    let mut seen = discovered(view, failed, proof);
    seen.retain(Contender::knows_end);
    let pending = view.policy.ids().filter(|node| {
        if seen.iter().any(|standby| standby.node == *node)
            || *node == failed.node
            || view.is_quarantined(*node)
        {
            return false;
        }
        let Some(facts) = view.node(*node) else {
            return false;
        };
        let answers = facts.answer.as_ref();
        match facts.attempt {
            Attempt::Refused => false,
            Attempt::Answered => answers.is_some_and(|answer| answer.standby().is_some()),
            Attempt::None | Attempt::TimedOut => !view.is_silent(*node),
        }
    });
    let pending: Vec<NodeId> = pending.collect();
    let names = view.policy.names(pending.iter().copied());
    (!pending.is_empty()).then(|| format!("waiting to learn how far {names} has received"))
}

fn missing_quorum(view: View<'_, '_>, seen: &BTreeSet<NodeId>) -> String {
    let unmet = |rule: &&Option<CommitRule>| rule.as_ref().is_none_or(|rule| !rule.met_by(seen));
    match view.record.sync.rules.iter().find(unmet) {
        Some(Some(rule)) if rule.needed == 0 => {
            "commits may have been acknowledged by a node that is configured no more; waiting for the \
             old primary, or for an operator"
                .to_owned()
        }
        Some(Some(rule)) => {
            let missing = view.policy.names(rule.members.difference(seen).copied());
            let members = view.policy.names(rule.members.iter().copied());
            let more = replaying(view).map_or_else(String::new, |which| format!("; {which}"));
            format!(
                "commits may have been acknowledged by any {} of {members}, and {missing} cannot \
                 be asked{more}; waiting for them, for the old primary, or for an operator",
                rule.needed
            )
        }
        _ => "commits may have been acknowledged by the old primary alone; waiting for it, or for \
              an operator"
            .to_owned(),
    }
}

/// Standbys that do not know yet how much they hold, for people.
fn replaying(view: View<'_, '_>) -> Option<String> {
    let unknown = |node: &NodeId| {
        let standby = view.answer(*node).and_then(ServerAnswer::standby);
        standby.is_some_and(|standby| !standby.knows_end())
    };
    let nodes: Vec<NodeId> = view.policy.ids().filter(unknown).collect();
    let names = view.policy.names(nodes.iter().copied());
    (!nodes.is_empty()).then(|| {
        format!("{names} must first have replayed what it holds, to know how much that is")
    })
}

/// Standbys that answer and may still receive something.
fn attached(view: View<'_, '_>) -> Option<String> {
    let attached = |node: &NodeId| {
        let standby = view.answer(*node).and_then(ServerAnswer::standby);
        standby.is_some_and(|standby| !standby.detached())
    };
    let nodes: Vec<NodeId> = view.policy.ids().filter(attached).collect();
    (!nodes.is_empty()).then(|| view.policy.names(nodes))
}

fn nobody(view: View<'_, '_>, seen: &[Contender<'_>]) -> String {
    let faults = seen.iter().map(|standby| {
        if standby.answer.timeline != view.record.timeline {
            let name = view.name(standby.node);
            return format!("{name} is on timeline {}", standby.answer.timeline);
        }
        match fitness(view, standby.node) {
            Err(why) => why,
            Ok(()) => format!("{} was not asked for", view.name(standby.node)),
        }
    });
    let faults: Vec<String> = faults.collect();
    if faults.is_empty() {
        match replaying(view) {
            Some(which) => format!("no standby can be promoted yet: {which}"),
            None => match attached(view) {
                Some(names) => {
                    format!("no standby can be promoted yet: {names} must be detached first")
                }
                None => "no standby answers that could be promoted".to_owned(),
            },
        }
    } else {
        format!("no standby can be promoted: {}", faults.join("; "))
    }
}
