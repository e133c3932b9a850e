//! Whose promises are to prolong the primary's lease: those who could be promoted, as far as their agents
//! can be asked.

use std::collections::BTreeSet;

use super::facts::View;
use super::policy::Durability;
use crate::core::topology::NodeId;

/// How many of whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Consent {
    pub needed: usize,
    pub members: BTreeSet<NodeId>,
}

/// By whose promises the lease of `primary` is to be prolonged.
///
/// # Errors
///
/// By nobody's, and why, for people.
pub fn consent(view: View<'_, '_>, primary: NodeId) -> Result<Consent, String> {
    let (policy, name) = (view.policy, view.name(primary));
    if !policy.failsafe {
        return Err("failover.failsafe is false".to_owned());
    }
    if !policy.has_agent(primary) {
        return Err(format!("{name} has no agent"));
    }
    let Some(agent) = view.agent(primary) else {
        return Err(format!("the agent of {name} does not answer"));
    };
    let Some(failsafe) = &agent.failsafe else {
        return Err(format!("the agent of {name} is of an older version"));
    };
    if let Some(why) = &failsafe.unable {
        return Err(format!(
            "the agent of {name} cannot ask those of other nodes: {why}"
        ));
    }
    // Promoted, it would not have been asked; and waiting for the others would make a failover harder.
    let unasked = |node: &NodeId| !policy.has_agent(*node) && !view.is_quarantined(*node);
    if let Some(node) = view.others(primary).find(unasked) {
        return Err(format!("{} has no agent", view.name(node)));
    }
    let can_promise = |node: &NodeId| {
        let agent = view.agent(*node);
        agent.is_some_and(|agent| agent.failsafe.is_some()) && !view.is_quarantined(*node)
    };
    let mut members: BTreeSet<NodeId> = view.others(primary).filter(can_promise).collect();
    let needed = match policy.durability {
        Durability::Async { .. } => members.len(),
        Durability::Quorum { .. } => match view.record.sync.wanted() {
            Some(rule) => {
                members.retain(|node| rule.members.contains(node));
                rule.needed
            }
            None => return Err("commits do not wait for anybody yet".to_owned()),
        },
    };
    if members.is_empty() || members.len() < needed {
        return Err("too few agents of standbys answer".to_owned());
    }
    Ok(Consent { needed, members })
}
