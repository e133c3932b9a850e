//! Tests of the whole way from text to [`Statement`]; what they share.

mod alike;
mod bodies;
mod deep;
mod graph;
mod hostile;
mod odd;
mod plans;
mod proved;
mod table;

use std::sync::Arc;

use super::catalog::{ColumnRow, Dependency, DependencyRow, RelationRow, Rows};
use super::{Catalog, Classifier, FunctionRow};
use crate::core::statement::{Access, Effect, Isolation, Statement};

/// Functions of PostgreSQL itself that are volatile.
const VOLATILE: &[&str] = &[
    "clock_timestamp",
    "currval",
    "gen_random_uuid",
    "lo_create",
    "lo_get",
    "lo_open",
    "nextval",
    "pg_advisory_lock",
    "pg_advisory_unlock",
    "pg_advisory_unlock_all",
    "pg_advisory_xact_lock",
    "pg_current_wal_lsn",
    "pg_is_in_recovery",
    "pg_notify",
    "pg_sleep",
    "pg_terminate_backend",
    "pg_try_advisory_lock_shared",
    "pg_try_advisory_xact_lock",
    "random",
    "set_config",
    "setseed",
    "setval",
];

/// Those that are not.
const HARMLESS: &[&str] = &[
    "btrim",
    "count",
    "current_setting",
    "extract",
    "generate_series",
    "like_escape",
    "lower",
    "max",
    "now",
    "overlaps",
    "overlay",
    "pg_backend_pid",
    "pg_listening_channels",
    "position",
    "similar_to_escape",
    "string_agg",
    "substring",
    "sum",
    "timezone",
    "transaction_timestamp",
    "txid_current",
];

pub(super) fn function(name: &str, oid: u32, volatile: bool) -> FunctionRow {
    FunctionRow {
        name: name.into(),
        oid,
        volatile,
        language: if oid < 16384 { "internal" } else { "plpgsql" }.into(),
        mentions_synchronous_commit: false,
        source: (oid >= 16384).then(|| "BEGIN RETURN 1; END".into()),
        immutable: false,
    }
}

pub(super) fn own(name: &str, oid: u32, source: &str) -> FunctionRow {
    FunctionRow {
        source: Some(source.into()),
        ..function(name, oid, true)
    }
}

/// What a database with a few functions and relations of an application's own has.
pub(super) fn rows() -> Rows {
    let volatile = VOLATILE.iter().map(|name| function(name, 1, true));
    let harmless = HARMLESS.iter().map(|name| function(name, 1, false));
    let own = [
        function("app_read", 20000, false),
        function("app_constant", 20000, false),
        function("app_write", 20000, true),
        function("app_procedure", 20000, true),
        own(
            "app_tenant",
            20001,
            "BEGIN PERFORM set_config('app.tenant', $1, false); END",
        ),
        own(
            "app_any",
            20002,
            "BEGIN PERFORM set_config($1, $2, false); END",
        ),
        own(
            "app_number",
            20003,
            "BEGIN INSERT INTO numbered VALUES (DEFAULT); END",
        ),
        own("app_tell", 20004, "BEGIN NOTIFY c; END"),
    ];
    let relation = |(at, name): (usize, &&str)| RelationRow {
        name: (*name).into(),
        oid: 30000 + at as u32,
        kind: match *name {
            "s" => 'S',
            "far" => 'f',
            _ => 'r',
        },
        unlogged: *name == "scratch",
        has_rules: false,
    };
    Rows {
        functions: volatile.chain(harmless).chain(own).collect(),
        relations: RELATIONS.iter().enumerate().map(relation).collect(),
        numbered: vec![ColumnRow {
            relation: oid_of("numbered"),
            column: "id".into(),
        }],
        dependencies: vec![DependencyRow {
            kind: Dependency::Writes,
            of: oid_of("triggered"),
            on_function: true,
            on: 20001,
        }],
        ..Rows::default()
    }
}

/// Relations of the application and of PostgreSQL; the place is the object identifier beyond 30000.
const RELATIONS: &[&str] = &[
    "t",
    "u",
    "v",
    "orders",
    "pgbench_accounts",
    "pg_class",
    "pg_namespace",
    "pg_stats",
    "s",
    "far",
    "scratch",
    "numbered",
    "triggered",
];

