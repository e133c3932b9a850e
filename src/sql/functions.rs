//! Which function calls and which relations a standby may be asked for.

use pg_raw_parse::nodes::{FuncCall, RangeVar};
use pg_raw_parse::{ConstValue, Node};

use crate::core::statement::{Effect, PinReason, WriteReason};

use super::catalog::Catalog;
use super::verdict::Verdict;

/// Adds what one call means for its statement.
pub(super) fn judge(call: &FuncCall, catalog: &Catalog, verdict: &mut Verdict) {
    let name = call
        .funcname()
        .iter()
        .next_back()
        .and_then(Node::as_str)
        .unwrap_or_default();
    match name {
        "set_config" => {
            verdict.write(WriteReason::SessionState);
            // Which setting it names may be a literal, and one shape stands for all literals.
            verdict.may_commit_async = true;
            if !is_local(call) {
                verdict.effect(Effect::Pin(PinReason::Settings));
            }
        }
        "pg_advisory_lock"
        | "pg_advisory_lock_shared"
        | "pg_try_advisory_lock"
        | "pg_try_advisory_lock_shared" => {
            verdict.write(WriteReason::SessionState);
            verdict.effect(Effect::Pin(PinReason::AdvisoryLock));
        }
        // Whoever chooses a seed wants the numbers that follow from it, on the same connection.
        "setseed" => {
            verdict.write(WriteReason::VolatileFunction);
            verdict.effect(Effect::Pin(PinReason::Settings));
        }
        _ if asks_about_node(name) => verdict.write(WriteReason::SessionState),
        _ if always_writes(name) => verdict.write(WriteReason::VolatileFunction),
        _ => {}
    }
    if !catalog.is_loaded() {
        verdict.write(WriteReason::NotReady);
        verdict.may_commit_async = true;
        return;
    }
    match catalog.function(name) {
        None => {
            verdict.write(WriteReason::UnknownFunction);
            verdict.may_commit_async = true;
        }
        Some(function) if function.volatile => {
            verdict.write(WriteReason::VolatileFunction);
            verdict.may_commit_async |= function.user_defined;
        }
        Some(_) => {}
    }
}

/// Whether a relation shows the state of the node that is asked, not that of the database.
pub(super) fn is_node_view(relation: &RangeVar) -> bool {
    let name = relation.relname().unwrap_or_default();
    name.starts_with("pg_stat_")
        || name.starts_with("pg_statio_")
        || matches!(
            name,
            "pg_aios"
                | "pg_backend_memory_contexts"
                | "pg_cursors"
                | "pg_file_settings"
                | "pg_hba_file_rules"
                | "pg_ident_file_mappings"
                | "pg_locks"
                | "pg_prepared_statements"
                | "pg_prepared_xacts"
                | "pg_replication_origin_status"
                | "pg_replication_slots"
                | "pg_sequences"
                | "pg_settings"
                | "pg_shmem_allocations"
                | "pg_wait_events"
        )
}

/// Whether a relation lives in one server session only.
pub(super) fn is_temporary(relation: &RangeVar) -> bool {
    relation.relpersistence as u8 == b't' || relation.schemaname() == Some("pg_temp")
}

/// `set_config(…, true)`, with the constant itself: `'t'` or an expression could mean anything.
fn is_local(call: &FuncCall) -> bool {
    let mut arguments = call.args().iter();
    let third = arguments.nth(2);
    arguments.next().is_none()
        && matches!(third, Some(Node::A_Const(constant))
            if matches!(constant.val(), Some(ConstValue::Boolean(true))))
}

/// Functions that are not volatile, or whose volatility does not say it, but speak of one server
/// or of one session on it.
fn asks_about_node(name: &str) -> bool {
    name.starts_with("pg_advisory_")
        || name.starts_with("pg_try_advisory_")
        || name.starts_with("pg_stat_get_")
        || name.starts_with("pg_show_")
        || name.starts_with("pg_ls_")
        || name.starts_with("pg_read_")
        || matches!(
            name,
            "currval"
                | "inet_server_addr"
                | "inet_server_port"
                | "lastval"
                | "pg_backend_pid"
                | "pg_conf_load_time"
                | "pg_cursor"
                | "pg_export_snapshot"
                | "pg_listening_channels"
                | "pg_my_temp_schema"
                | "pg_postmaster_start_time"
                | "pg_prepared_statement"
                | "pg_stat_file"
        )
}

/// Functions that write, named so that no gap in the catalogue lets one of them through.
fn always_writes(name: &str) -> bool {
    name.starts_with("lo_")
        || matches!(
            name,
            "loread"
                | "lowrite"
                | "nextval"
                | "pg_notify"
                | "setval"
                | "txid_current"
                | "pg_current_xact_id"
        )
}
