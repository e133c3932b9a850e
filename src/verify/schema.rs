//! The table that is checked: made before, looked over and dropped after.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::checker::Cell;
use super::connection::{Connection, StatementError, no_row};
use super::error::VerifyError;
use super::options::{Form, Options};
use super::runs::Runs;

/// The row that tells this run's table from an older one of the same name.
pub(super) const NONCE_ROW: i32 = 0;
const FIRST_OWN_ROW: i32 = 100;
/// Between attempts to look for what was acknowledged.
const PAUSE: Duration = Duration::from_millis(200);
/// Runs of values in one statement.
const RUNS_AT_ONCE: usize = 500;
const MARK: &str = "made by causeway verify, may be dropped";

/// The row of a cell for the session with this number.
pub(super) fn row(cell: Cell, session: usize) -> i32 {
    match cell {
        Cell::Own => FIRST_OWN_ROW.saturating_add(i32::try_from(session).unwrap_or(i32::MAX)),
        Cell::Shared => 1,
        Cell::First => 2,
        Cell::Second => 3,
    }
}

/// Makes the schema and returns its nonce. One of the same name is replaced only if an earlier check
/// left it behind.
pub(super) async fn create(options: &Options) -> Result<i64, VerifyError> {
    // Not from the seed: a repeated run must not take the table of the first for its own.
    let nonce = rand::random_range(1..i64::MAX);
    let schema = &options.schema;
    let sessions = options.writers + options.readers + options.mixed;
    let last = row(Cell::Own, sessions);
    // One DO: whether the schema exists must be asked where it is made, not on a replica.
    let text = format!(
        "DO $do$ BEGIN \
         IF EXISTS (SELECT FROM pg_namespace WHERE nspname = '{schema}') THEN \
           IF (SELECT obj_description(oid, 'pg_namespace') FROM pg_namespace \
               WHERE nspname = '{schema}') IS DISTINCT FROM '{MARK}' THEN \
             RAISE EXCEPTION USING ERRCODE = '42P06', \
               MESSAGE = 'schema {schema} exists and was not made by this checker'; \
           END IF; \
           DROP SCHEMA \"{schema}\" CASCADE; \
         END IF; \
         CREATE SCHEMA \"{schema}\"; \
         COMMENT ON SCHEMA \"{schema}\" IS '{MARK}'; \
         CREATE TABLE \"{schema}\".cells (id int PRIMARY KEY, value bigint NOT NULL) \
           WITH (fillfactor = 20); \
         CREATE TABLE \"{schema}\".history (session int, value bigint, \
           PRIMARY KEY (session, value)); \
         INSERT INTO \"{schema}\".cells VALUES ({NONCE_ROW}, {nonce}), (1, 0), (2, 0), (3, 0); \
         INSERT INTO \"{schema}\".cells SELECT id, 0 \
           FROM generate_series({FIRST_OWN_ROW}, {last}) AS id; \
         END $do$"
    );
    let at = &options.target;
    let link = Connection::open(at, &[], options.setup_timeout)
        .await
        .map_err(|failure| {
            VerifyError::Unavailable(format!(
                "cannot connect to {at}: {} ({})",
                failure.message, failure.code
            ))
        })?;
    link.run(&text, Form::Simple).await.map_err(|failure| {
        let text = format!(
            "cannot make schema {schema} at {at}: {} ({})",
            failure.message, failure.code
        );
        match &*failure.code {
            "42P06" => VerifyError::Usage(text + "; choose another --schema"),
            _ => VerifyError::Unavailable(text),
        }
    })?;
    link.close().await;
    Ok(nonce)
}

