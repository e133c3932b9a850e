//! A switchover under several proxies: ordered where it is decided, and no client sees an error.

use std::time::Instant;

use super::world::{World, go_on, write};
use crate::support::{becomes, this_test};

#[tokio::test(flavor = "multi_thread")]
async fn a_switchover_waits_for_transactions_of_every_proxy() {
    if !go_on(this_test!(
        "a_switchover_waits_for_transactions_of_every_proxy"
    )) {
        return;
    }
    let world = World::start("orders", 3, "timeout: 3s\nlease: 8s").await;
    let routes = world.routes();
    let through_proxies: Vec<_> = routes
        .iter()
        .filter(|route| !route.direct)
        .cloned()
        .collect();
    let writers = write(&through_proxies, 3, 0);
    let decider = world.decider().await;
    let follower = (decider + 1) % world.proxies.len();

    let order = world.proxies[follower].ask("POST", "/api/switchover");
    let (status, said) = order.await.unwrap();
    let leader = world.proxies[decider].address().to_string();
    assert_eq!(status, 409, "{said}");
    assert!(said.contains(&leader), "the decider's address in: {said}");

    let before = world.primary().await;
    let login = world.cluster.application();
    let url = world.proxies[follower].url(login);
    let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls)
        .await
        .unwrap();
    tokio::spawn(connection);
    client
        .batch_execute("BEGIN; INSERT INTO history VALUES (-1, 1)")
        .await
        .unwrap();

    let begun = Instant::now();
    let ordering = world.proxies[decider].ask("POST", "/api/switchover");
    let ending = async {
        becomes("the switchover waits for the transaction", async || {
            let status = world.heard(decider).await;
            let why = status["failover"]["why"]
                .as_str()
                .unwrap_or_default()
                .to_owned();
            why.contains("waiting for 1 transactions")
        })
        .await;
        becomes("every proxy has heard of it", async || {
            for proxy in 0..world.proxies.len() {
                let status = world.status(proxy).await.unwrap_or_default();
                if status["failover"]["phase"] != "draining" {
                    return false;
                }
            }
            true
        })
        .await;
        let status = world.heard(decider).await;
        assert_eq!(status["failover"]["phase"], "draining", "{status:#}");
        client
            .batch_execute("INSERT INTO history VALUES (-1, 2); COMMIT")
            .await
    };
    let (answer, ended) = tokio::join!(ordering, ending);
    ended.expect("a transaction that was open ends well");
    let (status, said) = answer.unwrap();
    assert_eq!(status, 200, "{said}");
    println!("{said}");
    becomes("another leads", async || world.primary().await != before).await;

    for proxy in &world.proxies {
        writers.acknowledged_via(proxy.name(), 20).await;
    }
    world.settled().await;
    let history = writers.end().await;
    println!("longest gap {:?}", history.longest_gap_since(begun));
    assert_eq!(
        history.failures(),
        Vec::<String>::new(),
        "no client sees an error"
    );
    let found = history.check_rows(&world.rows().await);
    println!("{found}");
    found.assert_kept("switchover");
}
