//! What is read of a primary's catalogue: the questions, and their answers' rows.
//!
//! No relation is opened and none is locked: a migration that holds its tables for minutes does not
//! hold up the reading of what it has done before.

/// Each catalogue that a question below reads: what tells its rows apart, and which of them are read. All of
/// it is asked often, so that nothing else is looked at.
const READ: &[(&str, &str, &str)] = &[
    ("pg_aggregate", "aggfnoid::oid", "aggfnoid::oid >= 16384"),
    ("pg_attrdef", "oid", "true"),
    (
        "pg_attribute",
        "concat_ws(' ', attrelid, attnum)",
        "attrelid >= 16384 AND (attidentity <> '' OR atthasdef)",
    ),
    ("pg_cast", "oid", "castfunc >= 16384"),
    (
        "pg_class",
        "oid",
        "relkind IN ('r', 'p', 'v', 'm', 'S', 'f') AND relpersistence <> 't'",
    ),
    (
        "pg_constraint",
        "oid",
        "contype IN ('c', 'f') OR contypid <> 0",
    ),
    (
        "pg_depend",
        "concat_ws(' ', classid, objid, refclassid, refobjid, deptype)",
        "refclassid = 'pg_catalog.pg_proc'::regclass
         OR refclassid = 'pg_catalog.pg_class'::regclass
        AND classid IN ('pg_catalog.pg_proc'::regclass, 'pg_catalog.pg_rewrite'::regclass,
                        'pg_catalog.pg_policy'::regclass)",
    ),
    (
        "pg_index",
        "indexrelid",
        "indexrelid >= 16384 AND (indexprs IS NOT NULL OR indpred IS NOT NULL)",
    ),
    ("pg_inherits", "concat_ws(' ', inhparent, inhrelid)", "true"),
    ("pg_language", "oid", "true"),
    ("pg_operator", "oid", "oid >= 16384"),
    ("pg_policy", "oid", "true"),
    ("pg_proc", "oid", "true"),
    ("pg_rewrite", "oid", "oid >= 16384"),
    ("pg_trigger", "oid", "true"),
    ("pg_type", "oid", "typtype = 'd'"),
];

/// Tells whether anything below may have changed, and by what version: `text`, `int4`. Whatever changes a
/// row gives it another `xmin`.
pub fn fingerprint() -> String {
    let each = READ.iter().map(|(catalog, key, read)| {
        let key = match key.strip_prefix("concat_ws") {
            Some(columns) => format!("pg_catalog.concat_ws{columns}"),
            None => format!("{key}::text"),
        };
        format!(
            "SELECT '{catalog} ' || {key} || ' ' || xmin::text FROM pg_catalog.{catalog} WHERE {read}"
        )
    });
    let rows = each.collect::<Vec<_>>().join("\n UNION ALL ");
    format!(
        "SELECT pg_catalog.concat_ws(' ', pg_catalog.count(*), pg_catalog.sum(pg_catalog.hashtextextended(k, 0))),
                pg_catalog.current_setting('server_version_num')::int4
           FROM ({rows}) f(k)"
    )
}

/// In the order of [`FunctionRow`]'s fields: `text`, `int8`, `bool`, `text`, `bool`, `text`,
/// `bool`.
///
/// An aggregate is always recorded as immutable; it is as volatile as its support functions. Sources
/// are read up to 64 KiB each and 32 MiB in all; of the rest anything is to be expected. Of a body that was
/// parsed when it was defined the dependencies tell all but whether it asks who or when it is, which is no
/// call: that is said here, as a text would.
pub const FUNCTIONS: &str = "\
SELECT p.proname::text AS name, p.oid::int8 AS oid,
       p.provolatile = 'v' OR EXISTS (
         SELECT FROM pg_catalog.pg_aggregate a
           JOIN pg_catalog.pg_proc s ON s.oid IN (a.aggtransfn, a.aggfinalfn, a.aggmtransfn, a.aggmfinalfn)
          WHERE a.aggfnoid = p.oid AND s.provolatile = 'v') AS volatile,
       l.lanname::text AS language,
       p.oid >= 16384 AND (
         p.prosrc ILIKE '%synchronous_commit%'
         OR COALESCE(pg_catalog.array_to_string(p.proconfig, ','), '') ILIKE '%synchronous_commit%')
         AS mentions_synchronous_commit,
       CASE WHEN p.oid >= 16384 AND pg_catalog.octet_length(p.prosrc) <= 65536
             AND pg_catalog.sum(pg_catalog.octet_length(p.prosrc)) OVER (ORDER BY p.oid) <= 33554432
            THEN CASE WHEN p.prosrc = '' AND pg_catalog.to_jsonb(p) ->> 'prosqlbody' LIKE '%{SQLVALUEFUNCTION %'
                      THEN 'SELECT current_user' ELSE p.prosrc END END AS source,
       p.provolatile = 'i' AS immutable
  FROM pg_catalog.pg_proc p
  JOIN pg_catalog.pg_language l ON l.oid = p.prolang";

