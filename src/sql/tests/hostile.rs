//! Nothing in a client's text takes more than its length: twice the text, twice the steps.

use super::super::body::read;
use super::super::conduct::{Conduct, MOST_NAMES};
use super::super::{LONGEST_TEXT, work};
use super::{Catalog, Classifier, FunctionRow, RelationRow, Rows, fresh, own, rows};
use crate::core::statement::{Effect, Step, of_statement};

/// Steps for texts of these pieces, `n` and `2 n` times.
fn linear(name: &str, steps: impl Fn(usize) -> usize) {
    for n in [500, 4_000] {
        let (one, two) = (steps(n), steps(2 * n));
        assert!(two <= 3 * one + 10_000, "{name}: {one} steps, and {two}");
    }
}

/// Whatever they say, by their length.
fn bounded(name: &str, body: impl Fn(usize) -> String) {
    for n in [100, 1_000, 20_000] {
        let body = body(n);
        let steps = work::of(|| drop(read("plpgsql", &body)));
        let most = 20 * body.len() + 20_000;
        assert!(
            steps <= most,
            "{name}: {steps} steps for {} bytes",
            body.len()
        );
    }
}

/// Its `{}` stands for what is repeated.
const BODIES: &[(&str, &str)] = &[
    (
        "execute x; ",
        "begin {} perform 'a a a a a a a a a a a a a a a a'; end",
    ),
    ("execute x; ", "begin {} end"),
    ("a ", "begin execute x; execute y; perform '{}'; end"),
    (
        "execute x; ",
        "begin execute x; perform '{} perform ''execute x; execute ''''y'''';''' end",
    ),
    ("for execute ", "begin {}; end"),
    (
        "for execute 'select a' ",
        "begin {} 'select b b b b b b b b'; end",
    ),
    ("perform set_config(", "begin {}"),
    ("set_config('app.a', ", "begin perform {}"),
    ("create temp table ", "begin {}"),
    ("quote_ident(", "begin execute 'select ' || {}"),
    ("for execute 'select ' || quote_ident(", "begin {}"),
    ("perform set_config('a.b' || n, v, false); ", "begin {} end"),
    ("insert into only ", "begin {}"),
    ("update a.", "begin {}"),
    ("then set a.", "begin {}"),
    ("'", "begin perform {}; end"),
    ("$a$ ", "begin perform {}; end"),
    ("/* ", "begin perform {}; end"),
];

#[test]
fn bodies_take_as_long_as_they_are() {
    for (piece, frame) in BODIES {
        let body = |n: usize| frame.replace("{}", &piece.repeat(n));
        bounded(frame, body);
    }
    // Each depth of its own.
    let deep = |n: usize| {
        let (execute, text) = ("execute x; ".repeat(n), "a ".repeat(n));
        format!(
            "begin {execute} perform '{execute} perform ''{execute} perform ''''{text}''''''' end"
        )
    };
    bounded("deep", deep);
    // Names that differ.
    let names = |n: usize| {
        let each = (0..n).map(|n| format!("perform set_config('a.b{n}', v, false);"));
        each.collect::<String>()
    };
    bounded("names", names);
    let conduct = read("plpgsql", &names(2 * MOST_NAMES)).conduct;
    let opaque = conduct.opaque.unwrap();
    assert!(opaque.any_name && opaque.names.len() == MOST_NAMES);
}

#[test]
fn what_costs_too_much_is_taken_for_unread() {
    let unread = Conduct::unread();
    let hostile = format!("begin {} end", "for execute 'select a' ".repeat(20_000));
    let conduct = read("plpgsql", &hostile).conduct;
    assert_eq!(
        conduct.opaque.unwrap().any_name,
        unread.opaque.unwrap().any_name
    );
    assert!(conduct.code && conduct.sets_unnamed);
    // A long migration is none of that.
    let honest = "execute 'update t set a = 1'; execute format('alter table %I add b int', n); \
        create temp table x on commit drop as select 1; \
        perform set_config('app.a', quote_literal(x), false); "
        .repeat(2_000);
    let conduct = read("plpgsql", &format!("begin {honest} end")).conduct;
    assert!(!conduct.code, "read to its end");
    assert_eq!(*conduct.opaque.unwrap().names, [Box::<str>::from("app.a")]);
}

