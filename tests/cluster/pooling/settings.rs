//! Settings belong to the session that made them.

use super::traffic::Busy;
use crate::cluster;
use crate::support::frames::query;
use crate::support::{Proxy, Wire, block_on, eventually, http};
use pgcauseway::rig::Cluster;

#[test]
fn what_one_session_sets_no_other_sees() {
    let busy = Busy::start();
    std::thread::scope(|scope| {
        for session in 0..6 {
            let mut wire = busy.proxy.wire();
            scope.spawn(move || {
                let (path, name) = (
                    format!("mine{session}, public"),
                    format!("app \"{session}\" 'x'"),
                );
                wire.run(&format!("SET search_path = {path}"));
                wire.run(&format!(
                    "SET application_name TO '{}'",
                    name.replace('\'', "''")
                ));
                wire.run(&format!("SET statement_timeout = '{}s'", 100 + session));
                for _ in 0..40 {
                    assert_eq!(wire.value("SHOW search_path"), path);
                    assert_eq!(
                        wire.value("SELECT current_setting('application_name')"),
                        name
                    );
                    assert_eq!(
                        wire.value("SHOW statement_timeout"),
                        format!("{}s", 100 + session).replace("120s", "2min")
                    );
                }
                wire.run("RESET statement_timeout");
                assert_eq!(wire.value("SHOW statement_timeout"), "0");
                assert_eq!(wire.value("SHOW search_path"), path);
                wire.run("DISCARD ALL");
                for _ in 0..10 {
                    assert_eq!(wire.value("SHOW search_path"), "\"$user\", public");
                    assert_eq!(wire.value("SHOW application_name"), "");
                }
            });
        }
    });
    for _ in 0..20 {
        let mut fresh = busy.proxy.wire();
        assert_eq!(fresh.value("SHOW search_path"), "\"$user\", public");
        assert_eq!(fresh.value("SHOW application_name"), "");
        assert_eq!(fresh.value("SHOW statement_timeout"), "0");
    }
}

#[test]
fn transactions_take_their_settings_along() {
    let busy = Busy::start();
    let mut wire = busy.proxy.wire();
    for _ in 0..10 {
        wire.run("BEGIN");
        wire.run("SET LOCAL work_mem = '9MB'");
        assert_eq!(wire.value("SHOW work_mem"), "9MB");
        wire.run("COMMIT");
        assert_eq!(wire.value("SHOW work_mem"), "4MB", "SET LOCAL");

        wire.run("BEGIN");
        wire.run("SET work_mem = '8MB'");
        assert_eq!(wire.value("SHOW work_mem"), "8MB");
        wire.run("ROLLBACK");
        assert_eq!(wire.value("SHOW work_mem"), "4MB", "rolled back");

        wire.run("BEGIN");
        wire.run("SET work_mem = '7MB'");
        assert_eq!(wire.ask("SELECT 1/0"), "E[22012] Z[E]");
        assert_eq!(wire.ask("COMMIT"), "C[ROLLBACK] Z[I]");
        assert_eq!(wire.value("SHOW work_mem"), "4MB", "failed");

        assert_eq!(
            wire.ask("SET work_mem = '6MB'; SELECT 1/0"),
            "C[SET] E[22012] Z[I]"
        );
        assert_eq!(
            wire.value("SHOW work_mem"),
            "4MB",
            "an implicit transaction"
        );

        wire.run("BEGIN");
        wire.run("SET work_mem = '5MB'");
        wire.run("SAVEPOINT a");
        wire.run("SET work_mem = '3MB'");
        wire.run("ROLLBACK TO a");
        wire.run("COMMIT");
        assert_eq!(
            wire.value("SHOW work_mem"),
            "5MB",
            "rolled back to a savepoint"
        );
        wire.run("RESET ALL");
        assert_eq!(wire.value("SHOW work_mem"), "4MB");
    }
}

