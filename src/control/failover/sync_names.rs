//! `synchronous_standby_names`: reading and writing the rule by which commits are acknowledged.

use std::collections::BTreeSet;

use crate::core::failover::FailoverPolicy;
use crate::core::failover::quorum::CommitRule;
use crate::core::topology::NodeId;

/// The setting's text for a rule (manual, "Replication: synchronous_standby_names").
pub(super) fn text(rule: &CommitRule, policy: &FailoverPolicy) -> String {
    let names = rule.members.iter().map(|node| {
        // A configured name has no quotes in it.
        format!("\"{}\"", policy.name(*node))
    });
    let names: Vec<_> = names.collect();
    format!("ANY {} ({})", rule.needed, names.join(", "))
}

/// The rule that a setting's text means for the nodes of a policy. None when commits wait for
/// nobody, or may be acknowledged by a standby that is not configured, which proves as little.
pub(super) fn parse(text: &str, policy: &FailoverPolicy) -> Option<CommitRule> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::failover::policy::{Durability, Mode, NodePolicy};

    fn policy() -> FailoverPolicy {
        let nodes = ["pg1", "pg2", "pg3"].map(|name| NodePolicy {
            name: name.to_owned(),
            zone: None,
            promote_priority: 100,
            agent: true,
        });
        FailoverPolicy {
            mode: Mode::Automatic,
            durability: Durability::Quorum { standbys: 1 },
            timeout_us: 0,
            lease_us: 0,
            margin_us: 0,
            settle_us: 0,
            checkpoint_us: 0,
            drain_us: 0,
            stop_us: 0,
            promote_us: 0,
            routing_lease_us: 0,
            fence_command: false,
            rejoin_command: false,
            unfenced_accepted: false,
            failsafe: false,
            zone: None,
            nodes: nodes.to_vec(),
        }
    }

    fn rule(needed: usize, members: &[u16]) -> Option<CommitRule> {
        let members = members.iter().map(|node| NodeId(*node)).collect();
        Some(CommitRule { needed, members })
    }

    #[test]
    fn a_rule_goes_both_ways() {
        for expected in [rule(1, &[1]), rule(2, &[0, 1]), rule(1, &[0, 1, 2])] {
            let expected = expected.unwrap();
            let text = text(&expected, &policy());
            assert_eq!(parse(&text, &policy()), Some(expected), "{text}");
        }
    }

    #[test]
    fn what_another_hand_has_set_is_understood_or_proves_nothing() {
        for (text, expected) in [
            ("", None),
            ("pg2", rule(1, &[1])),
            ("PG2, pg1", rule(1, &[0, 1])),
            ("2 (pg1, \"pg2\")", rule(2, &[0, 1])),
            ("FIRST 1 (pg1,pg2)", rule(1, &[0, 1])),
            ("any 1(pg1)", rule(1, &[0])),
            ("*", rule(1, &[0, 1, 2])),
            ("ANY 1 (pg1, stranger)", None),
            ("ANY 0 (pg1)", None),
            ("ANY 1 (", None),
        ] {
            assert_eq!(parse(text, &policy()), expected, "{text}");
        }
    }
}
