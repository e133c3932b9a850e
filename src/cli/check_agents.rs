//! `causeway check --connect`, for agents: which of them stop a primary that has no lease.

use std::time::Duration;

use crate::agent::api::Status;
use crate::agent::client::AgentClient;
use crate::config::{Config, FailoverMode};

/// Bound on one question.
const BOUND: Duration = Duration::from_secs(2);

/// One line for each agent.
pub(super) async fn lines(config: &Config) -> Vec<String> {
    let Some(agents) = &config.agents else {
        return Vec::new();
    };
    let failover = config.failover.as_ref();
    let renews = failover.is_some_and(|failover| failover.mode != FailoverMode::Observe);
    let mut lines = Vec::new();
    let mut cluster: Option<String> = None;
    for node in &config.nodes {
        let Some(url) = &node.agent else { continue };
        let said = match AgentClient::new(url, agents) {
            Ok(agent) => match agent.of(&node.name).status(BOUND).await {
                Ok(status) => {
                    let cluster = cluster.get_or_insert_with(|| {
                        status.system_identifier.clone().unwrap_or_default()
                    });
                    match &status.system_identifier {
                        Some(system) if !cluster.is_empty() && system != cluster => format!(
                            "its server is of another cluster than those above: its system identifier is \
                             {system}, theirs {cluster}"
                        ),
                        _ => describe(&status, renews),
                    }
                }
                Err(error) => error.to_string(),
            },
            Err(error) => error.to_string(),
        };
        lines.push(format!("agent of {}: {said}", node.name));
    }
    lines
}

fn describe(status: &Status, renews: bool) -> String {
    let rule = match (&status.lease, status.governed) {
        (Some(lease), _) => {
            let by = match lease.prolonged {
                true => ", by what other agents promise, for no proxy renews it",
                false => "",
            };
            format!(
                "its server may run as a primary under the lease of epoch {}, for {} ms{by}",
                lease.epoch, lease.remaining_ms
            )
        }
        (None, true) => {
            "its server is stopped if it runs as a primary: no lease is in force".to_owned()
        }
        (None, false) => "its server is left alone".to_owned(),
    };
    let failsafe = match &status.failsafe {
        None => Some("it is of an older version".to_owned()),
        Some(told) => told.unable.clone().or_else(|| {
            let trouble = &told.trouble;
            (!trouble.is_empty()).then(|| trouble.clone())
        }),
    };
    let rule = match failsafe {
        Some(why) => format!("{rule}; without a proxy its lease would end: {why}"),
        None => rule,
    };
    match status.governed && !renews {
        true => format!(
            "{rule}; by this configuration nobody renews leases: `causeway serve` tells the agent so when \
             it starts"
        ),
        false => rule,
    }
}