#[test]
fn a_failed_setting_leaves_what_was() {
    let busy = Busy::start();
    let mut wire = busy.proxy.wire();
    wire.run("SET work_mem = '9MB'");
    assert_eq!(wire.ask("SET work_mem = 'plenty'"), "E[22023] Z[I]");
    assert_eq!(wire.ask("SET nonsense = 1"), "E[42704] Z[I]");
    for _ in 0..20 {
        assert_eq!(wire.value("SHOW work_mem"), "9MB");
    }
}

#[test]
fn reset_goes_back_to_the_startup_packet() {
    let busy = Busy::start();
    let mut wire = busy.proxy.wire_with(&[
        ("application_name", "first"),
        ("options", "-c work_mem=9MB"),
    ]);
    for reset in [
        "RESET application_name",
        "SET application_name TO DEFAULT",
        "RESET ALL",
        "DISCARD ALL",
    ] {
        wire.run("SET application_name = 'second'");
        let told = wire.exchange_frames(&[query(reset)], 1);
        let told: Vec<_> = told.iter().map(ToString::to_string).collect();
        assert!(
            told.contains(&"S[application_name=first]".to_owned()),
            "{reset}: {told:?}"
        );
        assert!(
            !told.contains(&"S[application_name=]".to_owned()),
            "{reset}: {told:?}"
        );
        for _ in 0..5 {
            assert_eq!(wire.value("SHOW application_name"), "first", "{reset}");
            assert_eq!(wire.value("SHOW work_mem"), "9MB", "{reset}");
        }
    }
}

#[test]
fn settings_made_by_functions_stay_with_the_session() {
    let busy = Busy::start();
    let mut wire = busy.proxy.wire();
    wire.run("SELECT set_config('work_mem', '11MB', false)");
    for _ in 0..20 {
        assert_eq!(wire.value("SHOW work_mem"), "11MB");
    }
    drop(wire);
    for _ in 0..20 {
        assert_eq!(busy.proxy.wire().value("SHOW work_mem"), "4MB");
    }
}

/// The server shows some names with capitals: `DateStyle`, `IntervalStyle`, `TimeZone`.
#[test]
fn a_setting_is_one_however_its_name_is_written() {
    let busy = Busy::start();
    let mut wire = busy.proxy.wire();
    let default = wire.value("SHOW datestyle");
    for round in 0..5 {
        wire.run("SET datestyle = 'SQL, DMY'");
        wire.run("DO $$ BEGIN PERFORM 1; END $$");
        wire.run("SET DateStyle = 'German'");
        for _ in 0..10 {
            let shown = wire.value("SELECT current_setting('datestyle')");
            assert_eq!(shown, "German, DMY", "round {round}");
        }
        wire.run("RESET datestyle");
        for _ in 0..10 {
            let shown = wire.value("SELECT current_setting('datestyle')");
            assert_eq!(shown, default, "round {round}");
        }
    }
}

#[test]
fn roles_stay_with_their_session() {
    let busy = Busy::start();
    crate::on_primary(
        cluster(),
        "CREATE ROLE other_role; GRANT other_role TO demo",
    );
    block_on(cluster().wait_caught_up()).unwrap();
    let mut wire = busy.proxy.wire();
    wire.run("SET ROLE other_role");
    for _ in 0..20 {
        assert_eq!(wire.value("SELECT current_user"), "other_role");
        assert_eq!(busy.proxy.wire().value("SELECT current_user"), "demo");
    }
    wire.run("RESET ROLE");
    assert_eq!(wire.value("SELECT current_user"), "demo");
}

