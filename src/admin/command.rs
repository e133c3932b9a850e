//! Carrying out an operator's order, however it was given.

use std::time::Duration;

use super::State;
use crate::core::failover::record::RequestKind;
use crate::core::topology::NodeId;
use crate::shared::operator::commands::{Commands, Outcome};

/// Longest wait for the end of an order: longer than a switchover lasts whose checkpoint, and then its
/// transactions, its clean stop and the rest, take as long as they may.
const PATIENCE: Duration = Duration::from_secs(420);
/// Longest wait for an order to be taken up: what decides does that at once, or refuses it.
const UNHEARD: Duration = Duration::from_secs(10);

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
    let given = Given(&state.operator.commands, order.id);
    if let Ok(outcome) = tokio::time::timeout(UNHEARD, given.outcome()).await {
        return stall(outcome);
    }
    if given.withdraw() {
        let why = &state.operator.status.get().why;
        return Err(Refused::Not(format!(
            "not begun within {UNHEARD:?}, and withdrawn; {why}"
        )));
    }
    match tokio::time::timeout(PATIENCE, given.outcome()).await {
        Ok(outcome) => stall(outcome),
        Err(_) => Err(Refused::TooLong),
    }
}

fn stall(outcome: Outcome) -> Result<Duration, Refused> {
    match outcome {
        Outcome::Done { stall } => Ok(stall),
        Outcome::Refused(why) => Err(Refused::Not(why)),
    }
}

/// An order that is waited for. When its giver is gone before anybody has begun it, it is withdrawn.
struct Given<'a>(&'a Commands, u64);

impl Given<'_> {
    async fn outcome(&self) -> Outcome {
        self.0.outcome(self.1).await
    }

    fn withdraw(&self) -> bool {
        self.0.withdraw(self.1)
    }
}

impl Drop for Given<'_> {
    fn drop(&mut self) {
        self.withdraw();
    }
}
