//! Statements about the session itself: settings and the bounds of transactions.

use std::sync::Arc;

use pg_raw_parse::nodes::{DefElem, TransactionStmt, VariableSetStmt};
use pg_raw_parse::raw::{TransactionStmtKind, VariableSetKind};
use pg_raw_parse::{ConstValue, Node};

use crate::core::statement::{Effect, Isolation, Opaque, PinReason, WriteReason};

use super::compact::compact;
use super::shape::skip_blank;
use super::verdict::Verdict;

const OWN: &str = "causeway.";

/// `SET`, `RESET` and their relatives. `source` is this statement's text.
pub(super) fn set(statement: &VariableSetStmt, source: &str, verdict: &mut Verdict) {
    verdict.literal = true;
    let name = real_name(statement.name().unwrap_or_default());
    if name.ends_with("synchronous_commit") || statement.kind == VariableSetKind::VAR_RESET_ALL {
        verdict.may_commit_async = true;
    }
    if statement.kind == VariableSetKind::VAR_RESET_ALL {
        return verdict.effect(Effect::ResetAll);
    }
    if let Some(own) = name.strip_prefix(OWN) {
        return verdict.effect(Effect::SetOwn {
            name: own.into(),
            value: (statement.kind == VariableSetKind::VAR_SET_VALUE)
                .then(|| joined(statement).into()),
            local: statement.is_local,
        });
    }
    if statement.kind == VariableSetKind::VAR_SET_MULTI {
        return match name.as_str() {
            "session characteristics" => characteristics(statement, verdict),
            // An exported snapshot exists on the node that exported it.
            "transaction snapshot" => verdict.write(WriteReason::SessionState),
            _ => of_transaction(statement, verdict),
        };
    }
    let sets = statement.kind == VariableSetKind::VAR_SET_VALUE;
    let local = statement.is_local;
    match name.as_str() {
        // Settings by name, but of the transaction: to repeat them elsewhere later would be wrong.
        "transaction_isolation" | "transaction_read_only" => {
            return verdict.write(WriteReason::SessionState);
        }
        "transaction_deferrable" => return,
        "session_authorization" => return authorization(sets, local, verdict),
        // The numbers that follow come from this server process, and the seed cannot be read.
        "seed" if sets => {
            verdict.write(WriteReason::SessionState);
            return verdict.effect(Effect::Pin(PinReason::Seed));
        }
        _ => {}
    }
    // Makes what holds until the transaction ends hold beyond it: which value that is, is not said.
    if statement.kind == VariableSetKind::VAR_SET_CURRENT {
        return verdict.opaque(&Arc::new(Opaque {
            names: custom(&name).into_iter().collect(),
            ..Opaque::default()
        }));
    }
    verdict.effect(Effect::Set {
        name: name.into(),
        sql: sets.then(|| repeatable(source, local)),
        local,
    });
}

/// A setting that `pg_settings` does not show.
pub(super) fn custom(name: &str) -> Option<Box<str>> {
    name.contains('.').then(|| name.to_ascii_lowercase().into())
}

fn authorization(sets: bool, local: bool, verdict: &mut Verdict) {
    verdict.write(WriteReason::SessionState);
    match (sets, local) {
        (true, false) => verdict.effect(Effect::Pin(PinReason::Authorization)),
        // Ends with the transaction, and takes the role with it for as long.
        (true, true) => verdict.opaque(&Arc::default()),
        (false, _) => verdict.effect(Effect::Unpin(PinReason::Authorization)),
    }
}

/// `SHOW`.
pub(super) fn show(name: &str, verdict: &mut Verdict) {
    let name = name.to_ascii_lowercase();
    if let Some(own) = name.strip_prefix(OWN) {
        verdict.effect(Effect::ShowOwn(own.into()));
    }
}

/// `BEGIN`, `COMMIT`, `SAVEPOINT` and the rest. `alone` if the text holds nothing else.
pub(super) fn transaction(statement: &TransactionStmt, alone: bool, verdict: &mut Verdict) {
    let name = || Box::from(statement.savepoint_name().unwrap_or_default());
    match statement.kind {
        TransactionStmtKind::TRANS_STMT_BEGIN | TransactionStmtKind::TRANS_STMT_START => {
            let (mut read_only, mut isolation) = (None, None);
            for option in statement.options() {
                let Node::DefElem(option) = option else {
                    continue;
                };
                match option.defname() {
                    Some("transaction_read_only") => read_only = Some(is_on(option)),
                    Some("transaction_isolation") => {
                        isolation = level(option).map(|(level, _)| level)
                    }
                    _ => {}
                }
                if !is_repeated(option) {
                    // Whatever else it says.
                    verdict.write(WriteReason::SessionState);
                }
            }
            // By itself it decides nothing; followed by more in one text, it has to be decided now.
            if !alone && (read_only != Some(true) || isolation == Some(Isolation::Serializable)) {
                verdict.write(WriteReason::Transaction);
            }
            verdict.effect(Effect::Begin {
                read_only,
                isolation,
            });
        }
        kind @ (TransactionStmtKind::TRANS_STMT_COMMIT
        | TransactionStmtKind::TRANS_STMT_ROLLBACK) => {
            let chain = statement.chain;
            verdict.effect(match kind {
                TransactionStmtKind::TRANS_STMT_COMMIT => Effect::End { chain },
                _ => Effect::Rollback { chain },
            });
            if chain {
                verdict.write(WriteReason::Transaction);
            }
        }
        TransactionStmtKind::TRANS_STMT_SAVEPOINT => verdict.effect(Effect::Savepoint(name())),
        TransactionStmtKind::TRANS_STMT_ROLLBACK_TO => verdict.effect(Effect::RollbackTo(name())),
        TransactionStmtKind::TRANS_STMT_RELEASE => verdict.effect(Effect::Release(name())),
        TransactionStmtKind::TRANS_STMT_PREPARE => {
            verdict.write(WriteReason::Command);
            verdict.effect(Effect::End { chain: false });
        }
        _ => verdict.write(WriteReason::Command),
    }
}