pub(super) fn oid_of(relation: &str) -> u32 {
    let at = RELATIONS.iter().position(|name| *name == relation);
    30000 + at.unwrap() as u32
}

pub(super) fn catalog() -> Catalog {
    Catalog::from_rows(1, &rows())
}

/// Classified by somebody who has seen nothing before.
pub(super) fn fresh(text: &[u8]) -> Arc<Statement> {
    Classifier::new(16).classify(text, &catalog(), true)
}

/// All of a classification in one line.
pub(super) fn render(statement: &Statement) -> String {
    let mut line = match statement.access {
        Access::Neutral => "neutral".to_owned(),
        Access::Read => "read".to_owned(),
        Access::Write => "write".to_owned(),
    };
    if let Some(reason) = statement.write_reason {
        line += &format!(":{reason:?}");
    }
    if statement.may_commit_async {
        line += " async";
    }
    if statement.count != 1 {
        line += &format!(" x{}", statement.count);
    }
    for step in statement.effects.iter() {
        line.push(' ');
        line += &render_effect(&step.effect);
        if step.statement > 0 {
            line += &format!("@{}", step.statement);
        }
    }
    line
}

fn render_effect(effect: &Effect) -> String {
    match effect {
        Effect::Begin {
            read_only,
            isolation,
        } => {
            let mode = match read_only {
                None => "-",
                Some(true) => "ro",
                Some(false) => "rw",
            };
            let level = |level: &Isolation| format!("{level:?}");
            format!(
                "begin({mode},{})",
                isolation.as_ref().map_or("-".into(), level)
            )
        }
        Effect::End { chain } => format!("end{}", if *chain { "+chain" } else { "" }),
        Effect::Rollback { chain } => format!("rollback{}", if *chain { "+chain" } else { "" }),
        Effect::Savepoint(name) => format!("savepoint({name})"),
        Effect::Release(name) => format!("release({name})"),
        Effect::RollbackTo(name) => format!("rollback_to({name})"),
        Effect::Set { name, sql, local } => {
            let local = if *local { "local " } else { "" };
            match sql {
                Some(sql) => format!("set({local}{name}={sql})"),
                None => format!("reset({local}{name})"),
            }
        }
        Effect::ResetAll => "reset_all".into(),
        Effect::DiscardAll => "discard_all".into(),
        Effect::DiscardTemp => "discard_temp".into(),
        Effect::DiscardSequences => "discard_sequences".into(),
        Effect::DiscardPlans => "discard_plans".into(),
        Effect::SetsWithin => "sets_within".into(),
        Effect::Deallocate(Some(name)) => format!("deallocate({name})"),
        Effect::Deallocate(None) => "deallocate_all".into(),
        Effect::Pin(reason) => format!("pin({reason:?})"),
        Effect::Unpin(reason) => format!("unpin({reason:?})"),
        Effect::Opaque(opaque) => {
            let any = if opaque.any_name { "*" } else { "" };
            let parameters = opaque.parameters.iter();
            let parameters: String = parameters.map(|number| format!("${number}")).collect();
            format!("opaque({}{any}{parameters})", opaque.names.join(","))
        }
        Effect::Prepare { name, effects } => {
            let effects: Vec<_> = effects.iter().map(render_effect).collect();
            format!("prepare({name}: {})", effects.join(" "))
        }
        Effect::Execute(name) => format!("execute({name})"),
        Effect::Declare => "declare".into(),
        Effect::PrimaryOnly => "primary_only".into(),
        Effect::NamesStatements => "names".into(),
        Effect::DrawsNumber => "draws".into(),
        Effect::AsksNumber => "asks_number".into(),
        Effect::Notify => "notify".into(),
        Effect::Terminates => "terminates".into(),
        Effect::Listen => "listen".into(),
        Effect::Unlisten => "unlisten".into(),
        Effect::AsksChannels => "asks_channels".into(),
        Effect::Renew(renew) => format!("renew({renew:?})"),
        Effect::Ddl => "ddl".into(),
        Effect::SetOwn { name, value, local } => match value {
            Some(value) if *local => format!("own_local({name}={value})"),
            Some(value) => format!("own({name}={value})"),
            None => format!("own_reset({name})"),
        },
        Effect::ShowOwn(name) => format!("show({name})"),
    }
}
