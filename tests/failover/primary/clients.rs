//! What clients of every kind see of a failover: who waits, who is repeated, who is told what, and that
//! what they are told is true.

use super::{cluster, leading, proxy};
use crate::support::frames::{copy_data, query, summary};
use crate::support::http::order;
use crate::support::status::{another_leads, leader, settled};
use crate::support::{Proxy, Wire, eventually, http};

fn rows(proxy: &Proxy, what: &str) -> String {
    let mut wire = proxy.wire();
    wire.value(&format!(
        "/* causeway: consistency=primary */ SELECT count(*) FROM met WHERE what = '{what}'"
    ))
}

#[test]
fn who_waits_in_vain_is_told_what_the_failover_waits_for() {
    let cluster = cluster("in-vain");
    let yaml = cluster.failover_yaml("durability: quorum\nhold_timeout: 1s");
    let yaml = yaml.replace("mode: automatic", "mode: manual");
    assert!(yaml.contains("mode: manual"), "{yaml}");
    let proxy = Proxy::with_yaml(&cluster, &format!("{}{yaml}", cluster.yaml()));
    settled(proxy.http);
    let mut wire = proxy.wire();
    wire.run("CREATE TABLE met (what text)");
    let mut eventual = proxy.wire_with(&[("options", "-c causeway.consistency=eventual")]);
    let primary = leading(&cluster, &proxy);
    primary.agent().unwrap().kill().unwrap();
    primary.kill().unwrap();
    eventually("an operator is waited for", || {
        let status = http::status(proxy.http);
        let why = status["failover"]["why"].as_str().unwrap_or_default();
        leader(proxy.http) == "nobody" && why.contains("waiting for an operator")
    });

    let frames = wire.exchange_frames(&[query("INSERT INTO met VALUES ('waited')")], 1);
    let error = frames.iter().find(|frame| frame.tag == b'E').unwrap();
    assert_eq!(error.field(b'C').as_deref(), Some("57P03"));
    let detail = error.field(b'D').unwrap_or_default();
    assert!(detail.contains("waiting for an operator"), "{detail}");
    assert_eq!(
        eventual.value("SELECT 1 + 1"),
        "2",
        "standbys go on serving"
    );

    let (code, answer) = order(proxy.http, "/api/failover");
    assert_eq!(code, 200, "{answer}");
    wire.run("INSERT INTO met VALUES ('served')");
    assert_eq!(rows(&proxy, "waited"), "0");
    assert_eq!(rows(&proxy, "served"), "1");
}

/// Runs something of a session in a thread of its own, for what waits while a failover goes on.
fn meanwhile<T: Send + 'static>(
    what: impl FnOnce() -> T + Send + 'static,
) -> std::thread::JoinHandle<T> {
    std::thread::spawn(what)
}

#[test]
fn every_kind_of_client_comes_through_or_is_told_the_truth() {
    let cluster = cluster("clients");
    let proxy = proxy(&cluster, "durability: quorum");
    let mut idle = proxy.wire();
    idle.run("CREATE TABLE met (what text)");
    idle.run("SET application_name = 'idle'");

    let mut open = proxy.wire();
    open.run("BEGIN");
    open.run("INSERT INTO met VALUES ('open')");
    let mut reading = proxy.wire();
    reading.run("BEGIN READ ONLY");
    reading.run("SELECT 1");
    let mut copying = proxy.wire();
    copying.send(&query("COPY met FROM STDIN"));
    copying.send(&copy_data("copied\n"));
    copying.until(b'G');
    let mut listening = proxy.wire();
    listening.run("LISTEN something");
    let mut temporary = proxy.wire();
    temporary.run("CREATE TEMPORARY TABLE mine (n int)");
    let mut within = proxy.wire();
    within.run("CREATE TEMPORARY TABLE mine (n int)");
    within.run("BEGIN");
    within.run("INSERT INTO met VALUES ('within')");

    let old = leading(&cluster, &proxy);
    old.kill().unwrap();
    // Both arrive while nobody can serve them.
    let (port, login) = (proxy.port, cluster.application().clone());
    let newcomer = meanwhile(move || {
        let mut wire = Wire::login(port, &login, &[]);
        wire.ask("INSERT INTO met VALUES ('newcomer')")
    });
    let waiting = meanwhile(move || {
        let answer = idle.ask("INSERT INTO met VALUES ('idle')");
        (answer, idle)
    });
    another_leads(proxy.http, old.name());

    let answer = newcomer.join().unwrap();
    assert!(answer.contains("C[INSERT 0 1]"), "a login waits: {answer}");
    let (answer, mut idle) = waiting.join().unwrap();
    assert!(
        answer.contains("C[INSERT 0 1]"),
        "a statement waits: {answer}"
    );
    assert_eq!(idle.value("SHOW application_name"), "idle");
    assert_eq!(rows(&proxy, "newcomer"), "1");
    assert_eq!(rows(&proxy, "idle"), "1");

    let answer = open.ask("INSERT INTO met VALUES ('open')");
    assert!(
        answer.contains("E[40001]") && answer.contains("Z[E]"),
        "{answer}"
    );
    let answer = open.ask("COMMIT");
    assert!(answer.contains("Z[I]"), "{answer}");
    open.run("INSERT INTO met VALUES ('again')");
    assert_eq!(rows(&proxy, "open"), "0");
    assert_eq!(rows(&proxy, "again"), "1");
    // Its standby may have been promoted, which ends what is open there.
    let answer = reading.ask("SELECT 2");
    assert!(
        answer.contains("D[2]") || answer.contains("E[40001]"),
        "{answer}"
    );
    reading.ask("COMMIT");
    reading.run("SELECT 3");

    let answer = summary(&copying.until(b'Z'));
    assert!(
        answer.contains("E[40001]") || answer.contains("E[08007]"),
        "{answer}"
    );
    assert_eq!(rows(&proxy, "copied"), "0", "it was never ended");
    copying.run("INSERT INTO met VALUES ('copier')");
    let frames = temporary.until_closed();
    let told = frames.iter().find(|frame| frame.tag == b'E');
    assert!(told.is_some(), "a pinned session is told: {frames:?}");
    // Its transaction is gone, and it may be run again; or its server has said why.
    let answer = summary(&within.until_closed());
    assert!(["E[40001]", "E[57P02]"].contains(&&*answer), "{answer}");
    assert_eq!(rows(&proxy, "within"), "0");
    let warning = listening.frame().unwrap();
    assert_eq!(warning.tag, b'N', "it listens on: {warning:?}");
    settled(proxy.http);
}

#[test]
fn with_session_pooling_a_session_ends_with_its_server_and_the_next_one_is_served() {
    let cluster = cluster("session-pool");
    let yaml = format!(
        "{}{}pool: {{ mode: session }}\n",
        cluster.yaml(),
        cluster.failover_yaml("durability: quorum")
    );
    let proxy = Proxy::with_yaml(&cluster, &yaml);
    settled(proxy.http);
    let mut wire = proxy.wire();
    wire.run("CREATE TABLE met (what text)");
    let old = leading(&cluster, &proxy);
    old.kill().unwrap();
    let frames = wire.until_closed();
    let told = frames.iter().find_map(|frame| frame.field(b'C'));
    assert!(told.is_some(), "{frames:?}");
    let mut next = proxy.wire();
    next.run("INSERT INTO met VALUES ('next')");
    another_leads(proxy.http, old.name());
    assert_eq!(rows(&proxy, "next"), "1");
    settled(proxy.http);
}
