//! The section `failover`: what arrives, and what is assumed.

use std::path::Path;
use std::time::Duration;

use super::*;

const TWO_NODES: &str = "\
nodes: [{ name: pg1, host: db1, promote_priority: 0 }, { name: pg2, host: db2 }]
auth: { users: { demo: { password: demo } } }
";

fn failover(text: &str) -> Failover {
    let config = parse(&format!("{TWO_NODES}{text}")).unwrap_or_else(|faults| panic!("{faults}"));
    config.failover.unwrap()
}

#[test]
fn without_the_section_or_switched_off_nothing_is_promoted() {
    let absent = parse(TWO_NODES).unwrap();
    let off = parse(&format!("{TWO_NODES}failover: {{ mode: off }}")).unwrap();
    assert!(absent.failover.is_none() && off.failover.is_none());
    for config in [absent, off] {
        assert_eq!(config.hold_timeout, Duration::from_secs(5));
        let priorities = config.nodes.iter().map(|node| node.promote_priority);
        assert_eq!(priorities.collect::<Vec<_>>(), [0, 100]);
    }
    let held = format!("{TWO_NODES}failover: {{ mode: off, hold_timeout: 7s }}");
    assert_eq!(parse(&held).unwrap().hold_timeout, Duration::from_secs(7));
}

#[test]
fn a_mode_and_a_login_are_enough() {
    let text = "failover: { mode: automatic, replication: { user: copy } }";
    let failover = failover(text);
    assert_eq!(failover.mode, FailoverMode::Automatic);
    assert_eq!(failover.durability, Durability::Async);
    assert_eq!(failover.max_lost_bytes, Some(16 << 20));
    assert_eq!(failover.timeout, Duration::from_secs(2));
    assert_eq!(failover.lease, Duration::from_secs(3));
    assert_eq!(failover.fencing, Fencing::Required);
    assert_eq!(failover.on_lost_writes, OnLostWrites::Error);
    assert_eq!(failover.cluster, "main");
    let Coordination::File { state_file } = &failover.coordination else {
        panic!("{failover:?}")
    };
    assert_eq!(state_file, Path::new("causeway.state"));
    let config = parse(&format!("{TWO_NODES}{text}")).unwrap();
    assert_eq!(config.hold_timeout, Duration::from_secs(30));
}

#[test]
fn every_value_arrives() {
    let failover = failover(
        "
failover:
  mode: manual
  durability: quorum
  timeout: 1s
  lease: 11s
  hold_timeout: 1m
  fence_command: 'true'
  rejoin_command: 'false'
  fencing: routing_only
  on_lost_writes: warn
  cluster: east
  coordination: etcd
  etcd:
    endpoints: [http://10.0.0.1:2379/, 'http://[::1]:2379']
    prefix: /db/causeway
    ttl: 5s
    user: me
    password: ${HUSH}
  replication: { user: copy, password: \"${CAUSEWAY_REPLICATION_PASSWORD}\" }
",
    );
    assert_eq!(failover.mode, FailoverMode::Manual);
    assert_eq!(failover.max_lost_bytes, Some(0));
    assert_eq!(failover.lease, Duration::from_secs(11));
    assert_eq!(failover.fence_command.as_deref(), Some("true"));
    assert_eq!(failover.rejoin_command.as_deref(), Some("false"));
    assert_eq!(failover.fencing, Fencing::RoutingOnly);
    assert_eq!(failover.on_lost_writes, OnLostWrites::Warn);
    let replication = failover.replication.unwrap();
    assert_eq!(replication.user, "copy");
    assert_eq!(replication.password.unwrap().reveal(), "replication-secret");
    let Coordination::Etcd(etcd) = failover.coordination else {
        panic!("not etcd")
    };
    assert_eq!(
        etcd.endpoints,
        ["http://10.0.0.1:2379", "http://[::1]:2379"]
    );
    assert_eq!(
        (etcd.prefix.as_str(), etcd.ttl),
        ("/db/causeway", Duration::from_secs(5))
    );
    assert!(!format!("{etcd:?}").contains("hushhush"));
    let (user, password) = etcd.login.unwrap();
    assert_eq!((user.as_str(), password.reveal()), ("me", "hushhush"));
}

#[test]
fn any_loss_can_be_accepted_in_so_many_words() {
    let failover = failover("failover: { mode: observe, max_lost_bytes: unlimited }");
    assert_eq!(failover.max_lost_bytes, None);
}

#[test]
fn what_is_probably_not_meant_is_pointed_out() {
    let advice = |text: &str| parse(&format!("{TWO_NODES}{text}")).unwrap().advice();
    let lonely = advice("failover: { mode: manual, timeout: 500ms, replication: { user: copy } }");
    assert_eq!(lonely.len(), 2, "{lonely:?}");
    assert!(lonely[0].starts_with("failover.mode: with fewer than two nodes"));
    assert!(lonely[1].ends_with("monitor.timeout, 1s"));
    let open = advice(
        "failover: { mode: observe, coordination: etcd, \
         etcd: { endpoints: [http://e:2379], user: u, password: hushhush } }",
    );
    assert_eq!(
        open,
        ["failover.etcd.password: goes to etcd in the clear without https"]
    );
}

#[test]
fn with_etcd_a_lease_outlasts_a_change_of_the_deciding_proxy() {
    let with = |lease: &str| {
        format!(
            "
failover:
  mode: automatic
  {lease}
  coordination: etcd
  etcd: {{ endpoints: [http://10.0.0.1:2379], ttl: 2s }}
  replication: {{ user: copy, password: secret }}
"
        )
    };
    assert_eq!(failover(&with("timeout: 1s")).lease, Duration::from_secs(4));
    assert_eq!(failover(&with("lease: 4s")).lease, Duration::from_secs(4));
    let text = faults(&with("lease: 3999ms"));
    assert!(text.contains("at least twice etcd.ttl"), "{text}");
}
