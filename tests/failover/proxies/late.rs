//! A proxy that hears late of a switchover: its clients' transactions go on, and the primary is not stopped under
//! them.

use std::path::Path;
use std::time::Duration;

use super::world::{World, go_on, write};
use crate::support::history::Route;
use crate::support::{PROGRAM, becomes, this_test};

/// Long enough for a proxy that is cut off from etcd for a while to go on meanwhile.
const TTL: Duration = Duration::from_secs(25);

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_is_not_stopped_before_every_proxy_has_heard_of_it() {
    if !go_on(this_test!(
        "a_primary_is_not_stopped_before_every_proxy_has_heard_of_it"
    )) {
        return;
    }
    let settings = "timeout: 3s\nlease: 60s";
    let world = World::start_with(Path::new(PROGRAM), "late", 2, settings, TTL).await;
    let decider = world.decider().await;
    let late = 1 - decider;
    let via = world.proxies[late].name();
    let routes: Vec<Route> = world.routes();
    let routes: Vec<Route> = routes.into_iter().filter(|r| r.via == via).collect();
    let writers = write(&routes, 4, 0);
    writers.acknowledged_via(via, 20).await;
    let before = world.primary().await;

    world
        .net
        .cut(world.host_of_etcd(), world.host_of(late))
        .unwrap();
    let order = || world.proxies[decider].ask("POST", "/api/switchover");
    let ordered = order();
    let meanwhile = async {
        becomes("transactions are to end", async || {
            let status = world.heard(decider).await;
            status["failover"]["phase"] == "draining"
        })
        .await;
        writers.acknowledged_via(via, 50).await;
        world.net.heal().unwrap();
    };
    let (answer, ()) = tokio::join!(ordered, meanwhile);
    let (mut code, mut said) = answer.unwrap();
    // On a machine that is too busy it was called off, as nobody may notice either.
    while said.contains("still open") || said.contains("is not complete") {
        (code, said) = order().await.unwrap();
    }
    assert_eq!(code, 200, "{said}");
    println!("{said}");
    world.settled().await;
    assert_ne!(world.primary().await, before);
    writers.acknowledged_via(via, 20).await;
    let history = writers.end().await;
    let found = history.check_rows(&world.rows().await);
    println!("{found}");
    assert_eq!(found.acknowledged, found.writes, "{found}");
    assert!(found.lost.is_empty(), "{found}");
}
