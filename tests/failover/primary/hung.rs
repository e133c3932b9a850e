//! Hung: a primary that is stopped where it stands, with its agent alive and with both frozen, and
//! somebody who writes to it directly all the while.

use std::sync::Arc;
use std::time::{Duration, Instant};

use pgcauseway::rig::{Cluster, Node};

use super::{assert_whole, cluster, directly, leading, proxy, rounds, writers};
use crate::support::history::{Fate, History, Writers};
use crate::support::status::{another_leads, events, settled};
use crate::support::{Proxy, block_on};

/// Many times what it takes: a busy machine is no defect, a wait for some other timeout is one.
const LONGEST: Duration = Duration::from_secs(60);

/// One primary frozen, replaced and back.
struct Round {
    old: Arc<Node>,
    /// What was written to it directly.
    direct: History,
    frozen: Instant,
    /// Nothing was acknowledged through the proxy for so long.
    gap: Duration,
}

impl Round {
    fn run(cluster: &Cluster, proxy: &Proxy, writers: &Writers, number: i32, agent: bool) -> Self {
        let old = Arc::clone(leading(cluster, proxy));
        let numbers = 100 + 10 * number..104 + 10 * number;
        let direct = directly(&old, cluster, numbers);
        writers.wait_acknowledged(50);
        direct.wait_acknowledged(10);
        let before = Instant::now();
        old.freeze().unwrap();
        let frozen = Instant::now();
        if agent {
            old.agent().unwrap().freeze().unwrap();
        }
        another_leads(proxy.http, old.name());
        writers.wait_acknowledged(10);
        let gap = writers.longest_gap_since(before);
        let proof = events(proxy.http, "fenced").pop().unwrap();
        println!("frozen, its agent as well: {agent}; a gap of {gap:?}; {proof}");
        if agent {
            old.agent().unwrap().thaw().unwrap();
        }
        // Without effect where its agent has killed it.
        let _ = old.thaw();
        settled(proxy.http);
        Self {
            old,
            direct: direct.stop(),
            frozen,
            gap,
        }
    }
}

/// With its agent alive and with both frozen, in turn.
fn each_way() -> impl Iterator<Item = (i32, bool)> {
    let many = i32::try_from(rounds(1)).unwrap();
    (0..2 * many).map(|number| (number, number % 2 == 1))
}

#[test]
fn a_hung_primary_is_replaced_and_acknowledges_nothing_that_is_lost() {
    let cluster = cluster("hung");
    let proxy = proxy(&cluster, "durability: quorum");
    let writers = writers(&proxy.url(), 6);
    for (number, agent) in each_way() {
        let round = Round::run(&cluster, &proxy, &writers, number, agent);
        assert!(round.gap < LONGEST, "{:?}", round.gap);
        assert!(block_on(round.old.is_standby()).unwrap());
        let found = round.direct.check(&proxy.url());
        println!("directly: {found}");
        assert_eq!(found.lost.len(), 0, "{found}");
    }
    assert_whole(&writers.stop(), &proxy.url());
}

#[test]
fn without_quorum_a_hung_primary_is_fenced_by_its_agent_before_another_is_promoted() {
    let cluster = cluster("hung-async");
    let proxy = proxy(&cluster, "durability: async");
    let writers = writers(&proxy.url(), 6);
    for (number, agent) in each_way() {
        let round = Round::run(&cluster, &proxy, &writers, number, agent);
        assert!(round.gap < LONGEST, "{:?}", round.gap);
        let late = round.direct.acknowledged_since(round.frozen);
        let found = round.direct.check(&proxy.url());
        println!("{late} direct writes acknowledged after the freeze; {found}");
        if !agent {
            assert_eq!(late, 0, "its agent has stopped it");
        }
    }
    let history = writers.stop();
    let found = history.check(&proxy.url());
    println!("{found}");
    assert_eq!(found.untold, 0, "{found}");
    assert_eq!(found.came_true.len(), 0, "{found}");
    assert_eq!(history.count(Fate::Disconnected), 0, "{found}");
}
