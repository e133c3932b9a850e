//! Carrying out an operator's order, however it was given.

use std::time::Duration;

use super::State;
use crate::core::failover::record::RequestKind;
use crate::core::topology::NodeId;
use crate::shared::operator::commands::Outcome;

/// Longest wait for the end of an order: longer than a switchover lasts whose checkpoint, and then its
/// transactions, its clean stop and the rest, take as long as they may.
const PATIENCE: Duration = Duration::from_secs(420);

/// Why an order was not carried out, or not yet.
#[derive(Debug)]
pub(super) enum Refused {
    /// Nobody here could carry it out.
    NoFailover,
    /// There is no node of that name.
    NoSuchNode(String),
    /// Another one is being worked on.
    Busy(RequestKind),
    /// The controller says why not.
    Not(String),
    /// It goes on.
    TooLong,
}

impl Refused {
    /// In words.
    pub(super) fn text(&self) -> String {
        match self {
            Self::NoFailover => "there is no failover section in the configuration".to_owned(),
            Self::NoSuchNode(name) => format!("there is no node {name}"),
            Self::Busy(kind) => format!("another order is being worked on: {kind:?}"),
            Self::Not(why) => why.clone(),
            Self::TooLong => {
                format!("not done within {PATIENCE:?}; the status tells how it stands")
            }
        }
    }
}

/// Gives an order and waits for its end; `from` says in the log who gave it. Returns for how long
/// statements were held.
pub(super) async fn carry_out(
    state: &State,
    kind: RequestKind,
    to: Option<&str>,
    from: &str,
) -> Result<Duration, Refused> {
    if state.operator.status.get().mode.is_empty() {
        return Err(Refused::NoFailover);
    }
    let find = |name: &str| {
        let index = state
            .live
            .load()
            .nodes
            .iter()
            .position(|node| node.name == name);
        let id = index.map(|index| NodeId(index as u16));
        id.ok_or_else(|| Refused::NoSuchNode(name.to_owned()))
    };
    let node = to.map(find).transpose()?;
    let ordered = state.operator.commands.submit(kind, node);
    let order = ordered.map_err(|other| Refused::Busy(other.kind))?;
    tracing::info!(?kind, to, from, "order");
    match tokio::time::timeout(PATIENCE, state.operator.commands.outcome(order.id)).await {
        Ok(Outcome::Done { stall }) => Ok(stall),
        Ok(Outcome::Refused(why)) => Err(Refused::Not(why)),
        Err(_) => Err(Refused::TooLong),
    }
}
