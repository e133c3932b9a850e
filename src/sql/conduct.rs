//! What code that a statement runs does beside what the statement says.

use std::sync::Arc;

use crate::core::plans::Constants;
use crate::core::statement::Opaque;

use super::work;

/// So many settings, or parameters that name some, are told apart; with more, any name may be set.
pub(super) const MOST_NAMES: usize = 256;

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
    /// It leaves in the server process what only that process's end takes away.
    pub stays: bool,
    /// It chooses which numbers `random` gives.
    pub seeds: bool,
    /// It is code of users, or runs some, that is not known to leave its session alone.
    pub code: bool,
    /// It may set, if only for its transaction, a setting that it does not name, or `synchronous_commit`.
    pub sets_unnamed: bool,
    /// It makes settings for its transaction by which texts may be read; what it leaves behind is said above.
    pub sets_within: bool,
    /// By what constants are read in the plans that it leaves.
    pub settled: Constants,
}

impl Conduct {
    /// Of code that nobody has seen.
    pub(super) fn unknown() -> Self {
        Self {
            opaque: Some(Arc::default()),
            code: true,
            sets_unnamed: true,
            settled: Constants::ByAnything,
            ..Self::default()
        }
    }

    /// Of code that is written down somewhere and was not read.
    pub(super) fn unread() -> Self {
        Self {
            opaque: Some(Arc::new(any_name())),
            ..Self::unknown()
        }
    }

    /// The same for whoever may or may not have meant it: a name that it makes up keeps nobody on a
    /// connection.
    pub(super) fn by_chance(&self) -> Self {
        let mut conduct = self.clone();
        if let Some(opaque) = conduct.opaque.as_mut().filter(|opaque| opaque.any_name) {
            Arc::make_mut(opaque).any_name = false;
        }
        (conduct.stays, conduct.seeds) = (false, false);
        conduct
    }

    pub(super) fn merge_opaque(&mut self, opaque: &Arc<Opaque>) {
        match &mut self.opaque {
            Some(known) => {
                merge(known, opaque);
            }
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
        self.stays |= other.stays;
        self.seeds |= other.seeds;
        self.code |= other.code;
        self.sets_unnamed |= other.sets_unnamed;
        self.sets_within |= other.sets_within;
        self.settled = self.settled.max(other.settled);
        *self != before
    }
}

/// Adds what is known of another piece of code that runs too. Whether that was news.
pub(super) fn merge(known: &mut Arc<Opaque>, other: &Arc<Opaque>) -> bool {
    let news = !Arc::ptr_eq(known, other) && !covers(known, other);
    if news {
        *known = Arc::new(merged(known, other));
    }
    news
}

/// What may set whatever it likes.
pub(super) fn any_name() -> Opaque {
    Opaque {
        any_name: true,
        ..Opaque::default()
    }
}

/// Whether `known`, which was merged, says all that `other` says.
fn covers(known: &Opaque, other: &Opaque) -> bool {
    work::took(other.names.len() + other.parameters.len());
    let any = known.any_name;
    let full = |length: usize| any && length >= MOST_NAMES;
    (any || !other.any_name)
        && (full(known.names.len()) || other.names.iter().all(|name| has(&known.names, name)))
        && (full(known.parameters.len())
            || other
                .parameters
                .iter()
                .all(|number| has(&known.parameters, number)))
}

/// In a list that is in order.
fn has<T: Ord>(sorted: &[T], one: &T) -> bool {
    sorted.binary_search(one).is_ok()
}

/// What is known of two pieces of code that both run; in order, and no more than can be asked for.
fn merged(one: &Opaque, other: &Opaque) -> Opaque {
    let (names, more_names) = union(&one.names, &other.names);
    let (parameters, more_parameters) = union(&one.parameters, &other.parameters);
    Opaque {
        names,
        any_name: one.any_name || other.any_name || more_names || more_parameters,
        parameters,
        by_chance: one.by_chance && other.by_chance,
    }
}

/// Both lists as one, in order and without doubles, and whether some of it found no room.
fn union<T: Ord + Clone>(one: &[T], other: &[T]) -> (Box<[T]>, bool) {
    work::took(one.len() + other.len());
    let mut all = [one, other].concat();
    all.sort_unstable();
    all.dedup();
    let more = all.len() > MOST_NAMES;
    all.truncate(MOST_NAMES);
    (all.into(), more)
}
