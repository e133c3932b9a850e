//! Is the primary dead, hung, or is it we who are cut off?

use super::observation::{Attempt, Observation, Part, Postmaster};
use super::policy::Policy;
use super::record::{Cause, Record};
use crate::core::topology::NodeId;

/// What the facts say about the primary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// It answers, and leads.
    Well,
    /// It does not answer, and that proves nothing yet.
    Doubtful {
        /// What is missing.
        why: String,
    },
    /// It must be replaced.
    Fallen {
        /// Why.
        cause: Cause,
        /// The facts that say so.
        why: String,
    },
    /// We cannot reach it, but standbys receive from it: not dead.
    CutOff {
        /// Those standbys.
        witnesses: Vec<NodeId>,
    },
}

/// Judges the primary.
pub fn judge(observation: &Observation, policy: &Policy, record: &Record, node: NodeId) -> Health {
    let name = policy.name(node);
    if let Some(answer) = observation.answer(node, policy.timeout_us) {
        return match &answer.part {
            Part::Standby(_) => Health::Fallen {
                cause: Cause::InRecovery,
                why: format!("{name} is in recovery"),
            },
            Part::Primary(_) if answer.timeline < record.timeline => Health::Fallen {
                cause: Cause::Dead,
                why: format!("{name} is on timeline {}, which has ended", answer.timeline),
            },
            Part::Primary(_) => Health::Well,
        };
    }
    let agent = observation.agent(node, policy.timeout_us);
    if let Some(Postmaster::Stopped { .. }) = agent.map(|agent| agent.postmaster) {
        let why = format!("the agent of {name} reports that the server is not running");
        let cause = Cause::Dead;
        return Health::Fallen { cause, why };
    }
    let witnesses = Witnesses::of(observation, policy, record, node);
    let refused = observation.node(node).map(|facts| facts.attempt) == Some(Attempt::Refused);
    if refused && agent.is_none() && witnesses.all_gone() {
        let why = format!("{name} refuses connections, and no standby has a connection to it");
        let cause = Cause::Dead;
        return Health::Fallen { cause, why };
    }
    let silent_us = observation.silent_us(node);
    if silent_us < policy.timeout_us {
        let why = format!("{name} has not answered for {}", seconds(silent_us));
        return Health::Doubtful { why };
    }
    witnesses.verdict(policy, &name, silent_us)
}

/// What the standbys that answer say of the primary.
struct Witnesses {
    /// They have received something from it lately.
    hearing: Vec<NodeId>,
    /// Attached, and have received nothing for the timeout.
    deaf: usize,
    /// No WAL receiver connected to it.
    parted: usize,
}

impl Witnesses {
    fn of(observation: &Observation, policy: &Policy, record: &Record, primary: NodeId) -> Self {
        let mut witnesses = Self {
            hearing: Vec::new(),
            deaf: 0,
            parted: 0,
        };
        for node in policy.ids() {
            let unfit = node == primary || record.quarantine.contains_key(&node);
            let answer = observation.answer(node, policy.timeout_us);
            let Some(standby) = answer
                .and_then(|answer| answer.standby())
                .filter(|_| !unfit)
            else {
                continue;
            };
            match standby.receiver {
                Some(receiver) if receiver.streaming && receiver.from == Some(primary) => {
                    let age_us = observation.now_us.saturating_sub(receiver.fresh_us);
                    if age_us < policy.timeout_us {
                        witnesses.hearing.push(node);
                    } else {
                        witnesses.deaf += 1;
                    }
                }
                _ => witnesses.parted += 1,
            }
        }
        witnesses
    }

    fn all_gone(&self) -> bool {
        self.hearing.is_empty() && self.deaf == 0 && self.parted > 0
    }

    fn verdict(self, policy: &Policy, name: &str, silent_us: u64) -> Health {
        let silent = seconds(silent_us);
        let not_hearing = self.deaf + self.parted;
        let answering = not_hearing + self.hearing.len();
        if answering == 0 {
            let why = format!("{name} has not answered for {silent}, and neither has any standby");
            return Health::Doubtful { why };
        }
        if 2 * not_hearing > answering {
            let why = format!(
                "{name} has not answered for {silent}, and {not_hearing} of the {answering} \
                 standbys that answer have received nothing from it for {}",
                seconds(policy.timeout_us),
            );
            let cause = Cause::Hung;
            return Health::Fallen { cause, why };
        }
        let witnesses = self.hearing;
        Health::CutOff { witnesses }
    }
}

/// A duration for people: `1.2 s`.
pub(super) fn seconds(us: u64) -> String {
    format!("{}.{} s", us / 1_000_000, us % 1_000_000 / 100_000)
}
