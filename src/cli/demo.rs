//! `causeway demo`: a real cluster and the proxy on this machine, until Ctrl-C.

use std::path::PathBuf;
use std::process::ExitCode;

use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::serve::cancel_on_signal;
use super::sysexits;
use crate::app::{self, Listeners};
use crate::config::Config;
use crate::descriptors::Descriptors;
use crate::logging;
use crate::rig::{self, DemoCluster};

/// Starts a primary, standbys and the proxy.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Number of streaming standbys.
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u8).range(0..=16))]
    standbys: u8,
    /// Port for clients.
    #[arg(long, value_name = "PORT", default_value_t = 6432)]
    port: u16,
    /// Port for metrics and status.
    #[arg(long, value_name = "PORT", default_value_t = 9432)]
    http_port: u16,
    /// Keep the servers' data and logs here instead of removing them at the end.
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
    /// What to log.
    #[arg(long, value_name = "FILTER", default_value = "info")]
    log: String,
}

/// Runs until told to stop.
pub async fn run(args: Args) -> ExitCode {
    let shutdown = CancellationToken::new();
    let stop = tokio::spawn(cancel_on_signal(shutdown.clone()));
    let code = tokio::select! {
        code = demonstrate(args, shutdown.clone()) => code,
        // Before the proxy runs, nothing else looks at the signal.
        () = before_the_proxy(&shutdown) => ExitCode::SUCCESS,
    };
    stop.abort();
    code
}

/// Resolves some time after `shutdown`, should the start-up still be under way then.
async fn before_the_proxy(shutdown: &CancellationToken) {
    shutdown.cancelled().await;
    tokio::time::sleep(app::SHUTDOWN_GRACE * 2).await;
}

async fn demonstrate(args: Args, shutdown: CancellationToken) -> ExitCode {
    eprintln!(
        "Starting a primary and {} streaming standbys, with agents …",
        args.standbys
    );
    let program = match std::env::current_exe() {
        Ok(program) => program,
        Err(error) => {
            eprintln!("causeway demo: cannot find its own program for the agents: {error}");
            return ExitCode::from(sysexits::UNAVAILABLE);
        }
    };
    let standbys = usize::from(args.standbys);
    let demo = tokio::select! {
        demo = rig::demo_cluster(standbys, args.keep.clone(), Some(program)) => demo,
        () = shutdown.cancelled() => return ExitCode::SUCCESS,
    };
    let demo = match demo {
        Ok(demo) => demo,
        Err(error) => {
            eprintln!("causeway demo: {error}");
            return ExitCode::from(sysexits::UNAVAILABLE);
        }
    };
    let config = match config(&args, &demo) {
        Ok(config) => config,
        Err(faults) => {
            eprintln!("{faults}");
            return ExitCode::from(sysexits::USAGE);
        }
    };
    let _log = logging::start(&config.log).count();
    Descriptors::raised();
    let listeners = match Listeners::bind(&config).await {
        Ok(listeners) => listeners,
        Err(error) => {
            eprintln!("causeway demo: {error}; choose others with --port and --http-port");
            return ExitCode::from(sysexits::UNAVAILABLE);
        }
    };
    print_guide(&args, &demo);
    let result = app::run(config, listeners, shutdown).await;
    eprintln!("Stopping the servers …");
    if let Err(error) = demo.cluster.stop().await {
        eprintln!("causeway demo: {error}");
    }
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("causeway demo: {error}");
            ExitCode::from(sysexits::SOFTWARE)
        }
    }
}

/// The same way in as a file's, so that the demo runs with the documented defaults.
fn config(args: &Args, demo: &DemoCluster) -> Result<Config, String> {
    let Args {
        port,
        http_port,
        log,
        ..
    } = args;
    let own = json!({
        "listen": format!("127.0.0.1:{port}"),
        "admin": { "http": format!("127.0.0.1:{http_port}"), "users": ["demo"] },
        "log": { "filter": log },
    });
    let own = yaml_serde::to_string(&own).map_err(|error| error.to_string())?;
    let text = format!("{own}{}", demo.yaml());
    Config::parse("demo", &text, &|_| None).map_err(|faults| faults.to_string())
}

fn print_guide(args: &Args, demo: &DemoCluster) {
    let url = format!("postgresql://demo:demo@127.0.0.1:{}/demo", args.port);
    let http = format!("http://127.0.0.1:{}", args.http_port);
    println!("\nCauseway is ready.\n");
    println!("  connection string   {url}");
    println!("  dashboard           {http}/");
    println!("  status and metrics  {http}/api/status  {http}/metrics");
    println!(
        "  console             psql postgresql://demo:demo@127.0.0.1:{}/causeway\n",
        args.port
    );
    for node in demo.cluster.nodes() {
        let pid = node
            .pid()
            .map_or_else(|| "-".to_owned(), |pid| pid.to_string());
        println!(
            "  {:<8} port {:<6} postmaster {pid:<8} log {}",
            node.name(),
            node.port(),
            node.log().display()
        );
        if let Some(agent) = node.agent() {
            println!(
                "           agent {} log {}",
                agent.url(),
                agent.log().display()
            );
        }
    }
    println!("\nThings to try in another shell:\n");
    println!("  psql {url} -c 'SELECT current_setting($$port$$)' -c 'SHOW causeway.last_route'");
    println!("  pgbench -i {url}");
    println!("  pgbench -c 8 -T 10 -S -M prepared {url}");
    let own = std::env::current_exe().map_or_else(
        |_| "causeway".to_owned(),
        |program| program.display().to_string(),
    );
    let at = match args.http_port {
        9432 => String::new(),
        port => format!(" --http 127.0.0.1:{port}"),
    };
    println!("  {own} verify --target {url} --duration 10");
    println!("  {own} status{at}");
    println!("  {own} switchover{at}");
    if let Some(pid) = demo.cluster.primary().pid() {
        println!("  kill -9 {pid}    the primary: another leads, and it comes back as a standby\n");
    }
    println!("Ctrl-C stops everything and cleans up.\n");
}
