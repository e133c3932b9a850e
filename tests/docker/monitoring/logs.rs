//! The log under storms, in both formats: few lines, and numbers that add up.

use std::fs;
use std::path::Path;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pgcauseway::rig::{Cluster, Proxy};
use serde_json::Value;
use tokio::task::JoinSet;
use tokio_postgres::NoTls;

use crate::support::{RUNTIME, block_on, connect, eventually, http, sqlstate};

/// Lines that are written as they are: `logging::limit::FIRST`.
const FIRST: usize = pgcauseway::logging::limit::FIRST as usize;

/// How a line is read.
type Read = fn(&str) -> Line;

/// A line of the log, whichever its format.
#[derive(Debug)]
struct Line {
    level: String,
    message: String,
    more: usize,
    of: String,
}

/// A proxy in front of one server, with a pool of one connection.
fn proxy(cluster: &Cluster, name: &str, format: &str) -> Proxy {
    let yaml = format!(
        "{}pool: {{ size: 1, wait_timeout: 50ms }}\nlog: {{ format: {format} }}\n",
        cluster.yaml()
    );
    let program = Path::new(crate::support::PROGRAM);
    let proxy = Proxy::new(cluster, name, None, program, &yaml).unwrap();
    block_on(proxy.start()).unwrap();
    proxy
}

/// So many logins at once with a wrong password.
fn failed_logins(proxy: &Proxy, cluster: &Cluster, count: usize) {
    let login = cluster.application();
    let address = proxy.address();
    let url = format!(
        "postgresql://{}:wrong@{address}/{}",
        login.user, login.database
    );
    let mut attempts = JoinSet::new();
    for _ in 0..count {
        let url = url.clone();
        let attempt = async move {
            let Err(error) = tokio_postgres::connect(&url, NoTls).await else {
                panic!("let in with a wrong password");
            };
            assert_eq!(sqlstate(&error), "28P01", "{error}");
        };
        attempts.spawn_on(attempt, RUNTIME.handle());
    }
    block_on(attempts.join_all());
}

/// So many statements for which no server connection comes free.
fn waits_in_vain(proxy: &Proxy, cluster: &Cluster, count: usize) {
    let url = proxy.url(cluster.application());
    block_on(async {
        let (holder, waiter) = (connect(&url).await, connect(&url).await);
        holder
            .batch_execute("BEGIN; CREATE TEMP TABLE t ()")
            .await
            .unwrap();
        for _ in 0..count {
            let error = waiter.batch_execute("CREATE TABLE t ()").await.unwrap_err();
            assert_eq!(sqlstate(&error), "53300", "{error}");
        }
        // Nobody waits any more, although nothing has come free.
        eventually("no waiter is counted", || {
            let metrics = http::get(proxy.http(), "/metrics").unwrap();
            metrics.contains("causeway_pool_waiting{node=\"pg1\"} 0\n")
        });
        holder.batch_execute("ROLLBACK").await.unwrap();
    });
}

/// Ends the proxy as a service manager does.
fn terminate(proxy: &Proxy) {
    kill(Pid::from_raw(proxy.pid().unwrap()), Signal::SIGTERM).unwrap();
    eventually("the proxy ends", || proxy.pid().is_none());
}

fn lines(proxy: &Proxy, read: Read) -> Vec<Line> {
    let log = fs::read_to_string(proxy.log()).unwrap();
    log.lines().map(read).collect()
}

/// `2026-01-01T00:00:00.000000Z  INFO refuse a client sqlstate="28P01" …`
fn text(line: &str) -> Line {
    let (_, rest) = line.split_once(' ').unwrap();
    let (level, rest) = rest.trim_start().split_once(' ').unwrap();
    let number = rest.split_once(" more=").map(|(_, rest)| rest);
    let number = number.map(|rest| rest.split(' ').next().unwrap().parse().unwrap());
    let of = rest.split_once(" of=\"").map(|(_, rest)| rest);
    let of = of.map(|rest| rest.split_once('"').unwrap().0);
    Line {
        level: level.to_owned(),
        message: rest.to_owned(),
        more: number.unwrap_or(0),
        of: of.unwrap_or_default().to_owned(),
    }
}

