//! Replication slots of nodes: which are made, moved on and dropped on each server. Pure.
//!
//! Each node has one, named after it, on every other server, so that it finds there what it lacks, whoever
//! leads. On the primary its own receiver moves it on; on a standby nobody does but Causeway, to where the
//! primary's is. What a slot of a node that is away holds back has a bound: beyond it the slot is dropped.
//!
//! With `hot_standby_feedback` a slot keeps rows from VACUUM as well, also when its receiver has left
//! (PostgreSQL manual, section 27.2.6), and on a standby for ever: what stands there goes up to the primary.
//! Nothing takes that away but to make the slot anew.

use std::collections::BTreeMap;
use std::fmt;

use crate::core::lsn::Lsn;
use crate::core::topology::NodeId;

/// What the names of all these slots begin with; others are let be.
pub const PREFIX: &str = "causeway_";
/// What PostgreSQL allows, in bytes.
const LONGEST: usize = 63;
/// For so many transactions a slot may keep rows from VACUUM for a node that is away, where to make it anew
/// would give up WAL.
const OLDEST_ROWS: u64 = 1_000_000;

/// The name of a node's slot.
pub fn name(node: &str) -> String {
    let allowed = |c: char| matches!(c, 'a'..='z' | '0'..='9' | '_');
    if node.chars().all(allowed) && PREFIX.len() + node.len() <= LONGEST {
        return format!("{PREFIX}{node}");
    }
    // Another node's name may look the same with what is not allowed replaced.
    let hash = node.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let plain = node.to_ascii_lowercase().replace(|c| !allowed(c), "_");
    let plain: String = plain.chars().take(40).collect();
    format!("{PREFIX}{plain}_{:08x}", hash >> 32)
}

/// What is configured about slots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotPolicy {
    /// The names of the nodes' slots; `NodeId` is the index.
    pub names: Vec<String>,
    /// How much WAL the slot of a node that is away may hold back, in bytes; none if there are to be no slots.
    pub most_bytes: Option<u64>,
}

/// A server as it was just now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerSlots {
    /// The end of its WAL: written, or replayed.
    pub end: Lsn,
    /// Where its last checkpoint or restartpoint begins: it has all WAL from there on.
    pub redo: Lsn,
    /// `primary_slot_name`.
    pub uses: String,
    /// Its physical slots that begin with [`PREFIX`].
    pub slots: Vec<NodeSlot>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeSlot {
    pub name: String,
    /// From where on it holds WAL back.
    pub restart: Option<Lsn>,
    /// For how many transactions it has kept rows from VACUUM; none where it keeps none.
    pub rows: Option<u64>,
    /// A receiver is connected by it.
    pub active: bool,
    /// The server has given up what it held.
    pub lost: bool,
}

/// What is done on one server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SlotAct {
    Create(String),
    /// Without the rows that it keeps from VACUUM, and from the last checkpoint on.
    Remake(String),
    Advance {
        slot: String,
        to: Lsn,
    },
    Drop {
        slot: String,
        why: DropReason,
    },
    /// Has the server's receiver use a slot, or none.
    Use(String),
}

impl SlotAct {
    /// Whether it makes room, for WAL or for another slot.
    fn makes_room(&self) -> bool {
        !matches!(self, Self::Create(_) | Self::Use(_))
    }
}

impl fmt::Display for SlotAct {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Create(slot) => write!(f, "make {slot}"),
            Self::Remake(slot) => write!(f, "make {slot} anew, without rows kept from VACUUM"),
            Self::Advance { slot, to } => write!(f, "move {slot} on to {to}"),
            Self::Drop { slot, .. } => write!(f, "drop {slot}"),
            Self::Use(slot) => write!(f, "set primary_slot_name to '{slot}'"),
        }
    }
}

/// Why a slot goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DropReason {
    /// No node is named so, or there are to be no slots.
    Nobody,
    /// The leader has none for that node.
    GivenUp,
    /// It held back so many bytes.
    Held(u64),
    /// The server had given up what it held.
    Lost,
}

impl fmt::Display for DropReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nobody => f.write_str("no node has it any more"),
            Self::GivenUp => f.write_str("the primary has none for that node"),
            Self::Held(bytes) => write!(
                f,
                "it held back {bytes} bytes, more than failover.max_slot_bytes: its node may have to be \
                 copied anew"
            ),
            Self::Lost => f.write_str("the server had removed the WAL that it was to hold"),
        }
    }
}

