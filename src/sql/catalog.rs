//! What the primary's catalogue says about functions, for one database.
//!
//! Names are looked up without their schema and for all overloads at once: which of them a call
//! means depends on argument types and on `search_path`, so the strictest decides.

use std::collections::HashMap;

/// Loads the rows for [`Catalog::from_rows`], in the order of [`FunctionRow`]'s fields:
/// `text`, `int8`, `bool`, `bool`, `bool`.
///
/// An aggregate is always recorded as immutable; it is as volatile as its support functions.
pub const LOAD: &str = "\
SELECT p.proname::text AS name, p.oid::int8 AS oid,
       p.provolatile = 'v' OR EXISTS (
         SELECT FROM pg_catalog.pg_aggregate a
           JOIN pg_catalog.pg_proc s ON s.oid IN (a.aggtransfn, a.aggfinalfn, a.aggmtransfn, a.aggmfinalfn)
          WHERE a.aggfnoid = p.oid AND s.provolatile = 'v') AS volatile,
       l.lanname IN ('internal', 'c') AS compiled,
       p.oid >= 16384 AND (
         p.prosrc ILIKE '%synchronous_commit%'
         OR COALESCE(pg_catalog.array_to_string(p.proconfig, ','), '') ILIKE '%synchronous_commit%')
         AS mentions_synchronous_commit
  FROM pg_catalog.pg_proc p
  JOIN pg_catalog.pg_language l ON l.oid = p.prolang";

/// The first object identifier that is not PostgreSQL's own.
const FIRST_USER_OID: u32 = 16384;

/// Volatile functions of PostgreSQL itself that write nothing and answer as well on a standby:
/// clocks, chance, sleep. Whatever asks about the node (`pg_is_in_recovery`, `pg_lock_status`) is
/// not here, nor are sizes: a standby has no unlogged rows, and free space maps of its own.
const HARMLESS: &[&str] = &[
    "clock_timestamp",
    "gen_random_uuid",
    "pg_partition_ancestors",
    "pg_partition_tree",
    "pg_sleep",
    "pg_sleep_for",
    "pg_sleep_until",
    "random",
    "random_normal",
    "timeofday",
    "uuidv4",
    "uuidv7",
];

/// The same for compiled functions of `uuid-ossp` and `pgcrypto`; a function of that name written
/// in another language is somebody's own.
const HARMLESS_COMPILED: &[&str] = &[
    "gen_random_bytes",
    "gen_random_uuid",
    "gen_salt",
    "pgp_pub_encrypt",
    "pgp_pub_encrypt_bytea",
    "pgp_sym_encrypt",
    "pgp_sym_encrypt_bytea",
    "uuid_generate_v1",
    "uuid_generate_v1mc",
    "uuid_generate_v4",
];

/// One row of [`LOAD`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FunctionRow {
    /// The name without its schema, exactly as the catalogue has it.
    pub name: String,
    /// The object identifier.
    pub oid: u32,
    /// It, or what an aggregate is made of, is `VOLATILE`.
    pub volatile: bool,
    /// Written in C, not in a language that users write functions in.
    pub compiled: bool,
    /// A user's function whose body or settings mention `synchronous_commit`.
    pub mentions_synchronous_commit: bool,
}

/// What is known of all functions of one name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Function {
    /// At least one of them is volatile and not known to be harmless.
    pub volatile: bool,
    /// At least one of the volatile ones is not PostgreSQL's own, so its body can do anything.
    pub user_defined: bool,
}

/// The functions of one database, as of one reading.
#[derive(Clone, Debug)]
pub struct Catalog {
    version: u64,
    loaded: bool,
    functions: HashMap<Box<str>, Function, ahash::RandomState>,
    mentions_synchronous_commit: bool,
}

impl Catalog {
    /// Nothing has been read yet: only reads that call no function can be told.
    pub fn empty() -> Self {
        Self {
            version: 0,
            loaded: false,
            functions: HashMap::default(),
            mentions_synchronous_commit: false,
        }
    }

    /// From what [`LOAD`] returned. `version` differs for each reading and is never 0.
    pub fn from_rows(version: u64, rows: impl IntoIterator<Item = FunctionRow>) -> Self {
        let mut catalog = Self {
            version,
            loaded: true,
            ..Self::empty()
        };
        for row in rows {
            catalog.mentions_synchronous_commit |= row.mentions_synchronous_commit;
            let volatile = row.volatile && !is_harmless(&row);
            let user_defined = volatile && row.oid >= FIRST_USER_OID;
            let known = catalog
                .functions
                .entry(row.name.into_boxed_str())
                .or_insert(Function {
                    volatile: false,
                    user_defined: false,
                });
            known.volatile |= volatile;
            known.user_defined |= user_defined;
        }
        catalog
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
    pub fn function(&self, name: &str) -> Option<Function> {
        self.functions.get(name).copied()
    }

    /// Whether any user's function (a trigger's, say) mentions `synchronous_commit`.
    pub fn mentions_synchronous_commit(&self) -> bool {
        self.mentions_synchronous_commit
    }
}

fn is_harmless(row: &FunctionRow) -> bool {
    let name = row.name.as_str();
    if row.oid < FIRST_USER_OID {
        HARMLESS.contains(&name)
    } else {
        row.compiled && HARMLESS_COMPILED.contains(&name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str, oid: u32, volatile: bool) -> FunctionRow {
        FunctionRow {
            name: name.into(),
            oid,
            volatile,
            compiled: oid < FIRST_USER_OID,
            mentions_synchronous_commit: false,
        }
    }

    #[test]
    fn the_strictest_overload_decides() {
        let catalog = Catalog::from_rows(
            1,
            [
                row("now", 1299, false),
                row("now", 20000, true),
                row("random", 1598, true),
                row("nextval", 1574, true),
            ],
        );
        assert_eq!(
            catalog.function("now"),
            Some(Function {
                volatile: true,
                user_defined: true
            })
        );
        assert_eq!(
            catalog.function("random"),
            Some(Function {
                volatile: false,
                user_defined: false
            })
        );
        assert_eq!(
            catalog.function("nextval"),
            Some(Function {
                volatile: true,
                user_defined: false
            })
        );
        assert_eq!(catalog.function("Now"), None);
    }

    #[test]
    fn a_users_function_does_not_inherit_a_harmless_name() {
        let mut own = row("random", 20000, true);
        assert!(
            Catalog::from_rows(1, [own.clone()])
                .function("random")
                .unwrap()
                .volatile
        );
        own.name = "uuid_generate_v4".into();
        assert!(
            Catalog::from_rows(1, [own.clone()])
                .function("uuid_generate_v4")
                .unwrap()
                .volatile
        );
        own.compiled = true;
        assert!(
            !Catalog::from_rows(1, [own])
                .function("uuid_generate_v4")
                .unwrap()
                .volatile
        );
    }

    #[test]
    fn one_mention_marks_the_database() {
        let mut own = row("f", 20000, false);
        assert!(!Catalog::from_rows(1, [own.clone()]).mentions_synchronous_commit());
        own.mentions_synchronous_commit = true;
        assert!(Catalog::from_rows(1, [own]).mentions_synchronous_commit());
        assert!(!Catalog::empty().is_loaded());
    }
}
