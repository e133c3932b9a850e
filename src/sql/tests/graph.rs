//! What a catalogue concludes from its rows.

use super::super::catalog::{ColumnRow, Dependency, DependencyRow, OperatorRow, RelationRow, Rows};
use super::super::{Catalog, Classifier, FunctionRow};
use super::{function, own};

fn of(functions: impl IntoIterator<Item = FunctionRow>) -> Catalog {
    let rows = Rows {
        functions: functions.into_iter().collect(),
        ..Rows::default()
    };
    Catalog::from_rows(1, &rows)
}

fn volatile(catalog: &Catalog, name: &str) -> (bool, bool) {
    let function = catalog.function(name).unwrap();
    (function.volatile, function.user_defined)
}

#[test]
fn the_strictest_overload_decides() {
    let catalog = of([
        function("now", 1299, false),
        function("now", 20000, true),
        function("random", 1598, true),
        function("nextval", 1574, true),
    ]);
    assert_eq!(volatile(&catalog, "now"), (true, true));
    assert_eq!(volatile(&catalog, "random"), (false, false));
    assert_eq!(volatile(&catalog, "nextval"), (true, false));
    assert_eq!(catalog.function("Now"), None);
}

#[test]
fn a_users_function_does_not_inherit_a_harmless_name() {
    let compiled = FunctionRow {
        language: "c".into(),
        source: None,
        ..function("uuid_generate_v4", 20000, true)
    };
    assert!(volatile(&of([function("random", 20000, true)]), "random").0);
    assert!(
        volatile(
            &of([function("uuid_generate_v4", 20000, true)]),
            "uuid_generate_v4"
        )
        .0
    );
    assert!(!volatile(&of([compiled.clone()]), "uuid_generate_v4").0);
    assert_eq!(
        of([compiled])
            .function("uuid_generate_v4")
            .unwrap()
            .conduct
            .opaque,
        None
    );
}

#[test]
fn one_mention_marks_the_database() {
    let mut own = function("f", 20000, false);
    assert!(!of([own.clone()]).mentions_synchronous_commit());
    own.mentions_synchronous_commit = true;
    assert!(of([own]).mentions_synchronous_commit());
    assert!(!Catalog::empty().is_loaded());
}

#[test]
fn a_function_does_what_those_do_that_it_calls() {
    let catalog = of([
        own("outer", 20000, "SELECT middle(1)"),
        own("middle", 20001, "BEGIN RETURN inner($1); END"),
        own(
            "inner",
            20002,
            "BEGIN SET app.name = 'x'; PERFORM outer(1); END",
        ),
        own("quiet", 20003, "BEGIN UPDATE t SET inner = 1; END"),
    ]);
    let opaque = |name: &str| catalog.function(name).unwrap().conduct.opaque.clone();
    for name in ["outer", "middle", "inner"] {
        assert_eq!(
            &*opaque(name).unwrap().names,
            &[Box::from("app.name")],
            "{name}"
        );
    }
    assert_eq!(opaque("quiet"), None);
}

#[test]
fn code_that_is_not_seen_may_do_anything() {
    let compiled = |name: &str, volatile| FunctionRow {
        language: "c".into(),
        source: Some(name.into()),
        ..function(name, 20000, volatile)
    };
    let long = FunctionRow {
        source: None,
        ..function("long", 20001, false)
    };
    let foreign = FunctionRow {
        language: "plsh".into(),
        ..own("foreign", 20002, "true")
    };
    let catalog = of([
        compiled("set_limit", true),
        compiled("similarity", false),
        compiled("moddatetime", true),
        long,
        foreign,
    ]);
    let opaque = |name: &str| catalog.function(name).unwrap().conduct.opaque.is_some();
    assert!(opaque("set_limit") && opaque("long") && opaque("foreign"));
    assert!(!opaque("similarity") && !opaque("moddatetime"));
}