/// What is to be done, by server, first what makes room; `servers` has those that answer and are in service.
pub fn acts(
    policy: &SlotPolicy,
    primary: NodeId,
    servers: &[Option<ServerSlots>],
) -> BTreeMap<NodeId, Vec<SlotAct>> {
    let mut all = BTreeMap::new();
    let known = servers.iter().zip(0..).filter_map(|(server, index)| {
        let server = server.as_ref()?;
        Some((NodeId(index), server))
    });
    for (node, server) in known {
        let mut acts = Vec::new();
        let mut act = |act| acts.push(act);
        let Some(most) = policy.most_bytes else {
            if server.uses.starts_with(PREFIX) {
                act(SlotAct::Use(String::new()));
            }
            server
                .strays(&[])
                .for_each(|slot| act(slot.dropped(DropReason::Nobody)));
            all.extend((!acts.is_empty()).then_some((node, acts)));
            continue;
        };
        let others = policy
            .names
            .iter()
            .zip(0..)
            .map(|(name, index)| (name, NodeId(index)));
        let others: Vec<_> = others.filter(|(_, other)| *other != node).collect();
        let names: Vec<&str> = others.iter().map(|(name, _)| name.as_str()).collect();
        server
            .strays(&names)
            .for_each(|slot| act(slot.dropped(DropReason::Nobody)));
        let leader = servers.get(usize::from(primary.0)).and_then(Option::as_ref);
        for (name, other) in others {
            let done = match (node == primary, leader) {
                (true, _) => {
                    let standby = servers.get(usize::from(other.0)).and_then(Option::as_ref);
                    server.for_standby(name, standby, most)
                }
                (false, _) if other == primary => server.held_from(name, Some(server.redo)),
                (false, Some(leader)) => server.as_the_leader_has(name, leader),
                (false, None) => None,
            };
            done.into_iter().for_each(&mut act);
        }
        if let (Some(own), Some(leader)) = (policy.names.get(usize::from(node.0)), leader) {
            let is_there = node == primary || leader.slot(own).is_some_and(|slot| !slot.lost);
            if server.uses != *own && is_there {
                act(SlotAct::Use(own.clone()));
            }
        }
        acts.sort_by_key(|act| !act.makes_room());
        all.extend((!acts.is_empty()).then_some((node, acts)));
    }
    all
}

impl ServerSlots {
    fn slot(&self, name: &str) -> Option<&NodeSlot> {
        self.slots.iter().find(|slot| slot.name == name)
    }

    /// Those of nobody; one that is in use is left until it is not.
    fn strays(&self, names: &[&str]) -> impl Iterator<Item = &NodeSlot> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        self.slots
            .iter()
            .filter(move |slot| !slot.active && !names.contains(&slot.name))
    }

    /// On the primary: a standby's, which moves it on itself, unless it follows another standby.
    fn for_standby(&self, name: &str, standby: Option<&Self>, most: u64) -> Option<SlotAct> {
        if let Some(slot) = self.slot(name).filter(|slot| !slot.active) {
            let restart = slot.restart.unwrap_or(self.end);
            let held = self.end.0.saturating_sub(restart.0);
            if slot.lost {
                return Some(slot.dropped(DropReason::Lost));
            }
            if held > most {
                return Some(slot.dropped(DropReason::Held(held)));
            }
            // Its queries have ended with it. One that runs, and is about to connect again, reads them.
            if standby.is_none() {
                return self.remade(slot);
            }
        }
        let to = standby?.redo;
        match self.slot(name) {
            Some(slot) => self.moved_on(slot, to),
            None => Some(SlotAct::Create(name.to_owned())),
        }
    }

    /// On a standby: another's, to be held from where the primary holds it.
    fn as_the_leader_has(&self, name: &str, leader: &Self) -> Option<SlotAct> {
        match leader.slot(name) {
            Some(theirs) if !theirs.lost => self.held_from(name, theirs.restart),
            _ => {
                let own = self.slot(name).filter(|slot| !slot.active)?;
                Some(own.dropped(DropReason::GivenUp))
            }
        }
    }

    /// On a standby: to be held from there on.
    fn held_from(&self, name: &str, from: Option<Lsn>) -> Option<SlotAct> {
        let Some(own) = self.slot(name) else {
            return Some(SlotAct::Create(name.to_owned()));
        };
        if own.active {
            return None;
        }
        if own.lost {
            return Some(own.dropped(DropReason::Lost));
        }
        let remade = self.remade(own);
        remade.or_else(|| self.moved_on(own, from?))
    }

    fn moved_on(&self, own: &NodeSlot, from: Lsn) -> Option<SlotAct> {
        // What is not replayed here may be received anew.
        let to = from.min(self.end);
        let slot = own.name.clone();
        (!own.active && own.restart? < to).then_some(SlotAct::Advance { slot, to })
    }

    /// A slot that nobody is connected by lets go of rows, if that costs no WAL or has lasted too long.
    fn remade(&self, slot: &NodeSlot) -> Option<SlotAct> {
        let rows = slot.rows?;
        let keeps_wal = slot.restart.is_none_or(|restart| restart >= self.redo);
        (keeps_wal || rows > OLDEST_ROWS).then(|| SlotAct::Remake(slot.name.clone()))
    }
}

