//! What a reload takes over, and what waits for a restart.

use super::*;

const RUNNING: &str = "\
listen: 10.0.0.1:6432
nodes:
  - { name: pg1, host: db1 }
  - { name: pg2, host: db2, zone: a }
auth: { users: { app: { password: one }, old: { password: old } } }
failover: { mode: automatic, replication: { user: r } }
";

fn reloaded(wanted: &str) -> Reload {
    reload(&parse(RUNNING).unwrap(), parse(wanted).unwrap())
}

#[test]
fn the_same_file_changes_nothing() {
    let Reload {
        applied, restart, ..
    } = reloaded(RUNNING);
    assert_eq!((applied, restart), (vec![], vec![]));
}

#[test]
fn what_can_change_does_and_is_named() {
    let wanted = "\
listen: 10.0.0.1:6432
max_clients: 7
admin: { users: [app], secret: hush }
nodes:
  - { name: pg2, host: db2, weight: 3 }
  - { name: pg1, host: db1, promote_priority: 5 }
monitor: { interval: 50ms }
pool: { size: 3, wait_timeout: 1s }
auth: { users: { app: { password: two }, new: { password: new } } }
routing: { catchup_wait: 1ms, users: { app: { consistency: eventual } } }
failover: { mode: manual, timeout: 1s, hold_timeout: 2s, replication: { user: r } }
log: { filter: debug }
";
    let Reload {
        config,
        applied,
        restart,
    } = reloaded(wanted);
    assert_eq!(
        applied.join(" "),
        "max_clients admin.secret admin.users nodes.pg1.promote_priority nodes.pg2.zone \
         nodes.pg2.weight monitor.interval pool.size pool.wait_timeout auth.users.app \
         auth.users.new auth.users.old routing.users routing.catchup_wait failover.mode \
         failover.timeout failover.hold_timeout log.filter"
    );
    assert_eq!(restart, Vec::<String>::new());
    // A node's place is its identity, whatever the order of the file.
    let names: Vec<&str> = config.nodes.iter().map(|node| &*node.name).collect();
    assert_eq!(names, ["pg1", "pg2"]);
    assert_eq!(config.nodes[1].weight, 3);
    assert_eq!(config.pool.size, 3);
    assert!(!config.auth.users.contains_key("old"));
    // What is in force now is what the file says.
    let again = reload(&config, parse(wanted).unwrap());
    assert_eq!((again.applied, again.restart), (vec![], vec![]));
}

#[test]
fn what_needs_a_restart_keeps_its_value_and_is_named_each_time() {
    let wanted = "\
listen: 10.0.0.2:6432
workers: 3
admin: { http: 127.0.0.1:9432 }
nodes:
  - { name: pg1, host: elsewhere, port: 5433 }
  - { name: pg3, host: db3 }
pool: { mode: session, size: 4 }
auth: { method: md5, users: { app: { password: two } } }
failover: { mode: observe, durability: quorum, lease: 9s, cluster: other, state_file: other.state }
log: { format: json }
";
    let Reload {
        config,
        applied,
        restart,
    } = reloaded(wanted);
    assert_eq!(applied.join(" "), "pool.size");
    assert_eq!(
        restart.join(" "),
        "listen workers admin.http nodes.pg1.host nodes.pg1.port nodes.pg2 nodes.pg3 pool.mode \
         auth.method auth.users failover.mode failover.replication failover.durability failover.lease \
         failover.cluster failover.coordination log.format"
    );
    let running = parse(RUNNING).unwrap();
    assert_eq!(config.listen, running.listen);
    assert_eq!(
        config.auth, running.auth,
        "no user is let in by another method"
    );
    assert_eq!(config.nodes, running.nodes);
    let again = reload(&config, parse(wanted).unwrap());
    assert_eq!((again.applied, again.restart), (vec![], restart));
}
