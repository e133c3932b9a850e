//! Tests of the whole way from text to [`Statement`]; what they share.

mod alike;
mod deep;
mod odd;
mod table;

use std::sync::Arc;

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
    "extract",
    "generate_series",
    "like_escape",
    "lower",
    "max",
    "now",
    "overlaps",
    "overlay",
    "pg_backend_pid",
    "position",
    "similar_to_escape",
    "string_agg",
    "substring",
    "sum",
    "timezone",
    "transaction_timestamp",
    "txid_current",
];

/// Of a database with a few functions of an application's own.
pub(super) fn catalog() -> Catalog {
    let row = |name: &&str, oid, volatile| FunctionRow {
        name: (*name).into(),
        oid,
        volatile,
        compiled: oid < 16384,
        mentions_synchronous_commit: false,
    };
    let own = ["app_read", "app_constant"];
    let rows = VOLATILE.iter().map(|name| row(name, 1, true));
    let rows = rows.chain(HARMLESS.iter().map(|name| row(name, 1, false)));
    let rows = rows.chain(own.iter().map(|name| row(name, 20000, false)));
    let writes = ["app_write", "app_procedure"];
    let rows = rows.chain(writes.iter().map(|name| row(name, 20000, true)));
    Catalog::from_rows(1, rows.collect::<Vec<_>>())
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
        Effect::Deallocate(Some(name)) => format!("deallocate({name})"),
        Effect::Deallocate(None) => "deallocate_all".into(),
        Effect::Pin(reason) => format!("pin({reason:?})"),
        Effect::Unpin(reason) => format!("unpin({reason:?})"),
        Effect::Opaque(opaque) => {
            let any = if opaque.any_name { "*" } else { "" };
            format!("opaque({}{any})", opaque.names.join(","))
        }
        Effect::NamesStatements => "names".into(),
        Effect::DrawsNumber => "draws".into(),
        Effect::AsksNumber => "asks_number".into(),
        Effect::Notify => "notify".into(),
        Effect::Listen(channel) => format!("listen({channel})"),
        Effect::Unlisten(Some(channel)) => format!("unlisten({channel})"),
        Effect::Unlisten(None) => "unlisten_all".into(),
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
