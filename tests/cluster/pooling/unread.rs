//! A change of definitions whose client does not read its answer: what others parse is parsed after it.

use super::apart;
use crate::cluster;
use crate::support::frames::{describe, parse, query, sync};
use crate::support::{Proxy, Wire, eventually};

/// How many columns a statement is said to have.
fn columns(wire: &mut Wire, name: &str) -> u16 {
    let text = "SELECT * FROM unread WHERE n = $1";
    let frames = wire.exchange_frames(&[parse(name, text), describe(b'S', name), sync()], 1);
    let rows = frames.iter().find(|frame| frame.tag == b'T');
    let rows = rows.unwrap_or_else(|| panic!("{frames:?}"));
    u16::from_be_bytes([rows.body[0], rows.body[1]])
}

#[test]
fn a_change_counts_although_nobody_reads_that_it_was_made() {
    let login = apart("unread_change");
    let proxy = Proxy::start(
        cluster(),
        "pool: { size: 2, wait_timeout: 20s }\nrouting: { consistency: primary }\n",
    );
    let mut direct = Wire::login(cluster().primary().port(), &login, &[]);
    let mut seen = 0;
    // How much the network and the proxy take in is theirs to say: somewhere between, the change has been
    // made and the proxy has not come to read that.
    for megabytes in 1..24 {
        let mut other = Wire::login(proxy.port, &login, &[]);
        // Through the proxy, which does not see at once what is done past it.
        other.run("DROP TABLE IF EXISTS unread; CREATE TABLE unread (n int)");
        assert_eq!(columns(&mut other, "before"), 1);
        let mut slow = Wire::login(proxy.port, &login, &[]);
        slow.send(&query(&format!(
            "SELECT repeat('x', 1000) FROM generate_series(1, {megabytes} * 1000); \
             ALTER TABLE unread ADD more int"
        )));
        let stuck = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'ClientWrite' \
                     AND query LIKE '%ADD more%' AND datname = current_database()";
        let made = "SELECT count(*) FROM pg_attribute WHERE attname = 'more' \
                    AND attrelid = 'unread'::regclass";
        let mut is_made = false;
        eventually("the answer goes no further", || {
            is_made = direct.value(made) == "1";
            is_made || direct.value(stuck) == "1"
        });
        if is_made {
            seen += 1;
            assert_eq!(columns(&mut other, "after"), 2, "behind {megabytes} MB");
        }
        drop(slow);
        eventually("it has given up", || direct.value(stuck) == "0");
    }
    assert!(seen > 0, "no change was made");
}
