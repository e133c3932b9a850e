//! Ending the sessions that keep a standby which is to lead from replaying what it holds.
//!
//! `pg_promote` takes effect once everything has been replayed, and a reader may have that wait for as long as
//! `max_standby_streaming_delay` lets it: for ever with -1. A changed setting does not help, since the startup
//! process reads none while it waits; and `pg_blocking_pids` says nothing of that process.

use tokio_postgres::Client;

/// Name of the sessions that end others.
pub(super) const READERS: &str = "causeway readers";

/// Whom the startup process waits for: whoever holds a lock that it wants; or whoever has a snapshot, where it
/// waits for an old one to end or for a page that somebody looks at, and does not say whose. A superuser's
/// session is left to a superuser, and holds up the end of no other. Where replay goes on nobody is ended.
const END: &str = "\
WITH startup AS MATERIALIZED (
  SELECT pid, wait_event_type || '/' || wait_event AS waits
    FROM pg_stat_activity WHERE backend_type = 'startup'
), holders AS MATERIALIZED (
  SELECT held.pid
    FROM startup
    JOIN pg_locks AS wanted ON wanted.pid = startup.pid AND NOT wanted.granted
    JOIN pg_locks AS held
      ON held.granted AND held.pid <> wanted.pid AND held.locktype = wanted.locktype
     AND (held.database, held.relation, held.page, held.tuple, held.virtualxid, held.transactionid,
          held.classid, held.objid, held.objsubid)
         IS NOT DISTINCT FROM
         (wanted.database, wanted.relation, wanted.page, wanted.tuple, wanted.virtualxid,
          wanted.transactionid, wanted.classid, wanted.objid, wanted.objsubid)
  UNION
  SELECT reader.pid
    FROM startup, pg_stat_activity AS reader
   WHERE startup.waits IN ('IPC/RecoveryConflictSnapshot', 'IPC/RecoveryConflictTablespace',
                           'BufferPin/BufferPin', 'Buffer/BufferCleanup')
     AND reader.backend_type = 'client backend' AND reader.backend_xmin IS NOT NULL
), sessions AS MATERIALIZED (
  SELECT pid, NOT owner.rolsuper OR own.rolsuper AS may
    FROM holders JOIN pg_stat_activity AS a USING (pid)
    JOIN pg_roles AS owner ON owner.oid = a.usesysid
    JOIN pg_roles AS own ON own.rolname = current_user
   WHERE pid <> pg_backend_pid()
     AND (a.usename <> current_user OR a.application_name NOT LIKE 'causeway%')
), ended AS MATERIALIZED (
  SELECT CASE WHEN may THEN pg_terminate_backend(pid) ELSE false END AS done FROM sessions
)
SELECT count(*) FILTER (WHERE done), count(*) FILTER (WHERE NOT done) FROM ended";

/// How many sessions kept a standby from replaying.
pub(super) struct Readers {
    pub(super) ended: i64,
    /// Superusers' sessions.
    pub(super) left: i64,
}

/// Ends them.
pub(super) async fn end(client: &Client) -> Result<Readers, tokio_postgres::Error> {
    let row = client.query_one(END, &[]).await?;
    Ok(Readers {
        ended: row.try_get(0)?,
        left: row.try_get(1)?,
    })
}
