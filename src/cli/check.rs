//! `causeway check`: says whether a configuration would work, before anything depends on it.

use std::path::PathBuf;
use std::process::ExitCode;

use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_postgres::Client;

use super::{check_agents, check_failover};
use crate::config::{Config, Failover, Monitor, Node};
use crate::control::store::{self, Examined};
use crate::pg;

/// sysexits: a fault of the configuration.
const USAGE: u8 = 64;
/// sysexits: a server that cannot be reached.
const UNAVAILABLE: u8 = 69;
/// sysexits: a privilege that is missing.
const NO_PERMISSION: u8 = 77;

/// What probes call, as `has_function_privilege` names it.
const FUNCTIONS: [&str; 6] = [
    "pg_is_in_recovery()",
    "pg_current_wal_insert_lsn()",
    "pg_current_wal_flush_lsn()",
    "pg_last_wal_receive_lsn()",
    "pg_last_wal_replay_lsn()",
    "pg_control_checkpoint()",
];

/// Check a configuration and print every fault with its line and key
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// The configuration file
    #[arg(long, short, value_name = "FILE", default_value = "config.yaml")]
    pub config: PathBuf,
    /// Also log in to every node as the monitoring user and check its privileges
    #[arg(long)]
    pub connect: bool,
}

/// Runs the command: 0 when all is well, 64 for a faulty configuration, 69 when a node cannot be
/// reached, 77 when the monitoring user lacks a privilege.
pub async fn run(args: Args) -> ExitCode {
    let name = args.config.display();
    let config = match Config::load(&args.config) {
        Ok(config) => config,
        Err(faults) => {
            let count = faults.iter().len();
            eprintln!("{faults}");
            eprintln!("{name}: {count} fault{}", if count == 1 { "" } else { "s" });
            return ExitCode::from(USAGE);
        }
    };
    println!("{name}: valid");
    for advice in config.advice() {
        println!("{name}: note: {advice}");
    }
    if !args.connect {
        return ExitCode::SUCCESS;
    }
    let reports = examine_all(&config).await;
    for (node, report) in config.nodes.iter().zip(&reports) {
        println!("{}", describe(node, report));
        for note in report.iter().flat_map(|facts| &facts.notes) {
            println!("{}: note: {note}", node.name);
        }
    }
    for line in check_agents::lines(&config).await {
        println!("{line}");
    }
    let code = verdict(&reports).max(coordination(&config).await);
    // With a node out of reach, the primary may be that one.
    if code != UNAVAILABLE {
        for note in notes(&reports) {
            println!("{name}: note: {note}");
        }
    }
    ExitCode::from(code)
}

/// Looks at where the state of a failover is to be kept; 69 if nothing can be kept there.
async fn coordination(config: &Config) -> u8 {
    let Some(failover) = &config.failover else {
        return 0;
    };
    let examined = store::examine(&failover.coordination, &failover.cluster).await;
    for Examined { place, outcome } in &examined {
        match outcome {
            Ok(found) => println!("{place}: {found}"),
            Err(reason) => println!("{place}: {reason}"),
        }
    }
    let usable = examined.iter().any(|examined| examined.outcome.is_ok());
    if usable { 0 } else { UNAVAILABLE }
}

/// What a node said, or why it could not be asked.
type NodeReport = Result<NodeFacts, String>;

/// What a node said.
#[derive(Debug)]
struct NodeFacts {
    version: String,
    standby: bool,
    system_identifier: Option<String>,
    /// Each as in `membership of pg_monitor`.
    missing: Vec<String>,
    /// What a failover would suffer from.
    notes: Vec<String>,
}

async fn examine_all(config: &Config) -> Vec<NodeReport> {
    let mut tasks = JoinSet::new();
    for (index, node) in config.nodes.iter().cloned().enumerate() {
        let monitor = config.monitor.clone();
        let failover = config.failover.clone();
        // Login and three short queries; a node slower than this would not do as one.
        let bound = config.pool.connect_timeout + monitor.timeout;
        tasks.spawn(async move {
            let report = match timeout(bound, examine(&node, &monitor, failover.as_ref())).await {
                Ok(report) => report,
                Err(_) => Err(format!(
                    "not reachable: no answer within {} ms",
                    bound.as_millis()
                )),
            };
            (index, report)
        });
    }
    let mut reports: Vec<NodeReport> = config
        .nodes
        .iter()
        .map(|_| Err("the check was cut short".to_owned()))
        .collect();
    while let Some(done) = tasks.join_next().await {
        if let Ok((index, report)) = done
            && let Some(slot) = reports.get_mut(index)
        {
            *slot = report;
        }
    }
    reports
}