fn json(line: &str) -> Line {
    let line: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    let of = |key: &str| line[key].as_str().unwrap_or_default().to_owned();
    assert!(line["timestamp"].is_string(), "{line}");
    Line {
        level: of("level"),
        message: of("message"),
        more: line["more"].as_u64().unwrap_or(0).try_into().unwrap(),
        of: of("of"),
    }
}

/// The lines of one kind tell of so many in all: the first as they are, the rest in few numbers.
fn assert_counted(lines: &[Line], message: &str, of: &str, level: &str, count: usize) {
    let begins = lines
        .iter()
        .filter(|line| line.message.starts_with(message));
    let all: Vec<&Line> = begins.collect();
    let numbers: Vec<_> = all.iter().filter(|line| line.more > 0).collect();
    assert_eq!(all.len() - numbers.len(), FIRST, "{all:#?}");
    assert!(numbers.iter().all(|line| line.of.contains(of)), "{all:#?}");
    assert!(all.iter().all(|line| line.level == level), "{all:#?}");
    assert!(all.len() <= FIRST + 5, "{all:#?}");
    let told: usize = numbers.iter().map(|line| line.more).sum();
    assert_eq!(FIRST + told, count, "{all:#?}");
}

#[test]
fn storms_are_counted_and_not_told_line_by_line() {
    let cluster = block_on(Cluster::builder("logs").standbys(0).start()).unwrap();
    for (format, read) in [("text", text as Read), ("json", json as Read)] {
        let proxy = proxy(&cluster, format, format);
        eventually("the node is known", || {
            let lines = lines(&proxy, read);
            lines
                .iter()
                .any(|line| line.message.starts_with("node is available"))
        });
        failed_logins(&proxy, &cluster, 200);
        waits_in_vain(&proxy, &cluster, 30);
        terminate(&proxy);
        let lines = lines(&proxy, read);
        assert_counted(&lines, "refuse a client", "sqlstate=28P01", "INFO", 200);
        assert_counted(&lines, "refuse a statement", "sqlstate=53300", "WARN", 30);
        assert!(lines.len() < 40, "{lines:#?}");
        println!("{format}: {} lines for 230 refusals", lines.len());
    }
}

/// A proxy that lives on tells the number after the period, and of a node that goes up and down it
/// says so a few times.
#[test]
fn a_number_is_told_while_the_proxy_lives() {
    let cluster = block_on(Cluster::builder("logs-on").standbys(0).start()).unwrap();
    let proxy = proxy(&cluster, "text", "text");
    let available = "node is available";
    let found = |message: &str, more: bool| {
        let lines = lines(&proxy, text);
        let found = lines
            .iter()
            .filter(|line| line.message.starts_with(message));
        found.filter(|line| (line.more > 0) == more).count()
    };
    eventually("the node is known", || found(available, false) == 1);
    failed_logins(&proxy, &cluster, 100);
    let ends = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
                WHERE application_name = 'causeway monitor'";
    for lives in 1..=2 * FIRST {
        eventually("a life begins", || {
            http::status(proxy.http())["nodes"][0]["state"] == "up"
        });
        let _: i64 = block_on(cluster.primary().query(ends)).unwrap();
        let ended = format!("causeway_probe_failures_total{{node=\"pg1\"}} {lives}\n");
        eventually("it ends", || {
            http::get(proxy.http(), "/metrics")
                .unwrap()
                .contains(&ended)
        });
    }
    eventually("the numbers are told", || {
        found("refuse a client", true) == 1 && found(available, true) >= 1
    });
    let lines = lines(&proxy, text);
    assert_counted(&lines, "refuse a client", "sqlstate=28P01", "INFO", 100);
    assert!(found(available, false) == FIRST, "{lines:#?}");
    let told = |line: &&Line| line.of.contains("node=") && line.message.starts_with(available);
    assert!(lines.iter().any(|line| told(&line)), "{lines:#?}");
}
