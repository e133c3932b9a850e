//! What code that a statement runs does beside what the statement says.

use std::sync::Arc;

use crate::core::statement::Opaque;

/// What code does beside what its statement says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Conduct {
    /// It may change its session, in ways that have to be asked for.
    pub opaque: Option<Arc<Opaque>>,
    /// It speaks of the server that runs it, or of what standbys do not have.
    pub of_node: bool,
    /// It draws numbers from sequences.
    pub draws: bool,
    /// It asks which number was drawn last.
    pub asks: bool,
    /// It asks what its session listens to.
    pub asks_channels: bool,
    /// It sends notifications.
    pub notifies: bool,
    /// It changes definitions.
    pub defines: bool,
    /// It speaks of prepared statements by their names in SQL.
    pub names: bool,
    /// It runs SQL of which parts are made up at run time.
    pub makes_up: bool,
}

impl Conduct {
    /// Of code that nobody has seen.
    pub(super) fn unknown() -> Self {
        Self {
            opaque: Some(Arc::default()),
            ..Self::default()
        }
    }

    pub(super) fn merge_opaque(&mut self, opaque: &Arc<Opaque>) {
        match &mut self.opaque {
            Some(known) if known == opaque => {}
            Some(known) => *known = Arc::new(merged(known, opaque)),
            none => *none = Some(Arc::clone(opaque)),
        }
    }

    /// Adds what other code does. Whether that was news.
    pub(super) fn merge(&mut self, other: &Self) -> bool {
        let before = self.clone();
        if let Some(opaque) = &other.opaque {
            self.merge_opaque(opaque);
        }
        self.of_node |= other.of_node;
        self.draws |= other.draws;
        self.asks |= other.asks;
        self.asks_channels |= other.asks_channels;
        self.notifies |= other.notifies;
        self.defines |= other.defines;
        self.names |= other.names;
        self.makes_up |= other.makes_up;
        *self != before
    }
}

/// What is known of two pieces of code that both run.
pub(super) fn merged(one: &Opaque, other: &Opaque) -> Opaque {
    let mut names = one.names.to_vec();
    for name in &other.names {
        if !names.contains(name) {
            names.push(name.clone());
        }
    }
    let mut parameters = one.parameters.to_vec();
    parameters.extend(&other.parameters);
    parameters.sort_unstable();
    parameters.dedup();
    Opaque {
        names: names.into(),
        any_name: one.any_name || other.any_name,
        parameters: parameters.into(),
    }
}
