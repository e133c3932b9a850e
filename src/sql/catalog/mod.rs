//! What the primary's catalogue says about functions and relations, for one database.
//!
//! Names are looked up without their schema and for all overloads at once: which of them a call
//! means depends on argument types and on `search_path`, so the strictest decides.

mod entries;
mod feigned;
mod graph;
mod rows;

use std::sync::Arc;

pub use entries::{Function, Relation};
pub use rows::{
    ColumnRow, Dependency, DependencyRow, FUNCTIONS, FunctionRow, NUMBERED, OPERATORS, OperatorRow,
    RELATIONS, RelationRow, Rows, dependencies, fingerprint,
};

use entries::Map;
use graph::{Graph, Settled};

use super::conduct::Conduct;
use crate::core::plans::Constants;

/// The functions and relations of one database, as of one reading.
#[derive(Clone, Debug)]
pub struct Catalog {
    version: u64,
    loaded: bool,
    functions: Map<Function>,
    relations: Map<Arc<Relation>>,
    operators: Map<Function>,
    everywhere: Conduct,
    unseen: Conduct,
    hides_code: bool,
    hidden: Constants,
    anything: Conduct,
    mentions_synchronous_commit: bool,
    objects: u64,
}

impl Catalog {
    /// Nothing has been read yet: only reads that call no function and no relation can be told.
    pub fn empty() -> Self {
        Self {
            version: 0,
            loaded: false,
            functions: Map::default(),
            relations: Map::default(),
            operators: Map::default(),
            everywhere: Conduct::default(),
            unseen: Conduct::default(),
            hides_code: true,
            hidden: Constants::ByAnything,
            anything: Conduct::default(),
            mentions_synchronous_commit: false,
            objects: 0,
        }
    }

    /// From what was read. `version` differs for each reading and is never 0.
    pub fn from_rows(version: u64, rows: &Rows) -> Self {
        let Settled {
            functions,
            relations,
            operators,
            everywhere,
            unseen,
            hides_code,
            hidden,
            anything,
        } = Graph::of(rows).settle();
        let mut mentions = rows.functions.iter();
        Self {
            version,
            loaded: true,
            functions,
            relations,
            operators,
            everywhere,
            unseen,
            hides_code,
            hidden,
            anything,
            mentions_synchronous_commit: mentions.any(|row| row.mentions_synchronous_commit),
            objects: objects(rows),
        }
    }

    /// Which reading this is; classifications made by another one are void.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Another number when objects have come, gone or been renamed: what a text means may be another one.
    pub fn objects(&self) -> u64 {
        self.objects
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

    /// What is known of the users' own operators of this name.
    pub fn operator(&self, name: &str) -> Option<&Function> {
        self.operators.get(name)
    }

    /// What any statement may bring about without a word of it: by casts and domains of users.
    pub(super) fn everywhere(&self) -> &Conduct {
        &self.everywhere
    }

    /// The same of code, of which nobody has looked at the operators: by those of users too.
    pub(super) fn unseen(&self) -> &Conduct {
        &self.unseen
    }

    /// Whether code of users may run by a query in which no function and no relation tells of it: by operators,
    /// casts, domains, or whatever else calls functions.
    pub(super) fn hides_code(&self) -> bool {
        self.hides_code
    }

    /// By what constants are read in the plans that such code leaves.
    pub(super) fn hidden(&self) -> Constants {
        self.hidden
    }

    /// By what constants may be read in the plans of whatever code there is.
    pub fn settled(&self) -> Constants {
        match self.loaded {
            true => self.anything.settled,
            false => Constants::ByAnything,
        }
    }

    /// What SQL may bring about that is made up at run time: all that users have defined.
    pub(super) fn anything(&self) -> &Conduct {
        &self.anything
    }

    /// Whether any user's function (a trigger's, say) mentions `synchronous_commit`.
    pub fn mentions_synchronous_commit(&self) -> bool {
        self.mentions_synchronous_commit
    }
}

/// The same for the same objects, in whatever order they come.
fn objects(rows: &Rows) -> u64 {
    let state = ahash::RandomState::with_seeds(1, 2, 3, 4);
    let functions = rows.functions.iter().map(|row| (row.oid, &row.name));
    let relations = rows.relations.iter().map(|row| (row.oid, &row.name));
    let each = functions.chain(relations).map(|row| state.hash_one(row));
    each.fold(0, u64::wrapping_add)
}
