//! What is known of a name.

use std::collections::{BTreeSet, HashMap, HashSet};

use crate::sql::conduct::Conduct;

pub(super) type Map<V> = HashMap<Box<str>, V, ahash::RandomState>;

/// What is known of all functions of one name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Function {
    /// At least one of them is volatile and not known to be harmless.
    pub volatile: bool,
    /// At least one of the volatile ones is not PostgreSQL's own, so its body can do anything.
    pub user_defined: bool,
    /// What the bodies of those that are not PostgreSQL's own do.
    pub conduct: Conduct,
    /// At least one of them, whoever's it is, may run code of users or leave something on its session.
    pub code: bool,
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
    /// Rows that are written there need not reach the WAL: not each relation of that name is a logged table,
    /// or something else happens in its place.
    pub unlogged: bool,
    /// Columns that draw a number unless they are given a value.
    pub numbered: BTreeSet<Box<str>>,
}

impl Relation {
    /// Whether it has columns that draw numbers.
    pub fn draws(&self) -> bool {
        !self.numbered.is_empty()
    }

    /// Whether an insertion that gives these columns a value draws a number for another. Who names no
    /// columns may leave out the last ones.
    pub fn draws_without<'a>(&self, given: impl Iterator<Item = &'a str>) -> bool {
        if self.numbered.is_empty() {
            return false;
        }
        let given: HashSet<_> = given.collect();
        let mut numbered = self.numbered.iter().map(AsRef::as_ref);
        numbered.any(|column| !given.contains(column))
    }
}
