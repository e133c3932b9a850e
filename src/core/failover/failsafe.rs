//! Whose promises may prolong the lease of a primary that hears of no proxy, and whether any still can
//! (docs/adr/0013-failsafe-among-agents.md).
//!
//! A rule is in the record before the primary's agent can have it, and stays there until that agent
//! says that it holds a later one. So whoever plans knows of every rule by which a lease may have been
//! prolonged, and may know of more, which only makes it wait longer.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::core::topology::NodeId;

/// A lease is prolonged when `needed` of `members` promise that their servers lead nothing meanwhile.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct FailsafeRule {
    /// Rises with every change; an agent never goes back to a lower one.
    pub version: u64,
    pub needed: usize,
    /// Without any the lease is not prolonged.
    pub members: BTreeSet<NodeId>,
}

impl FailsafeRule {
    /// Whether it can be fulfilled no more once these promise nothing.
    pub fn is_over(&self, without: &BTreeSet<NodeId>) -> bool {
        self.members.difference(without).count() < self.needed
    }

    fn is_like(&self, needed: usize, members: &BTreeSet<NodeId>) -> bool {
        self.needed == needed && self.members == *members
    }
}

/// By node, the rules that its agent may go by.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct FailsafeState {
    /// The highest version so far.
    pub version: u64,
    /// Oldest first; the last is the one wanted.
    pub rules: BTreeMap<NodeId, Vec<FailsafeRule>>,
}

impl FailsafeState {
    /// The rule that a node's agent is to go by, if it ever was to go by one.
    pub fn wanted(&self, node: NodeId) -> Option<&FailsafeRule> {
        self.rules.get(&node)?.last()
    }

    /// From now on a node's agent is to go by this one.
    pub fn want(&mut self, node: NodeId, needed: usize, members: BTreeSet<NodeId>) {
        let wanted = self.wanted(node);
        if wanted.is_some_and(|rule| rule.is_like(needed, &members)) {
            return;
        }
        self.version += 1;
        let version = self.version;
        self.rules.entry(node).or_default().push(FailsafeRule {
            version,
            needed,
            members,
        });
    }

    /// A node's agent says that it goes by this one.
    pub fn heard(&mut self, node: NodeId, rule: &FailsafeRule) {
        self.version = self.version.max(rule.version);
        let rules = self.rules.entry(node).or_default();
        match rules.last().cloned() {
            Some(last) if last == *rule => *rules = vec![last],
            last => {
                // From a record that was lost.
                if !rules.contains(rule) {
                    rules.insert(0, rule.clone());
                }
                if let Some(last) = last.filter(|last| last.version <= rule.version) {
                    self.version += 1;
                    let version = self.version;
                    rules.push(FailsafeRule { version, ..last });
                }
            }
        }
    }

    /// All that a node's agent may ask.
    pub fn members(&self, node: NodeId) -> BTreeSet<NodeId> {
        let rules = self.rules.get(&node).into_iter().flatten();
        rules.flat_map(|rule| &rule.members).copied().collect()
    }

    /// Whether a node's lease can be prolonged no more once these promise nothing.
    pub fn is_over(&self, node: NodeId, without: &BTreeSet<NodeId>) -> bool {
        let mut rules = self.rules.get(&node).into_iter().flatten();
        rules.all(|rule| rule.is_over(without))
    }

