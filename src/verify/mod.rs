//! The consistency checker: many sessions against any PostgreSQL endpoint, every answer held against
//! what its session may be shown.
//!
//! `checker` decides and `script` chooses, both pure; `connection` talks, `session` joins them, `schema`
//! prepares and cleans up, `tally` counts, `report` tells.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

mod checker;
mod connection;
mod error;
mod options;
mod report;
mod runs;
mod schema;
mod script;
mod session;
mod tally;

pub use checker::{Cell, Guarantee};
pub use error::VerifyError;
pub use options::{Blocks, Endpoint, Form, Options};
pub use report::{ErrorCount, LatencySummary, Rate, Report};
pub use tally::{FormCount, Moves, NodeCount, Violation};

use connection::Texts;
use runs::Runs;
use script::SessionKind;
use session::{RunShared, Session};
use tally::Tally;

/// Runs a check until it has lasted long enough, has read enough, or `stop` is ready. A check that
/// is stopped reports what it found.
pub async fn run(
    options: Options,
    stop: impl Future<Output = ()> + Send,
) -> Result<Report, VerifyError> {
    options.check()?;
    let options = Arc::new(options);
    let mut stop = std::pin::pin!(stop);

    // Not interruptible, but bounded: interrupted half-way it could leave the schema behind.
    let nonce = schema::create(&options).await?;
    let checked = tokio::select! {
        sessions = connect(&options, nonce) => Some(sessions),
        () = stop.as_mut() => None,
    };
    let result = match checked {
        Some(Ok((shared, sessions))) => Ok(check(&options, shared, sessions, stop).await),
        Some(Err(error)) => Err(error),
        None => Err(VerifyError::Stopped),
    };
    let (lost, sought) = match &result {
        Ok(outcome) => schema::lost_writes(&options, &outcome.acknowledged).await,
        Err(_) => (None, 0),
    };
    schema::remove(&options).await;
    let outcome = result?;
    if let Some(fault) = outcome.fault {
        return Err(VerifyError::Internal(fault));
    }
    Ok(Report::new(
        &options,
        outcome.tally,
        outcome.elapsed.as_secs_f64(),
        lost,
        sought,
    ))
}

struct RunOutcome {
    tally: Tally,
    elapsed: Duration,
    /// Row and acknowledged values of every session.
    acknowledged: Vec<(i32, Runs)>,
    fault: Option<String>,
}

/// Opens every session's connections and waits until each of them shows the new schema.
async fn connect(
    options: &Arc<Options>,
    nonce: i64,
) -> Result<(Arc<RunShared>, Vec<Session>), VerifyError> {
    let texts = Texts::new(&options.schema, &options.node_expression, options.history);
    let shared = Arc::new(RunShared::new(texts, options.reads));
    let roles = (0..options.writers)
        .map(|index| SessionKind::Writer {
            increases_shared: index % 3 == 0,
            increases_pair: index % 3 == 1 || options.writers == 1,
        })
        .chain((0..options.readers).map(|_| SessionKind::Reader))
        .chain((0..options.mixed).map(|_| SessionKind::Mixed));

    let mut opening = JoinSet::new();
    for (number, role) in roles.enumerate() {
        let (options, shared) = (Arc::clone(options), Arc::clone(&shared));
        opening.spawn(Session::open(number, role, options, shared, nonce));
    }
    let mut sessions = Vec::with_capacity(opening.len());
    while let Some(joined) = opening.join_next().await {
        match joined {
            Ok(Ok(session)) => sessions.push(session),
            Ok(Err(failure)) => {
                return Err(VerifyError::Unavailable(format!(
                    "cannot prepare a session at {}: {} ({})",
                    options.target, failure.message, failure.code
                )));
            }
            Err(error) => return Err(VerifyError::Internal(error.to_string())),
        }
    }
    Ok((shared, sessions))
}

async fn check(
    options: &Options,
    shared: Arc<RunShared>,
    sessions: Vec<Session>,
    stop: impl Future<Output = ()>,
) -> RunOutcome {
    let started = Instant::now();
    let mut running = JoinSet::new();
    for session in sessions {
        running.spawn(session.run(started));
    }
    let time_is_up = async {
        match options.duration {
            Some(duration) => tokio::time::sleep(duration).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = time_is_up => {}
        () = stop => {}
        () = shared.stopped() => {}
    }
    shared.stop();
    let elapsed = started.elapsed();

    let mut outcome = RunOutcome {
        tally: Tally::default(),
        elapsed,
        acknowledged: Vec::new(),
        fault: None,
    };
    // Sessions end by themselves: each of their waits is bounded.
    while let Some(joined) = running.join_next().await {
        match joined {
            Ok(end) => {
                outcome.tally.merge(end.tally);
                outcome.acknowledged.push(end.acknowledged);
            }
            Err(error) => outcome.fault = Some(format!("a session failed: {error}")),
        }
    }
    outcome
}
