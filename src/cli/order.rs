//! `causeway status`, `switchover` and `failover`: the operator's commands to a running proxy, over
//! HTTP.

use std::process::ExitCode;
use std::time::Duration;

use hyper::Method;
use serde_json::Value;

use super::admin_client::AdminClient;
use super::sysexits;

/// Shows how the cluster stands.
#[derive(Debug, clap::Args)]
pub struct StatusArgs {
    #[command(flatten)]
    proxy: AdminClient,
    /// Prints what `/api/status` says.
    #[arg(long)]
    json: bool,
}

/// Orders another primary.
#[derive(Debug, clap::Args)]
pub struct OrderArgs {
    #[command(flatten)]
    proxy: AdminClient,
    /// Who is to lead [default: the standby that is best placed]
    #[arg(long, value_name = "NODE")]
    to: Option<String>,
}

/// Prints how the cluster stands.
pub async fn status(args: StatusArgs) -> ExitCode {
    let asked = args.proxy.ask(Method::GET, "/api/status");
    let (ok, status) = match tokio::time::timeout(Duration::from_secs(10), asked).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => return unavailable(&args.proxy, &error),
        Err(_) => return unavailable(&args.proxy, "no answer within 10 s"),
    };
    if args.json {
        println!("{status:#}");
    } else {
        print!("{}", summary(&status));
    }
    if ok {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Gives an order and prints how it ended.
pub async fn order(args: OrderArgs, what: &str) -> ExitCode {
    let to = args.to.as_deref().unwrap_or_default();
    if !may_be_a_node(to) {
        eprintln!("causeway {what}: {to:?} is not the name of a node");
        return ExitCode::from(sysexits::USAGE);
    }
    let mut path = format!("/api/{what}");
    if !to.is_empty() {
        path = format!("{path}?to={to}");
    }
    // The proxy bounds the order itself, by less.
    let asked = args.proxy.ask(Method::POST, &path);
    let (ok, answer) = match tokio::time::timeout(Duration::from_secs(450), asked).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => return unavailable(&args.proxy, &error),
        Err(_) => return unavailable(&args.proxy, "no answer within 450 s"),
    };
    let text = answer["text"].as_str().unwrap_or_default();
    if ok {
        let stall = answer["stall_ms"].as_f64().unwrap_or_default();
        println!("{what}: {text}; statements were held for {stall:.0} ms");
        ExitCode::SUCCESS
    } else {
        eprintln!("causeway {what}: {text}");
        ExitCode::FAILURE
    }
}

/// Whether a text can stand in a request as a node's name.
pub(super) fn may_be_a_node(name: &str) -> bool {
    name.chars()
        .all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
}

pub(super) fn unavailable(proxy: &AdminClient, error: &str) -> ExitCode {
    eprintln!("causeway: {}: {error}", proxy.http);
    ExitCode::from(sysexits::UNAVAILABLE)
}

fn summary(status: &Value) -> String {
    use std::fmt::Write;
    let mut out = String::new();
    let text = |value: &Value| match value {
        Value::String(text) => text.clone(),
        Value::Null => "-".to_owned(),
        other => other.to_string(),
    };
    let _ = writeln!(
        out,
        "{:<12} {:<8} {:<8} {:>8} {:>14} {:>12} {:>10}",
        "node", "state", "role", "timeline", "position", "lag bytes", "lag ms"
    );
    for node in status["nodes"].as_array().into_iter().flatten() {
        let lag_ms = node["lag_ms"]
            .as_f64()
            .map_or("-".to_owned(), |ms| format!("{ms:.1}"));
        let _ = writeln!(
            out,
            "{:<12} {:<8} {:<8} {:>8} {:>14} {:>12} {lag_ms:>10}",
            text(&node["name"]),
            text(node["drain"].get("state").unwrap_or(&node["state"])),
            text(&node["role"]),
            text(&node["timeline"]),
            text(&node["position"]),
            text(&node["lag_bytes"]),
        );
    }
    let failover = &status["failover"];
    if failover.is_null() {
        let _ = writeln!(out, "\nfailover: not configured; roles are followed");
    } else {
        let _ = writeln!(
            out,
            "\nfailover: {}{}, {}, epoch {}, primary {}",
            text(&failover["mode"]),
            if failover["paused"] == true {
                " (paused)"
            } else {
                ""
            },
            text(&failover["phase"]),
            failover["epoch"],
            text(&failover["primary"]),
        );
    }
    if let Some(why) = failover["why"].as_str().filter(|why| !why.is_empty()) {
        let _ = writeln!(out, "  {why}");
    }
    for entry in failover["fences"].as_array().into_iter().flatten() {
        let _ = writeln!(out, "  fence of {}: {}", text(&entry[0]), text(&entry[1]));
    }
    if let Some(failsafe) = failover["failsafe"]
        .as_str()
        .filter(|text| !text.is_empty())
    {
        let _ = writeln!(
            out,
            "  without a proxy the lease is prolonged by: {failsafe}"
        );
    }
    let governed = failover["governed"].as_array().into_iter().flatten();
    let governed: Vec<_> = governed.map(text).collect();
    if !governed.is_empty() {
        let nodes = governed.join(", ");
        let _ = writeln!(
            out,
            "  stopped by their agents if they lead without a lease: {nodes}"
        );
    }
    for entry in failover["quarantine"].as_array().into_iter().flatten() {
        let _ = writeln!(
            out,
            "  {} serves nobody: {}",
            text(&entry[0]),
            text(&entry[1])
        );
    }
    for trouble in status["troubles"].as_array().into_iter().flatten() {
        let (node, kind, what) = (&trouble["node"], &trouble["kind"], &trouble["text"]);
        let _ = writeln!(out, "  {} ({}): {}", text(node), text(kind), text(what));
    }
    let events: Vec<_> = status["events"].as_array().into_iter().flatten().collect();
    if !events.is_empty() {
        let _ = writeln!(out, "\nlast events:");
    }
    for event in events.iter().rev().take(10).rev() {
        let after = event["after_ms"].as_u64();
        let after = after.map_or_else(String::new, |ms| format!(" ({:.1} s)", ms as f64 / 1000.0));
        let _ = writeln!(out, "  {}{after}", text(&event["text"]));
    }
    out
}
