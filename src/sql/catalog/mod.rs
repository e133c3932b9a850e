//! What the primary's catalogue says about functions and relations, for one database.
//!
//! Names are looked up without their schema and for all overloads at once: which of them a call
//! means depends on argument types and on `search_path`, so the strictest decides.

mod graph;
mod rows;

use std::collections::HashMap;
use std::sync::Arc;

use crate::core::statement::Opaque;

pub use rows::{
    ColumnRow, Dependency, DependencyRow, FINGERPRINT, FUNCTIONS, FunctionRow, NUMBERED, RELATIONS,
    RelationRow, Rows, dependencies,
};

use super::verdict::merged;
use graph::Graph;

type Map<V> = HashMap<Box<str>, V, ahash::RandomState>;

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
    /// It sends notifications.
    pub notifies: bool,
    /// It changes definitions.
    pub defines: bool,
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
        self.notifies |= other.notifies;
        self.defines |= other.defines;
        *self != before
    }
}

/// What is known of all functions of one name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Function {
    /// At least one of them is volatile and not known to be harmless.
    pub volatile: bool,
    /// At least one of the volatile ones is not PostgreSQL's own, so its body can do anything.
    pub user_defined: bool,
    /// What the bodies of those that are not PostgreSQL's own do.
    pub conduct: Conduct,
}

/// What is known of all relations of one name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Relation {
    /// What happens when it is read, by a view's definition or a policy.
    pub reading: Conduct,
    /// What happens when it is written to, by triggers, defaults, checks, rules and policies.
    pub changing: Conduct,
    /// To read it calls a volatile function.
    pub volatile: bool,
    /// Such a function is not PostgreSQL's own.
    pub commits_async: bool,
    /// Columns that draw a number unless they are given a value.
    pub numbered: Vec<Box<str>>,
}

impl Relation {
    /// Whether it has columns that draw numbers.
    pub fn draws(&self) -> bool {
        !self.numbered.is_empty()
    }

    /// Whether an insertion that gives these columns a value draws a number for another. Who names no
    /// columns may leave out the last ones.
    pub fn draws_without<'a>(&self, given: impl Iterator<Item = &'a str>) -> bool {
        let given: Vec<_> = given.collect();
        let drawn = |column: &Box<str>| !given.contains(&&**column);
        self.numbered.iter().any(drawn)
    }
}

/// The functions and relations of one database, as of one reading.
#[derive(Clone, Debug)]
pub struct Catalog {
    version: u64,
    loaded: bool,
    functions: Map<Function>,
    relations: Map<Arc<Relation>>,
    mentions_synchronous_commit: bool,
}

impl Catalog {
    /// Nothing has been read yet: only reads that call no function and no relation can be told.
    pub fn empty() -> Self {
        Self {
            version: 0,
            loaded: false,
            functions: Map::default(),
            relations: Map::default(),
            mentions_synchronous_commit: false,
        }
    }

    /// From what was read. `version` differs for each reading and is never 0.
    pub fn from_rows(version: u64, rows: &Rows) -> Self {
        let (functions, relations) = Graph::of(rows).settle();
        let mentions = rows.functions.iter();
        Self {
            version,
            loaded: true,
            functions,
            relations,
            mentions_synchronous_commit: mentions
                .map(|row| row.mentions_synchronous_commit)
                .any(|mentions| mentions),
        }
    }

    /// Which reading this is; classifications made by another one are void.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Whether the catalogue has been read at all.
    pub fn is_loaded(&self) -> bool {
        self.loaded
    }

    /// What is known of the functions of this exact name.
    pub fn function(&self, name: &str) -> Option<&Function> {
        self.functions.get(name)
    }

    /// What is known of the relations of this exact name, temporary ones apart.
    pub fn relation(&self, name: &str) -> Option<&Relation> {
        self.relations.get(name).map(Arc::as_ref)
    }

    /// Whether any user's function (a trigger's, say) mentions `synchronous_commit`.
    pub fn mentions_synchronous_commit(&self) -> bool {
        self.mentions_synchronous_commit
    }
}
