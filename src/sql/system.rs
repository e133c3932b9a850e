//! What PostgreSQL's own functions and relations are about, by their names.

/// Functions of PostgreSQL itself that run the SQL they are given, or read what is named to them.
pub(super) fn runs_any_text(name: &str) -> bool {
    const TO_XML: [&str; 4] = ["query", "table", "schema", "database"];
    matches!(name, "ts_stat" | "ts_rewrite")
        || TO_XML.iter().any(|what| {
            let rest = name.strip_prefix(what);
            rest.is_some_and(|rest| rest.starts_with("_to_xml"))
        })
}

/// Functions, of PostgreSQL itself or of `dblink`, after which the server process has something of the
/// session that no question finds and nothing but the process's end takes away.
pub(super) fn stays_in_process(name: &str) -> bool {
    matches!(
        name,
        "dblink_connect"
            | "dblink_connect_u"
            | "pg_backup_start"
            | "pg_replication_origin_session_setup"
            | "pg_start_backup"
    )
}

/// Functions that do the same if they make a temporary slot, which their third argument says.
pub(super) fn makes_slot(name: &str) -> bool {
    matches!(
        name,
        "pg_copy_logical_replication_slot"
            | "pg_copy_physical_replication_slot"
            | "pg_create_logical_replication_slot"
            | "pg_create_physical_replication_slot"
    )
}

/// Functions that are not volatile, or whose volatility does not say it, but speak of one server
/// or of one session on it.
pub(super) fn asks_about_node(name: &str) -> bool {
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

/// Whether a relation shows the state of the node that is asked, not that of the database.
pub(super) fn is_of_node(name: &str) -> bool {
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

/// Settings that differ between the primary and a standby.
pub(super) fn tells_role(setting: &str) -> bool {
    matches!(setting, "in_hot_standby" | "transaction_read_only")
}
