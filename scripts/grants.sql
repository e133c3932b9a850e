-- What the monitoring role and the replication login need. Run by psql as a superuser on the primary,
-- in the database that `monitor.database` names, after making the two roles:
--   CREATE ROLE causeway LOGIN PASSWORD '…';
--   CREATE ROLE replicator LOGIN REPLICATION PASSWORD '…';
-- Standbys get all of it by replication. Neither role is a superuser.

-- To measure nodes. This is all that is needed without failover.
GRANT pg_monitor TO causeway;

-- To read where a promotion left the old timeline, so that sessions learn whether they have lost
-- writes. It opens every file in the data directory to this role; without it, sessions from before a
-- promotion are all told that they may have lost some.
GRANT EXECUTE ON FUNCTION pg_read_file(text, bigint, bigint, boolean) TO causeway;

-- To promote a standby, and to make a changed setting take effect.
GRANT EXECUTE ON FUNCTION pg_promote(boolean, integer) TO causeway;
GRANT EXECUTE ON FUNCTION pg_reload_conf() TO causeway;
-- To end sessions that would keep a standby from being promoted, and earlier ones of its own.
GRANT pg_signal_backend TO causeway;

-- With failover.slots: to make and drop replication slots.
ALTER ROLE causeway REPLICATION;

-- For pg_rewind, which makes a former primary a standby again and reads the new one as this user.
GRANT EXECUTE ON FUNCTION pg_ls_dir(text, boolean, boolean) TO replicator;
GRANT EXECUTE ON FUNCTION pg_stat_file(text, boolean) TO replicator;
GRANT EXECUTE ON FUNCTION pg_read_binary_file(text) TO replicator;
GRANT EXECUTE ON FUNCTION pg_read_binary_file(text, bigint, bigint, boolean) TO replicator;

-- From PostgreSQL 15 on. Before, only a superuser may change these settings by SQL.
-- To tell a standby whom to follow, and the primary which standbys a commit waits for.
GRANT ALTER SYSTEM ON PARAMETER primary_conninfo TO causeway;
GRANT ALTER SYSTEM ON PARAMETER synchronous_standby_names TO causeway;
-- With failover.slots: to have a standby use its slot.
GRANT ALTER SYSTEM ON PARAMETER primary_slot_name TO causeway;
-- After a promotion, so that pg_rewind finds the new timeline in the control file.
GRANT pg_checkpoint TO causeway, replicator;
