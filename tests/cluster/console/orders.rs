//! Orders from the console, carried out on real servers with real agents.

use pgcauseway::rig::Cluster;

use super::{connect, console_url, rows};
use crate::support::{Proxy, block_on, eventually, http, sqlstate};

#[test]
fn a_switchover_is_carried_out() {
    let builder = Cluster::builder("console-orders").agents(crate::support::PROGRAM);
    let cluster = block_on(builder.start()).unwrap();
    let user = &cluster.application().user;
    let yaml = format!(
        "{}{}admin: {{ http: 127.0.0.1:0, users: [{user}] }}\n",
        cluster.yaml(),
        cluster.failover_yaml("")
    );
    let proxy = Proxy::with_yaml(&cluster, &yaml);
    eventually("failover is steady", || {
        http::status(proxy.http)["failover"]["phase"] == "steady"
    });
    let console = block_on(connect(&console_url(&proxy)));
    let error = rows(&console, "SWITCHOVER TO nobody").unwrap_err();
    assert_eq!(sqlstate(&error), "42704", "{error:?}");

    let status = http::status(proxy.http);
    let old = status["primary"].as_str().unwrap().to_owned();
    let names = status["nodes"].as_array().unwrap().iter();
    let mut names = names.map(|node| node["name"].as_str().unwrap());
    let new = names.find(|name| *name != old).unwrap().to_owned();
    // A drained standby may be about to be stopped: it does not lead, not even by name.
    rows(&console, &format!("DRAIN {new}")).unwrap();
    let error = rows(&console, &format!("SWITCHOVER TO {new}")).unwrap_err();
    assert_eq!(sqlstate(&error), "55000", "{error:?}");
    assert!(format!("{error:?}").contains("UNDRAIN"), "{error:?}");
    assert_eq!(http::status(proxy.http)["primary"], old.as_str());
    rows(&console, &format!("UNDRAIN {new}")).unwrap();
    let done = rows(&console, &format!("SWITCHOVER TO {new}")).unwrap();
    assert_eq!(done[0]["result"], "done");
    eventually("the new primary leads", || {
        http::status(proxy.http)["primary"] == new.as_str()
    });
    let failover = rows(&console, "SHOW FAILOVER").unwrap();
    let primary = failover.iter().find(|row| row["key"] == "primary").unwrap();
    assert_eq!(primary["value"], new);
    let events = rows(&console, "SHOW EVENTS").unwrap();
    let promoted = events.iter().find(|event| event["kind"] == "promoted");
    let promoted = promoted.unwrap_or_else(|| panic!("{events:?}"));
    assert!(promoted["by"].contains("an operator"), "{promoted:?}");
    assert!(promoted["after_ms"].parse::<u64>().is_ok(), "{promoted:?}");
    let fences = http::status(proxy.http)["failover"]["fences"].clone();
    assert_eq!(fences.as_array().unwrap().len(), 3);
    assert_eq!(fences[0][1], "its agent");
}
