//! Each alert fires when its cause is there and clears when that ends; then every query of rules and
//! dashboard has found something.
//!
//! An alert's own query finds nothing while all is well: that it fires is its test. All others are
//! asked at the end over the whole time.

use std::collections::BTreeSet;
use std::fs;

use pgcauseway::rig::StopMode;
use serde_json::Value;

use super::dashboard;
use super::documented;
use super::prometheus::{RULES, faster};
use super::world::{POOL, World, write_what_nobody_receives};
use crate::support::status::another_leads;
use crate::support::{block_on, connect, eventually, http, need};

/// One rule of the shipped file.
struct Rule {
    alert: Option<String>,
    query: String,
    annotations: Value,
    severity: Option<String>,
}

fn rules() -> Vec<Rule> {
    let text = fs::read_to_string(RULES).unwrap();
    let file: Value = yaml_serde::from_str(&text).unwrap();
    let groups = file["groups"].as_array().unwrap().iter();
    let rules = groups.flat_map(|group| group["rules"].as_array().unwrap());
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let rules = rules.map(|rule| Rule {
        alert: text(&rule["alert"]),
        query: text(&rule["expr"]).unwrap(),
        annotations: rule["annotations"].clone(),
        severity: text(&rule["labels"]["severity"]),
    });
    rules.collect()
}

#[test]
fn every_alert_says_what_to_do() {
    let runbook = fs::read_to_string("docs/runbook.md").unwrap();
    let headings: BTreeSet<&str> = runbook
        .lines()
        .filter_map(|line| line.strip_prefix("## "))
        .collect();
    let mut alerts = BTreeSet::new();
    for rule in rules() {
        let Some(alert) = rule.alert else { continue };
        let severity = rule.severity.unwrap();
        assert!(["critical", "warning"].contains(&severity.as_str()));
        for annotation in ["summary", "description"] {
            assert!(
                rule.annotations[annotation].is_string(),
                "{alert}: {annotation}"
            );
        }
        let link = format!("docs/runbook.md#{}", alert.to_lowercase());
        assert_eq!(rule.annotations["runbook"], link.as_str());
        assert!(
            headings.contains(alert.as_str()),
            "{alert} is not in the runbook"
        );
        alerts.insert(alert);
    }
    assert_eq!(headings.len(), alerts.len(), "the runbook speaks of others");
}

#[test]
fn alerts_fire_and_clear_and_every_query_finds_something() {
    if !need("prometheus") || !need("etcd") {
        return;
    }
    let world = World::start();
    let fired = cause_everything(&world);
    let shipped: BTreeSet<String> = rules().into_iter().filter_map(|rule| rule.alert).collect();
    assert_eq!(fired, shipped, "every alert is caused here");

    let log = fs::read_to_string(world.proxy.log()).unwrap();
    let lines = log.lines().count();
    println!("{lines} lines of log for all that");
    assert!(lines < 300, "{log}");
    // The notices of servers to connections of our own.
    assert!(!log.contains("WARNING: "), "{log}");

    world.load.wait(50);
    let silent = |query: &str| world.prometheus.samples(&faster(query)) == 0;
    let recorded = rules().into_iter().filter(|rule| rule.alert.is_none());
    let empty: Vec<_> = recorded
        .map(|rule| rule.query)
        .chain(dashboard::queries())
        .filter(|query| silent(query))
        .collect();
    assert!(empty.is_empty(), "found nothing: {empty:#?}");
    for (metric, label) in dashboard::variables() {
        let values = world.prometheus.label_values(&metric, &label);
        assert!(values.len() >= 2, "{label} of {metric}: {values:?}");
    }
}

/// Causes every alert, one after the other, and ends its cause; their names.
fn cause_everything(world: &World) -> BTreeSet<String> {
    let mut fired = BTreeSet::new();
    let mut note = |alert: &str| fired.insert(alert.to_owned());
    healthy(world);
    documented::assert_all_are_documented(&world.metrics());

    // Lag has to grow: the others go on meanwhile.
    let behind = world.standing_by()[0];
    block_on(behind.pause_replay()).unwrap();
    store_unreachable(world);
    note("CausewayStoreUnreachable");
    pool_exhausted(world);
    note("CausewayPoolExhausted");
    world.fires("CausewayReplicaBehind", &[("node", behind.name())]);
    block_on(behind.resume_replay()).unwrap();
    world.clears("CausewayReplicaBehind", &[]);
    note("CausewayReplicaBehind");

    standbys_gone(world);
    note("CausewayProbeFailing");
    note("CausewayNoPromotableStandby");
    switched_over(world);
    fencing_incomplete(world);
    note("CausewayFencingIncomplete");
    note("CausewayNoPrimary");
    lost_writes(world);
    note("CausewayLostWrites");
    note("CausewayNodeBarred");
    proxy_down(world);
    note("CausewayDown");
    fired
}