/// `SET TRANSACTION …`: a transaction that keeps one snapshot, or that means to write, cannot begin
/// on a standby and move to the primary later.
fn of_transaction(statement: &VariableSetStmt, verdict: &mut Verdict) {
    for option in statement.args() {
        let Node::DefElem(option) = option else {
            continue;
        };
        let movable = match option.defname() {
            Some("transaction_isolation") => {
                level(option).is_some_and(|(level, _)| level == Isolation::ReadCommitted)
            }
            Some("transaction_read_only") => is_on(option),
            _ => true,
        };
        if !movable || !is_repeated(option) {
            // Whatever its BEGIN said.
            verdict.write(WriteReason::SessionState);
        }
    }
}

/// `SET SESSION CHARACTERISTICS AS TRANSACTION …` is three settings by another name.
fn characteristics(statement: &VariableSetStmt, verdict: &mut Verdict) {
    for option in statement.args() {
        let Node::DefElem(option) = option else {
            continue;
        };
        let (name, value) = match option.defname() {
            Some("transaction_isolation") => match level(option) {
                Some((_, name)) => ("default_transaction_isolation", name),
                None => continue,
            },
            Some("transaction_read_only") => {
                ("default_transaction_read_only", on_off(is_on(option)))
            }
            Some("transaction_deferrable") => {
                ("default_transaction_deferrable", on_off(is_on(option)))
            }
            _ => continue,
        };
        verdict.effect(Effect::Set {
            name: name.into(),
            sql: Some(format!("SET {name} = '{value}'").into()),
            local: statement.is_local,
        });
    }
}

/// Whether a transaction that moves has it on the primary as well.
fn is_repeated(option: &DefElem) -> bool {
    match option.defname() {
        Some("transaction_isolation") => {
            level(option).is_none_or(|(_, name)| name != "read uncommitted")
        }
        Some("transaction_deferrable") => !is_on(option),
        _ => true,
    }
}

fn on_off(on: bool) -> &'static str {
    if on { "on" } else { "off" }
}

fn is_on(option: &DefElem) -> bool {
    match option.arg() {
        Node::A_Const(constant) => {
            matches!(constant.val(), Some(ConstValue::Integer(value)) if value != 0)
        }
        _ => false,
    }
}

fn level(option: &DefElem) -> Option<(Isolation, &'static str)> {
    match text(option.arg())?.as_str() {
        "serializable" => Some((Isolation::Serializable, "serializable")),
        "repeatable read" => Some((Isolation::RepeatableRead, "repeatable read")),
        "read committed" => Some((Isolation::ReadCommitted, "read committed")),
        "read uncommitted" => Some((Isolation::ReadCommitted, "read uncommitted")),
        _ => None,
    }
}

/// A value as one would write it without quotes; of a list, with commas.
fn joined(statement: &VariableSetStmt) -> String {
    let values: Vec<String> = statement.args().iter().filter_map(text).collect();
    values.join(", ")
}

pub(super) fn text(node: Node<'_>) -> Option<String> {
    let Node::A_Const(constant) = node else {
        return None;
    };
    match constant.val()? {
        ConstValue::String(value) | ConstValue::Float(value) => Some(value.to_owned()),
        ConstValue::Integer(value) => Some(value.to_string()),
        ConstValue::Boolean(value) => Some(value.to_string()),
        _ => None,
    }
}

/// As PostgreSQL calls it, whatever it was called in the text.
fn real_name(name: &str) -> String {
    match name.to_ascii_lowercase() {
        name if name == "sort_mem" => "work_mem".to_owned(),
        name if name == "vacuum_mem" => "maintenance_work_mem".to_owned(),
        name => name,
    }
}

/// The statement without comments, which would be kept for as long as the setting, and without `LOCAL`.
fn repeatable(source: &str, local: bool) -> Box<str> {
    let source = compact(source);
    let source = source.trim();
    if !local {
        return source.into();
    }
    let word = skip_blank(source.as_bytes(), "SET".len());
    let rest = source[word..].get("LOCAL".len()..).unwrap_or_default();
    format!("SET{rest}").into()
}
