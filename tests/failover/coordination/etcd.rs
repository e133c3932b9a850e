//! Several proxies on a real etcd: one leads, whatever happens to etcd.

use std::time::{Duration, Instant};

use pgcauseway::config::{self, Coordination};
use pgcauseway::control::store::{Claim, Leader, SaveError, Store, Version};
use pgcauseway::rig::Etcd;
use serde_json::json;

use super::witness::Witness;
use crate::support::{becomes, need};

/// Short enough for a test, long enough for a busy machine.
pub(crate) const TTL: Duration = Duration::from_secs(2);

/// Starts etcd, unless the test is skipped for want of it.
pub(crate) async fn etcd(name: &str, members: usize) -> Option<Etcd> {
    if !need("etcd") {
        return None;
    }
    Some(Etcd::start(name, members).await.unwrap())
}

pub(crate) fn settings(endpoints: Vec<String>) -> config::Etcd {
    config::Etcd {
        endpoints,
        prefix: "/causeway".to_owned(),
        ttl: TTL,
        login: None,
        ca_file: None,
        client_cert: None,
    }
}

pub(crate) async fn proxy(endpoints: Vec<String>, id: &str) -> Store {
    let coordination = Coordination::Etcd(settings(endpoints));
    Store::open(&coordination, "main", id).await.unwrap()
}

/// The end of a claim that is not renewed any more.
fn leads_until(store: &Store) -> Option<Instant> {
    Some(Instant::now() + store.claim().left()?)
}

async fn proxies(etcd: &Etcd, count: usize) -> Vec<Store> {
    let mut proxies = Vec::new();
    for index in 0..count {
        proxies.push(proxy(etcd.endpoints(), &name(index)).await);
    }
    proxies
}

fn name(index: usize) -> String {
    format!("proxy{index}")
}

fn claims(proxies: &[Store]) -> Vec<(String, Claim)> {
    let claims = proxies.iter().map(|proxy| proxy.claim().clone());
    claims
        .enumerate()
        .map(|(index, claim)| (name(index), claim))
        .collect()
}

/// Which one leads, once there is one.
async fn leader(proxies: &[Store]) -> usize {
    let find = || proxies.iter().position(|proxy| proxy.claim().holds());
    becomes("one leads", async || find().is_some()).await;
    // Between two looks it may have ended; then the next one is near.
    find().unwrap_or(0)
}

#[tokio::test]
async fn one_of_three_leads_and_the_others_know_it() {
    let Some(etcd) = etcd("leads", 1).await else {
        return;
    };
    let proxies = proxies(&etcd, 3).await;
    let witness = Witness::of(claims(&proxies));
    let first = leader(&proxies).await;
    let term = proxies[first].claim().term().unwrap();
    let id = name(first);
    becomes("all know who leads", async || {
        proxies.iter().enumerate().all(|(index, proxy)| {
            let known = proxy.leader().borrow().clone();
            match known {
                Leader::Me { term: known } => index == first && known == term,
                Leader::Other {
                    id: known,
                    term: in_term,
                } => known == id && in_term == term,
                _ => false,
            }
        })
    })
    .await;

    // What the leader saves is seen by all, and nobody else saves anything.
    let saved = proxies[first]
        .save(&json!({ "n": 1 }), Version(0))
        .await
        .unwrap();
    for (index, proxy) in proxies.iter().enumerate() {
        let mut watch = proxy.watch();
        let seen = watch
            .wait_for(Option::is_some)
            .await
            .unwrap()
            .clone()
            .unwrap();
        assert_eq!((seen.version, &seen.record), (saved, &json!({ "n": 1 })));
        assert_eq!(proxy.load().await.unwrap(), Some(seen));
        if index != first {
            let refused = proxy.save(&json!({}), saved).await.unwrap_err();
            assert!(matches!(refused, SaveError::NotLeader), "{refused}");
        }
    }

    // It lasts for longer than a lease does.
    let until = leads_until(&proxies[first]).unwrap();
    becomes("the lease is renewed", async || {
        leads_until(&proxies[first]).is_some_and(|renewed| renewed > until + TTL)
    })
    .await;
    assert_eq!(proxies[first].claim().term(), Some(term));

    // Given back, another has it without a wait for the lease to run out.
    let resigned = Instant::now();
    proxies[first].resign().await;
    assert!(!proxies[first].claim().holds());
    let second = leader(&proxies).await;
    println!(
        "the next one leads {:?} after the resignation",
        resigned.elapsed()
    );
    assert_ne!(second, first);
    assert!(proxies[second].claim().term().unwrap() > term);
    let refused = proxies[first].save(&json!({}), saved).await.unwrap_err();
    assert!(matches!(refused, SaveError::NotLeader), "{refused}");

    // Stepping down is for a while.
    proxies[second].step_down(Duration::ZERO).await;
    becomes("somebody leads again", async || {
        proxies.iter().any(|proxy| proxy.claim().holds())
    })
    .await;
    witness.assert_one_leader_at_a_time().await;
}

