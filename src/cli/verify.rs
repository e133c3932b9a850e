//! `causeway verify`: the consistency checker from the command line.

use std::future::Future;
use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use crate::verify::{self, Blocks, Endpoint, Form, Options, VerifyError};

/// Check any PostgreSQL endpoint for stale reads.
///
/// Sessions write and read through the endpoint, and every answer is held against what its session has
/// written and seen. Exits with 0 if no promise was broken, 1 if one was, 64 for a fault in the
/// arguments, 69 if the endpoint cannot be used.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Where to connect, such as postgres://user:password@127.0.0.1:6432/db
    // A text, not an Endpoint: clap quotes values that it cannot parse, passwords too.
    #[arg(
        long,
        value_name = "URL",
        env = "CAUSEWAY_VERIFY_TARGET",
        hide_env_values = true
    )]
    target: String,

    /// Send transactions that only read here instead, round robin (repeatable): plain read/write
    /// splitting as an application would do it
    #[arg(long, value_name = "URL")]
    read_target: Vec<String>,

    /// Sessions which write and then read their own row
    #[arg(long, value_name = "N", default_value_t = 12)]
    writers: usize,

    /// Sessions which only read counters that writers increase
    #[arg(long, value_name = "N", default_value_t = 6)]
    readers: usize,

    /// Sessions which do all of this in turn
    #[arg(long, value_name = "N", default_value_t = 4)]
    mixed: usize,

    /// Reads that follow each write
    #[arg(long, value_name = "N", default_value_t = 1)]
    reads_per_write: usize,

    /// Forms in which statements are sent
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        default_value = "simple,extended,prepared"
    )]
    forms: Vec<Form>,

    /// How often statements are wrapped in BEGIN and COMMIT
    #[arg(long, value_enum, default_value = "mixed")]
    blocks: Blocks,

    /// Send `SET causeway.consistency = 'LEVEL'` on every connection [default: nothing is sent]
    #[arg(long, value_name = "LEVEL")]
    consistency: Option<String>,

    /// Give every session a `causeway.session` key, and check across its reconnections too
    #[arg(long)]
    session_key: bool,

    /// Also check that reads see every write acknowledged to anyone before they began; implied by
    /// --consistency strong and primary
    #[arg(long)]
    recency: bool,

    /// Note every write in a table, and look at the end whether each acknowledged one is there: for runs
    /// through failures. Otherwise only each session's last write is looked for
    #[arg(long)]
    history: bool,

    /// SQL expression that names the answering server; must not be volatile. With equal ports use
    /// inet_server_addr()
    #[arg(long, value_name = "SQL", default_value = "current_setting('port')")]
    node_expression: String,

    /// End after this many seconds [default: 10 without --reads, unlimited with it]
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    duration: Option<Duration>,

    /// End after this many reads; with --duration, whichever comes first
    #[arg(long, value_name = "COUNT")]
    reads: Option<u64>,

    /// Pause between the cycles of a session, in seconds
    #[arg(long, value_name = "SECONDS", value_parser = seconds, default_value = "0")]
    think_time: Duration,

    /// Longest wait for any answer, in seconds; the connection is then given up
    #[arg(long, value_name = "SECONDS", value_parser = seconds, default_value = "10")]
    statement_timeout: Duration,

    /// Longest wait until every connection shows the new schema, in seconds
    #[arg(long, value_name = "SECONDS", value_parser = seconds, default_value = "30")]
    setup_timeout: Duration,

    /// Schema that is made for the check and dropped behind it
    #[arg(long, value_name = "NAME", default_value = "causeway_verify")]
    schema: String,

    /// Leave the schema behind
    #[arg(long)]
    keep: bool,

    /// Violations to show
    #[arg(long, value_name = "N", default_value_t = 10)]
    examples: usize,

    /// Repeat the choices of an earlier run [default: random, shown in the report]
    #[arg(long)]
    seed: Option<u64>,

    /// Print the report as JSON
    #[arg(long)]
    json: bool,
}

