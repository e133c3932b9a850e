//! `causeway reload`, `drain` and `undrain`: maintenance of a running proxy, over HTTP.

use std::process::ExitCode;
use std::time::Duration;

use hyper::Method;
use serde_json::Value;

use super::admin_client::AdminClient;
use super::order::{may_be_a_node, unavailable};
use super::sysexits;
use crate::config::Span;

/// Bound on one request; the proxy has bounds of its own.
const ANSWER: Duration = Duration::from_secs(60);
/// Between looks at how far a drain has come.
const LOOK: Duration = Duration::from_millis(200);

/// Has the configuration read again.
#[derive(Debug, clap::Args)]
pub struct ReloadArgs {
    #[command(flatten)]
    proxy: AdminClient,
}

/// Names a standby.
#[derive(Debug, clap::Args)]
pub struct DrainArgs {
    /// The standby
    #[arg(value_name = "NODE")]
    node: String,
    #[command(flatten)]
    proxy: AdminClient,
    /// Waits so long for its last connection to be given back, such as 60s
    #[arg(long, value_name = "TIME")]
    wait: Option<Span>,
}

/// Names a drained standby.
#[derive(Debug, clap::Args)]
pub struct UndrainArgs {
    /// The standby
    #[arg(value_name = "NODE")]
    node: String,
    #[command(flatten)]
    proxy: AdminClient,
}

/// Reloads, and prints what changed: 0, or 64 for a file with faults.
pub async fn reload(args: ReloadArgs) -> ExitCode {
    let (ok, answer) = match ask(&args.proxy, Method::POST, "/api/reload").await {
        Ok(answered) => answered,
        Err(code) => return code,
    };
    if ok {
        println!("reload: {}", text(&answer));
        return ExitCode::SUCCESS;
    }
    match answer["faults"].as_array() {
        Some(faults) => {
            for fault in faults {
                eprintln!("{}", fault.as_str().unwrap_or_default());
            }
            eprintln!("causeway reload: nothing has changed");
            ExitCode::from(sysexits::USAGE)
        }
        None => {
            eprintln!("causeway reload: {}", text(&answer));
            ExitCode::FAILURE
        }
    }
}

/// Drains, and waits if asked to; 69 if it is not drained by then.
pub async fn drain(args: DrainArgs) -> ExitCode {
    let code = order(&args.proxy, "drain", &args.node).await;
    let Some(wait) = args.wait.filter(|_| code == ExitCode::SUCCESS) else {
        return code;
    };
    let until = tokio::time::Instant::now() + wait.0;
    loop {
        let (_, status) = match ask(&args.proxy, Method::GET, "/api/status").await {
            Ok(answered) => answered,
            Err(code) => return code,
        };
        let nodes = status["nodes"].as_array();
        let node = nodes.and_then(|nodes| nodes.iter().find(|node| node["name"] == *args.node));
        let drain = node.map_or(&Value::Null, |node| &node["drain"]);
        if drain["state"] == "drained" {
            println!("drain: {} is drained", args.node);
            return ExitCode::SUCCESS;
        }
        if drain.is_null() {
            eprintln!("causeway drain: {} is drained no longer", args.node);
            return ExitCode::FAILURE;
        }
        if tokio::time::Instant::now() >= until {
            let left = &drain["connections"];
            eprintln!(
                "causeway drain: {left} connections to {} were left after {wait}; it stays draining",
                args.node
            );
            return ExitCode::from(sysexits::UNAVAILABLE);
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Lets a standby have reads again.
pub async fn undrain(args: UndrainArgs) -> ExitCode {
    order(&args.proxy, "undrain", &args.node).await
}

async fn order(proxy: &AdminClient, what: &str, node: &str) -> ExitCode {
    if node.is_empty() || !may_be_a_node(node) {
        eprintln!("causeway {what}: {node:?} is not the name of a node");
        return ExitCode::from(sysexits::USAGE);
    }
    match ask(proxy, Method::POST, &format!("/api/{what}?node={node}")).await {
        Ok((true, answer)) => {
            println!("{what}: {}", text(&answer));
            ExitCode::SUCCESS
        }
        Ok((false, answer)) => {
            eprintln!("causeway {what}: {}", text(&answer));
            ExitCode::FAILURE
        }
        Err(code) => code,
    }
}

async fn ask(proxy: &AdminClient, method: Method, path: &str) -> Result<(bool, Value), ExitCode> {
    match tokio::time::timeout(ANSWER, proxy.ask(method, path)).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(unavailable(proxy, &error)),
        Err(_) => Err(unavailable(proxy, "no answer within 60 s")),
    }
}

fn text(answer: &Value) -> &str {
    answer["text"].as_str().unwrap_or_default()
}
