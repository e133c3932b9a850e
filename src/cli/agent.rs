//! `causeway agent`: beside one PostgreSQL server, until SIGTERM or SIGINT.

use std::path::PathBuf;
use std::process::ExitCode;

use tokio_util::sync::CancellationToken;

use super::serve::cancel_on_signal;
use super::sysexits;
use crate::agent;
use crate::config::AgentConfig;
use crate::descriptors::Descriptors;
use crate::logging;

/// Runs the agent of one PostgreSQL server.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The configuration.
    #[arg(long, value_name = "FILE", default_value = "agent.yaml")]
    config: PathBuf,
    /// Only check the configuration.
    #[arg(long)]
    check: bool,
}

/// Runs until told to stop; the PostgreSQL server is left as it is, unless it is supervised.
pub fn run(args: &Args) -> ExitCode {
    let config = match AgentConfig::load(&args.config) {
        Ok(config) => config,
        Err(faults) => {
            eprintln!("{faults}");
            return ExitCode::from(sysexits::USAGE);
        }
    };
    if args.check {
        println!("{}: no fault found", args.config.display());
        return ExitCode::SUCCESS;
    }
    let log = logging::start(&config.log);
    Descriptors::raised();
    let shutdown = CancellationToken::new();
    // Before there is a runtime: the change of user, and the threads that keep the lease.
    let prepared = match agent::prepare(config, shutdown.clone()) {
        Ok(prepared) => prepared,
        Err(error) => {
            tracing::error!(%error, "cannot start");
            return ExitCode::from(sysexits::UNAVAILABLE);
        }
    };
    let _log = log.count();
    super::with_runtime(async {
        let stop = tokio::spawn(cancel_on_signal(shutdown));
        let outcome = prepared.run().await;
        stop.abort();
        match outcome {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                tracing::error!(%error, "cannot serve");
                ExitCode::from(sysexits::UNAVAILABLE)
            }
        }
    })
}
