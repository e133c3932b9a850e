//! Reads whose standby has no connection to spare go where there is one.

use crate::cluster;
use crate::support::frames::{query, summary};
use crate::support::{Proxy, Wire, eventually, http};

/// The node that served it last.
fn node(wire: &mut Wire) -> String {
    let route = wire.value("SHOW causeway.last_route");
    let node = route.split([' ', ',']).nth(1);
    node.unwrap_or_else(|| panic!("{route}")).to_owned()
}

#[test]
fn a_read_goes_to_another_standby_at_once_and_to_the_primary_in_the_end() {
    let proxy = Proxy::start(cluster(), "pool: { size: 1, wait_timeout: 5s }\n");
    let mut reader = proxy.wire();
    assert_eq!(reader.value("SELECT 1"), "1");
    let home = node(&mut reader);
    let mut holders = [proxy.wire(), proxy.wire()];
    let hold = "BEGIN READ ONLY; SELECT 1";
    holders.iter_mut().for_each(|wire| wire.run(hold));
    let away = usize::from(node(&mut holders[0]) == home);
    assert_ne!(node(&mut holders[away]), home);
    holders[away].run("COMMIT");
    assert_eq!(reader.value("SELECT 2"), "2");
    let elsewhere = node(&mut reader);
    assert_ne!(elsewhere, home);

    holders[away].run(hold);
    assert_eq!(reader.value("SELECT 3"), "3");
    let route = reader.value("SHOW causeway.last_route");
    assert!(route.starts_with("primary "), "{route}");
    assert!(route.contains("were in use"), "{route}");

    // All are taken. Whichever comes free first is good enough.
    let mut writer = proxy.wire();
    writer.run("BEGIN; SELECT txid_current()");
    for (taken, free) in [(away, 1 - away), (1 - away, away)] {
        reader.send(&query("SELECT 4"));
        eventually("it waits at every node", || {
            let text = http::get(proxy.http, "/metrics").unwrap();
            let rows = text
                .lines()
                .filter(|row| row.starts_with("causeway_pool_waiting{"));
            rows.filter(|row| row.ends_with(" 1")).count() == 3
        });
        holders[free].run("COMMIT");
        assert_eq!(summary(&reader.until(b'Z')), "T D[4] C[SELECT 1] Z[I]");
        holders[free].run(hold);
        assert_ne!(node(&mut holders[taken]), node(&mut holders[free]));
    }
    drop((writer, holders));
    proxy.assert_well();
}