fn healthy(world: &World) {
    let both = || world.prometheus.query("up == 1").len() == 2;
    eventually("both proxies are scraped", both);
    let all = |metric: &str, count: usize| {
        eventually(metric, || world.prometheus.query(metric).len() == count);
    };
    all("causeway_replication_lag_seconds", 4);
    all("causeway_primary_available == 1", 2);
    all("causeway_failover_promotable_standbys == 2", 1);
    all("causeway_coordination_up == 1", 2);
    all("causeway_failover_phase == 1", 2);
}

fn store_unreachable(world: &World) {
    let instance = world.other.http().to_string();
    let labels = [("instance", instance.as_str())];
    for member in world.etcd.members() {
        member.freeze().unwrap();
    }
    world.fires("CausewayStoreUnreachable", &labels);
    for member in world.etcd.members() {
        member.thaw().unwrap();
    }
    world.clears("CausewayStoreUnreachable", &[]);
}

fn pool_exhausted(world: &World) {
    let url = world.proxy.url(world.cluster.application());
    let primary = world.leading().name();
    let holders: Vec<_> = (0..POOL).map(|_| block_on(connect(&url))).collect();
    for holder in &holders {
        let hold = || block_on(holder.batch_execute("BEGIN; INSERT INTO load VALUES (-2, now())"));
        // The load wants them as well.
        eventually("a connection is held", || hold().is_ok());
    }
    world.fires("CausewayPoolExhausted", &[("node", primary)]);
    for holder in &holders {
        block_on(holder.batch_execute("ROLLBACK")).unwrap();
    }
    drop(holders);
    world.clears("CausewayPoolExhausted", &[]);
}

fn standbys_gone(world: &World) {
    let standbys = world.standing_by();
    let (frozen, stopped) = (standbys[0], standbys[1]);
    frozen.freeze().unwrap();
    world.fires("CausewayProbeFailing", &[("node", frozen.name())]);
    let agent = stopped.agent().unwrap();
    agent.kill().unwrap();
    block_on(stopped.stop(StopMode::Fast)).unwrap();
    world.fires("CausewayNoPromotableStandby", &[]);
    block_on(stopped.start()).unwrap();
    block_on(agent.start()).unwrap();
    world.clears("CausewayNoPromotableStandby", &[]);
    frozen.thaw().unwrap();
    world.clears("CausewayProbeFailing", &[]);
    world.settled();
}

fn switched_over(world: &World) {
    let (status, said) = block_on(world.proxy.ask("POST", "/api/switchover")).unwrap();
    assert_eq!(status, 200, "{said}");
    world.settled();
    let metrics = world.metrics();
    assert!(
        metrics.contains("causeway_failovers_total{outcome=\"switched_over\"} 1\n"),
        "{metrics}"
    );
}

fn fencing_incomplete(world: &World) {
    let primary = world.leading();
    let agent = primary.agent().unwrap();
    let instance = world.proxy.http().to_string();
    let labels = [("instance", instance.as_str())];
    agent.freeze().unwrap();
    primary.freeze().unwrap();
    world.fires("CausewayFencingIncomplete", &labels);
    world.fires("CausewayNoPrimary", &labels);
    let held = || {
        !world
            .prometheus
            .query("causeway_statements_held > 0")
            .is_empty()
    };
    eventually("statements are held", held);
    let metrics = world.metrics();
    let lag = metrics.contains("causeway_replication_lag_seconds{");
    assert!(!lag, "behind whom? {metrics}");
    // Either it answers first and goes on, or its agent stops it and another is promoted.
    primary.thaw().unwrap();
    agent.thaw().unwrap();
    world.clears("CausewayFencingIncomplete", &[]);
    world.clears("CausewayNoPrimary", &[]);
    world.settled();
}

fn lost_writes(world: &World) {
    let old = world.leading();
    write_what_nobody_receives(old);
    old.kill().unwrap();
    another_leads(world.proxy.http(), old.name());
    // Without it the old primary does not come back.
    old.agent().unwrap().kill().unwrap();
    world.fires("CausewayLostWrites", &[]);
    world.fires("CausewayNodeBarred", &[("node", old.name())]);
    block_on(old.agent().unwrap().start()).unwrap();
    world.clears("CausewayNodeBarred", &[]);
    world.settled();
    world.clears("CausewayLostWrites", &[]);
}

fn proxy_down(world: &World) {
    let instance = world.proxy.http().to_string();
    let labels = [("instance", instance.as_str())];
    world.proxy.kill().unwrap();
    world.fires("CausewayDown", &labels);
    block_on(world.proxy.start()).unwrap();
    world.clears("CausewayDown", &[]);
}

impl World {
    /// `/metrics` of the proxy that decides.
    fn metrics(&self) -> String {
        http::get(self.proxy.http(), "/metrics").unwrap()
    }
}