impl NodeSlot {
    fn dropped(&self, why: DropReason) -> SlotAct {
        let slot = self.name.clone();
        SlotAct::Drop { slot, why }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: u64 = 1_000;

    fn policy() -> SlotPolicy {
        SlotPolicy {
            names: ["pg1", "pg2", "pg3"].map(name).to_vec(),
            most_bytes: Some(MOST),
        }
    }

    fn slot(node: &str, restart: u64, active: bool) -> NodeSlot {
        NodeSlot {
            name: name(node),
            restart: Some(Lsn(restart)),
            rows: None,
            active,
            lost: false,
        }
    }

    fn server(node: &str, end: u64, slots: &[NodeSlot]) -> Option<ServerSlots> {
        Some(ServerSlots {
            end: Lsn(end),
            redo: Lsn(end / 2),
            uses: name(node),
            slots: slots.to_vec(),
        })
    }

    fn done(servers: &[Option<ServerSlots>]) -> Vec<(u16, SlotAct)> {
        let acts = acts(&policy(), NodeId(0), servers);
        let each = |(node, acts): (NodeId, Vec<_>)| acts.into_iter().map(move |act| (node.0, act));
        acts.into_iter().flat_map(each).collect()
    }

    fn create(node: &str) -> SlotAct {
        SlotAct::Create(name(node))
    }

    fn drops(node: &str, why: DropReason) -> SlotAct {
        let slot = name(node);
        SlotAct::Drop { slot, why }
    }

    fn advance(node: &str, to: u64) -> SlotAct {
        let slot = name(node);
        SlotAct::Advance { slot, to: Lsn(to) }
    }

    #[test]
    fn names_are_allowed_and_differ() {
        assert_eq!(name("pg1"), "causeway_pg1");
        let names = [
            "pg-1",
            "pg.1",
            "pg_1",
            "PG-1",
            &"a".repeat(63),
            &"a".repeat(62),
        ]
        .map(name);
        for (index, name) in names.iter().enumerate() {
            assert!(name.len() <= LONGEST && name.starts_with(PREFIX), "{name}");
            assert!(
                name.chars()
                    .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
            );
            assert!(!names[..index].contains(name), "{name}");
        }
    }

    #[test]
    fn every_node_has_one_on_every_other_and_uses_it_once_the_primary_has_it() {
        let bare = |end| {
            let server = server("", end, &[]).map(|server| ServerSlots {
                uses: String::new(),
                ..server
            });
            assert!(server.is_some());
            server
        };
        let begun = done(&[bare(100), bare(100), bare(100)]);
        let expected = [
            (0, create("pg2")),
            (0, create("pg3")),
            (0, SlotAct::Use(name("pg1"))),
            // The others' on standbys once the primary has them.
            (1, create("pg1")),
            (2, create("pg1")),
        ];
        assert_eq!(begun, expected);
        let leader = server(
            "pg1",
            100,
            &[slot("pg2", 90, false), slot("pg3", 90, false)],
        );
        let next = done(&[leader, bare(100), bare(100)]);
        assert!(next.contains(&(1, create("pg3"))) && next.contains(&(2, create("pg2"))));
        assert!(next.contains(&(1, SlotAct::Use(name("pg2")))));
        assert!(next.contains(&(2, SlotAct::Use(name("pg3")))));
    }

    #[test]
    fn on_a_standby_they_follow_the_primarys_and_never_pass_what_is_replayed() {
        let leader = server(
            "pg1",
            900,
            &[slot("pg2", 880, true), slot("pg3", 500, false)],
        );
        // Its own redo is at 400.
        let second = server(
            "pg2",
            800,
            &[slot("pg1", 300, false), slot("pg3", 200, false)],
        );
        let expected = [(1, advance("pg1", 400)), (1, advance("pg3", 500))];
        assert_eq!(done(&[leader.clone(), second, None]), expected);
        let behind = server(
            "pg2",
            450,
            &[slot("pg1", 225, false), slot("pg3", 450, false)],
        );
        assert_eq!(done(&[leader, behind, None]), []);
    }

    #[test]
    fn what_a_node_that_is_away_holds_back_has_a_bound() {
        let away = |restart| {
            server(
                "pg1",
                5_000,
                &[slot("pg2", 4_990, true), slot("pg3", restart, false)],
            )
        };
        let second = server(
            "pg2",
            5_000,
            &[slot("pg1", 2_500, false), slot("pg3", 4_000, false)],
        );
        assert_eq!(done(&[away(4_000), second.clone(), None]), []);
        let expected = [(0, drops("pg3", DropReason::Held(1_001)))];
        assert_eq!(done(&[away(3_999), second.clone(), None]), expected);
        // It is not made again before the node is back, and goes everywhere.
        let given_up = server("pg1", 5_000, &[slot("pg2", 4_990, true)]);
        let expected = [(1, drops("pg3", DropReason::GivenUp))];
        assert_eq!(done(&[given_up.clone(), second, None]), expected);
        let back = done(&[given_up, None, server("pg3", 10, &[slot("pg1", 5, false)])]);
        assert!(back.contains(&(0, create("pg3"))), "{back:?}");
        // One that follows another standby moves nothing on.
        let cascade = server(
            "pg1",
            1_000,
            &[slot("pg2", 990, true), slot("pg3", 400, false)],
        );
        let third = server(
            "pg3",
            990,
            &[slot("pg1", 495, false), slot("pg2", 990, false)],
        );
        assert_eq!(done(&[cascade, None, third]), [(0, advance("pg3", 495))]);
        // What is in use is not dropped, however far behind.
        let slow = server(
            "pg1",
            5_000,
            &[slot("pg2", 10, true), slot("pg3", 4_990, false)],
        );
        assert_eq!(done(&[slow, None, None]), []);
    }

    #[test]
    fn rows_are_kept_for_nobody_who_is_away() {
        let keeping = |slot: NodeSlot, rows| NodeSlot {
            rows: Some(rows),
            ..slot
        };
        let remade = |node| SlotAct::Remake(name(node));
        // What stood in them when their server led; its redo is at 450.
        let leader = server(
            "pg1",
            900,
            &[
                keeping(slot("pg2", 880, true), 3),
                keeping(slot("pg3", 500, false), 7),
            ],
        );
        let led = |slots: &[NodeSlot]| done(&[leader.clone(), server("pg2", 900, slots), None]);
        let of_primary = keeping(slot("pg1", 450, false), 40);
        let third = slot("pg3", 500, false);
        let expected = [(0, remade("pg3")), (1, remade("pg1")), (1, remade("pg3"))];
        assert_eq!(led(&[of_primary, keeping(third.clone(), 40)]), expected);
        // One that is connected through it reads.
        let cascading = keeping(slot("pg1", 450, true), 40);
        assert_eq!(led(&[cascading, third.clone()]), [(0, remade("pg3"))]);
        // WAL is worth more than rows, for a time.
        let early = keeping(slot("pg3", 400, false), OLDEST_ROWS);
        let expected = [
            (0, remade("pg3")),
            (
                1,
                SlotAct::Advance {
                    slot: name("pg3"),
                    to: Lsn(500),
                },
            ),
        ];
        assert_eq!(led(&[slot("pg1", 450, false), early.clone()]), expected);
        let late = keeping(early, OLDEST_ROWS + 1);
        let expected = [(0, remade("pg3")), (1, remade("pg3"))];
        assert_eq!(led(&[slot("pg1", 450, false), late]), expected);
        // On the primary, one whose node answers is let be.
        let third = server(
            "pg3",
            900,
            &[slot("pg1", 450, false), slot("pg2", 900, false)],
        );
        assert_eq!(done(&[leader, None, third]), []);
    }

    #[test]
    fn those_of_nodes_that_have_left_go_and_all_of_them_where_none_are_wanted() {
        let left = server(
            "pg1",
            100,
            &[
                slot("pg2", 90, true),
                slot("pg3", 90, false),
                slot("old", 1, false),
            ],
        );
        let expected = [(0, drops("old", DropReason::Nobody))];
        assert_eq!(done(&[left.clone(), None, None]), expected);
        let none = SlotPolicy {
            most_bytes: None,
            ..policy()
        };
        let acts = acts(&none, NodeId(0), &[left]);
        let of_first = &acts[&NodeId(0)];
        let first = SlotAct::Use(String::new());
        assert!(of_first[0] == first && of_first.len() == 3, "{acts:?}");
    }
}
