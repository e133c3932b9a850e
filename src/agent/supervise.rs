//! Where nothing else runs the server, as in a container: it starts with the agent, is started again when
//! it has ended, and stops with the agent.
//!
//! A former primary is the exception. Once a proxy has governed it, another may lead by now, and only
//! the proxies know: it waits for their word.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::api::{Role, StopMode};
use super::files;
use super::operations::Agent;
use super::postmaster::ServerError;
use super::vital::Vital;

/// How long a stop in good order may take; a primary waits for its standbys to receive everything.
const GOOD_ORDER: Duration = Duration::from_secs(60);

/// Between two looks whether it still runs; doubled after each start that fails, up to a minute.
const PACE: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(60);

/// Starts the server as what it is whenever it does not run, if that cannot make a second primary.
/// Never ends.
pub(super) async fn keep_running(agent: Arc<Agent>) {
    let _vital = Vital("keep the server running");
    let mut pause = PACE;
    let mut said = None;
    loop {
        if agent.watch.last().0.postmaster.is_none() {
            match agent
                .clone()
                .blocking(|agent| Ok(start_as_it_is(agent)))
                .await
            {
                Ok(Ok(pid)) => {
                    tracing::info!(pid, "the server was started");
                    (pause, said) = (PACE, None);
                }
                Ok(Err(Kept::Left(why))) if said == Some(why) => {}
                Ok(Err(Kept::Left(why))) => {
                    tracing::info!("the server is not started: {why}");
                    said = Some(why);
                }
                // A proxy may yet rejoin it.
                Ok(Err(Kept::Failed(error))) => {
                    tracing::warn!(%error, "the server could not be started");
                    pause = (pause * 2).min(LONGEST);
                }
                Err(failure) => tracing::error!(text = failure.text, "a start broke off"),
            }
        }
        tokio::time::sleep(pause).await;
    }
}

fn start_as_it_is(agent: &Agent) -> Result<i32, Kept> {
    let ledger = agent.state.ledger();
    let role = match files::is_standby(&agent.server.data) {
        true => Role::Standby,
        false => Role::Primary,
    };
    let reason = || {
        if agent.jobs.is_running() {
            return Some("a rejoin is under way");
        }
        if agent.state.rejoin().is_some() {
            return Some("a rejoin was cut short and must be repeated");
        }
        let governed = agent.state.ledger().is_governed();
        (role == Role::Primary && governed).then_some(
            "it was a primary, and whether it may be one again is for the proxies to say",
        )
    };
    if let Some(why) = reason() {
        return Err(Kept::Left(why));
    }
    let stops = agent.stops.load(Ordering::SeqCst);
    let epoch = ledger.highest_epoch();
    let started = agent.start_server(epoch, role, agent.config.start_timeout, || {
        // Asked at the last moment: a rejoin that begins afterwards stops what was started.
        agent.stops.load(Ordering::SeqCst) == stops && reason().is_none()
    });
    agent.watch.look(&agent.server);
    started.map_err(Kept::Failed)
}

/// Stops the server before the agent ends, at once if it does not stop in good order in time.
pub(super) async fn stop_with_agent(agent: Arc<Agent>) {
    let stopped = agent.blocking(|agent| {
        // Starts that are under way must not outlive this.
        agent.stops.fetch_add(1, Ordering::SeqCst);
        agent.jobs.cancel();
        match agent.server.stop(StopMode::Fast, GOOD_ORDER) {
            Ok(stopped) => Ok(stopped),
            Err(error) => {
                tracing::warn!(%error, "the server is stopped at once");
                Ok(agent.server.stop(StopMode::Immediate, GOOD_ORDER)?)
            }
        }
    });
    match stopped.await {
        Ok(stopped) => tracing::info!(?stopped, "the server was stopped with the agent"),
        Err(failure) => tracing::error!(text = failure.text, "the server may still run"),
    }
}

/// Why the server was not started.
enum Kept {
    Left(&'static str),
    Failed(ServerError),
}
