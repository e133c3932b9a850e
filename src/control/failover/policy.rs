//! The planner's policy, from the configuration.

use std::time::Duration;

use super::executor::LEASE_BOUND;
use crate::agent::api::FENCE_WITHIN_MS;
use crate::config::{self, Config, Coordination, Failover, FailoverMode, Fencing};
use crate::core::failover::FailoverPolicy;
use crate::core::failover::policy::{Durability, Mode, NodePolicy};
use crate::core::leader_lease::micros;

/// How long a switchover waits for the checkpoint that is made before it.
const CHECKPOINT: Duration = Duration::from_secs(300);
/// How long a switchover waits for running transactions.
const DRAIN: Duration = Duration::from_secs(10);
/// Bound on a clean stop, on a start, and on the candidate's catching up, each.
const STOP: Duration = Duration::from_secs(30);
/// How long a candidate that gets on with nothing is waited for while another could take its place.
const PROMOTE: Duration = Duration::from_secs(10);
/// A reloaded setting is in force in every server process after this.
const SETTLE: Duration = Duration::from_millis(200);

/// What the planner needs to know of the configuration.
pub fn policy(config: &Config, failover: &Failover) -> FailoverPolicy {
    let nodes = config.nodes.iter().map(|node| NodePolicy {
        name: node.name.clone(),
        zone: node.zone.clone(),
        promote_priority: node.promote_priority,
        agent: node.agent.is_some(),
    });
    FailoverPolicy {
        mode: match failover.mode {
            FailoverMode::Automatic => Mode::Automatic,
            FailoverMode::Manual => Mode::Manual,
            FailoverMode::Observe => Mode::Observe,
        },
        durability: match failover.durability {
            config::Durability::Async => Durability::Async {
                max_lost_bytes: failover.max_lost_bytes,
            },
            config::Durability::Quorum => Durability::Quorum { standbys: 1 },
        },
        timeout_us: micros(failover.timeout),
        lease_us: micros(failover.lease),
        // The agent's own bound for stopping its server, and two clocks that drift apart.
        margin_us: FENCE_WITHIN_MS * 1000 + micros(LEASE_BOUND) + micros(failover.lease) / 50,
        settle_us: micros(SETTLE),
        checkpoint_us: micros(CHECKPOINT),
        drain_us: micros(DRAIN),
        stop_us: micros(STOP),
        promote_us: micros(PROMOTE),
        routing_lease_us: match &failover.coordination {
            Coordination::File { .. } => 0,
            Coordination::Etcd(etcd) => micros(etcd.ttl),
        },
        fence_command: failover.fence_command.is_some(),
        rejoin_command: failover.rejoin_command.is_some(),
        unfenced_accepted: failover.fencing == Fencing::RoutingOnly,
        failsafe: failover.failsafe,
        zone: config.routing.zone.clone(),
        nodes: nodes.collect(),
    }
}