/// A standby that has not replayed a role yet cannot take it on: another node can.
#[test]
fn a_role_that_standbys_do_not_know_yet_is_no_reason_to_lose_the_session() {
    let cluster = block_on(Cluster::builder("newrole").standbys(1).start()).unwrap();
    let proxy = Proxy::start(&cluster, "");
    let mut wire = proxy.wire();
    block_on(cluster.standbys()[0].pause_replay()).unwrap();
    let sql = "CREATE ROLE fresh; GRANT fresh TO demo";
    block_on(cluster.primary().execute(sql)).unwrap();
    wire.run("SET ROLE fresh");
    assert_eq!(wire.value("SELECT current_user"), "fresh");
    assert!(
        wire.value("SHOW causeway.last_route")
            .starts_with("primary")
    );
    block_on(cluster.standbys()[0].resume_replay()).unwrap();
    eventually("the standby is used again", || {
        assert_eq!(wire.value("SELECT current_user"), "fresh");
        wire.value("SHOW causeway.last_route")
            .starts_with("standby")
    });
}

/// A server lets a session keep a role that is revoked meanwhile; another connection cannot be given it.
#[test]
fn a_role_that_is_revoked_is_an_error_until_it_is_given_up() {
    let busy = Busy::start();
    crate::on_primary(
        cluster(),
        "CREATE ROLE revoked_role; GRANT revoked_role TO demo",
    );
    block_on(cluster().wait_caught_up()).unwrap();
    for (give_up, role) in [
        ("RESET ROLE", "demo"),
        ("SET ROLE NONE", "demo"),
        ("DISCARD ALL", "demo"),
        ("SET ROLE demo", "demo"),
    ] {
        crate::on_primary(cluster(), "GRANT revoked_role TO demo");
        block_on(cluster().wait_caught_up()).unwrap();
        let mut wire = busy.proxy.wire();
        wire.run("SET ROLE revoked_role; SET app.kept = 'kept'");
        crate::on_primary(cluster(), "REVOKE revoked_role FROM demo");
        block_on(cluster().wait_caught_up()).unwrap();
        eventually("another connection refuses it", || {
            wire.ask("SELECT txid_current()") == "E[42501] Z[I]"
        });
        for _ in 0..10 {
            let answer = wire.ask("SELECT current_user");
            let known = ["D[revoked_role] C[SELECT 1] Z[I]", "E[42501] Z[I]"];
            assert!(known.contains(&&*answer), "{answer}");
        }
        assert_eq!(wire.ask(give_up).split(' ').next_back(), Some("Z[I]"));
        for _ in 0..10 {
            assert_eq!(wire.value("SELECT current_user"), role, "{give_up}");
        }
        let kept = wire.value("SELECT current_setting('app.kept', true)");
        match give_up {
            // Unknown where this connection has never had it.
            "DISCARD ALL" => assert!(["", "~"].contains(&&*kept), "{kept}"),
            _ => assert_eq!(kept, "kept"),
        }
    }
    busy.proxy.assert_well();
}

#[test]
fn settings_that_are_refused_cost_no_connection() {
    let proxy = Proxy::start(cluster(), "pool: { size: 1 }\n");
    crate::on_primary(cluster(), "CREATE ROLE gone_role; GRANT gone_role TO demo");
    block_on(cluster().wait_caught_up()).unwrap();
    let process = "/* causeway: consistency=primary */ SELECT pg_backend_pid()";
    let (mut first, mut second) = (proxy.wire(), proxy.wire());
    first.run("SET ROLE gone_role");
    second.run("SET work_mem = '7MB'");
    let before = second.value(process);
    crate::on_primary(cluster(), "REVOKE gone_role FROM demo");
    block_on(cluster().wait_caught_up()).unwrap();
    for _ in 0..5 {
        assert_eq!(first.ask(process), "E[42501] Z[I]");
        assert_eq!(second.value(process), before);
        assert_eq!(second.value("SHOW work_mem"), "7MB");
    }
    first.run("RESET ROLE");
    assert_eq!(first.value(process), before);
    assert_eq!(first.value("SHOW work_mem"), "4MB");
}

