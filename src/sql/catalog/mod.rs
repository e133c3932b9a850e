//! What the primary's catalogue says about functions and relations, for one database.
//!
//! Names are looked up without their schema and for all overloads at once: which of them a call
//! means depends on argument types and on `search_path`, so the strictest decides.

mod entries;
mod graph;
mod rows;

use std::sync::Arc;

pub use entries::{Function, Relation};
pub use rows::{
    ColumnRow, Dependency, DependencyRow, FINGERPRINT, FUNCTIONS, FunctionRow, NUMBERED, RELATIONS,
    RelationRow, Rows, dependencies,
};

use entries::Map;
use graph::Graph;

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
        let mut mentions = rows.functions.iter();
        Self {
            version,
            loaded: true,
            functions,
            relations,
            mentions_synchronous_commit: mentions.any(|row| row.mentions_synchronous_commit),
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
