//! `observe`: another hand promotes, and Causeway follows; who only believes that it leads is not
//! written to.

use std::time::Instant;

use pgcauseway::rig::Cluster;

use super::writers;
use crate::support::http::order;
use crate::support::status::leader;
use crate::support::{Proxy, block_on, eventually, http};

#[test]
fn a_promotion_by_another_hand_is_followed() {
    let cluster = block_on(Cluster::builder("observe").start()).unwrap();
    let yaml = cluster.yaml() + &cluster.failover_yaml("");
    let yaml = yaml.replace("mode: automatic", "mode: observe");
    let proxy = Proxy::with_yaml(&cluster, &yaml);
    let (old, new) = (cluster.primary(), &cluster.standbys()[0]);
    eventually("it leads", || leader(proxy.http) == old.name());
    let writers = writers(&proxy.url(), 6);
    writers.wait_acknowledged(50);
    let mut idle = proxy.wire();

    old.kill().unwrap();
    let (code, answer) = order(proxy.http, "/api/failover");
    assert_eq!(code, 409, "something else promotes here: {answer}");
    block_on(new.promote()).unwrap();
    let promoted = Instant::now();
    writers.wait_acknowledged(1);
    println!("followed a promotion in {:?}", promoted.elapsed());
    assert_eq!(idle.value("SELECT 42"), "42");

    // The old primary returns and believes that it leads.
    block_on(old.start()).unwrap();
    assert!(!block_on(old.is_standby()).unwrap());
    eventually("it is seen", || {
        let status = http::status(proxy.http);
        let nodes = status["nodes"].as_array().unwrap();
        let node = nodes.iter().find(|node| node["name"] == old.name());
        node.unwrap()["role"] == "primary"
    });
    let rows = || -> i64 {
        let count = async {
            let client = old.connect(cluster.application()).await.unwrap();
            let sql = "SELECT count(*) FROM history";
            client.query_one(sql, &[]).await.unwrap().get(0)
        };
        block_on(count)
    };
    let before = rows();
    writers.wait_acknowledged(200);
    assert_eq!(rows(), before);
    assert_eq!(leader(proxy.http), new.name());
    let mut late = proxy.wire();
    late.run("INSERT INTO history VALUES (-1, -1)");
    assert_eq!(rows(), before);

    let history = writers.stop();
    let found = history.check(&proxy.url());
    println!("{found}");
    assert_eq!(found.untold, 0, "{found}");
    assert_eq!(found.came_true.len(), 0, "{found}");
}