#[test]
fn a_setting_of_the_proxys_own_that_fails_breaks_the_transaction() {
    let busy = Busy::start();
    let mut wire = busy.proxy.wire();
    for begin in ["BEGIN", "BEGIN READ ONLY"] {
        wire.run(begin);
        wire.run("SELECT 1");
        wire.run("SAVEPOINT s");
        assert_eq!(
            wire.ask("SET causeway.consistency = 'none'"),
            "E[22023] Z[E]"
        );
        assert_eq!(wire.ask("SELECT 1"), "E[25P02] Z[E]");
        assert_eq!(
            wire.ask("SET causeway.consistency = 'primary'"),
            "E[25P02] Z[E]"
        );
        wire.run("ROLLBACK TO s");
        wire.run("SELECT 1");
        assert_eq!(wire.ask("SHOW causeway.nothing"), "E[42704] Z[E]");
        assert_eq!(wire.ask("COMMIT"), "C[ROLLBACK] Z[I]");
        assert_eq!(
            wire.ask("SET causeway.consistency = 'none'"),
            "E[22023] Z[I]"
        );
    }
}

#[test]
fn a_setting_longer_than_a_message_stays_where_it_was_made() {
    let busy = Busy::start();
    let mut wire = busy.proxy.wire();
    wire.run("SELECT set_config('app.big', repeat('x', 200000), false)");
    let pinned = || http::status(busy.proxy.http)["pinned"]["sessions"].clone();
    eventually("it is pinned", || pinned() == 1);
    for _ in 0..5 {
        let length = "SELECT length(current_setting('app.big'))";
        assert_eq!(wire.value(length), "200000");
        wire.run("SELECT set_config('app.small', 'x', false)");
    }
    wire.run("DISCARD ALL");
    eventually("it is free", || pinned() == 0);
    assert_eq!(
        wire.value("SELECT coalesce(current_setting('app.big', true), '')"),
        ""
    );
}

/// The name that the client gave at its login is its own default, inside a transaction too.
#[test]
fn an_application_name_comes_back_inside_a_transaction() {
    let proxy = Proxy::start(
        cluster(),
        "pool: { size: 1, wait_timeout: 20s }\nrouting: { consistency: primary }\n",
    );
    let options = [("application_name", "it's \\ own")];
    let (port, login) = (cluster().primary().port(), cluster().application());
    let mut both = [
        proxy.wire_with(&options),
        Wire::login(port, login, &options),
    ];
    for wire in &mut both {
        wire.run("SET application_name = 'chosen'");
    }
    for step in [
        "BEGIN",
        "RESET ALL",
        "SAVEPOINT a",
        "SET application_name = 'inside'",
        "SET application_name TO DEFAULT",
        "ROLLBACK TO a",
        "ROLLBACK",
        "BEGIN",
        "SET LOCAL application_name TO DEFAULT",
        "COMMIT",
        "BEGIN; RESET application_name",
        "COMMIT",
    ] {
        let [proxied, direct] = &mut both;
        assert_eq!(proxied.ask(step), direct.ask(step), "{step}");
        let show = "SHOW application_name";
        assert_eq!(proxied.value(show), direct.value(show), "after {step}");
    }
    assert_eq!(proxy.wire().value("SHOW application_name"), "");
}

/// What a transaction asks of its node takes it to the primary.
#[test]
fn a_transaction_is_what_its_begin_says() {
    let proxy = Proxy::start(cluster(), "pool: { size: 2, wait_timeout: 20s }\n");
    let mut wire = proxy.wire();
    let shown = "SELECT string_agg(current_setting('transaction_' || name), ',') \
                 FROM unnest('{isolation,read_only,deferrable}'::text[]) name";
    for (declared, expected) in [
        (
            "ISOLATION LEVEL READ UNCOMMITTED READ ONLY",
            "read uncommitted,on,off",
        ),
        ("READ ONLY DEFERRABLE", "read committed,on,on"),
        (
            "ISOLATION LEVEL REPEATABLE READ READ ONLY",
            "repeatable read,on,off",
        ),
        (
            "READ ONLY; SET TRANSACTION DEFERRABLE",
            "read committed,on,on",
        ),
    ] {
        wire.run(&format!("BEGIN {declared}"));
        assert_eq!(wire.value(shown), expected, "{declared}");
        wire.run("ROLLBACK");
    }
}
