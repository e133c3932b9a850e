//! What more than one part asks of a server: its timeline, and that timeline's history.
//!
//! A primary's timeline is in the name of the WAL file that it writes. A standby has three answers, each
//! with a gap: its WAL receiver's, which is none while it does not stream; `pg_control_checkpoint`, which
//! is late to learn of a new timeline; and the WAL files that it has. Who asks says which will do.
//!
//! A question that is asked again and again names functions and no views: `pg_stat_activity` and
//! `pg_stat_replication` lock shared catalogues, and would wait behind a `VACUUM FULL` that waits.

use tokio_postgres::{Client, Error};

use crate::core::lsn::Timeline;

/// The part of a statement that gives a primary's timeline; a standby refuses it.
macro_rules! primary_timeline {
    () => {
        "('x' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8))::bit(32)::int4"
    };
}

/// The part of a statement that gives the timeline that a standby receives.
macro_rules! received_timeline {
    () => {
        "(SELECT received_tli FROM pg_stat_get_wal_receiver())"
    };
}

/// The part of a statement that gives the timeline of a server's last checkpoint.
macro_rules! checkpoint_timeline {
    () => {
        "(SELECT timeline_id FROM pg_control_checkpoint())"
    };
}

/// The part of a statement that gives where a connection string points, `told.conninfo`: its keys `host`,
/// `hostaddr` and `port`, and nothing else of it; null for an empty one. What is no connection string, or
/// is one of a form that is not known here, points nowhere that is known: an empty text.
macro_rules! upstream_address {
    () => {
        r"CASE WHEN btrim(told.conninfo) = '' THEN NULL
            WHEN told.conninfo ~ '^\s*(\w+\s*=\s*(''([^''\\]|\\.)*''|[^\s''\\]([^\s\\]|\\.)*)?(\s+|$))*$'
            THEN (SELECT COALESCE(string_agg(key[1] || '=' || key[2], ' '), '')
                    FROM regexp_matches(told.conninfo,
                      '(\w+)\s*=\s*(''(?:[^''\\]|\\.)*''|(?:[^\s''\\](?:[^\s\\]|\\.)*)?)', 'g') AS key
                   WHERE key[1] IN ('host', 'hostaddr', 'port'))
            ELSE COALESCE(
              (SELECT 'host=''' || part[1] || '''' || COALESCE(' port=' || part[2], '')
                 FROM regexp_match(told.conninfo,
                   '^postgres(?:ql)?://(?:[^@/]*@)?\[?([\w.:-]+?)\]?(?::(\d+))?(?:[/?]|$)') AS part), '')
       END"
    };
}

/// The part of a statement that gives for whom `synchronous_commit` is set below `on`, in words.
macro_rules! early_commits {
    () => {
        r"ARRAY(SELECT concat_ws(' ', 'synchronous_commit',
                       'of role ' || NULLIF(s.setrole, 0)::regrole::text,
                       'in database ' || d.datname, 'is', split_part(item, '=', 2))
                  FROM pg_db_role_setting AS s LEFT JOIN pg_database AS d ON d.oid = s.setdatabase,
                       unnest(s.setconfig) AS item
                 WHERE item LIKE 'synchronous\_commit=%'
                   AND lower(split_part(item, '=', 2)) NOT IN ('on', 'remote_apply', 'true', 'yes', '1')
                 ORDER BY 1)"
    };
}

pub(crate) use {
    checkpoint_timeline, early_commits, primary_timeline, received_timeline, upstream_address,
};

/// `$1` names a timeline history file, `$2` is whether it may be missing.
const HISTORY: &str = "SELECT pg_read_file($1, 0, 1000000, $2)";

/// A timeline's history file, if there is one.
pub(crate) async fn history_file(
    client: &Client,
    timeline: Timeline,
    may_be_missing: bool,
) -> Result<Option<String>, Error> {
    let file = format!("pg_wal/{:08X}.history", timeline.0);
    let row = client.query_one(HISTORY, &[&file, &may_be_missing]).await?;
    row.try_get(0)
}
