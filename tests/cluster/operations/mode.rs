//! The failover controller follows a reload while it is at work: who promotes is decided by the mode in
//! force, also in the middle of an outage.

use pgcauseway::rig::Cluster;

use super::{Console, alone, block_on, causeway};
use crate::support::{ConfigFile, Proxy, eventually, http};

#[test]
fn an_outage_that_waits_for_an_operator_is_ended_by_another_mode() {
    let _alone = alone();
    let builder = Cluster::builder("operations-mode").agents(crate::support::PROGRAM);
    let cluster = block_on(builder.start()).unwrap();
    let yaml = |mode: &str| {
        let failover = cluster.failover_yaml("durability: quorum\nhold_timeout: 60s");
        let failover = failover.replace("mode: automatic", &format!("mode: {mode}"));
        let user = &cluster.application().user;
        let admin = format!("\nadmin: {{ http: 127.0.0.1:0, users: [{user}] }}\n");
        format!("{}{failover}{admin}", cluster.yaml())
    };
    let file = ConfigFile::new(&cluster, "mode", &yaml("automatic"));
    let proxy = Proxy::with_file(&cluster, &file);
    let standing = || http::status(proxy.http)["failover"].clone();
    eventually("a commit waits for a standby", || {
        standing()["phase"] == "steady" && standing()["durability"] == "quorum"
    });
    let console = Console::open(&proxy);
    let client = block_on(proxy.connect());
    block_on(client.batch_execute("CREATE TABLE kept (n int)")).unwrap();

    file.write(&yaml("manual"));
    let told = console.shown("RELOAD");
    assert_eq!(
        (told.len(), &*told[0]["key"]),
        (1, "failover.mode"),
        "{told:?}"
    );
    eventually("the mode is shown", || standing()["mode"] == "manual");
    let old = cluster.primary().name().to_owned();
    cluster.primary().kill_postmaster().unwrap();
    eventually("it waits for an operator", || {
        let why = standing()["why"].to_string();
        why.contains("mode is manual, waiting for an operator")
    });
    let write = std::thread::spawn(move || {
        block_on(client.batch_execute("INSERT INTO kept VALUES (1)")).map(|()| client)
    });

    file.write(&yaml("automatic"));
    let output = causeway(&proxy, &["reload"]);
    assert!(output.status.success(), "{output:?}");
    eventually("another leads", || {
        let standing = standing();
        standing["phase"] == "steady" && standing["primary"] != old.as_str()
    });
    // It was held and not refused.
    let client = write.join().unwrap().unwrap();
    let count = block_on(client.query_one("SELECT count(*) FROM kept", &[])).unwrap();
    assert_eq!(count.get::<_, i64>(0), 1);

    // What keeps leases in order is not switched off under them.
    file.write(&yaml("observe"));
    let told = console.shown("RELOAD");
    assert!(
        told.iter().all(|row| row["outcome"] == "needs a restart"),
        "{told:?}"
    );
    assert_eq!(standing()["mode"], "automatic");
}
