//! Whole configurations: the shipped one, the least one, and (in the rooms below) bad ones.

mod agent;
mod failover;
mod faults;
mod reference;
mod reload;
mod secrets;
mod tls;

use std::time::Duration;

use super::*;
use crate::core::session::Level;

const SHIPPED: &str = include_str!("../../../config.yaml");

/// The least that is a configuration: every key with a default is left out.
const LEAST: &str = "\
nodes: [{ name: pg1, host: db1 }]
auth: { users: { demo: { password: demo } } }
";

const VERIFIER: &str = "SCRAM-SHA-256$4096:c2FsdHNhbHRzYWx0$\
    AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";

fn environment(name: &str) -> Option<String> {
    match name {
        "CAUSEWAY_MONITOR_PASSWORD" => Some("monitor-secret".to_owned()),
        "CAUSEWAY_REPLICATION_PASSWORD" => Some("replication-secret".to_owned()),
        "SIZE" => Some("7".to_owned()),
        "HUSH" => Some("hushhush".to_owned()),
        "EMPTY" => Some(String::new()),
        _ => None,
    }
}

fn parse(text: &str) -> Result<Config, Faults> {
    Config::parse("config.yaml", text, &environment)
}

fn faults(text: &str) -> String {
    parse(text).expect_err(text).to_string()
}

#[test]
fn the_shipped_file_is_valid_and_shows_the_defaults() {
    let shipped = parse(SHIPPED).unwrap();
    let least = parse(LEAST).unwrap();
    assert_eq!(shipped.listen, least.listen);
    assert_eq!(shipped.max_clients, least.max_clients);
    assert_eq!((shipped.workers, least.workers), (None, None));
    assert_eq!(least.admin.http, None);
    assert_eq!((least.nodes[0].port, least.nodes[0].weight), (5432, 1));
    assert_eq!(format!("{:?}", shipped.pool), format!("{:?}", least.pool));
    assert_eq!(
        format!("{:?}", shipped.routing),
        format!("{:?}", least.routing)
    );
    assert!(shipped.failover.is_none() && least.failover.is_none());
    assert_eq!(shipped.hold_timeout, least.hold_timeout);
    assert_eq!(format!("{:?}", shipped.log), format!("{:?}", least.log));
    assert_eq!(format!("{:?}", shipped.auth), format!("{:?}", least.auth));
    let password = shipped.monitor.password.clone();
    assert_eq!(
        password.as_ref().map(Secret::reveal),
        Some("monitor-secret")
    );
    let monitor = Monitor {
        password,
        ..least.monitor
    };
    assert_eq!(format!("{:?}", shipped.monitor), format!("{monitor:?}"));
    assert_eq!(shipped.advice(), Vec::<String>::new());

    let ports: Vec<u16> = shipped.nodes.iter().map(|node| node.port).collect();
    assert_eq!(ports, [5501, 5502, 5503]);
    let demo = &shipped.auth.users["demo"];
    assert_eq!(
        demo.server_password.as_ref().map(Secret::reveal),
        Some("demo")
    );
}

#[test]
fn values_arrive() {
    let config = parse(
        "
listen: '[::1]:7000'
workers: 4
admin: { http: 0.0.0.0:9000 }
nodes:
  - { name: a, host: '::1', zone: east, weight: 0 }
  - { name: b, host: db.example.org, port: 5433, zone: west, weight: 3 }
monitor: { interval: 1s, timeout: 1500ms }
pool: { mode: session, size: \"${SIZE}\" }
auth:
  method: md5
  users:
    app: { password: md5aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa, server_password: 'x$$y' }
    odd.name: { password: 0123 }
routing:
  max_lag: 10s
  zone: north
  databases: { reports: { consistency: eventual } }
  users: { boss: { consistency: primary } }
log: { filter: 'info,pgcauseway=debug', format: json }
",
    )
    .unwrap();
    assert_eq!(config.listen, "[::1]:7000".parse().unwrap());
    assert_eq!(config.workers, Some(4));
    assert_eq!((config.nodes[1].port, config.nodes[1].weight), (5433, 3));
    assert_eq!(config.nodes[0].zone.as_deref(), Some("east"));
    assert_eq!(config.monitor.timeout, Duration::from_millis(1500));
    assert_eq!((config.pool.mode, config.pool.size), (PoolMode::Session, 7));
    let server = |user: &str| {
        config.auth.users[user]
            .server_password
            .as_ref()
            .unwrap()
            .reveal()
    };
    assert_eq!((server("app"), server("odd.name")), ("x$y", "0123"));
    assert_eq!(config.routing.max_lag, Duration::from_secs(10));
    assert_eq!(config.routing.databases["reports"], Level::Eventual);
    assert_eq!(config.routing.users["boss"], Level::Primary);
    assert_eq!(config.log.format, LogFormat::Json);
    assert_eq!(config.advice(), ["routing.zone: no node is in zone north"]);
}

#[test]
fn files_that_say_nothing_or_are_not_there() {
    for text in ["", "\n\n", "# only a comment\n", "---\n", "~"] {
        assert!(
            faults(text).starts_with("config.yaml:1: the file says nothing"),
            "{text:?}"
        );
    }
    let no_mapping = "config.yaml:1: must be a mapping of keys to values, not a list";
    assert_eq!(faults("- a\n"), no_mapping);
    let missing = Config::load("no/such/config.yaml").unwrap_err().to_string();
    assert!(
        missing.starts_with("no/such/config.yaml: cannot be read: No such file"),
        "{missing}"
    );
}

#[test]
fn a_verifier_serves_clients_and_says_nothing_to_servers() {
    let text = LEAST.replace("password: demo", &format!("password: {VERIFIER}"));
    let config = parse(&text).unwrap();
    let demo = &config.auth.users["demo"];
    assert_eq!(demo.password.as_ref().map(Secret::reveal), Some(VERIFIER));
    assert_eq!(demo.server_password, None);
    assert!(config.advice()[0].starts_with("auth.users.demo: a verifier or hash"));
}

#[test]
fn other_systems_line_ends_and_a_byte_order_mark_are_fine() {
    parse(&format!("\u{feff}{}", SHIPPED.replace('\n', "\r\n"))).unwrap();
}

proptest::proptest! {
    #[test]
    fn no_text_makes_it_panic(text in "([a-z]{1,3}|nodes|auth|users|: |- |[ \n\t{}\\[\\],&*!$'\"#~|>%@?-]){0,60}") {
        let _ = parse(&text);
    }

    #[test]
    fn no_value_makes_it_panic(value in "\\PC{0,20}", line in 0_usize..140) {
        let mut lines: Vec<String> = SHIPPED.lines().map(str::to_owned).collect();
        if let Some(line) = lines.get_mut(line)
            && let Some((key, _)) = line.split_once(": ")
        {
            *line = format!("{key}: {value}");
        }
        let _ = parse(&lines.join("\n"));
    }
}
