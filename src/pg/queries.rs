//! What more than one part asks of a server: its timeline, and that timeline's history.
//!
//! A primary's timeline is in the name of the WAL file that it writes. A standby has three answers, each
//! with a gap: its WAL receiver's, which is none while it does not stream; `pg_control_checkpoint`, which
//! is late to learn of a new timeline; and the WAL files that it has. Who asks says which will do.

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
        "(SELECT received_tli FROM pg_stat_wal_receiver)"
    };
}

/// The part of a statement that gives the timeline of a server's last checkpoint.
macro_rules! checkpoint_timeline {
    () => {
        "(SELECT timeline_id FROM pg_control_checkpoint())"
    };
}

pub(crate) use {checkpoint_timeline, primary_timeline, received_timeline};

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
