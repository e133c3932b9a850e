//! Is the primary dead, hung, or is it we who are cut off?

use super::View;
use super::observation::{Attempt, Postmaster, ReplicationRole};
use crate::core::failover::describe::seconds;
use crate::core::failover::record::Cause;
use crate::core::topology::NodeId;

/// What the facts say about the primary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// It answers, and leads.
    Well,
    /// It does not answer, and that proves nothing yet.
    Doubtful { why: String },
    /// It must be replaced.
    Failed {
        cause: Cause,
        /// The facts that say so.
        why: String,
    },
    /// A server of another cluster answers in its place: what became of ours is not known.
    Foreign { why: String },
    /// We cannot reach it, but standbys receive from it: not dead.
    CutOff { witnesses: Vec<NodeId> },
}

/// Judges the primary.
pub fn judge(view: View<'_, '_>, node: NodeId) -> Health {
    let name = view.name(node);
    if let Some(answer) = view.answer(node) {
        if !view.is_ours(answer) {
            let why = format!(
                "{name} is answered for by a server of another cluster (system identifier {}); \
                 waiting for an operator",
                answer.system
            );
            return Health::Foreign { why };
        }
        return match &answer.role {
            ReplicationRole::Standby(_) => Health::Failed {
                cause: Cause::InRecovery,
                why: format!("{name} is in recovery"),
            },
            ReplicationRole::Primary(_) if answer.timeline < view.record.timeline => {
                Health::Failed {
                    cause: Cause::Dead,
                    why: format!("{name} is on timeline {}, which has ended", answer.timeline),
                }
            }
            ReplicationRole::Primary(_) => Health::Well,
        };
    }
    let agent = view.agent(node);
    if let Some(Postmaster::Stopped { .. }) = agent.map(|agent| agent.postmaster) {
        let why = format!("the agent of {name} reports that the server is not running");
        let cause = Cause::Dead;
        return Health::Failed { cause, why };
    }
    let witnesses = Witnesses::of(view, node);
    let refused = view.node(node).map(|facts| facts.attempt) == Some(Attempt::Refused);
    if refused && agent.is_none() && witnesses.all_gone() {
        let why = format!("{name} refuses connections, and no standby has a connection to it");
        let cause = Cause::Dead;
        return Health::Failed { cause, why };
    }
    let silent_us = view.observation.silent_us(node);
    // Standbys that receive nothing say nothing against a server that lives: the heartbeat, too, needs an
    // answer.
    if view.observation.lifeless_us(node) < view.policy.timeout_us {
        let silent = format!("{name} has not answered for {}", seconds(silent_us));
        let sign = view.node(node).and_then(|facts| facts.sign.as_ref());
        let sign = sign.filter(|_| silent_us >= view.policy.timeout_us);
        let why = sign.map_or(silent.clone(), |sign| {
            format!("{silent}, and lives: {}", sign.kind)
        });
        return Health::Doubtful { why };
    }
    witnesses.verdict(&name, silent_us, view.policy.timeout_us)
}

/// What the standbys that answer say of the primary.
struct Witnesses {
    /// They have received something from it lately.
    hearing: Vec<NodeId>,
    /// Attached, and have received nothing for the timeout.
    deaf: usize,
    /// No WAL receiver connected to it.
    detached: usize,
}

impl Witnesses {
    fn of(view: View<'_, '_>, primary: NodeId) -> Self {
        let mut witnesses = Self {
            hearing: Vec::new(),
            deaf: 0,
            detached: 0,
        };
        for node in view.others(primary) {
            let answer = view.answer(node);
            let Some(standby) = answer
                .and_then(|answer| answer.standby())
                .filter(|_| !view.is_quarantined(node))
            else {
                continue;
            };
            match standby.receiver {
                Some(receiver) if receiver.streaming && receiver.from == Some(primary) => {
                    let age_us = view.observation.since_us(receiver.fresh_us);
                    if age_us < view.policy.timeout_us {
                        witnesses.hearing.push(node);
                    } else {
                        witnesses.deaf += 1;
                    }
                }
                _ => witnesses.detached += 1,
            }
        }
        witnesses
    }

    fn all_gone(&self) -> bool {
        self.hearing.is_empty() && self.deaf == 0 && self.detached > 0
    }

    fn verdict(self, name: &str, silent_us: u64, timeout_us: u64) -> Health {
        let silent = seconds(silent_us);
        let not_hearing = self.deaf + self.detached;
        let answering = not_hearing + self.hearing.len();
        if answering == 0 {
            let why = format!("{name} has not answered for {silent}, and neither has any standby");
            return Health::Doubtful { why };
        }
        if 2 * not_hearing > answering {
            let why = format!(
                "{name} has not answered for {silent}, and {not_hearing} of the {answering} \
                 standbys that answer have received nothing from it for {}",
                seconds(timeout_us),
            );
            let cause = Cause::Hung;
            return Health::Failed { cause, why };
        }
        let witnesses = self.hearing;
        Health::CutOff { witnesses }
    }
}