/// In the order of [`RelationRow`]'s fields: `text`, `int8`, `text`, `bool`, `bool`.
pub const RELATIONS: &str = "\
SELECT relname::text, oid::int8, relkind::text, relpersistence = 'u', relhasrules
  FROM pg_catalog.pg_class
 WHERE relkind IN ('r', 'p', 'v', 'm', 'S', 'f') AND relpersistence <> 't'";

/// In the order of [`ColumnRow`]'s fields: `int8`, `text`.
pub const NUMBERED: &str = "\
SELECT attrelid::int8, attname::text FROM pg_catalog.pg_attribute
 WHERE attrelid >= 16384 AND attidentity <> '' AND NOT attisdropped
 UNION
SELECT d.adrelid::int8, a.attname::text
  FROM pg_catalog.pg_attrdef d
  JOIN pg_catalog.pg_attribute a ON a.attrelid = d.adrelid AND a.attnum = d.adnum
 WHERE d.adbin::text LIKE '%:funcid 1574 %'";

/// In the order of [`OperatorRow`]'s fields: `text`, `int8`.
pub const OPERATORS: &str = "\
SELECT oprname::text, oprcode::oid::int8 FROM pg_catalog.pg_operator WHERE oid >= 16384 AND oprcode <> 0";

/// What depends on what, in the order of [`DependencyRow`]'s fields: `text`, `int8`, `bool`, `int8`.
///
/// PostgreSQL does not write down dependencies on its own functions: those are in the stored expressions.
const DEPENDENCIES: &str = "\
WITH stored(kind, of, expression) AS (
    SELECT CASE WHEN r.ev_type = '1' THEN 'view' ELSE 'rule' END, r.ev_class, r.ev_action::text
      FROM pg_catalog.pg_rewrite r WHERE r.oid >= 16384
    UNION ALL SELECT 'rule', r.ev_class, r.ev_qual::text
      FROM pg_catalog.pg_rewrite r WHERE r.oid >= 16384 AND r.ev_type <> '1'
    UNION ALL SELECT 'writes', adrelid, adbin::text FROM pg_catalog.pg_attrdef
    UNION ALL SELECT 'writes', conrelid, conbin::text
      FROM pg_catalog.pg_constraint WHERE contype = 'c' AND oid >= 16384
    UNION ALL SELECT 'everywhere', 0::oid, conbin::text
      FROM pg_catalog.pg_constraint WHERE contype = 'c' AND contypid <> 0 AND oid >= 16384
    UNION ALL SELECT 'writes', indrelid, pg_catalog.concat(indexprs::text, indpred::text)
      FROM pg_catalog.pg_index
     WHERE indexrelid >= 16384 AND (indexprs IS NOT NULL OR indpred IS NOT NULL)
    UNION ALL SELECT 'writes', tgrelid, tgqual::text FROM pg_catalog.pg_trigger WHERE tgqual IS NOT NULL
    UNION ALL SELECT 'reads', polrelid, polqual::text FROM pg_catalog.pg_policy
    UNION ALL SELECT 'writes', polrelid, pg_catalog.concat(polqual::text, polwithcheck::text)
      FROM pg_catalog.pg_policy
    UNION ALL SELECT 'hidden', 0::oid, typdefaultbin::text
      FROM pg_catalog.pg_type WHERE typtype = 'd' AND typdefaultbin IS NOT NULL
    {bodies}
)
SELECT DISTINCT kind, of::int8, true, pg_catalog.split_part(part, ' ', 1)::int8
  FROM stored, pg_catalog.unnest(pg_catalog.string_to_array(
         pg_catalog.replace(expression, ':opfuncid ', ':funcid '), ':funcid '))
       WITH ORDINALITY AS u(part, place)
 WHERE place > 1
   -- A default that draws a number is told for its column.
   AND NOT (kind = 'writes' AND part LIKE '1574 %')
 UNION
