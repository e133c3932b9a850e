//! Which statements leave plans whose constants are another session's.

use super::super::catalog::{Dependency, DependencyRow, FunctionRow, RelationRow, Rows};
use super::super::{Catalog, Classifier};
use super::{function, own};
use crate::core::plans::Constants;

fn immutable(name: &str, oid: u32, source: &str) -> FunctionRow {
    FunctionRow {
        volatile: false,
        immutable: true,
        ..own(name, oid, source)
    }
}

fn rows() -> Rows {
    let lower = FunctionRow {
        immutable: true,
        ..function("lower", 1, false)
    };
    let relation = |name: &str, oid| RelationRow {
        name: name.into(),
        oid,
        kind: 'r',
        unlogged: false,
        has_rules: false,
    };
    Rows {
        functions: vec![
            lower,
            function("current_setting", 2, false),
            function("to_char", 3, false),
            function("query_to_xml", 4, true),
            own("plain", 20000, "BEGIN RETURN lower('a') || now(); END"),
            own("dated", 20001, "BEGIN RETURN date '2026-04-03'; END"),
            own("stopped", 20002, "BEGIN RETURN 'now'::timestamptz; END"),
            own("calls", 20003, "BEGIN RETURN dated(); END"),
            own("dynamic", 20004, "BEGIN EXECUTE 'SELECT ' || $1; END"),
            immutable("honest", 20005, "BEGIN RETURN lower($1); END"),
            immutable("shown", 20006, "BEGIN RETURN to_char($1, 'YYYY'); END"),
            immutable("tenant", 20007, "SELECT current_setting('app.tenant')"),
            immutable("looks", 20008, "SELECT a FROM docs"),
            immutable("hands_on", 20009, "SELECT tenant()"),
            immutable("by_word", 20010, "SELECT current_user"),
            own("uses", 20011, "BEGIN RETURN tenant(); END"),
            own("reads", 20012, "BEGIN RETURN (SELECT a FROM docs); END"),
            own("uses_honest", 20013, "BEGIN RETURN honest('a'); END"),
            immutable("parsed", 20014, ""),
            own("noted", 20015, "BEGIN RETURN $1.tenant; END"),
        ],
        relations: vec![relation("docs", 30000), relation("guarded", 30001)],
        dependencies: vec![
            DependencyRow {
                kind: Dependency::Reads,
                of: 30001,
                on_function: true,
                on: 20007,
            },
            DependencyRow {
                kind: Dependency::Body,
                of: 20014,
                on_function: true,
                on: 2,
            },
        ],
        ..Rows::default()
    }
}

#[test]
fn plans_are_as_good_as_their_constants() {
    use Constants::{ByAnything, ByNothing, BySettings};
    let catalog = Catalog::from_rows(1, &rows());
    for (expected, text) in [
        (ByNothing, "SELECT a FROM docs WHERE b = '2026-04-03'"),
        (ByNothing, "SELECT plain()"),
        (ByNothing, "SELECT reads()"),
        (ByNothing, "DO $$ BEGIN RAISE NOTICE '1'; END $$"),
        (BySettings, "SELECT dated()"),
        (BySettings, "SELECT calls()"),
        (BySettings, "SELECT shown(a) FROM docs"),
        // Who knows to what its argument is converted.
        (BySettings, "SELECT honest('a')"),
        (BySettings, "SELECT uses_honest()"),
        (ByAnything, "SELECT parsed()"),
        (ByAnything, "SELECT noted(d) FROM docs d"),
        (ByAnything, "SELECT stopped()"),
        (ByAnything, "SELECT dynamic('x')"),
        (ByAnything, "SELECT query_to_xml('x')"),
        (ByAnything, "SELECT tenant()"),
        (ByAnything, "SELECT looks()"),
        (ByAnything, "SELECT hands_on()"),
        (ByAnything, "SELECT by_word()"),
        (ByAnything, "SELECT uses()"),
        (ByAnything, "SELECT a FROM guarded"),
        (ByAnything, "SELECT unheard_of()"),
        (ByAnything, "PREPARE p AS SELECT stopped()"),
        (ByAnything, "DO $$ BEGIN PERFORM stopped(); END $$"),
        (ByAnything, "ALTER TABLE docs VALIDATE CONSTRAINT c"),
    ] {
        let found = Classifier::new(16).classify(text.as_bytes(), &catalog, true);
        assert_eq!(found.settled, expected, "{text}");
    }
    assert_eq!(catalog.settled(), ByAnything);
    let none = Catalog::from_rows(1, &Rows::default());
    assert_eq!(none.settled(), ByNothing);
    assert_eq!(Catalog::empty().settled(), ByAnything);
}
