//! `causeway serve`: the proxy, until SIGTERM or SIGINT; SIGHUP has the configuration read again.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::sysexits;
use crate::app::{self, Listeners, Signals};
use crate::config::Config;
use crate::descriptors::Descriptors;
use crate::logging;

/// Runs the proxy.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The configuration.
    #[arg(long, value_name = "FILE", default_value = "config.yaml")]
    config: PathBuf,
}

/// Runs until told to stop; a second signal stops at once.
pub fn run(args: &Args) -> ExitCode {
    let config = match Config::load(&args.config) {
        Ok(config) => config,
        Err(faults) => {
            eprintln!("{faults}");
            return ExitCode::from(sysexits::USAGE);
        }
    };
    let lines = logging::start(&config.log);
    let log = lines.switch();
    let _log = lines.count();
    Descriptors::raised();
    config
        .advice()
        .iter()
        .for_each(|advice| tracing::warn!("{advice}"));

    // Control and accepting share this one thread; the workers have their own.
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("causeway: cannot start an event loop: {error}");
            return ExitCode::from(sysexits::SOFTWARE);
        }
    };
    runtime.block_on(async {
        let listeners = match Listeners::bind(&config).await {
            Ok(listeners) => listeners,
            Err(error) => {
                tracing::error!(%error, "cannot start");
                return ExitCode::from(sysexits::UNAVAILABLE);
            }
        };
        let signals = Signals {
            log: Some(log),
            ..Signals::default()
        };
        let stop = tokio::spawn(cancel_on_signal(signals.shutdown.clone()));
        let reload = tokio::spawn(reload_on_hangup(Arc::clone(&signals.reload)));
        let result = app::run(config, listeners, signals).await;
        stop.abort();
        reload.abort();
        match result {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                tracing::error!(%error, "cannot run");
                ExitCode::from(sysexits::SOFTWARE)
            }
        }
    })
}

/// Cancels `token` at the first SIGTERM or SIGINT and ends the process at the second.
pub(super) async fn cancel_on_signal(token: CancellationToken) {
    let (Ok(mut terminate), Ok(mut interrupt)) = (
        signal(SignalKind::terminate()),
        signal(SignalKind::interrupt()),
    ) else {
        tracing::error!("cannot listen for signals");
        return;
    };
    let mut first = true;
    loop {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        if !first {
            std::process::exit(130);
        }
        first = false;
        token.cancel();
    }
}

/// Asks for a reload at each SIGHUP; several that come during one are one.
async fn reload_on_hangup(reload: Arc<Notify>) {
    let Ok(mut hangup) = signal(SignalKind::hangup()) else {
        tracing::error!("cannot listen for SIGHUP");
        return;
    };
    while hangup.recv().await.is_some() {
        reload.notify_one();
    }
}
