//! What a server says to a user at login, with the settings that the client's startup packet asked for:
//! ParameterStatus, as the client is told it too.

use std::sync::Arc;
use std::time::Duration;

use super::refusal::Refusal;
use crate::backend::pool::{Lease, Pool};
use crate::backend::want::AcquireError;
use crate::client::attachment::routing::Places;
use crate::client::worker::{Greeting, Worker};
use crate::core::topology::{Incarnation, NodeId, NodeSet};
use crate::error::{Kind, Problem};

/// Greetings that are remembered; startup packets can ask for anything.
const MOST_GREETINGS: usize = 1_000;
/// For so long after its start the proxy looks for the primary before a standby may say hello, in
/// microseconds.
const FIRST_LOOK_US: u64 = 1_000_000;

/// ParameterStatus as the primary gives it, or any standby while there is no primary.
pub(super) async fn greeting(
    worker: &Worker,
    places: &mut Places,
    database: &Arc<str>,
    user: &Arc<str>,
) -> Result<Arc<[(String, String)]>, Refusal> {
    let common = &worker.common;
    let startup = Arc::clone(places.want().startup);
    let key = (Arc::clone(database), Arc::clone(user), startup);
    let (node, incarnation) = best_node(worker).await?;
    if let Some(known) = common.greetings.read().get(&key)
        && known.incarnation == incarnation
    {
        return Ok(Arc::clone(&known.parameters));
    }
    let Some(pool) = places.pool(common, node) else {
        return Err(Refusal::Silent);
    };
    let mut lease = acquire(worker, &pool, database, places).await?;
    let parameters: Arc<[_]> = lease
        .server()
        .parameters
        .iter()
        .map(|(name, value)| match name.as_str() {
            // Writes are possible here, whichever node said hello.
            "in_hot_standby" => (name.clone(), "off".to_owned()),
            _ => (name.clone(), value.clone()),
        })
        .collect();
    let greeting = Greeting {
        incarnation,
        parameters: Arc::clone(&parameters),
    };
    let mut greetings = common.greetings.write();
    if greetings.len() >= MOST_GREETINGS {
        greetings.clear();
    }
    greetings.insert(key, greeting);
    Ok(parameters)
}

async fn best_node(worker: &Worker) -> Result<(NodeId, Incarnation), Refusal> {
    let cluster = &worker.common.cluster;
    let find = || {
        let topology = cluster.topology();
        let mut standbys = topology
            .nodes
            .iter()
            .filter(|node| node.usable().is_some() && !node.drained);
        // At first the primary may just not have answered yet, and a standby may not know the
        // database yet.
        let any = || {
            standbys
                .next()
                .filter(|_| cluster.now_us() >= FIRST_LOOK_US)
        };
        let node = topology.primary().or_else(any)?;
        Some((node.id, node.usable()?.incarnation))
    };
    wait_for(worker, find).await.map_err(|waited| {
        let what = format!(
            "no node is available: waited {:.1} s for one",
            waited.as_secs_f64()
        );
        Refusal::Problem(Problem::fatal(Kind::CannotConnectNow, what))
    })
}

/// Waits until `find` finds something in the topology, for as long as statements wait for a primary; or
/// how long that was.
pub(super) async fn wait_for<T>(
    worker: &Worker,
    find: impl Fn() -> Option<T>,
) -> Result<T, Duration> {
    let cluster = &worker.common.cluster;
    let wait = async {
        loop {
            let changed = cluster.signal(NodeSet(u64::MAX));
            if let Some(found) = find() {
                return found;
            }
            changed.await;
        }
    };
    let bound = worker.common.rules.load().bounds.hold_timeout;
    tokio::time::timeout(bound, wait).await.map_err(|_| bound)
}

/// A server connection for a login, which a paused database holds up as it does statements.
async fn acquire(
    worker: &Worker,
    pool: &Arc<Pool>,
    database: &Arc<str>,
    places: &Places,
) -> Result<Lease, Refusal> {
    let pause = &worker.common.pause;
    loop {
        pause.opened(database).await;
        match pool.acquire(worker.index, places.want()).await {
            Ok(lease) if pause.is_open(database) => return Ok(lease),
            Ok(lease) => lease.discard(),
            Err(AcquireError::Paused { .. }) => {}
            Err(error) => return Err(refusal(error)),
        }
    }
}

pub(super) fn refusal(error: AcquireError) -> Refusal {
    use crate::backend::connect::ConnectError;
    match error {
        AcquireError::Connect(ConnectError::Refused { frame, .. }) => Refusal::Frame(frame),
        AcquireError::Exhausted { .. } => {
            Refusal::Problem(Problem::fatal(Kind::TooManyConnections, error.to_string()))
        }
        other => Refusal::Problem(Problem::fatal(Kind::CannotConnectNow, other.to_string())),
    }
}