#[tokio::test]
async fn of_several_saves_of_one_version_one_succeeds() {
    let Some(etcd) = etcd("cas", 1).await else {
        return;
    };
    let proxies = proxies(&etcd, 2).await;
    let leader = leader(&proxies).await;
    let mut version = Version(0);
    for round in 0..20 {
        let saves = (0..8).map(|n| {
            let record = json!({ "round": round, "n": n });
            let store = &proxies[leader];
            async move {
                store
                    .save(&record, version)
                    .await
                    .map(|version| (version, record))
            }
        });
        let outcomes = join_all(saves).await;
        let won: Vec<_> = outcomes.iter().flatten().collect();
        assert_eq!(won.len(), 1, "round {round}");
        let lost = outcomes.iter().filter_map(|outcome| outcome.as_ref().err());
        for error in lost {
            let SaveError::Conflict { current } = error else {
                panic!("{error}")
            };
            assert_eq!(current.as_ref().map(|now| now.version), Some(won[0].0));
        }
        let stored = proxies[1 - leader].load().await.unwrap().unwrap();
        assert_eq!((stored.version, &stored.record), (won[0].0, &won[0].1));
        version = won[0].0;
    }
}

/// Runs futures side by side; their outcomes in order.
async fn join_all<T>(futures: impl Iterator<Item = impl Future<Output = T>>) -> Vec<T> {
    let mut pending: Vec<_> = futures.map(|future| (Box::pin(future), None)).collect();
    std::future::poll_fn(|context| {
        for (future, outcome) in pending.iter_mut().filter(|(_, outcome)| outcome.is_none()) {
            if let std::task::Poll::Ready(value) = future.as_mut().poll(context) {
                *outcome = Some(value);
            }
        }
        if pending.iter().all(|(_, outcome)| outcome.is_some()) {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    })
    .await;
    pending
        .into_iter()
        .filter_map(|(_, outcome)| outcome)
        .collect()
}

#[tokio::test]
async fn a_frozen_etcd_ends_the_claim_in_time_and_its_late_answers_revive_nothing() {
    let Some(etcd) = etcd("frozen", 1).await else {
        return;
    };
    let proxies = proxies(&etcd, 2).await;
    let witness = Witness::of(claims(&proxies));
    let first = leader(&proxies).await;
    let claim = proxies[first].claim();
    let term = claim.term().unwrap();
    let saved = proxies[first]
        .save(&json!({ "n": 1 }), Version(0))
        .await
        .unwrap();

    let member = &etcd.members()[0];
    let frozen = Instant::now();
    member.freeze().unwrap();
    let until = leads_until(&proxies[first]).unwrap();
    assert!(until <= Instant::now() + TTL);
    let lost = proxies[first]
        .save(&json!({ "n": 2 }), saved)
        .await
        .unwrap_err();
    assert!(matches!(lost, SaveError::Unavailable(_)), "{lost}");
    becomes("the claim ends", async || !claim.holds()).await;
    println!("the claim ended {:?} after the freeze", frozen.elapsed());
    assert!(
        Instant::now() >= until,
        "a claim ends no sooner than it said"
    );
    // Longer than any lease: nobody may lead on what cannot be asked.
    while frozen.elapsed() < TTL * 2 {
        assert!(proxies.iter().all(|proxy| !proxy.claim().holds()));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(
        proxies
            .iter()
            .all(|proxy| *proxy.leader().borrow() == Leader::Unknown)
    );

    member.thaw().unwrap();
    let second = leader(&proxies).await;
    assert!(
        proxies[second].claim().term().unwrap() > term,
        "a new tenure"
    );
    // The save that was given up may have happened; nothing else.
    let stored = proxies[second].load().await.unwrap().unwrap();
    assert!([json!({ "n": 1 }), json!({ "n": 2 })].contains(&stored.record));
    proxies[second]
        .save(&json!({ "n": 3 }), stored.version)
        .await
        .unwrap();
    witness.assert_one_leader_at_a_time().await;
}

#[tokio::test]
async fn a_restarted_etcd_has_lost_nothing_and_leadership_comes_back() {
    let Some(etcd) = etcd("restarted", 1).await else {
        return;
    };
    let proxies = proxies(&etcd, 3).await;
    let witness = Witness::of(claims(&proxies));
    let member = &etcd.members()[0];
    let mut version = Version(0);
    for round in 0..3 {
        let first = leader(&proxies).await;
        let record = json!({ "round": round });
        version = save(&proxies, &record, version).await;
        member.kill().unwrap();
        if round == 2 {
            let claim = proxies[first].claim().clone();
            becomes("the claim ends", async || !claim.holds()).await;
        }
        member.start().await.unwrap();
        leader(&proxies).await;
        for proxy in &proxies {
            let stored = proxy.load().await.unwrap().unwrap();
            assert_eq!((stored.version, stored.record), (version, record.clone()));
        }
    }
    witness.assert_one_leader_at_a_time().await;
}

/// Saves by whoever leads, until somebody could.
async fn save(proxies: &[Store], record: &serde_json::Value, expected: Version) -> Version {
    let deadline = Instant::now() + crate::support::BOUND;
    loop {
        let leader = leader(proxies).await;
        match proxies[leader].save(record, expected).await {
            Ok(version) => return version,
            Err(SaveError::Conflict { current }) => {
                let current = current.expect("a record");
                assert_eq!(&current.record, record, "somebody else saved");
                return current.version;
            }
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
    }
}

#[tokio::test]
async fn a_failing_member_of_three_costs_at_most_a_tenure() {
    let Some(etcd) = etcd("three", 3).await else {
        return;
    };
    let proxies = proxies(&etcd, 3).await;
    let witness = Witness::of(claims(&proxies));
    leader(&proxies).await;
    let mut version = save(&proxies, &json!(0), Version(0)).await;
    // The member that leads the others is frozen for longer than a lease, killed, or thawed in the
    // middle of things: a version of etcd that then revokes leases of others must not matter.
    for round in 1..=3 {
        let member = etcd.leader().await.unwrap();
        member.freeze().unwrap();
        let frozen = Instant::now();
        version = save(&proxies, &json!([round, "frozen"]), version).await;
        println!(
            "round {round}: saved {:?} after the freeze",
            frozen.elapsed()
        );
        tokio::time::sleep((TTL * 2).saturating_sub(frozen.elapsed())).await;
        if round == 3 {
            member.kill().unwrap();
            member.start().await.unwrap();
        } else {
            member.thaw().unwrap();
            member.wait_ready().await.unwrap();
        }
        version = save(&proxies, &json!([round, "back"]), version).await;
    }
    witness.assert_one_leader_at_a_time().await;
}

#[tokio::test]
async fn an_etcd_that_is_not_there_is_waited_for() {
    let Some(etcd) = etcd("late", 1).await else {
        return;
    };
    let member = &etcd.members()[0];
    member.kill().unwrap();
    let proxies = proxies(&etcd, 1).await;
    assert!(proxies[0].load().await.is_err());
    assert_eq!(*proxies[0].leader().borrow(), Leader::Unknown);
    assert!(!proxies[0].claim().holds());
    member.start().await.unwrap();
    leader(&proxies).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stepping_down_at_any_moment_makes_no_second_leader() {
    let Some(etcd) = etcd("stepping", 1).await else {
        return;
    };
    let proxies = proxies(&etcd, 3).await;
    let witness = Witness::of(claims(&proxies));
    for _ in 0..100 {
        let proxy = &proxies[usize::from(rand::random::<u8>() % 3)];
        // Not a wait for anything: a moment that differs from round to round.
        tokio::time::sleep(Duration::from_micros(rand::random::<u64>() % 30_000)).await;
        let pause = Duration::from_micros(rand::random::<u64>() % 3_000);
        proxy.step_down(pause).await;
    }
    leader(&proxies).await;
    witness.assert_one_leader_at_a_time().await;
}
