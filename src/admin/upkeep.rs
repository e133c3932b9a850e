//! Upkeep by an operator's word, however it was given: reload, pause and resume, drain and undrain.

use std::time::Duration;

use super::sources::Sources;
use crate::core::topology::{NodeId, NodeView};
use crate::shared::maintenance::{NotReloaded, Reloaded};
use crate::shared::pause::Pause;

/// Longest wait of a PAUSE for connections to be given back.
const PATIENCE: Duration = Duration::from_secs(120);
/// How often they are counted meanwhile.
const COUNT: Duration = Duration::from_millis(20);

/// Why something was not done.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// There is no node of that name.
    NoSuchNode(String),
    /// A drain is for standbys.
    IsPrimary(String),
    /// Paused already, or not paused.
    Not(String),
    /// Connections in use were not given back in time; clients go on.
    TooLong(usize),
}

impl Refused {
    /// In words.
    pub(super) fn text(&self) -> String {
        match self {
            Self::NoSuchNode(name) => format!("there is no node {name}"),
            Self::IsPrimary(name) => {
                format!("{name} is the primary: only a standby can be drained")
            }
            Self::Not(why) => why.clone(),
            Self::TooLong(left) => format!(
                "{left} server connections were still in use after {} s; clients go on",
                PATIENCE.as_secs()
            ),
        }
    }

    /// What to do.
    pub(super) fn hint(&self) -> Option<&'static str> {
        match self {
            Self::IsPrimary(_) => Some("SWITCHOVER hands its role over first."),
            Self::TooLong(_) => Some("SHOW SERVERS tells where; transactions may stay open."),
            Self::NoSuchNode(_) | Self::Not(_) => None,
        }
    }
}

/// How far a drain has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub(super) struct Drain {
    /// `draining` while there are connections, then `drained`.
    pub(super) state: &'static str,
    /// Server connections that are left.
    pub(super) connections: usize,
}

/// How far the drain of a node has come, if it is drained.
pub(super) fn drain_of(state: &Sources, view: &NodeView) -> Option<Drain> {
    view.is_drained().then(|| {
        let connections = state.maintenance.open_on(view.id);
        let state = if connections == 0 {
            "drained"
        } else {
            "draining"
        };
        Drain { state, connections }
    })
}

/// Keeps new reads from a standby and closes its idle connections, or, with `on` false, lets it have
/// reads again. To ask for what is so already is no fault.
pub(super) fn drain(
    state: &Sources,
    name: &str,
    on: bool,
    from: &str,
) -> Result<Option<Drain>, Refused> {
    let unknown = || Refused::NoSuchNode(name.to_owned());
    let topology = state.cluster.topology();
    let node = topology.nodes.iter().find(|node| *node.name == *name);
    let node = node.ok_or_else(unknown)?;
    let (id, before) = (node.id, node.drained);
    if on && node.as_primary().is_some() {
        return Err(Refused::IsPrimary(name.to_owned()));
    }
    if before != on {
        state.cluster.publish(id, |node| node.drained = on);
        let drained = &state.metrics.nodes.drained;
        drained.with_label_values(&[name]).set(i64::from(on));
        tracing::info!(
            node = name,
            from,
            "{}",
            if on { "drain" } else { "undrain" }
        );
        let (kind, text) = match on {
            true => ("drained", format!("{name} takes no new reads (DRAIN)")),
            false => ("undrained", format!("{name} takes reads again (UNDRAIN)")),
        };
        state.operator.events.tell(kind, text);
    }
    state.maintenance.tidy();
    Ok(look(state, id))
}

fn look(state: &Sources, id: NodeId) -> Option<Drain> {
    let topology = state.cluster.topology();
    topology.node(id).and_then(|view| drain_of(state, view))
}

/// Reads the configuration again.
pub(super) async fn reload(state: &Sources, from: &str) -> Result<Reloaded, NotReloaded> {
    state.maintenance.reload(from).await
}

/// Lets the clients of a database, or all, wait with their next transaction, and waits until no server
/// connection of theirs is left. Dropped before, it is taken back.
pub(super) async fn pause(
    state: &Sources,
    database: Option<&str>,
    from: &str,
) -> Result<(), Refused> {
    let whom = whom(database);
    if !state.pause.close(database) {
        return Err(Refused::Not(format!("{whom} paused already")));
    }
    tracing::info!(database, from, "pause");
    let mut undo = Undo {
        pause: Some(&state.pause),
        database,
    };
    let until = tokio::time::Instant::now() + PATIENCE;
    loop {
        if !state.pause.is_closed_by(database) {
            undo.pause = None;
            return Err(Refused::Not("RESUME took the pause back".to_owned()));
        }
        let left = state.maintenance.close_idle(database);
        if left == 0 {
            break;
        }
        if tokio::time::Instant::now() >= until {
            return Err(Refused::TooLong(left));
        }
        tokio::time::sleep(COUNT).await;
    }
    undo.pause = None;
    state
        .operator
        .events
        .tell("paused", format!("{whom} paused (PAUSE)"));
    Ok(())
}

/// Lets them go on.
pub(super) fn resume(state: &Sources, database: Option<&str>, from: &str) -> Result<(), Refused> {
    let whom = whom(database);
    if !state.pause.open(database) {
        return Err(Refused::Not(format!("{whom} not paused")));
    }
    tracing::info!(database, from, "resume");
    state
        .operator
        .events
        .tell("resumed", format!("{whom} paused no longer (RESUME)"));
    Ok(())
}

fn whom(database: Option<&str>) -> String {
    match database {
        Some(name) => format!("database \"{name}\" is"),
        None => "clients are".to_owned(),
    }
}

/// Takes a PAUSE back unless the pause came to its end.
struct Undo<'a> {
    pause: Option<&'a Pause>,
    database: Option<&'a str>,
}

impl Drop for Undo<'_> {
    fn drop(&mut self) {
        let Some(pause) = self.pause else { return };
        match self.database {
            Some(_) => drop(pause.open(self.database)),
            None => pause.open_all_only(),
        }
        tracing::info!(database = self.database, "the pause was taken back");
    }
}