#[test]
fn a_view_is_what_it_shows() {
    let relation = |name: &str, oid, kind| RelationRow {
        name: name.into(),
        oid,
        kind,
        unlogged: false,
        has_rules: false,
    };
    let view = |of, on_function, on| DependencyRow {
        kind: Dependency::View,
        of,
        on_function,
        on,
    };
    let rows = Rows {
        functions: vec![
            function("pg_is_in_recovery", 3810, true),
            own(
                "tenant",
                20000,
                "BEGIN PERFORM set_config('app.t', 'x', false); END",
            ),
        ],
        relations: vec![
            relation("pg_stat_activity", 12300, 'v'),
            relation("sessions", 30001, 'v'),
            relation("over_sessions", 30002, 'v'),
            relation("standby", 30003, 'v'),
            relation("table", 30004, 'r'),
            relation("over_table", 30005, 'v'),
            relation("guarded", 30006, 'r'),
        ],
        numbered: vec![ColumnRow {
            relation: 30004,
            column: "id".into(),
        }],
        dependencies: vec![
            view(30001, false, 12300),
            view(30002, false, 30001),
            view(30003, true, 3810),
            view(30005, false, 30004),
            DependencyRow {
                kind: Dependency::Reads,
                ..view(30006, true, 20000)
            },
        ],
        ..Rows::default()
    };
    let catalog = Catalog::from_rows(1, &rows);
    let relation = |name: &str| catalog.relation(name).unwrap();
    assert!(relation("over_sessions").reading.of_node);
    assert!(relation("standby").volatile && !relation("standby").commits_async);
    assert!(relation("over_table").draws() && !relation("over_table").reading.of_node);
    assert!(relation("guarded").reading.opaque.is_some() && relation("guarded").commits_async);
    assert_eq!(catalog.relation("nowhere"), None);
}

#[test]
fn what_nothing_names_is_known_all_the_same() {
    let sets = "BEGIN PERFORM set_config('app.t', 'x', false); END";
    let makes = "BEGIN EXECUTE format('SELECT %I()', f); END";
    let rows = Rows {
        functions: vec![own("sets", 20000, sets), own("makes", 20001, makes)],
        operators: vec![OperatorRow {
            name: "===".into(),
            function: 20000,
        }],
        ..Rows::default()
    };
    let catalog = Catalog::from_rows(1, &rows);
    let operator = catalog.operator("===").unwrap();
    assert!(operator.volatile && operator.conduct.opaque.is_some());
    assert_eq!(catalog.operator("=="), None);
    let made = catalog.function("makes").unwrap();
    let names = &made.conduct.opaque.as_ref().unwrap().names;
    assert_eq!(&**names, &[Box::from("app.t")]);
}

#[test]
fn objects_that_come_or_are_renamed_give_another_number() {
    let of = |rows: Vec<FunctionRow>| of(rows).objects();
    let (one, other) = (function("a", 20000, true), function("b", 20001, true));
    let both = of(vec![one.clone(), other.clone()]);
    assert_eq!(both, of(vec![other.clone(), one.clone()]));
    assert_ne!(both, of(vec![one]));
    assert_ne!(
        of(vec![other.clone()]),
        of(vec![function("c", 20001, true)])
    );
}

/// A commit says that all before it is on disk only where it has something to say.
#[test]
fn what_need_not_be_logged() {
    let relation = |name: &str, oid, kind| RelationRow {
        name: name.into(),
        oid,
        kind,
        unlogged: name == "scratch",
        has_rules: name == "ruled",
    };
    let rows = Rows {
        relations: vec![
            relation("t", 30000, 'r'),
            relation("parts", 30001, 'p'),
            relation("mixed", 30002, 'p'),
            relation("scratch", 30003, 'r'),
            relation("ruled", 30004, 'r'),
            relation("far", 30005, 'f'),
            relation("shown", 30006, 'v'),
        ],
        dependencies: [(30001, 30000), (30002, 30003)]
            .map(|(of, on)| DependencyRow {
                kind: Dependency::View,
                of,
                on_function: false,
                on,
            })
            .to_vec(),
        ..Rows::default()
    };
    let catalog = Catalog::from_rows(1, &rows);
    for (expected, text) in [
        (false, "INSERT INTO t VALUES (1)"),
        (false, "UPDATE parts SET a = 1"),
        (
            false,
            "WITH x AS (SELECT * FROM scratch) DELETE FROM t USING x",
        ),
        (true, "INSERT INTO mixed VALUES (1)"),
        (true, "DELETE FROM scratch"),
        (
            true,
            "INSERT INTO t VALUES (1); INSERT INTO scratch VALUES (1)",
        ),
        (true, "UPDATE ruled SET a = 1"),
        (true, "INSERT INTO far VALUES (1)"),
        (true, "INSERT INTO shown VALUES (1)"),
        (true, "INSERT INTO unheard_of VALUES (1)"),
        (true, "INSERT INTO pg_temp.t VALUES (1)"),
    ] {
        let statement = Classifier::new(16).classify(text.as_bytes(), &catalog, true);
        assert_eq!(statement.may_flush_nothing, expected, "{text}");
    }
}
