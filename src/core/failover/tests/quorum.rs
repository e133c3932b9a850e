//! The rules of commits change at any moment, in any way, and nothing acknowledged is out of reach.

use std::collections::BTreeSet;

use proptest::prelude::*;

use crate::core::failover::quorum::{CommitRule, SyncState};
use crate::core::lsn::Lsn;
use crate::core::topology::NodeId;

const STANDBYS: u16 = 4;

/// What may happen to a primary and four standbys.
#[derive(Clone, Debug)]
enum Step {
    Write,
    Receive(usize, usize),
    /// A rule is wanted: recorded, and sent later or never.
    Want(Vec<usize>, usize),
    /// What is wanted is sent.
    Order,
    /// An order that was sent at any time changes the setting, and its sender hears nothing of it.
    Arrive(usize),
    /// The latest order has been carried out, and every other that was on its way has been ended.
    Done,
    /// Each WAL sender reads the newest setting when it likes.
    Read(usize),
    /// The planner sees the rule in force and sets the barrier, or finds it passed.
    Settle,
}

fn step() -> impl Strategy<Value = Step> {
    let node = 0..usize::from(STANDBYS);
    prop_oneof![
        3 => Just(Step::Write),
        4 => (node.clone(), 1..4_usize).prop_map(|(node, by)| Step::Receive(node, by)),
        2 => wanted().prop_map(|(members, needed)| {
            let needed = needed.min(members.len());
            Step::Want(members, needed)
        }),
        2 => Just(Step::Order),
        2 => (0..4_usize).prop_map(Step::Arrive),
        2 => Just(Step::Done),
        3 => node.prop_map(Step::Read),
        3 => Just(Step::Settle),
    ]
}

/// Any rule; and often one of a few, so that what was wanted before is wanted again.
fn wanted() -> impl Strategy<Value = (Vec<usize>, usize)> {
    let any = prop::sample::subsequence(vec![0, 1, 2, 3], 1..=4);
    prop_oneof![
        1 => (any, 1..4_usize),
        3 => prop_oneof![Just(vec![0]), Just(vec![1]), Just(vec![0, 1])].prop_map(|m| (m, 1)),
    ]
}

fn rule(members: &[usize], needed: usize) -> CommitRule {
    let members = members
        .iter()
        .map(|node| NodeId(u16::try_from(*node).unwrap()));
    CommitRule {
        needed,
        members: members.collect(),
    }
}

struct Cluster {
    sync: SyncState,
    written: u64,
    acked: u64,
    received: [u64; STANDBYS as usize],
    /// The setting on disk, and the one that each WAL sender goes by.
    set: CommitRule,
    read: [CommitRule; STANDBYS as usize],
    /// On their way to the primary.
    orders: Vec<CommitRule>,
    /// The one that was sent last, while its sender waits for its end.
    latest: Option<CommitRule>,
    /// The one that was carried out last, while no other has been sent.
    done: Option<CommitRule>,
}

impl Cluster {
    fn new() -> Self {
        let first = rule(&[0, 1], 1);
        Self {
            sync: SyncState {
                rules: vec![Some(first.clone())],
                barrier: None,
            },
            written: 0,
            acked: 0,
            received: [0; STANDBYS as usize],
            set: first.clone(),
            read: std::array::from_fn(|_| first.clone()),
            orders: Vec::new(),
            latest: None,
            done: None,
        }
    }

    /// A WAL sender acknowledges what its own rule allows, once its standby has replied.
    fn acknowledge(&mut self, sender: usize) {
        let rule = &self.read[sender];
        let mut held: Vec<u64> = rule
            .members
            .iter()
            .map(|node| self.received[usize::from(node.0)])
            .collect();
        held.sort_unstable_by(|a, b| b.cmp(a));
        if let Some(held) = held.get(rule.needed - 1) {
            self.acked = self.acked.max(*held);
        }
    }

