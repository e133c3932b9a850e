//! The function catalogue as a real server has it: what is volatile there is a write here.

use pgcauseway::control::catalogs::changes;
use pgcauseway::core::statement::{Access, Statement, WriteReason};
use pgcauseway::rig::{Cluster, Login};
use pgcauseway::sql::catalog::Rows;
use pgcauseway::sql::{Catalog, Classifier};

/// Volatile functions of PostgreSQL that standbys may be asked for. A list of its own on purpose:
/// to let one more through takes a change here as well. `false`: newer than some servers.
const HARMLESS: &[(&str, bool)] = &[
    ("clock_timestamp", true),
    ("gen_random_uuid", true),
    ("pg_partition_ancestors", true),
    ("pg_partition_tree", true),
    ("pg_sleep", true),
    ("pg_sleep_for", true),
    ("pg_sleep_until", true),
    ("random", true),
    ("random_normal", false),
    ("timeofday", true),
    ("uuidv4", false),
    ("uuidv7", false),
];

const FUNCTIONS: &str = "
create function f_volatile() returns int language sql volatile as 'select 1';
create function f_stable() returns int language sql stable as 'select 1';
create function f_immutable() returns int language sql immutable as 'select 1';
create function p_volatile() returns int language plpgsql as 'begin return 1; end';
create function p_stable() returns int language plpgsql stable as 'begin return 1; end';
create function f_both(int) returns int language sql stable as 'select 1';
create function f_both(text) returns int language sql volatile as 'select 1';
create function random(int) returns int language sql volatile as 'select 1';
create function \"Mixed Case\"() returns int language sql stable as 'select 1';
create function p_add(int, int) returns int language plpgsql as 'begin return 1; end';
create aggregate volatile_sum(int) (sfunc = p_add, stype = int);
create aggregate plain_sum(int) (sfunc = int4pl, stype = int);
create procedure p_procedure() language sql as 'select 1';
";

async fn load(cluster: &Cluster, version: u64) -> (Rows, Catalog) {
    let mut login: Login = cluster.credentials().monitor.clone();
    login.database.clone_from(&cluster.application().database);
    let client = cluster.primary().connect(&login).await.unwrap();
    let (_, rows) = changes(&client, None).await.unwrap().unwrap();
    let catalog = Catalog::from_rows(version, &rows);
    (rows, catalog)
}

fn classify(text: &str, catalog: &Catalog) -> Statement {
    let mut classifier = Classifier::new(16);
    (*classifier.classify(text.as_bytes(), catalog, true)).clone()
}

async fn owner(cluster: &Cluster) -> tokio_postgres::Client {
    cluster
        .primary()
        .connect(cluster.application())
        .await
        .unwrap()
}

#[tokio::test]
async fn what_postgresql_calls_volatile_is_a_write() {
    let cluster = Cluster::builder("catalog")
        .standbys(0)
        .start()
        .await
        .unwrap();
    let (rows, catalog) = load(&cluster, 1).await;
    let rows = rows.functions;
    assert!(rows.len() > 2500, "{} functions", rows.len());
    assert!(!catalog.mentions_synchronous_commit());
    for row in &rows {
        let listed = HARMLESS.iter().any(|(name, _)| *name == row.name);
        let call = format!("SELECT pg_catalog.\"{}\"()", row.name);
        if row.volatile && !listed {
            let statement = classify(&call, &catalog);
            assert_eq!(statement.access, Access::Write, "{}", row.name);
        }
        if listed {
            let statement = classify(&call, &catalog);
            assert_eq!(statement.access, Access::Read, "{}", row.name);
        }
    }
    for (name, everywhere) in HARMLESS {
        let known = rows.iter().any(|row| row.name == *name && row.volatile);
        assert!(known || !everywhere, "{name} is not volatile here");
    }
    // Every function that the classifier names must exist, or its name is misspelt.
    for name in [
        "set_config",
        "setseed",
        "currval",
        "lastval",
        "pg_export_snapshot",
        "pg_my_temp_schema",
        "pg_postmaster_start_time",
        "pg_conf_load_time",
        "inet_server_addr",
        "pg_listening_channels",
        "pg_stat_file",
        "pg_current_xact_id",
        "loread",
        "lowrite",
        "pg_cursor",
        "pg_prepared_statement",
    ] {
        assert!(catalog.function(name).is_some(), "{name}");
    }
    for text in [
        "SELECT now(), lower('A'), count(*), sum(1), generate_series(1, 2), to_char(now(), 'YYYY')",
        "SELECT a || b, extract(year FROM now()), trim('a'), 'a' SIMILAR TO 'b', now() AT TIME ZONE 'UTC' FROM t",
        "SELECT row_number() OVER (), percentile_cont(0.5) WITHIN GROUP (ORDER BY a) FROM t",
        "SELECT jsonb_agg(a), to_tsvector('a'), pg_get_userbyid(1), format('%s', 1), version() FROM t",
        "SELECT pg_get_viewdef(1), obj_description(1, 'a'), pg_table_is_visible(1), current_setting('a')",
    ] {
        assert_eq!(classify(text, &catalog).access, Access::Read, "{text}");
    }
    cluster.stop().await.unwrap();
}

#[tokio::test]
async fn users_functions_are_what_they_were_declared() {
    let cluster = Cluster::builder("catalog-own")
        .standbys(0)
        .start()
        .await
        .unwrap();
    let owner = owner(&cluster).await;
    owner.batch_execute(FUNCTIONS).await.unwrap();
    let (_, catalog) = load(&cluster, 1).await;
    for name in [
        "f_volatile",
        "p_volatile",
        "f_both",
        "random",
        "volatile_sum",
    ] {
        let statement = classify(&format!("SELECT {name}(1)"), &catalog);
        assert_eq!(
            statement.write_reason,
            Some(WriteReason::VolatileFunction),
            "{name}"
        );
        assert!(statement.may_commit_async, "{name}");
    }
    for name in [
        "f_stable",
        "f_immutable",
        "p_stable",
        "\"Mixed Case\"",
        "plain_sum",
    ] {
        let statement = classify(&format!("SELECT {name}(1)"), &catalog);
        assert_eq!(statement.access, Access::Read, "{name}");
    }
    assert!(!classify("INSERT INTO t VALUES (1)", &catalog).may_commit_async);

    for definition in [
        "create function m() returns void language plpgsql as
           'begin set local Synchronous_Commit = off; end'",
        "create function m() returns void language sql stable as
           'select set_config(''synchronous_commit'', ''off'', true)'",
        "create function m() returns int language sql immutable set synchronous_commit = off
           as 'select 1'",
    ] {
        owner.batch_execute(definition).await.unwrap();
        let (_, catalog) = load(&cluster, 2).await;
        assert!(catalog.mentions_synchronous_commit(), "{definition}");
        assert!(classify("INSERT INTO t VALUES (1)", &catalog).may_commit_async);
        assert!(!classify("SELECT 1", &catalog).may_commit_async);
        owner.batch_execute("drop function m").await.unwrap();
    }
    cluster.stop().await.unwrap();
}
