//! What users have made in schema `public` is never called by a question of ours: it would run as whoever
//! asks. Nor is a question understood by what the server or the role has chosen for its sessions.

use std::collections::BTreeSet;

use pgcauseway::rig::{Cluster, Login, Node};

use super::proxy;
use crate::support::http::order;
use crate::support::status::{leader, promotable, settled};
use crate::support::{PROGRAM, block_on, eventually, turn};

/// Under every operator's name, and every function's, one that tells who has called it.
const SNARES: &str = "
DO $do$
DECLARE
    r record;
    body CONSTANT text := '$f$ BEGIN RAISE LOG ''snared % by %'', session_user, ''%I''; RETURN %s; END $f$';
    head CONSTANT text := 'CREATE FUNCTION public.%I(%s) RETURNS %s LANGUAGE plpgsql SET search_path = pg_catalog AS ';
BEGIN
    FOR r IN SELECT oid, oprname, oprleft::regtype AS a, oprright::regtype AS b, oprresult::regtype AS result
               FROM pg_operator WHERE oprkind = 'b' AND oprnamespace = 'pg_catalog'::regnamespace
    LOOP
        BEGIN
            EXECUTE format(head, 'snare_' || r.oid, r.a || ',' || r.b, r.result)
                || replace(replace(body, '%I', r.oprname), '%s', '$1 OPERATOR(pg_catalog.' || r.oprname || ') $2');
            EXECUTE format('CREATE OPERATOR public.%s (LEFTARG = %s, RIGHTARG = %s, FUNCTION = public.%I)',
                           r.oprname, r.a, r.b, 'snare_' || r.oid);
        EXCEPTION WHEN OTHERS THEN NULL; -- Pseudo-types.
        END;
    END LOOP;
    FOR r IN SELECT proname, pg_get_function_identity_arguments(oid) AS arguments, prorettype::regtype AS result,
                    (SELECT COALESCE(string_agg('$' || n, ','), '') FROM generate_series(1, pronargs) n) AS passed
               FROM pg_proc WHERE prokind = 'f' AND NOT proretset AND pronamespace = 'pg_catalog'::regnamespace
    LOOP
        BEGIN
            EXECUTE format(head, r.proname, r.arguments, r.result)
                || replace(replace(body, '%I', r.proname), '%s', format('pg_catalog.%I(%s)', r.proname, r.passed));
        EXCEPTION WHEN OTHERS THEN NULL;
        END;
    END LOOP;
END $do$";

/// What nobody expects of a role's sessions, and every application may choose for a server.
const HABITS: [&str; 6] = [
    "default_transaction_isolation = 'serializable'",
    "default_transaction_read_only = on",
    "standard_conforming_strings = off",
    "datestyle = 'German'",
    "statement_timeout = '1ms'",
    "lock_timeout = '1ms'",
];

/// Who has stepped into one, but for the superuser and the application.
fn snared(node: &Node, known: &[&Login]) -> BTreeSet<String> {
    let log = std::fs::read_to_string(node.log()).unwrap();
    let lines = log
        .lines()
        .filter_map(|line| line.split_once("snared "))
        .map(|(_, who)| who.to_owned());
    lines
        .filter(|who| {
            !known
                .iter()
                .any(|login| who.starts_with(&format!("{} ", login.user)))
        })
        .collect()
}

#[test]
fn no_question_of_ours_hangs_on_what_users_have_made_or_chosen() {
    let _turn = turn();
    let cluster = Cluster::builder("snares").agents(PROGRAM).standbys(1);
    let cluster = block_on(cluster.start()).unwrap();
    let [first, second] = cluster.nodes() else {
        panic!("two nodes")
    };
    let credentials = cluster.credentials();
    let known = [&credentials.superuser, cluster.application()];
    for database in ["postgres", "demo"] {
        let login = Login::new(
            &credentials.superuser.user,
            &credentials.superuser.password,
            database,
        );
        block_on(async {
            let client = first.connect(&login).await.unwrap();
            client.batch_execute(SNARES).await.unwrap();
            let path = format!("ALTER DATABASE {database} SET search_path = public, pg_catalog");
            client.batch_execute(&path).await.unwrap();
        });
    }
    // Without a search_path of its own a session does step into them.
    block_on(async {
        let client = first.connect(&credentials.monitor).await.unwrap();
        let words = "SELECT pg_is_in_recovery(), count(*) FROM pg_class WHERE oid >= '16384'::oid";
        client.batch_execute(words).await.unwrap();
    });
    let control = snared(first, &known);
    assert!(control.iter().any(|who| who.ends_with(">=")), "{control:?}");
    assert!(
        control.iter().any(|who| who.ends_with("pg_is_in_recovery")),
        "{control:?}"
    );
    std::fs::write(first.log(), "").unwrap();
    for habit in HABITS {
        let set = format!("ALTER ROLE {} SET {habit}", credentials.monitor.user);
        block_on(first.execute(&set)).unwrap();
    }
    // Those of agents have been open since before.
    block_on(second.wait_replayed(block_on(first.written()).unwrap())).unwrap();
    for node in cluster.nodes() {
        let end = "SELECT count(pg_catalog.pg_terminate_backend(pid)) FROM pg_catalog.pg_stat_activity \
                   WHERE application_name OPERATOR(pg_catalog.=) 'causeway-agent'";
        let _: i64 = block_on(node.query(end)).unwrap();
    }

    let proxy = proxy(
        &cluster,
        "durability: async\nslots: true\nmax_slot_bytes: 200MB",
    );
    let mut wire = proxy.wire();
    wire.run("CREATE TABLE snared AS SELECT 1 AS n");
    wire.run("CREATE FUNCTION known() RETURNS int LANGUAGE sql STABLE AS 'SELECT 1'");
    eventually("the catalogue has been read", || {
        wire.run("SELECT known()");
        wire.value("SHOW causeway.last_route")
            .starts_with("standby ")
    });
    promotable(proxy.http, 1);
    let (code, answer) = order(proxy.http, &format!("/api/switchover?to={}", second.name()));
    assert_eq!(code, 200, "{answer}");
    eventually("it leads", || leader(proxy.http) == second.name());
    settled(proxy.http);
    for node in cluster.nodes() {
        let found = snared(node, &known);
        assert!(found.is_empty(), "{}: {found:?}", node.name());
    }
}