    /// The same with other numbers; `place` gives a node's new one, if it is still configured.
    pub(super) fn renumbered(&self, place: impl Fn(NodeId) -> Option<NodeId>) -> Self {
        let renumbered = |rule: &FailsafeRule| {
            let members: BTreeSet<_> = rule.members.iter().filter_map(|m| place(*m)).collect();
            // Nobody can be asked any more what the others have promised.
            let gone = rule.members.len() - members.len();
            FailsafeRule {
                version: rule.version,
                needed: rule.needed.saturating_sub(gone),
                members,
            }
        };
        let rules = self.rules.iter();
        let rules = rules.filter_map(|(node, rules)| {
            Some((place(*node)?, rules.iter().map(renumbered).collect()))
        });
        Self {
            version: self.version,
            rules: rules.collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(nodes: &[u16]) -> BTreeSet<NodeId> {
        nodes.iter().map(|node| NodeId(*node)).collect()
    }

    const PRIMARY: NodeId = NodeId(0);

    #[test]
    fn of_all_one_is_enough_to_end_it_and_of_any_all() {
        let mut all = FailsafeState::default();
        all.want(PRIMARY, 2, set(&[1, 2]));
        assert!(!all.is_over(PRIMARY, &set(&[])));
        assert!(all.is_over(PRIMARY, &set(&[2])));
        let mut any = FailsafeState::default();
        any.want(PRIMARY, 1, set(&[1, 2]));
        assert!(!any.is_over(PRIMARY, &set(&[2])) && any.is_over(PRIMARY, &set(&[1, 2])));
        // Whoever was never told of a rule goes by none.
        assert!(any.is_over(NodeId(2), &set(&[])));
        // A rule without members is that the lease ends when it does.
        any.want(NodeId(2), 1, set(&[]));
        assert!(any.is_over(NodeId(2), &set(&[])));
    }

    #[test]
    fn an_older_rule_counts_until_the_agent_says_that_it_has_the_newer_one() {
        let mut state = FailsafeState::default();
        state.want(PRIMARY, 1, set(&[1]));
        let first = state.wanted(PRIMARY).cloned().unwrap();
        state.want(PRIMARY, 2, set(&[1, 2]));
        let second = state.wanted(PRIMARY).cloned().unwrap();
        assert!(second.version > first.version);
        assert!(!state.is_over(PRIMARY, &set(&[2])));
        state.heard(PRIMARY, &first);
        assert!(!state.is_over(PRIMARY, &set(&[2])));
        state.heard(PRIMARY, &second);
        assert!(state.is_over(PRIMARY, &set(&[2])));
        assert_eq!(state.rules[&PRIMARY], vec![second.clone()]);
        // Wanted again it is the same.
        state.want(PRIMARY, 2, set(&[1, 2]));
        assert_eq!(state.wanted(PRIMARY), Some(&second));
    }

    #[test]
    fn a_rule_of_a_record_that_was_lost_counts_and_is_overruled() {
        let old = FailsafeRule {
            version: 7,
            needed: 1,
            members: set(&[1]),
        };
        let mut state = FailsafeState::default();
        state.want(PRIMARY, 2, set(&[1, 2]));
        state.heard(PRIMARY, &old);
        assert!(!state.is_over(PRIMARY, &set(&[2])));
        let wanted = state.wanted(PRIMARY).cloned().unwrap();
        assert!(wanted.version > 7 && wanted.members == set(&[1, 2]));
        state.heard(PRIMARY, &wanted);
        assert_eq!(state.rules[&PRIMARY], vec![wanted]);
        // Also where none is wanted yet.
        let mut state = FailsafeState::default();
        state.heard(PRIMARY, &old);
        assert!(!state.is_over(PRIMARY, &set(&[2])));
        state.want(PRIMARY, 1, set(&[2]));
        assert!(state.wanted(PRIMARY).unwrap().version > 7);
    }

    #[test]
    fn a_member_that_is_configured_no_more_counts_as_one_that_may_have_promised() {
        let mut state = FailsafeState::default();
        state.want(PRIMARY, 2, set(&[1, 2]));
        let without =
            |gone: u16| move |node: NodeId| (node != NodeId(gone)).then_some(NodeId(10 + node.0));
        let renumbered = state.renumbered(without(1));
        assert!(!renumbered.is_over(NodeId(10), &set(&[])));
        assert!(renumbered.is_over(NodeId(10), &set(&[12])));
        let mut any = FailsafeState::default();
        any.want(PRIMARY, 1, set(&[1, 2]));
        let renumbered = any.renumbered(without(1));
        assert!(!renumbered.is_over(NodeId(10), &set(&[12])));
    }
}
