//! Where nothing else runs the server, as in a container: it starts with the agent and stops with it.
//!
//! A former primary is the exception. Once a proxy has governed it, another may lead by now, and only
//! the proxies know: it waits for their word.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::api::{Role, StopMode};
use super::files;
use super::operations::{Agent, Failure};

/// How long a stop in good order may take; a primary waits for its standbys to receive everything.
const GOOD_ORDER: Duration = Duration::from_secs(60);

/// What became of the server when the agent started.
enum Started {
    Pid(i32),
    Left(&'static str),
}

impl Agent {
    /// Starts the server as what it is, if that cannot make a second primary.
    pub(super) async fn start_with_agent(self: Arc<Self>) {
        match self.blocking(Self::start_as_it_is).await {
            Ok(Started::Pid(pid)) => tracing::info!(pid, "the server runs"),
            Ok(Started::Left(why)) => tracing::info!("the server is left as it is: {why}"),
            // A proxy may yet rejoin it.
            Err(failure) => tracing::warn!(text = failure.text, "the server was not started"),
        }
    }

    fn start_as_it_is(&self) -> Result<Started, Failure> {
        let stops = self.stops.load(Ordering::SeqCst);
        let ledger = self.state.ledger();
        if self.watch.look(&self.server).postmaster.is_some() {
            return Ok(Started::Left("it runs already"));
        }
        if self.state.rejoin().is_some() {
            return Ok(Started::Left("a rejoin was cut short and must be repeated"));
        }
        let role = match files::is_standby(&self.server.data) {
            true => Role::Standby,
            false if ledger.is_governed() => {
                return Ok(Started::Left("it was a primary, and the proxies decide"));
            }
            false => Role::Primary,
        };
        let within = self.config.start_timeout;
        let pid = self.start_server(ledger.highest_epoch(), role, within, || {
            let governed = self.state.ledger().is_governed();
            self.stops.load(Ordering::SeqCst) == stops && (role == Role::Standby || !governed)
        })?;
        self.watch.look(&self.server);
        Ok(Started::Pid(pid))
    }

    /// Stops the server before the agent ends, at once if it does not stop in good order in time.
    pub(super) async fn stop_with_agent(self: Arc<Self>) {
        let stopped = self.blocking(|agent| {
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
}