#[test]
fn texts_take_as_long_as_they_are() {
    for (piece, frame) in [
        ("savepoint a; ", "{}"),
        ("create temp table a (); ", "{}"),
        ("select set_config($1, 'a', false); ", "{}"),
        (
            "set_config($1, 'a', false), app_tenant('a'), ",
            "select {} 1",
        ),
        ("app_tenant('a'), app_any('a', 'b'), ", "select {} 1"),
        ("a, ", "drop role {} b"),
        ("nextval('s'), currval('s'), ", "select {} 1"),
        ("nowhere, ", "select 1 from {} t"),
    ] {
        let text = |n: usize| frame.replace("{}", &piece.repeat(n));
        linear(frame, |n| work::of(|| drop(fresh(text(n).as_bytes()))));
    }
    for frame in [
        "set_config('a.b{}', 'c', false), ",
        "set_config(${}, 'c', false), ",
    ] {
        let text = |n: usize| {
            let each = (1..=n).map(|n| frame.replace("{}", &n.to_string()));
            format!("select {} 1", each.collect::<String>())
        };
        linear(frame, |n| work::of(|| drop(fresh(text(n).as_bytes()))));
    }
}

#[test]
fn a_statements_effects_are_few_and_found_at_once() {
    let roles = (0..20_000).map(|n| format!("r{n}, "));
    let statement = fresh(format!("drop role {} x", roles.collect::<String>()).as_bytes());
    assert_eq!(statement.effects.len(), 1);
    let text = "savepoint a; ".repeat(70_000);
    assert!(text.len() < LONGEST_TEXT);
    let statement = fresh(text.as_bytes());
    assert_eq!(statement.effects.len(), 70_000);
    for number in [0, 1, 69_999] {
        let step = Step {
            statement: number,
            effect: Effect::Savepoint("a".into()),
        };
        assert_eq!(of_statement(&statement.effects, number), [step]);
    }
    assert!(of_statement(&statement.effects, 70_000).is_empty());
}

#[test]
fn names_out_of_few_words_stay_few() {
    let body = |from: usize| {
        let each = (from..from + 200).map(|n| format!("perform set_config('a.b{n}', v, false);"));
        format!("begin {} end", each.collect::<String>())
    };
    let mut rows = rows();
    rows.functions
        .extend([own("f", 20_001, &body(0)), own("g", 20_002, &body(100))]);
    let catalog = Catalog::from_rows(1, &rows);
    let text = "select f(), g(); ".repeat(10_000);
    let statement = Classifier::new(1).classify(text.as_bytes(), &catalog, true);
    let names = statement.effects.iter().map(|step| match &step.effect {
        Effect::Opaque(opaque) => opaque.names.len(),
        _ => 0,
    });
    let names: usize = names.sum();
    assert!(
        names < 10_000,
        "{names} names for a text of {} bytes",
        text.len()
    );
}

#[test]
fn a_catalogue_takes_as_long_as_it_is() {
    let steps = |functions: Vec<FunctionRow>, relations: Vec<RelationRow>| {
        let rows = Rows {
            functions,
            relations,
            ..Rows::default()
        };
        work::of(|| drop(Catalog::from_rows(1, &rows)))
    };
    let numbered = |n: usize| 20_000..20_000 + n as u32 / 4;
    // Each calls the next.
    linear("chain", |n| {
        let each = numbered(n).map(|oid| {
            let body = format!("begin perform f{}(); end", oid + 1);
            own(&format!("f{oid}"), oid, &body)
        });
        let end = 20_000 + n as u32 / 4;
        let sets = "begin perform set_config('a.b', v, false); end";
        let last = own(&format!("f{end}"), end, sets);
        steps(each.chain([last]).collect(), Vec::new())
    });
    // One for each tenant, of a table of each tenant.
    linear("tenants", |n| {
        let functions = numbered(n).map(|oid| own("f", oid, "begin update orders set a = 1; end"));
        let tables = numbered(n).map(|oid| RelationRow {
            name: "orders".into(),
            oid: oid + 100_000,
            kind: 'r',
            unlogged: false,
            has_rules: false,
        });
        steps(functions.collect(), tables.collect())
    });
}
