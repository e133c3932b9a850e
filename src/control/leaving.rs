//! Without failover nobody renews leases: agents that still wait for some are told so.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::agent::client::{AgentClient, AgentError};

/// Bound on one question.
const BOUND: Duration = Duration::from_secs(1);
/// Between attempts on an agent that does not answer, or whose lease somebody renews.
const PAUSE: Duration = Duration::from_secs(5);

/// Tells each agent, by its node's name, until it is told or `shutdown`.
pub async fn release_all(agents: Vec<(String, Arc<AgentClient>)>, shutdown: CancellationToken) {
    let mut all = JoinSet::new();
    for (node, agent) in agents {
        all.spawn(async move { release(&node, &agent).await });
    }
    tokio::select! {
        () = async { while all.join_next().await.is_some() {} } => {}
        () = shutdown.cancelled() => {}
    }
}

async fn release(node: &str, agent: &AgentClient) {
    let mut said = String::new();
    loop {
        let why = match attempt(agent).await {
            Ok(Found::Alone) => return,
            Ok(Found::Released) => {
                return tracing::info!(
                    node,
                    "there is no failover: its server needs no lease any more"
                );
            }
            Ok(Found::Renewed) => "another proxy renews its lease".to_owned(),
            Err(error) => error.to_string(),
        };
        if why != said {
            tracing::warn!(node, %why, "its agent cannot be told that there is no failover");
            said = why;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

enum Found {
    /// It waits for no lease.
    Alone,
    Released,
    /// Somebody else decides.
    Renewed,
}

async fn attempt(agent: &AgentClient) -> Result<Found, AgentError> {
    if !agent.status(BOUND).await?.governed {
        return Ok(Found::Alone);
    }
    if is_renewed(agent).await? {
        return Ok(Found::Renewed);
    }
    let epoch = agent.status(BOUND).await?.highest_epoch;
    agent.release(epoch, BOUND).await?;
    Ok(Found::Released)
}

/// Whether somebody renews the lease by which a server runs.
///
/// # Errors
///
/// The agent does not answer in time.
pub(super) async fn is_renewed(agent: &AgentClient) -> Result<bool, AgentError> {
    let Some(lease) = agent.status(BOUND).await?.lease else {
        return Ok(false);
    };
    if lease.prolonged {
        return Ok(false);
    }
    // Whoever renews does so in each quarter of a lease (core/failover/step.rs).
    tokio::time::sleep(Duration::from_millis(lease.remaining_ms / 3)).await;
    let after = agent.status(BOUND).await?.lease;
    // Agents that prolong it among themselves do not decide anything.
    Ok(after.is_some_and(|after| !after.prolonged && after.remaining_ms >= lease.remaining_ms))
}
