//! Three proxies and etcd: that all of them are gone stops no server, while the servers see each other.

use std::time::Duration;

use super::world::{World, go_on};
use crate::agent::support::takes_writes;
use crate::support::{becomes, goes_on_for, this_test};

const SETTINGS: &str = "timeout: 2s\nlease: 4s";
/// Several leases, and what agents and proxies add to one.
const LONG: Duration = Duration::from_secs(12);

#[tokio::test(flavor = "multi_thread")]
async fn without_etcd_and_without_proxies_nothing_stops_but_a_primary_that_sees_nobody() {
    if !go_on(this_test!(
        "without_etcd_and_without_proxies_nothing_stops_but_a_primary_that_sees_nobody"
    )) {
        return;
    }
    let world = World::start("failsafe", 3, SETTINGS).await;
    let primary = world.primary().await;
    let node = world.node(primary);
    node.execute("CREATE TABLE t (id int)").await.unwrap();
    let postmasters = || async {
        let nodes = world.cluster.nodes().iter();
        nodes.map(|node| node.pid()).collect::<Vec<_>>()
    };
    let before = postmasters().await;
    let lasts = async |what: &str| {
        goes_on_for(LONG, async || {
            assert!(takes_writes(node).await, "{what}");
            assert_eq!(postmasters().await, before, "{what}");
        })
        .await;
    };

    let etcd = &world.etcd.as_ref().unwrap().members()[0];
    etcd.freeze().unwrap();
    lasts("etcd stands still").await;
    etcd.thaw().unwrap();
    world.settled().await;

    for proxy in 0..world.proxies.len() {
        for node in 0..world.cluster.nodes().len() {
            world.net.cut(node, world.host_of(proxy)).unwrap();
        }
    }
    lasts("the network between proxies and servers is cut").await;
    world.net.heal().unwrap();
    world.settled().await;

    for proxy in &world.proxies {
        proxy.kill().unwrap();
    }
    lasts("all proxies are killed").await;
    for proxy in &world.proxies {
        proxy.start().await.unwrap();
    }
    world.settled().await;
    assert_eq!(world.timeline().await, 1, "nothing was promoted");
    assert_eq!(postmasters().await, before);

    for proxy in &world.proxies {
        proxy.kill().unwrap();
    }
    world.net.isolate(primary).unwrap();
    becomes("who sees nobody stops", async || node.pid().is_none()).await;
}