SELECT CASE WHEN r.ev_type = '1' THEN 'view' ELSE 'rule' END, r.ev_class::int8,
       d.refclassid = 'pg_catalog.pg_proc'::regclass, d.refobjid::int8
  FROM pg_catalog.pg_rewrite r
  JOIN pg_catalog.pg_depend d ON d.classid = 'pg_catalog.pg_rewrite'::regclass AND d.objid = r.oid
 WHERE r.oid >= 16384 AND d.refobjid <> r.ev_class
   AND d.refclassid IN ('pg_catalog.pg_class'::regclass, 'pg_catalog.pg_proc'::regclass)
 UNION
SELECT 'reads', y.polrelid::int8, false, d.refobjid::int8
  FROM pg_catalog.pg_policy y
  JOIN pg_catalog.pg_depend d ON d.classid = 'pg_catalog.pg_policy'::regclass AND d.objid = y.oid
 WHERE d.refclassid = 'pg_catalog.pg_class'::regclass AND d.refobjid <> y.polrelid
 UNION
SELECT 'writes', tgrelid::int8, true, tgfoid::int8
  FROM pg_catalog.pg_trigger WHERE NOT tgisinternal AND tgenabled <> 'D'
 UNION
SELECT 'rule', confrelid::int8, false, conrelid::int8
  FROM pg_catalog.pg_constraint
 WHERE contype = 'f' AND (confdeltype IN ('c', 'n', 'd') OR confupdtype IN ('c', 'n', 'd'))
 UNION
SELECT 'everywhere', 0::int8, true, castfunc::int8 FROM pg_catalog.pg_cast WHERE castfunc >= 16384
 UNION
SELECT 'hidden', 0::int8, true, refobjid::int8
  FROM pg_catalog.pg_depend
 WHERE refclassid = 'pg_catalog.pg_proc'::regclass AND refobjid >= 16384
   -- Of these it is known by whom they are called; that a trigger on events fires, by what fires it.
   AND classid NOT IN ('pg_catalog.pg_proc'::regclass, 'pg_catalog.pg_rewrite'::regclass,
         'pg_catalog.pg_trigger'::regclass, 'pg_catalog.pg_attrdef'::regclass,
         'pg_catalog.pg_policy'::regclass, 'pg_catalog.pg_class'::regclass,
         'pg_catalog.pg_event_trigger'::regclass, 'pg_catalog.pg_constraint'::regclass)
 UNION
SELECT 'hidden', 0::int8, true, d.refobjid::int8
  FROM pg_catalog.pg_constraint c
  JOIN pg_catalog.pg_depend d ON d.classid = 'pg_catalog.pg_constraint'::regclass AND d.objid = c.oid
 WHERE c.contypid <> 0 AND d.refclassid = 'pg_catalog.pg_proc'::regclass
 UNION
-- The keys of partitions.
SELECT 'writes', objid::int8, true, refobjid::int8
  FROM pg_catalog.pg_depend
 WHERE classid = 'pg_catalog.pg_class'::regclass AND refclassid = 'pg_catalog.pg_proc'::regclass
 UNION
SELECT 'view', inhparent::int8, false, inhrelid::int8 FROM pg_catalog.pg_inherits
 UNION
SELECT 'body', objid::int8, refclassid = 'pg_catalog.pg_proc'::regclass, refobjid::int8
  FROM pg_catalog.pg_depend
 WHERE classid = 'pg_catalog.pg_proc'::regclass AND deptype = 'n'
   AND refclassid IN ('pg_catalog.pg_class'::regclass, 'pg_catalog.pg_proc'::regclass)";

/// Bodies that were parsed when they were defined (`BEGIN ATOMIC`).
const BODIES: &str = "\
UNION ALL SELECT 'body', oid, prosqlbody::text FROM pg_catalog.pg_proc WHERE prosqlbody IS NOT NULL";

/// The first version that has them.
const BODIES_SINCE: i32 = 140_000;

/// The question for what depends on what, for a server of this `server_version_num`.
pub fn dependencies(version: i32) -> String {
    let bodies = if version >= BODIES_SINCE { BODIES } else { "" };
    DEPENDENCIES.replace("{bodies}", bodies)
}

