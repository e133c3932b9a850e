//! A server that does not let everybody look at what PostgreSQL shows everybody: sessions go on, and what
//! they leave stays theirs.

use pgcauseway::rig::Login;

use super::{apart, proxy};
use crate::cluster;
use crate::support::{Wire, eventually};

const SETS: &str = "DO $$ BEGIN PERFORM set_config('app.own', 'first', false), \
                    set_config('work_mem', '7MB', false), pg_advisory_lock(4712); END $$";

const FOUND: &str =
    "SELECT coalesce(current_setting('app.own', true), ''), current_setting('work_mem')";

#[test]
fn what_nobody_may_look_at_stays_with_its_session() {
    let (proxy, login) = (proxy(), apart("withheld"));
    let superuser = Login {
        database: login.database.clone(),
        ..cluster().credentials().superuser.clone()
    };
    let mut superuser = Wire::login(cluster().primary().port(), &superuser, &[]);
    let locks = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 4712";
    for withheld in [
        "SELECT ON pg_catalog.pg_locks",
        "SELECT ON pg_catalog.pg_cursors",
        "EXECUTE ON FUNCTION pg_catalog.pg_lock_status()",
        "SELECT ON pg_catalog.pg_settings",
    ] {
        superuser.run(&format!("REVOKE {withheld} FROM PUBLIC"));
        let mut wire = Wire::login(proxy.port, &login, &[]);
        for _ in 0..2 {
            assert_eq!(wire.ask(SETS), "C[DO] Z[I]", "{withheld}");
            assert_eq!(
                wire.ask(FOUND),
                "D[first,7MB] C[SELECT 1] Z[I]",
                "{withheld}"
            );
        }
        assert_eq!(superuser.value(locks), "1", "{withheld}");
        drop(wire);
        let mut next = Wire::login(proxy.port, &login, &[]);
        assert_eq!(next.ask(FOUND), "D[,4MB] C[SELECT 1] Z[I]", "{withheld}");
        eventually("the lock is free", || superuser.value(locks) == "0");
        superuser.run(&format!("GRANT {withheld} TO PUBLIC"));
    }
}

#[test]
fn a_session_that_discards_all_goes_back_to_sharing() {
    let (proxy, login) = (proxy(), apart("withheld_shared"));
    let superuser = Login {
        database: login.database.clone(),
        ..cluster().credentials().superuser.clone()
    };
    let mut superuser = Wire::login(cluster().primary().port(), &superuser, &[]);
    superuser.run("REVOKE SELECT ON pg_catalog.pg_cursors FROM PUBLIC");
    let mut wire = Wire::login(proxy.port, &login, &[]);
    wire.run(SETS);
    assert_eq!(wire.ask("DISCARD ALL"), "C[DISCARD ALL] Z[I]");
    // There is one connection.
    let mut other = Wire::login(proxy.port, &login, &[]);
    assert_eq!(other.ask(FOUND), "D[,4MB] C[SELECT 1] Z[I]");
    // Before the catalogue is read, whatever it calls may have left something.
    drop(other);
    assert_eq!(wire.ask(FOUND), "D[,4MB] C[SELECT 1] Z[I]");
}