/// How many acknowledged writes are missing from the primary, and how many were looked for.
///
/// With a history the check has been through failures, and one may be going on: it is tried for as long
/// as a preparation may take.
pub(super) async fn lost_writes(
    options: &Options,
    acknowledged: &[(i32, Runs)],
) -> (Option<u64>, u64) {
    if !options.history {
        return (
            missing_last(options, acknowledged).await,
            acknowledged.len() as u64,
        );
    }
    let runs = || {
        let sessions = acknowledged.iter();
        sessions.flat_map(|(row, runs)| runs.iter().map(|(first, last)| (*row, first, last)))
    };
    let sought = runs().map(|(_, first, last)| last - first + 1).sum::<i64>();
    let sought = u64::try_from(sought).unwrap_or_default();
    let runs: Vec<_> = runs().collect();
    let end = Instant::now() + options.setup_timeout;
    loop {
        match missing_from_history(options, &runs).await {
            Ok(missing) => return (Some(missing), sought),
            Err(failure) if Instant::now() >= end => {
                let StatementError { code, message, .. } = failure;
                tracing::warn!(code, "cannot look for the acknowledged writes: {message}");
                return (None, sought);
            }
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}

/// How many numbers of these runs are not noted. The lock that only a primary grants keeps every
/// splitter from asking a replica.
async fn missing_from_history(
    options: &Options,
    runs: &[(i32, i64, i64)],
) -> Result<u64, StatementError> {
    let link = Connection::open(&options.target, &[], options.statement_timeout).await?;
    let mut missing = 0;
    for runs in runs.chunks(RUNS_AT_ONCE) {
        let runs: Vec<String> = runs
            .iter()
            .map(|(row, first, last)| format!("({row}, {first}::bigint, {last}::bigint)"))
            .collect();
        let text = format!(
            "BEGIN; LOCK TABLE \"{schema}\".history IN ROW EXCLUSIVE MODE; \
             SELECT sum(last - first + 1 - (SELECT count(*) FROM \"{schema}\".history AS noted \
             WHERE noted.session = run.session AND noted.value BETWEEN first AND last)) \
             FROM (VALUES {runs}) AS run (session, first, last); COMMIT",
            schema = options.schema,
            runs = runs.join(", "),
        );
        let sums = link.column(&text).await?;
        let sum = sums.first().and_then(|sum| sum.parse::<u64>().ok());
        missing += sum.ok_or_else(no_row)?;
    }
    link.close().await;
    Ok(missing)
}

/// How many sessions' last acknowledged values are missing from the primary. `FOR UPDATE` because
/// every splitter sends that to the primary.
async fn missing_last(options: &Options, acknowledged: &[(i32, Runs)]) -> Option<u64> {
    let link = Connection::open(&options.target, &[], options.statement_timeout)
        .await
        .ok()?;
    let text = format!(
        "SELECT id || ' ' || value FROM \"{}\".cells WHERE id >= {FIRST_OWN_ROW} FOR UPDATE",
        options.schema
    );
    let rows = link.column(&text).await.ok()?;
    link.close().await;
    let present: HashMap<i32, i64> = rows
        .iter()
        .filter_map(|line| {
            let (id, value) = line.split_once(' ')?;
            Some((id.parse().ok()?, value.parse().ok()?))
        })
        .collect();
    let missing = acknowledged.iter().filter(|(id, values)| {
        let present = present.get(id);
        present.is_none_or(|present| *present < values.last())
    });
    Some(missing.count() as u64)
}

/// Drops the schema, if that is wanted and possible.
pub(super) async fn remove(options: &Options) {
    if options.keep {
        return;
    }
    let drop = format!("DROP SCHEMA IF EXISTS \"{}\" CASCADE", options.schema);
    let result = match Connection::open(&options.target, &[], options.statement_timeout).await {
        Ok(link) => {
            let result = link.run(&drop, Form::Simple).await;
            link.close().await;
            result
        }
        Err(failure) => Err(failure),
    };
    if let Err(failure) = result {
        tracing::warn!(
            schema = options.schema,
            code = failure.code,
            "left the schema behind: {}",
            failure.message
        );
    }
}
