//! The commands, one file each.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod admin_client;
pub mod agent;
pub mod check;
mod check_agents;
mod check_failover;
pub mod demo;
pub mod maintenance;
pub mod order;
pub mod serve;
pub mod top;
pub mod verify;

/// A PostgreSQL replication proxy: reads go to standbys, and no session sees stale data.
#[derive(Debug, Parser)]
#[command(name = "causeway", version, max_term_width = 100)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs the proxy.
    Serve(serve::Args),
    /// Runs beside a PostgreSQL server: stops, starts and rejoins it for the proxy, and fences it.
    Agent(agent::Args),
    /// Checks a configuration and prints every fault.
    Check(check::Args),
    /// Shows how the cluster and its failover stand.
    Status(order::StatusArgs),
    /// Shows the dashboard in this terminal.
    Top(top::Args),
    /// Lets another node lead, without an error to a client or a lost write.
    Switchover(order::OrderArgs),
    /// Replaces the primary now, and accepts the loss that `causeway status` has spoken of.
    Failover(order::OrderArgs),
    /// Has a running proxy read its configuration again; a file with faults changes nothing.
    Reload(maintenance::ReloadArgs),
    /// Keeps new reads from a standby, so that it can be stopped without an error to a client.
    Drain(maintenance::DrainArgs),
    /// Lets a drained standby have reads again.
    Undrain(maintenance::UndrainArgs),
    /// Starts a real primary, standbys and the proxy on this machine, until Ctrl-C.
    Demo(demo::Args),
    /// Checks the consistency of any PostgreSQL endpoint.
    Verify(Box<verify::Args>),
}

/// Carries out what the command line says.
pub fn run(arguments: Arguments) -> ExitCode {
    match arguments.command {
        Command::Serve(args) => serve::run(&args),
        Command::Agent(args) => agent::run(&args),
        Command::Demo(args) => with_runtime(demo::run(args)),
        Command::Status(args) => with_runtime(order::status(args)),
        Command::Top(args) => with_runtime(top::run(args)),
        Command::Switchover(args) => with_runtime(order::order(args, "switchover")),
        Command::Failover(args) => with_runtime(order::order(args, "failover")),
        Command::Reload(args) => with_runtime(maintenance::reload(args)),
        Command::Drain(args) => with_runtime(maintenance::drain(args)),
        Command::Undrain(args) => with_runtime(maintenance::undrain(args)),
        Command::Check(args) => with_runtime(check::run(args)),
        Command::Verify(args) => with_runtime(async {
            match verify::run(*args).await {
                Ok(code) => code,
                Err(error) => {
                    eprintln!("causeway verify: {error}");
                    ExitCode::from(error.exit_code())
                }
            }
        }),
    }
}

fn with_runtime(work: impl Future<Output = ExitCode>) -> ExitCode {
    match tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
    {
        Ok(runtime) => {
            let code = runtime.block_on(work);
            runtime.shutdown_timeout(std::time::Duration::from_secs(1));
            code
        }
        Err(error) => {
            eprintln!("causeway: cannot start a runtime: {error}");
            ExitCode::from(sysexits::SOFTWARE)
        }
    }
}

/// Exit codes as in `sysexits.h`.
pub mod sysexits {
    /// The command was used incorrectly, or the configuration is wrong.
    pub const USAGE: u8 = 64;
    /// Something that is needed cannot be reached.
    pub const UNAVAILABLE: u8 = 69;
    /// A fault of ours.
    pub const SOFTWARE: u8 = 70;
}