    fn settle(&mut self) {
        let Some(wanted) = self.sync.wanted().cloned() else {
            return;
        };
        // A proof is had of the latest order only, and says that every process has read it.
        let proven = self.done.as_ref() == Some(&wanted) && self.read.iter().all(|r| *r == wanted);
        if !proven {
            self.sync.barrier = None;
            return;
        }
        let barrier = *self.sync.barrier.get_or_insert(Lsn(self.written));
        let holds = |node: &&NodeId| self.received[usize::from(node.0)] >= barrier.0;
        if wanted.members.iter().filter(holds).count() >= wanted.needed {
            self.sync.settle();
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Write => self.written += 1,
            Step::Receive(node, by) => {
                let upto = self.received[node] + by as u64;
                self.received[node] = upto.min(self.written);
                self.acknowledge(node);
            }
            Step::Want(members, needed) => self.sync.add(Some(rule(&members, needed))),
            Step::Order => {
                self.done = None;
                self.latest = self.sync.wanted().cloned();
                self.orders.extend(self.latest.clone());
            }
            Step::Arrive(order) if order < self.orders.len() => {
                self.set = self.orders.remove(order);
            }
            Step::Arrive(_) => {}
            Step::Done => {
                if let Some(latest) = self.latest.take() {
                    self.orders.clear();
                    self.set = latest.clone();
                    self.done = Some(latest);
                }
            }
            Step::Read(sender) => self.read[sender] = self.set.clone(),
            Step::Settle => self.settle(),
        }
    }

    /// Every set of standbys that the record allows to promote from holds what was acknowledged.
    fn check(&self) -> Result<(), TestCaseError> {
        for bits in 0..1_u16 << STANDBYS {
            let seen: BTreeSet<NodeId> = (0..STANDBYS)
                .filter(|n| bits >> n & 1 == 1)
                .map(NodeId)
                .collect();
            if self.sync.met_by(&seen) {
                let best = seen
                    .iter()
                    .map(|node| self.received[usize::from(node.0)])
                    .max();
                prop_assert!(best >= Some(self.acked), "{seen:?} of {:?}", self.sync);
            }
        }
        Ok(())
    }
}

/// `PROPTEST_CASES` goes further.
fn cases() -> u32 {
    ProptestConfig::default().cases.max(4_000)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_may_promote_holds_what_was_acknowledged(steps in prop::collection::vec(step(), 1..60)) {
        let mut cluster = Cluster::new();
        for step in steps {
            cluster.step(step);
            cluster.check()?;
        }
    }
}

/// As a property this takes many cases to be found.
#[test]
fn an_order_that_comes_late_is_reckoned_with() {
    let mut cluster = Cluster::new();
    for step in [
        Step::Want(vec![2], 1),
        Step::Order,
        // Before it shows, what was wanted before is wanted again, and in force to all appearance.
        Step::Want(vec![0, 1], 1),
        Step::Settle,
        Step::Settle,
        Step::Arrive(0),
        Step::Read(2),
        Step::Write,
        Step::Receive(2, 1),
    ] {
        cluster.step(step);
        cluster.check().unwrap();
    }
    assert_eq!(cluster.acked, 1);
    // Once the second order is done, nothing comes after it.
    for step in [
        Step::Order,
        Step::Done,
        Step::Read(0),
        Step::Read(1),
        Step::Read(2),
        Step::Read(3),
        Step::Settle,
        Step::Receive(0, 1),
        Step::Settle,
        Step::Arrive(0),
    ] {
        cluster.step(step);
        cluster.check().unwrap();
    }
    assert!(!cluster.sync.changing());
}

#[test]
fn a_quorum_is_met_when_fewer_than_needed_are_missing() {
    let set = |nodes: &[u16]| nodes.iter().copied().map(NodeId).collect::<BTreeSet<_>>();
    let one_of_two = rule(&[1, 2], 1);
    assert!(!one_of_two.met_by(&set(&[1])));
    assert!(one_of_two.met_by(&set(&[1, 2])));
    let two_of_three = rule(&[0, 1, 2], 2);
    assert!(!two_of_three.met_by(&set(&[0])));
    assert!(two_of_three.met_by(&set(&[0, 2])));
    let nobody = SyncState::default();
    assert!(
        !nobody.met_by(&set(&[0, 1, 2, 3])),
        "nothing is known of an empty record"
    );
}