/// A function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FunctionRow {
    /// The name without its schema, exactly as the catalogue has it.
    pub name: String,
    /// The object identifier.
    pub oid: u32,
    /// It, or what an aggregate is made of, is `VOLATILE`.
    pub volatile: bool,
    /// The language it is written in.
    pub language: String,
    /// A user's function whose body or settings mention `synchronous_commit`.
    pub mentions_synchronous_commit: bool,
    /// A user's function's body, unless it is too long.
    pub source: Option<String>,
    /// It is `IMMUTABLE`.
    pub immutable: bool,
}

impl FunctionRow {
    /// Written in C, not in a language that users write functions in.
    pub fn is_compiled(&self) -> bool {
        matches!(self.language.as_str(), "internal" | "c")
    }
}

/// A table, view, sequence or the like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelationRow {
    /// The name without its schema.
    pub name: String,
    /// The object identifier.
    pub oid: u32,
    /// `relkind`.
    pub kind: char,
    /// Standbys do not have its rows.
    pub unlogged: bool,
    /// It has rules, or had some.
    pub has_rules: bool,
}

/// An operator of a user's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OperatorRow {
    /// The name without its schema.
    pub name: String,
    /// What it calls.
    pub function: u32,
}

/// A column that draws numbers from a sequence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ColumnRow {
    /// Its table.
    pub relation: u32,
    /// Its name.
    pub column: String,
}

/// How one object needs another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dependency {
    /// Reading a relation calls the function, or reads the relation.
    Reads,
    /// The same, and writing through it writes to the other relation.
    View,
    /// Writing to a relation calls the function.
    Writes,
    /// The same, and it may write to the other relation.
    Rule,
    /// A function calls, reads or writes to it.
    Body,
    /// A cast or a domain calls the function, whoever uses it.
    Everywhere,
    /// Something calls the function, and no statement tells when.
    Hidden,
}

impl Dependency {
    /// As [`dependencies`] names it.
    pub fn named(kind: &str) -> Option<Self> {
        match kind {
            "reads" => Some(Self::Reads),
            "view" => Some(Self::View),
            "writes" => Some(Self::Writes),
            "rule" => Some(Self::Rule),
            "body" => Some(Self::Body),
            "everywhere" => Some(Self::Everywhere),
            "hidden" => Some(Self::Hidden),
            _ => None,
        }
    }
}

/// One object needs another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DependencyRow {
    /// How.
    pub kind: Dependency,
    /// The relation, or the function whose body it is; 0 for everywhere.
    pub of: u32,
    /// What it needs is a function.
    pub on_function: bool,
    /// What it needs.
    pub on: u32,
}

/// All that was read.
#[derive(Clone, Debug, Default)]
pub struct Rows {
    /// From [`FUNCTIONS`].
    pub functions: Vec<FunctionRow>,
    /// From [`RELATIONS`].
    pub relations: Vec<RelationRow>,
    /// [`NUMBERED`].
    pub numbered: Vec<ColumnRow>,
    /// [`OPERATORS`].
    pub operators: Vec<OperatorRow>,
    /// [`dependencies`].
    pub dependencies: Vec<DependencyRow>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// The catalogues that a question reads: those behind FROM, JOIN and a comma between them.
    fn read_by(question: &str) -> BTreeSet<&str> {
        let mut found = BTreeSet::new();
        let mut words = question.split_whitespace().peekable();
        while let Some(word) = words.next() {
            if matches!(word, "FROM" | "JOIN")
                && let Some(next) = words.peek()
                && let Some(name) = next.strip_prefix("pg_catalog.")
            {
                let end = name.find(|c: char| !c.is_alphanumeric() && c != '_');
                found.insert(&name[..end.unwrap_or(name.len())]);
            }
        }
        found
    }

    #[test]
    fn the_fingerprint_is_of_all_that_is_read() {
        let dependencies = dependencies(BODIES_SINCE);
        let questions = [FUNCTIONS, RELATIONS, NUMBERED, OPERATORS, &dependencies];
        let read: BTreeSet<&str> = questions.iter().flat_map(|text| read_by(text)).collect();
        assert!(read.contains("pg_inherits") && read.contains("pg_aggregate"));
        let fingerprint = fingerprint();
        assert_eq!(read_by(&fingerprint), read);
    }
}
