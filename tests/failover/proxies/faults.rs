//! What can go wrong, chosen by a seed, done, and undone.

use std::time::Duration;

use rand::RngExt;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;

use super::world::{NODES, World};

/// One thing that goes wrong. Whom it concerns is told by its part at that moment.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fault {
    KillPostmaster,
    KillPrimary,
    FreezePrimary,
    FreezePrimaryAndAgent,
    IsolatePrimary,
    CutPrimaryFromProxies,
    /// The standby of that place after the primary receives nothing for a while, then the primary dies.
    LagThenKill(usize),
    KillStandby(usize),
    FreezeStandby(usize),
    CutStandby(usize),
    KillPrimarysAgent,
    FreezePrimarysAgent,
    KillDecider,
    FreezeDecider,
    CutDeciderFromEtcd,
    CutDeciderFromPrimary,
    /// The primary dies, and the deciding proxy as soon as it is seen at work.
    KillPrimaryThenDecider,
    RestartEtcd,
    FreezeEtcd,
}

use Fault::*;

const ALL: &[Fault] = &[
    KillPostmaster,
    KillPrimary,
    FreezePrimary,
    FreezePrimaryAndAgent,
    IsolatePrimary,
    CutPrimaryFromProxies,
    LagThenKill(1),
    LagThenKill(2),
    KillStandby(1),
    KillStandby(2),
    FreezeStandby(1),
    CutStandby(2),
    KillPrimarysAgent,
    FreezePrimarysAgent,
    KillDecider,
    FreezeDecider,
    CutDeciderFromPrimary,
    KillPrimaryThenDecider,
    KillPrimaryThenDecider,
    KillPrimaryThenDecider,
    CutDeciderFromEtcd,
    RestartEtcd,
    FreezeEtcd,
];

/// What happens in one run: each with the milliseconds that pass before it, and at last how many pass
/// before all is healed.
#[derive(Debug)]
pub(crate) struct Script {
    pub(crate) steps: Vec<(u64, Fault)>,
    pub(crate) rest_ms: u64,
}

impl Script {
    /// The script of a seed.
    pub(crate) fn choose(dice: &mut StdRng) -> Self {
        let count = *[1, 1, 2, 2, 3].choose(dice).unwrap();
        let steps = (0..count).map(|_| (dice.random_range(20..1500), *ALL.choose(dice).unwrap()));
        Self {
            steps: steps.collect(),
            rest_ms: dice.random_range(500..7000),
        }
    }
}

impl Fault {
    /// Does it. What is down already cannot fall: errors are of no interest.
    pub(crate) async fn happen(self, world: &World, dice: &mut StdRng) {
        // With the only proxy down nobody says who leads: then it is the first server's turn.
        let known = tokio::time::timeout(Duration::from_secs(2), world.primary());
        let primary = known.await.unwrap_or(0);
        let node = world.node(primary);
        let agent = node.agent().unwrap();
        let decider = world.decider_now().await.unwrap_or(0);
        let standby = |place: usize| (primary + place) % NODES;
        let wait = |ms| tokio::time::sleep(Duration::from_millis(ms));
        match self {
            KillPostmaster => drop(node.kill_postmaster()),
            KillPrimary => drop(node.kill()),
            FreezePrimary => drop(node.freeze()),
            FreezePrimaryAndAgent => {
                let _ = agent.freeze();
                let _ = node.freeze();
            }
            IsolatePrimary => world.net.isolate(primary).unwrap(),
            CutPrimaryFromProxies => {
                for proxy in 0..world.proxies.len() {
                    world.net.cut(primary, world.host_of(proxy)).unwrap();
                }
            }
            LagThenKill(place) => {
                world.net.cut(primary, standby(place)).unwrap();
                wait(dice.random_range(50..400)).await;
                let _ = node.kill();
                // What is on its way no longer arrives.
                world.net.heal().unwrap();
            }
            KillStandby(place) => drop(world.node(standby(place)).kill()),
            FreezeStandby(place) => drop(world.node(standby(place)).freeze()),
            CutStandby(place) => world.net.cut(primary, standby(place)).unwrap(),
            KillPrimarysAgent => drop(agent.kill()),
            FreezePrimarysAgent => drop(agent.freeze()),
            KillDecider => drop(world.proxies[decider].kill()),
            FreezeDecider => drop(world.proxies[decider].freeze()),
            CutDeciderFromEtcd => {
                let etcd = world.host_of_etcd();
                world.net.cut(world.host_of(decider), etcd).unwrap();
            }
            CutDeciderFromPrimary => world.net.cut(world.host_of(decider), primary).unwrap(),
            KillPrimaryThenDecider => {
                let _ = node.kill_postmaster();
                // Any phase, by chance: a whole promotion takes some tenths of a second.
                wait(dice.random_range(0..500)).await;
                let _ = world.proxies[decider].kill();
            }
            RestartEtcd => {
                if let Some(etcd) = &world.etcd {
                    etcd.members()[0].kill().unwrap();
                    etcd.members()[0].start().await.unwrap();
                }
            }
            FreezeEtcd => {
                if let Some(etcd) = &world.etcd {
                    let _ = etcd.members()[0].freeze();
                }
            }
        }
    }
}

/// Undoes all: everything runs and reaches everything.
pub(crate) async fn heal(world: &World) {
    world.net.heal().unwrap();
    if let Some(etcd) = &world.etcd {
        let _ = etcd.members()[0].thaw();
    }
    for proxy in &world.proxies {
        let _ = proxy.thaw();
        proxy.start().await.unwrap();
    }
    for node in world.cluster.nodes() {
        let agent = node.agent().unwrap();
        let _ = agent.thaw();
        let _ = node.thaw();
        agent.start().await.unwrap();
        // A standby that died is started again by whoever looks after the machine; one that led is the
        // business of its agent.
        if node.pid().is_none() && node.data().join("standby.signal").exists() {
            let _ = node.start().await;
        }
    }
}
