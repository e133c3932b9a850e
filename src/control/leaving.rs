//! Without failover nobody renews leases: agents that still wait for some are told so.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::agent_client::{AgentClient, AgentError};

/// Bound on one question.
const BOUND: Duration = Duration::from_secs(1);
/// Whoever renews a lease does so within this.
const LOOK: Duration = Duration::from_secs(1);
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
    let before = agent.status(BOUND).await?;
    if !before.governed {
        return Ok(Found::Alone);
    }
    let mut epoch = before.highest_epoch;
    if let Some(lease) = before.lease {
        tokio::time::sleep(LOOK.min(Duration::from_millis(lease.remaining_ms / 3))).await;
        let after = agent.status(BOUND).await?;
        epoch = after.highest_epoch;
        if after
            .lease
            .is_some_and(|after| after.remaining_ms >= lease.remaining_ms)
        {
            return Ok(Found::Renewed);
        }
    }
    agent.release(epoch, BOUND).await?;
    Ok(Found::Released)
}
