//! Hung: a primary that is stopped where it stands, with its agent alive and with both frozen, and
//! somebody who writes to it directly all the while.

use std::time::{Duration, Instant};

use super::history::{Fate, Writers};
use super::support::block_on;
use super::{PACE, another_leads, assert_whole, cluster, events, leading, proxy, settled};

#[test]
fn a_hung_primary_is_replaced_and_acknowledges_nothing_that_is_lost() {
    let cluster = cluster("hung");
    let proxy = proxy(&cluster, "durability: quorum");
    let writers = Writers::start(&proxy.url(), 6, PACE);
    for (number, agent_too) in [(0, false), (1, true)] {
        let old = leading(&cluster, &proxy);
        let agent = old.agent().unwrap();
        let numbers = 100 + 10 * number..104 + 10 * number;
        let direct = Writers::start_as(&old.url(cluster.application()), numbers, PACE);
        writers.wait_acknowledged(50);
        direct.wait_acknowledged(10);
        let before = Instant::now();
        old.freeze().unwrap();
        if agent_too {
            agent.freeze().unwrap();
        }
        another_leads(proxy.http, old.name());
        writers.wait_acknowledged(10);
        let gap = writers.longest_gap_since(before);
        let proof = events(proxy.http, "fenced").pop().unwrap();
        println!("frozen, its agent as well: {agent_too}; a gap of {gap:?}; {proof}");
        assert!(gap < Duration::from_secs(10), "{gap:?}");
        if agent_too {
            agent.thaw().unwrap();
        }
        // Without effect where its agent has killed it.
        let _ = old.thaw();
        settled(&proxy);
        assert!(block_on(old.is_standby()).unwrap());
        let direct = direct.stop();
        let found = direct.check(&proxy.url());
        println!("directly: {found}");
        assert_eq!(found.lost, 0, "{found}");
    }
    assert_whole(&writers.stop(), &proxy.url());
}

#[test]
fn without_quorum_a_hung_primary_is_fenced_by_its_agent_before_another_is_promoted() {
    let cluster = cluster("hung-async");
    let proxy = proxy(&cluster, "durability: async");
    let writers = Writers::start(&proxy.url(), 6, PACE);
    for (number, agent_too) in [(0, false), (1, true)] {
        let old = leading(&cluster, &proxy);
        let agent = old.agent().unwrap();
        let numbers = 100 + 10 * number..104 + 10 * number;
        let direct = Writers::start_as(&old.url(cluster.application()), numbers, PACE);
        writers.wait_acknowledged(50);
        direct.wait_acknowledged(10);
        let before = Instant::now();
        old.freeze().unwrap();
        let frozen = Instant::now();
        if agent_too {
            agent.freeze().unwrap();
        }
        another_leads(proxy.http, old.name());
        writers.wait_acknowledged(10);
        let gap = writers.longest_gap_since(before);
        let proof = events(proxy.http, "fenced").pop().unwrap();
        println!("async: frozen, its agent as well: {agent_too}; a gap of {gap:?}; {proof}");
        assert!(gap < Duration::from_secs(14), "{gap:?}");
        if agent_too {
            agent.thaw().unwrap();
        }
        let _ = old.thaw();
        settled(&proxy);
        let direct = direct.stop();
        let late = direct.acknowledged_since(frozen);
        println!(
            "{late} direct writes acknowledged after the freeze; {}",
            direct.check(&proxy.url())
        );
        if !agent_too {
            assert_eq!(late, 0, "its agent has stopped it");
        }
    }
    let history = writers.stop();
    let found = history.check(&proxy.url());
    println!("{found}");
    assert_eq!(found.untold, 0, "{found}");
    assert_eq!(found.came_true, 0, "{found}");
    assert_eq!(history.count(Fate::Disconnected), 0, "{found}");
}