async fn examine(node: &Node, monitor: &Monitor, failover: Option<&Failover>) -> NodeReport {
    let login = pg::monitor(node, monitor, "causeway check", "");
    let (client, connection) = pg::connect(&login).await.map_err(|error| {
        let refused = error.as_db_error().is_some();
        let what = if refused {
            "login refused"
        } else {
            "not reachable"
        };
        format!("{what}: {}", pg::describe(&error))
    })?;
    let report = ask(&client, failover)
        .await
        .map_err(|error| format!("query failed: {}", pg::describe(&error)));
    connection.abort();
    report
}

async fn ask(
    client: &Client,
    failover: Option<&Failover>,
) -> Result<NodeFacts, tokio_postgres::Error> {
    let row = client
        .query_one(
            "SELECT current_setting('server_version'), pg_is_in_recovery(), \
             pg_has_role(current_user, 'pg_monitor', 'USAGE')",
            &[],
        )
        .await?;
    let mut missing = Vec::new();
    if !row.get::<_, bool>(2) {
        missing.push("membership of pg_monitor (GRANT pg_monitor TO …)".to_owned());
    }
    missing.extend(check_failover::missing_functions(client, &FUNCTIONS).await?);
    let mut notes = Vec::new();
    if let Some(failover) = failover {
        missing.extend(check_failover::missing_privileges(client, failover).await?);
        notes = check_failover::notes(client, failover).await?;
    }
    // Whoever may not call it has been told so above.
    let system = client
        .query_one(
            "SELECT system_identifier::text FROM pg_control_system()",
            &[],
        )
        .await
        .map(|row| row.get(0))
        .ok();
    Ok(NodeFacts {
        version: row.get(0),
        standby: row.get(1),
        system_identifier: system,
        missing,
        notes,
    })
}

fn describe(node: &Node, report: &NodeReport) -> String {
    let place = format!("{} ({}:{})", node.name, node.host, node.port);
    match report {
        Err(reason) => format!("{place}: {reason}"),
        Ok(facts) => {
            let role = if facts.standby { "standby" } else { "primary" };
            let privileges = if facts.missing.is_empty() {
                "privileges complete".to_owned()
            } else {
                format!("privileges missing: {}", facts.missing.join(", "))
            };
            format!(
                "{place}: reachable, PostgreSQL {}, {role}, {privileges}",
                facts.version
            )
        }
    }
}

fn verdict(reports: &[NodeReport]) -> u8 {
    if reports.iter().any(Result::is_err) {
        UNAVAILABLE
    } else if reports
        .iter()
        .flatten()
        .any(|facts| !facts.missing.is_empty())
    {
        NO_PERMISSION
    } else {
        0
    }
}

/// What only shows when nodes are looked at together.
fn notes(reports: &[NodeReport]) -> Vec<String> {
    let facts: Vec<&NodeFacts> = reports.iter().flatten().collect();
    let mut notes = Vec::new();
    match facts.iter().filter(|facts| !facts.standby).count() {
        0 => notes.push("no node is a primary: writes would wait for one".to_owned()),
        1 => {}
        count => notes.push(format!("{count} nodes are primaries: only one may be")),
    }
    let mut systems: Vec<&String> = facts
        .iter()
        .filter_map(|facts| facts.system_identifier.as_ref())
        .collect();
    systems.sort_unstable();
    systems.dedup();
    if systems.len() > 1 {
        notes.push("the nodes have different system identifiers: not one cluster".to_owned());
    }
    notes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(standby: bool, missing: &[&str]) -> NodeReport {
        Ok(NodeFacts {
            version: "15.8".to_owned(),
            standby,
            system_identifier: Some("1".to_owned()),
            missing: missing.iter().map(|&text| text.to_owned()).collect(),
            notes: Vec::new(),
        })
    }

    #[test]
    fn the_worst_node_decides() {
        assert_eq!(verdict(&[facts(false, &[]), facts(true, &[])]), 0);
        assert_eq!(
            verdict(&[facts(false, &["x"]), facts(true, &[])]),
            NO_PERMISSION
        );
        assert_eq!(
            verdict(&[facts(false, &["x"]), Err("gone".to_owned())]),
            UNAVAILABLE
        );
    }

    #[test]
    fn nodes_that_do_not_fit_together_are_pointed_out() {
        assert!(notes(&[facts(false, &[]), facts(true, &[])]).is_empty());
        assert!(notes(&[facts(true, &[])])[0].starts_with("no node is a primary"));
        assert!(notes(&[facts(false, &[]), facts(false, &[])])[0].starts_with("2 nodes"));
    }
}
