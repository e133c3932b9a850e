//! A failed primary is replaced, and clients stay connected: real servers, real agents, real clients,
//! and a history of every write that is checked when the dust has settled.

mod blocked;
mod clients;
mod crowded;
mod failsafe;
mod halted;
mod hung;
mod kept;
mod kept_clients;
mod killed;
mod leaving;
mod listening;
mod locked;
mod lost;
mod observe;
mod queued;
mod record;
mod replication;
mod resolve;
mod resume;
mod rotated;
mod rule;
mod slots;
mod slow;
mod snares;
mod strangers;
mod stuck;
mod swapped;
mod switchover;
mod tls;

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use pgcauseway::rig::{Cluster, Node};

use crate::support::history::writers::TABLE;
use crate::support::history::{Fate, History, Route, Writers};
use crate::support::status::{leader, settled};
use crate::support::{PROGRAM, Proxy, block_on, connect};

/// Between the writes of one session.
const PACE: Duration = Duration::from_millis(10);

/// A busy machine is not a failed node: nothing fails here.
const CALM: &str = "timeout: 4s\nlease: 4s";

/// A cluster with an agent beside each server.
fn cluster(name: &str) -> Cluster {
    block_on(Cluster::builder(name).agents(PROGRAM).start()).unwrap()
}

/// A proxy that replaces the primary, with more keys of its section.
fn proxy(cluster: &Cluster, more: &str) -> Proxy {
    let yaml = format!("{}{}", cluster.yaml(), cluster.failover_yaml(more));
    let proxy = Proxy::with_yaml(cluster, &yaml);
    settled(proxy.http);
    proxy
}

/// Starts so many sessions that write through a proxy, every other one in a block.
fn writers(url: &str, sessions: i32) -> Writers {
    block_on(async { connect(url).await.batch_execute(TABLE).await }).unwrap();
    let route = Route {
        blocks: true,
        ..Route::through("proxy", url, PACE)
    };
    Writers::start((0..sessions).map(|session| (session, route.clone())))
}

/// Starts sessions of these numbers that write to a server past the proxy.
fn directly(node: &Node, cluster: &Cluster, sessions: Range<i32>) -> Writers {
    let route = Route {
        blocks: true,
        ..Route::directly(node.name(), &node.url(cluster.application()), PACE)
    };
    Writers::start(sessions.map(|session| (session, route.clone())))
}

/// The node that leads.
fn leading<'a>(cluster: &'a Cluster, proxy: &Proxy) -> &'a Arc<Node> {
    named(cluster, &leader(proxy.http))
}

fn named<'a>(cluster: &'a Cluster, name: &str) -> &'a Arc<Node> {
    let mut nodes = cluster.nodes().iter();
    nodes.find(|node| node.name() == name).unwrap()
}

/// Nothing acknowledged is lost, what was refused did not happen, and every session lived on.
fn assert_whole(history: &History, url: &str) {
    let found = history.check(url);
    println!("{found}");
    assert_eq!(found.lost.len(), 0, "{found}");
    assert_eq!(found.came_true.len(), 0, "{found}");
    assert_eq!(history.count(Fate::Disconnected), 0, "{found}");
    assert_eq!(history.count(Fate::Other), 0, "{found}");
}

/// How many rounds of something are run: a few, or what `CAUSEWAY_TEST_ROUNDS` says.
fn rounds(few: usize) -> usize {
    let many = std::env::var("CAUSEWAY_TEST_ROUNDS").ok();
    many.and_then(|text| text.parse().ok()).unwrap_or(few)
}
