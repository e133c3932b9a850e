//! The deciding proxy is killed, frozen, cut off from etcd and from the primary, and etcd is restarted and
//! frozen: at most one promotion for each failure, and no write by a proxy that may not route one.

use std::time::{Duration, Instant};

use super::world::{TTL, World, go_on, write};
use crate::support::{becomes, this_test};

const SETTINGS: &str = "timeout: 3s\nlease: 8s";

#[tokio::test(flavor = "multi_thread")]
async fn a_decider_that_fails_is_replaced_and_nothing_is_promoted() {
    if !go_on(this_test!(
        "a_decider_that_fails_is_replaced_and_nothing_is_promoted"
    )) {
        return;
    }
    let world = World::start("deciders", 3, SETTINGS).await;
    let writers = write(&world.routes(), 1, 0);
    let name = |proxy: usize| world.proxies[proxy].name();
    for proxy in &world.proxies {
        writers.acknowledged_via(proxy.name(), 10).await;
    }

    println!("killed");
    let old = world.decider().await;
    world.proxies[old].kill().unwrap();
    let new = world.decider_but(old).await;
    writers.acknowledged_via(name(new), 20).await;
    world.proxies[old].start().await.unwrap();
    writers.acknowledged_via(name(old), 20).await;

    println!("frozen, and thawed when another decides");
    let old = world.decider().await;
    world.proxies[old].freeze().unwrap();
    let new = world.decider_but(old).await;
    writers.acknowledged_via(name(new), 20).await;
    world.proxies[old].thaw().unwrap();
    writers.acknowledged_via(name(old), 20).await;

    println!("cut off from the primary");
    let (old, primary) = (world.decider().await, world.primary().await);
    world.net.cut(world.host_of(old), primary).unwrap();
    let new = world.decider_but(old).await;
    // Longer than any lease that the one before had asked for.
    let until = Instant::now() + Duration::from_secs(9);
    while Instant::now() < until {
        writers.acknowledged_via(name(new), 20).await;
    }
    world.net.heal().unwrap();
    writers.acknowledged_via(name(old), 20).await;

    println!("cut off from etcd");
    let old = world.decider().await;
    world
        .net
        .cut(world.host_of(old), world.host_of_etcd())
        .unwrap();
    let cut = Instant::now();
    let new = world.decider_but(old).await;
    writers.acknowledged_via(name(new), 60).await;
    let healed = Instant::now();
    world.net.heal().unwrap();
    writers.acknowledged_via(name(old), 20).await;
    let blind = (name(old).to_owned(), cut + TTL, healed);

    println!("etcd restarted");
    let etcd = &world.etcd.as_ref().unwrap().members()[0];
    etcd.kill().unwrap();
    etcd.start().await.unwrap();
    for proxy in &world.proxies {
        writers.acknowledged_via(proxy.name(), 20).await;
    }
    world.settled().await;
    assert_eq!(world.timeline().await, 1, "nothing was promoted");

    let history = writers.end().await;
    let (via, from, to) = &blind;
    let routed = history.acknowledged_within(via, *from, *to);
    assert_eq!(routed, 0, "{via} wrote on without a look at the record");
    let found = history.check_rows(&world.rows().await);
    println!("{found}");
    found.assert_kept("deciders");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_decider_fails_together_with_the_primary() {
    if !go_on(this_test!("a_decider_fails_together_with_the_primary")) {
        return;
    }
    let world = World::start("together", 3, SETTINGS).await;
    let writers = write(&world.routes(), 1, 0);
    let name = |proxy: usize| world.proxies[proxy].name();
    let mut expected = 1;
    let mut blind = Vec::new();
    for fault in ["killed", "frozen", "cut off from etcd"] {
        world.settled().await;
        let (old, primary) = (world.decider().await, world.primary().await);
        let proxy = &world.proxies[old];
        match fault {
            "killed" => proxy.kill().unwrap(),
            "frozen" => proxy.freeze().unwrap(),
            _ => {
                let host = world.host_of(old);
                world.net.cut(host, world.host_of_etcd()).unwrap();
            }
        }
        let begun = Instant::now();
        world.node(primary).kill_postmaster().unwrap();
        let new = world.decider_but(old).await;
        writers.acknowledged_via(name(new), 40).await;
        println!("{fault}: written again after {:?}", begun.elapsed());
        let healed = Instant::now();
        match fault {
            "killed" => proxy.start().await.unwrap(),
            "frozen" => proxy.thaw().unwrap(),
            _ => {
                blind.push((name(old), begun + TTL, healed));
                world.net.heal().unwrap();
            }
        }
        writers.acknowledged_via(name(old), 20).await;
        world.settled().await;
        expected += 1;
        assert_eq!(world.timeline().await, expected, "{fault}: one promotion");
        // Whoever follows tells it as well, and whose decision it was.
        for proxy in 0..world.proxies.len() {
            becomes("every proxy tells of the promotion", async || {
                let status = world.status(proxy).await.unwrap_or_default();
                let events = status["events"].as_array().cloned().unwrap_or_default();
                let leads = format!("on timeline {expected}");
                events.iter().any(|event| {
                    let text = event["text"].as_str().unwrap_or_default();
                    text.contains(&leads) && event["by"].as_str().is_some_and(|by| !by.is_empty())
                })
            })
            .await;
        }
    }

    // Nobody can decide meanwhile, and nobody may write through a proxy.
    let etcd = &world.etcd.as_ref().unwrap().members()[0];
    etcd.freeze().unwrap();
    let frozen = Instant::now();
    tokio::time::sleep(3 * TTL).await;
    let thawed = Instant::now();
    etcd.thaw().unwrap();
    for proxy in &world.proxies {
        writers.acknowledged_via(proxy.name(), 20).await;
        blind.push((proxy.name(), frozen + TTL, thawed));
    }
    println!(
        "etcd frozen: written again {:?} after it was thawed",
        thawed.elapsed()
    );
    world.settled().await;
    assert!(
        world.timeline().await <= expected + 1,
        "one promotion at most"
    );

    let history = writers.end().await;
    for (via, from, to) in blind {
        let routed = history.acknowledged_within(via, from, to);
        assert_eq!(routed, 0, "{via} wrote on without a look at the record");
    }
    let found = history.check_rows(&world.rows().await);
    println!("{found}");
    found.assert_kept("together");
}
