//! Who receives WAL from a primary, by what its WAL senders show from look to look: pure.
//!
//! Commits are acknowledged by application names, which PostgreSQL compares without case and whoever connects
//! chooses. So two receivers of one node's name are told from one that has come again while its former sender
//! still waits for a lost connection: of two that live, each confirms what was written after the other had come.

use std::collections::{BTreeSet, HashMap};

use crate::core::failover::facts::observation::Attached;
use crate::core::lsn::Lsn;
use crate::core::topology::NodeId;

/// By the process of each WAL sender.
#[derive(Debug, Default)]
pub(super) struct WalSenders(HashMap<i32, Sender>);

/// How far whoever receives from a WAL sender has come.
#[derive(Clone, Copy, Debug)]
struct Sender {
    /// It has confirmed all that had been written then.
    confirmed_us: u64,
    /// What it is to confirm next, and when that had been written.
    goal: Lsn,
    goal_us: u64,
    /// As which node it counts for commits.
    node: Option<NodeId>,
    confirmed: Lsn,
    /// What had been written when it had certainly come: at the second look.
    came: Option<Lsn>,
}

impl WalSenders {
    /// Who receives, with how far each has confirmed. A row is the sender's process, what was confirmed to it, and
    /// the application name; `written` is how far the primary had come, and when.
    pub(super) fn see(
        &mut self,
        rows: &[String],
        written: (Lsn, u64),
        node_of: impl Fn(&str) -> Option<NodeId>,
    ) -> Vec<Attached> {
        let parsed = rows.iter().filter_map(|row| {
            let mut fields = row.splitn(3, ' ');
            let pid: i32 = fields.next()?.parse().ok()?;
            let confirmed: Lsn = fields.next()?.parse().ok()?;
            Some((pid, confirmed, fields.next().unwrap_or_default()))
        });
        let before = std::mem::take(&mut self.0);
        let attached = parsed.map(|(pid, confirmed, name)| {
            let node = node_of(name);
            let sender = Sender::seen(before.get(&pid), confirmed, node, written);
            self.0.insert(pid, sender);
            // Whoever has never confirmed anything is no standby, and most likely comes through a proxy,
            // which ends its connection before the stop.
            let counts = node.is_some() || confirmed > Lsn(0);
            counts.then(|| Attached {
                name: name.to_owned(),
                node,
                confirmed_us: sender.confirmed_us,
            })
        });
        attached.flatten().collect()
    }

    /// The nodes by whose names more than one receives, and confirms what it receives.
    pub(super) fn doubled(&self) -> BTreeSet<NodeId> {
        let lives_beside = |one: &Sender, other: &Sender| {
            let came = other.came;
            one.node == other.node && came.is_some_and(|came| one.confirmed > came)
        };
        let doubled = self.0.iter().filter(|(pid, sender)| {
            let mut others = self.0.iter().filter(|(other, _)| other != pid);
            others.any(|(_, other)| lives_beside(sender, other) && lives_beside(other, sender))
        });
        doubled.filter_map(|(_, sender)| sender.node).collect()
    }
}

impl Sender {
    fn seen(
        before: Option<&Self>,
        confirmed: Lsn,
        node: Option<NodeId>,
        (flush, at_us): (Lsn, u64),
    ) -> Self {
        let came = before.map(|before| before.came.unwrap_or(flush));
        let now = |confirmed_us, goal, goal_us| Self {
            confirmed_us,
            goal,
            goal_us,
            node,
            confirmed,
            came,
        };
        match before {
            Some(before) if confirmed < before.goal => {
                now(before.confirmed_us, before.goal, before.goal_us)
            }
            // What was written when this was asked, it confirms later, or has already.
            before => now(before.map_or(0, |before| before.goal_us), flush, at_us),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node_of(name: &str) -> Option<NodeId> {
        ["pg1", "pg2", "pg3"]
            .iter()
            .position(|known| known.eq_ignore_ascii_case(name))
            .map(|index| NodeId(index as u16))
    }

    /// Looks at senders that have confirmed so much each, of so much that was written.
    fn look(senders: &mut WalSenders, written: u64, rows: &[(i32, u64, &str)]) -> BTreeSet<NodeId> {
        let rows: Vec<String> = rows
            .iter()
            .map(|(pid, confirmed, name)| format!("{pid} {} {name}", Lsn(*confirmed)))
            .collect();
        senders.see(&rows, (Lsn(written), written), node_of);
        senders.doubled()
    }

    #[test]
    fn two_that_confirm_by_one_name_are_two_in_whatever_case() {
        let mut senders = WalSenders::default();
        let mut doubled = BTreeSet::new();
        for written in 10..16 {
            let pair = [
                (1, written, "pg2"),
                (2, written, "pg3"),
                (3, written, "PG3"),
            ];
            doubled = look(&mut senders, written, &pair);
        }
        assert_eq!(doubled, [NodeId(2)].into());
        // One that stands still meanwhile may go on.
        let stands = [(1, 20, "pg2"), (2, 20, "pg3"), (3, 15, "PG3")];
        assert_eq!(look(&mut senders, 20, &stands), [NodeId(2)].into());
        let left = [(1, 21, "pg2"), (2, 21, "pg3")];
        assert_eq!(look(&mut senders, 21, &left), [].into());
    }

    #[test]
    fn one_that_has_come_again_is_one() {
        let mut senders = WalSenders::default();
        for written in 10..13 {
            look(&mut senders, written, &[(1, written, "pg3")]);
        }
        // The former sender waits for an answer for a minute, and nothing may be written for a while.
        look(&mut senders, 13, &[(1, 13, "pg3"), (2, 13, "pg3")]);
        for written in [13, 13, 13, 14, 20] {
            let rows = [(1, 13, "pg3"), (2, written, "pg3")];
            assert_eq!(look(&mut senders, written, &rows), [].into(), "{written}");
        }
        // Neither are strangers one node.
        let strangers = [(3, 30, "backup"), (4, 30, "backup")];
        for written in 30..34 {
            assert_eq!(look(&mut senders, written, &strangers), [].into());
        }
    }
}
