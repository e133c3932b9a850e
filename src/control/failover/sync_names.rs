//! `synchronous_standby_names`: reading and writing the rule by which commits are acknowledged.

use std::collections::BTreeSet;

use crate::core::failover::Policy;
use crate::core::failover::quorum::CommitRule;
use crate::core::topology::NodeId;

/// The setting's text for a rule (manual, "Replication: synchronous_standby_names").
pub(super) fn text(rule: &CommitRule, policy: &Policy) -> String {
    let names = rule.members.iter().map(|node| {
        let name = policy.name(*node).replace('"', "\"\"");
        format!("\"{name}\"")
    });
    let names: Vec<_> = names.collect();
    format!("ANY {} ({})", rule.needed, names.join(", "))
}

/// The rule that a setting's text means for the nodes of a policy. None when commits wait for
/// nobody, or may be acknowledged by a standby that is not configured, which proves as little.
pub(super) fn parse(text: &str, policy: &Policy) -> Option<CommitRule> {
    let text = text.trim();
    let mut rest = text;
    let mut first = true;
    let lower = text.to_ascii_lowercase();
    if lower.starts_with("any ") || lower.starts_with("first ") {
        // Which of FIRST's standbys count depends on who is connected: any of them may.
        rest = rest.split_once(' ').map_or("", |(_, rest)| rest).trim();
        first = false;
    }
    let (needed, list) = match rest.split_once('(') {
        Some((count, list)) => (
            count.trim().parse().ok()?,
            list.trim_end().strip_suffix(')')?,
        ),
        None if first => (1, rest),
        None => return None,
    };
    let mut members = BTreeSet::new();
    for name in names(list)? {
        if name == "*" {
            members.extend(policy.ids());
        } else {
            let known = |id: &NodeId| policy.name(*id).eq_ignore_ascii_case(&name);
            members.insert(policy.ids().find(known)?);
        }
    }
    (needed > 0 && !members.is_empty()).then_some(CommitRule { needed, members })
}

fn names(list: &str) -> Option<Vec<String>> {
    let mut found = Vec::new();
    let mut rest = list.trim_start();
    while !rest.is_empty() {
        if let Some(quoted) = rest.strip_prefix('"') {
            let (name, after) = quoted.split_once('"')?;
            found.push(name.to_owned());
            rest = after.trim_start();
        } else {
            let end = rest.find(',').unwrap_or(rest.len());
            found.push(rest[..end].trim().to_owned());
            rest = &rest[end..];
        }
        rest = rest.strip_prefix(',').unwrap_or(rest).trim_start();
    }
    Some(found)
}
