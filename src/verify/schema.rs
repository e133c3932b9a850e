//! The table that is checked: made before, looked over and dropped after.

use std::collections::HashMap;

use super::VerifyError;
use super::checker::Cell;
use super::link::Link;
use super::options::{Form, Options};

/// The row that tells this run's table from an older one of the same name.
pub(super) const NONCE_ROW: i32 = 0;
const FIRST_OWN_ROW: i32 = 100;
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
         INSERT INTO \"{schema}\".cells VALUES ({NONCE_ROW}, {nonce}), (1, 0), (2, 0), (3, 0); \
         INSERT INTO \"{schema}\".cells SELECT id, 0 \
           FROM generate_series({FIRST_OWN_ROW}, {last}) AS id; \
         END $do$"
    );
    let at = &options.target;
    let link = Link::open(at, &[], options.setup_timeout)
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

/// How many sessions' last acknowledged values are missing from the primary. `FOR UPDATE` because
/// every splitter sends that to the primary.
pub(super) async fn lost_writes(options: &Options, acknowledged: &[(i32, i64)]) -> Option<u64> {
    let link = Link::open(&options.target, &[], options.statement_timeout)
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
    let missing = acknowledged
        .iter()
        .filter(|(id, value)| present.get(id).is_none_or(|present| present < value));
    Some(missing.count() as u64)
}

/// Drops the schema, if that is wanted and possible.
pub(super) async fn remove(options: &Options) {
    if options.keep {
        return;
    }
    let drop = format!("DROP SCHEMA IF EXISTS \"{}\" CASCADE", options.schema);
    let result = match Link::open(&options.target, &[], options.statement_timeout).await {
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