/// Runs the check until it ends, or until Ctrl-C or SIGTERM, and prints the report.
pub async fn run(args: Args) -> Result<ExitCode, VerifyError> {
    let (json, history) = (args.json, args.history);
    let options = args.into_options()?;
    // Known before the run, so that one that hangs can be repeated too.
    tracing::info!(seed = options.seed, target = %options.target, "checking");
    let report = verify::run(options, interrupted()?).await?;
    let text = if json {
        serde_json::to_string_pretty(&report)
            .map_err(|error| VerifyError::Internal(error.to_string()))?
    } else {
        report.to_string()
    };
    // A reader that went away, such as `head`, changes nothing about the outcome.
    let _ = writeln!(std::io::stdout(), "{}", text.trim_end());
    if report.violations() > 0 {
        Ok(ExitCode::from(1))
    } else if report.reads == 0 {
        Err(VerifyError::Unavailable(
            "no read was answered: nothing has been checked".to_owned(),
        ))
    } else if history && report.lost_writes.is_none() {
        Err(VerifyError::Unavailable(
            "the acknowledged writes could not be looked for".to_owned(),
        ))
    } else {
        Ok(ExitCode::SUCCESS)
    }
}

impl Args {
    fn into_options(self) -> Result<Options, VerifyError> {
        let read_targets = self.read_target.iter().map(|text| text.parse());
        let unlimited = self.reads.is_some();
        let strong = matches!(self.consistency.as_deref(), Some("strong" | "primary"));
        Ok(Options {
            read_targets: read_targets.collect::<Result<_, _>>()?,
            writers: self.writers,
            readers: self.readers,
            mixed: self.mixed,
            reads_per_write: self.reads_per_write,
            forms: self.forms,
            blocks: self.blocks,
            consistency: self.consistency,
            session_key: self.session_key,
            recency: self.recency || strong,
            history: self.history,
            node_expression: self.node_expression,
            duration: self
                .duration
                .or((!unlimited).then_some(Duration::from_secs(10))),
            reads: self.reads,
            think_time: self.think_time,
            statement_timeout: self.statement_timeout,
            setup_timeout: self.setup_timeout,
            schema: self.schema,
            keep: self.keep,
            examples: self.examples,
            seed: self.seed.unwrap_or_else(rand::random),
            ..Options::new(self.target.parse::<Endpoint>()?)
        })
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}

#[cfg(unix)]
fn interrupted() -> Result<impl Future<Output = ()> + Send, VerifyError> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())
        .map_err(|error| VerifyError::Internal(format!("cannot listen for SIGTERM: {error}")))?;
    Ok(async move {
        tokio::select! {
            _ = tokio::signal::ctrl_c() => {}
            _ = terminate.recv() => {}
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn options(arguments: &[&str]) -> Result<Options, VerifyError> {
        let line = ["verify", "--target", "postgres://app:hunter2@db/shop"];
        Line::try_parse_from(line.iter().chain(arguments))
            .unwrap()
            .args
            .into_options()
    }

    #[test]
    fn a_check_always_has_an_end() {
        let ten = Some(Duration::from_secs(10));
        assert_eq!(options(&[]).unwrap().duration, ten);
        let limited = options(&["--reads", "5"]).unwrap();
        assert_eq!((limited.duration, limited.reads), (None, Some(5)));
        let both = options(&["--reads", "5", "--duration", "1.5"]).unwrap();
        assert_eq!(both.duration, Some(Duration::from_millis(1500)));
    }

    #[test]
    fn strong_implies_recency() {
        assert!(!options(&["--consistency", "session"]).unwrap().recency);
        assert!(options(&["--consistency", "strong"]).unwrap().recency);
    }

    #[test]
    fn a_bad_read_target_is_refused_without_its_password() {
        let error = options(&["--read-target", "postgres://app:hunter2@db:x/shop"]).unwrap_err();
        assert_eq!(error.exit_code(), 64);
        assert!(!format!("{error} {error:?}").contains("hunter2"));
    }
}
