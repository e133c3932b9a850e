//! `make bench`: what Causeway costs beside PgBouncer, as ratios, on one real local cluster.
//!
//! The rig brings the servers up, the contestants stand before them, and pgbench is the load. The
//! rules and the columns are explained in `benches/README.md`.

/// The benchmark's rooms, in `benches/peers/`.
mod peers {
    pub(crate) mod cell;
    pub(crate) mod contestant;
    pub(crate) mod idle;
    pub(crate) mod options;
    pub(crate) mod pgbench;
    pub(crate) mod pgbouncer;
    pub(crate) mod process;
    pub(crate) mod report;
    pub(crate) mod statistics;
}

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use pgcauseway::rig::Cluster;
use tokio::signal::unix::{SignalKind, signal};

use peers::cell::Cell;
use peers::contestant::{Contestant, Field};
use peers::options::Options;
use peers::pgbench::{Pgbench, Run};
use peers::report::{Report, Row};
use peers::{idle, process};

/// The run's result, or why there is none.
type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

fn main() -> ExitCode {
    let options = Options::parse();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let outcome = match runtime {
        Ok(runtime) => runtime.block_on(until_interrupted(options)),
        Err(error) => Err(error.into()),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Leaves nothing running when a person or CI stops the benchmark.
async fn until_interrupted(options: Options) -> Outcome<bool> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        outcome = measure(options) => outcome,
        _ = interrupt.recv() => Err("interrupted".into()),
        _ = terminate.recv() => Err("terminated".into()),
    }
}

/// True when no transaction failed anywhere.
async fn measure(options: Options) -> Outcome<bool> {
    let cells = options.cells();
    if cells.is_empty() && options.idle_clients == 0 {
        return Err("no cell matches; --list prints their names".into());
    }
    if options.list {
        cells.iter().for_each(|cell| println!("{cell}"));
        return Ok(true);
    }
    eprintln!("bench: starting a primary and two standbys");
    let cluster = Cluster::builder("bench").start().await?;
    let (proxies, others) = process::cores(options.pin, options.cores);
    if let Some(cores) = &others {
        for node in cluster.nodes() {
            process::confine(node.pid().ok_or("a server is gone")?, cores)?;
        }
        process::confine(i32::try_from(std::process::id())?, cores)?;
    }
    let pgbench = Pgbench::new(&cluster)?;
    pgbench.initialise(&cluster).await?;
    cluster.wait_caught_up().await?;
    let field = Field::start(&cluster, &options).await?;
    if let Some(cores) = &proxies {
        for pid in field.contestants.iter().filter_map(Contestant::pid) {
            process::confine(i32::try_from(pid)?, cores)?;
        }
    }

    let mut report = Report::new(&cluster, &field, &options);
    for cell in &cells {
        let rows = compete(cell, &cluster, &field, &pgbench, &options).await?;
        report.add(*cell, rows);
        // Written as it grows, so that a long run that is stopped was not for nothing.
        report.write(&options.output())?;
    }
    if options.idle_clients > 0 {
        report.idle = idle::measure(&cluster, &options).await?;
    }
    report.write(&options.output())?;
    println!("{}", report.markdown());
    eprintln!("bench: written to {}", options.output().display());
    drop(field);
    cluster.stop().await?;
    Ok(report.clean())
}

/// Every contestant in one cell: one warm-up each, then rounds in turn, A B C, A B C.
async fn compete(
    cell: &Cell,
    cluster: &Cluster,
    field: &Field,
    pgbench: &Pgbench,
    options: &Options,
) -> Outcome<Vec<Row>> {
    let mut rows: Vec<Row> = field.contestants.iter().map(Row::new).collect();
    for contestant in &field.contestants {
        one_run(cell, contestant, pgbench, options.warm_up()).await?;
    }
    for round in 1..=options.rounds() {
        for (contestant, row) in field.contestants.iter().zip(&mut rows) {
            // What an earlier run wrote must not be replayed at this one's expense.
            cluster.wait_caught_up().await?;
            let others = process::quiet(options.patience()).await?;
            let mut run = one_run(cell, contestant, pgbench, options.length()).await?;
            run.others_percent = others;
            eprintln!(
                "bench: {cell} {round}/{}: {:<14} {}",
                options.rounds(),
                contestant.name,
                run.line()
            );
            row.runs.push(run);
        }
    }
    Ok(rows)
}

async fn one_run(
    cell: &Cell,
    contestant: &Contestant,
    pgbench: &Pgbench,
    length: Duration,
) -> Outcome<Run> {
    pgbench
        .run(cell, &contestant.endpoint(cell), contestant.pid(), length)
        .await
}
