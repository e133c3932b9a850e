//! Which relations show the state of one server or of one session, by name alone.

use pg_raw_parse::nodes::RangeVar;

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

/// Whether a relation lives in one server session only.
pub(super) fn is_temporary(relation: &RangeVar) -> bool {
    relation.relpersistence as u8 == b't' || relation.schemaname() == Some("pg_temp")
}
