//! The function catalogue as a real server has it: what is volatile there is a write here.

use std::time::{Duration, Instant};

use pgcauseway::control::catalogs::changes;
use pgcauseway::core::statement::{Access, Effect, Statement, WriteReason};
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
        "SELECT a || b, extract(year FROM now()), trim('a'), 'a' SIMILAR TO 'b', now() AT TIME ZONE 'UTC' FROM pg_class",
        "SELECT row_number() OVER (), percentile_cont(0.5) WITHIN GROUP (ORDER BY a) FROM pg_class",
        "SELECT jsonb_agg(a), to_tsvector('a'), pg_get_userbyid(1), format('%s', 1), version() FROM pg_class",
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
    owner.batch_execute("create table t (a int)").await.unwrap();
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

const OBJECTS: &str = "
create table plain (a int);
create table numbered (id serial primary key, a int);
create table identified (id int generated always as identity, a int);
create unlogged table scratch (a int);
create sequence counted;
create table fired (a int);
create function leaves() returns trigger language plpgsql as
  $$begin perform set_config('app.left', 'x', false); return new; end$$;
create function stays() returns trigger language plpgsql as $$begin return new; end$$;
create trigger t1 before insert on fired for each row execute function leaves();
create table quiet (a int);
create trigger t2 before insert on quiet for each row execute function stays();
create function leaves_too() returns int language sql as $$select 1 from set_config('app.too', 'x', false)$$;
create table filled (a int default leaves_too());
create table checked (a int check (set_config('work_mem', '1MB', false) is not null));
create table parent (id int primary key);
create table child (id int references parent on delete cascade);
create trigger t3 before delete on child for each row execute function leaves();
create function atomic() returns bool language sql stable begin atomic select pg_is_in_recovery(); end;
create view sessions as select count(*) as c from pg_stat_activity;
create view over_sessions as select c from sessions;
create view role as select pg_is_in_recovery() as standby;
create view last as select last_value from counted;
create view plainly as select a, count(*) from plain group by a;
create view rows as select * from numbered;
create materialized view kept as select 1 as a;
create table ruled (a int);
create rule r as on insert to ruled do also insert into numbered (a) values (new.a);
";

#[tokio::test]
async fn relations_are_what_they_are_made_of() {
    let cluster = Cluster::builder("catalog-relations")
        .standbys(0)
        .start()
        .await
        .unwrap();
    let owner = owner(&cluster).await;
    owner.batch_execute(OBJECTS).await.unwrap();
    let (_, catalog) = load(&cluster, 1).await;
    for text in [
        "SELECT * FROM plain, numbered, kept, plainly, pg_class, information_schema.tables",
        "SELECT * FROM quiet, fired, filled",
    ] {
        assert_eq!(classify(text, &catalog).access, Access::Read, "{text}");
    }
    for name in [
        "scratch",
        "counted",
        "sessions",
        "over_sessions",
        "role",
        "last",
        "numbered_id_seq",
        "nowhere",
    ] {
        let text = format!("SELECT * FROM {name}");
        assert_eq!(classify(&text, &catalog).access, Access::Write, "{text}");
    }
    let effects = |text: &str| {
        let found = classify(text, &catalog);
        let effects = found.effects.iter().map(|step| match &step.effect {
            Effect::Opaque(opaque) => format!("opaque {}", opaque.names.join(",")),
            effect => format!("{effect:?}"),
        });
        effects.collect::<Vec<_>>().join(" ")
    };
    for (text, expected) in [
        ("INSERT INTO plain VALUES (1)", ""),
        ("INSERT INTO quiet VALUES (1)", ""),
        ("UPDATE numbered SET a = 1", ""),
        ("INSERT INTO numbered (id, a) VALUES (1, 2)", ""),
        ("INSERT INTO numbered (a) VALUES (1)", "DrawsNumber"),
        (
            "INSERT INTO numbered (id, a) VALUES (DEFAULT, 2)",
            "DrawsNumber",
        ),
        ("INSERT INTO identified (a) VALUES (1)", "DrawsNumber"),
        ("COPY numbered (a) FROM STDIN", "DrawsNumber"),
        ("INSERT INTO rows (a) VALUES (1)", "DrawsNumber"),
        ("INSERT INTO ruled VALUES (1)", "DrawsNumber"),
        ("INSERT INTO fired VALUES (1)", "opaque app.left"),
        ("INSERT INTO filled DEFAULT VALUES", "opaque app.too"),
        ("INSERT INTO checked VALUES (1)", "opaque "),
        ("DELETE FROM parent", "opaque app.left"),
        ("INSERT INTO nowhere VALUES (1)", "opaque  DrawsNumber"),
        ("DO $$begin perform leaves_too(); end$$", "opaque app.too"),
        ("DO $$begin perform 1 from plain; end$$", ""),
        (
            "DO $$begin insert into numbered (a) values (1); end$$",
            "DrawsNumber",
        ),
    ] {
        assert_eq!(effects(text), expected, "{text}");
    }
    assert!(catalog.function("atomic").unwrap().conduct.of_node);

    let mut login: Login = cluster.credentials().monitor.clone();
    login.database.clone_from(&cluster.application().database);
    let client = cluster.primary().connect(&login).await.unwrap();
    let (fingerprint, _) = changes(&client, None).await.unwrap().unwrap();
    client.batch_execute("COMMIT").await.unwrap();
    assert!(
        changes(&client, Some(&fingerprint))
            .await
            .unwrap()
            .is_none()
    );
    client.batch_execute("COMMIT").await.unwrap();
    owner
        .batch_execute("ALTER TABLE fired DISABLE TRIGGER t1")
        .await
        .unwrap();
    assert!(
        changes(&client, Some(&fingerprint))
            .await
            .unwrap()
            .is_some()
    );
    cluster.stop().await.unwrap();
}

const MANY: &str = "
do $do$ begin
for i in 1..1000 loop
  execute format('create function many_%s(a int) returns int language plpgsql as $b$
    declare total int := 0; begin %s return total; end $b$', i,
    repeat('select count(*) into total from plain where a = total; update plain set a = 1 where a = 2; ', 20));
end loop;
for i in 1..500 loop
  execute format('create view seen_%s as select p.a, count(*) as c, max(o.relname) as m, lower(o.relname) as l
    from plain p join pg_class o on o.oid = p.a where p.a > %s group by p.a, o.relname', i, i);
end loop;
end $do$";

#[tokio::test]
async fn a_large_catalogue_is_read_quickly() {
    let cluster = Cluster::builder("catalog-large")
        .standbys(0)
        .start()
        .await
        .unwrap();
    let owner = owner(&cluster).await;
    owner
        .batch_execute("create table plain (a int)")
        .await
        .unwrap();
    owner.batch_execute(MANY).await.unwrap();
    let mut login: Login = cluster.credentials().monitor.clone();
    login.database.clone_from(&cluster.application().database);
    let client = cluster.primary().connect(&login).await.unwrap();
    for _ in 0..3 {
        let begun = Instant::now();
        let (fingerprint, rows) = changes(&client, None).await.unwrap().unwrap();
        let read = begun.elapsed();
        client.batch_execute("COMMIT").await.unwrap();
        let begun = Instant::now();
        let same = changes(&client, Some(&fingerprint)).await.unwrap();
        let looked = begun.elapsed();
        client.batch_execute("COMMIT").await.unwrap();
        let begun = Instant::now();
        let catalog = Catalog::from_rows(1, &rows);
        let concluded = begun.elapsed();
        eprintln!("read {read:?}, looked at again {looked:?}, concluded {concluded:?}");
        assert!(same.is_none());
        assert!(read < Duration::from_secs(5) && looked < Duration::from_secs(1));
        assert_eq!(
            classify("SELECT * FROM seen_7", &catalog).access,
            Access::Read
        );
        assert!(catalog.function("many_7").unwrap().conduct.opaque.is_none());
    }
    cluster.stop().await.unwrap();
}

/// All changes of what is read change the fingerprint, also those that touch no relation's own row.
#[tokio::test]
async fn whatever_is_read_is_noticed_when_it_changes() {
    let cluster = Cluster::builder("catalog-fingerprint")
        .standbys(0)
        .start()
        .await
        .unwrap();
    let owner = owner(&cluster).await;
    let mut login: Login = cluster.credentials().monitor.clone();
    login.database.clone_from(&cluster.application().database);
    let reader = cluster.primary().connect(&login).await.unwrap();
    let setup = "
        create function trg() returns trigger language plpgsql as
          $$ begin perform set_config('app.tenant', 'a', false); return new; end $$;
        create function one(int, int) returns int language sql immutable as 'select 1';
        create table par (n int);
        create table ch1 () inherits (par);
        create table ch2 (n int);
        create trigger t before update on ch2 for each row execute function trg();
        create table numbered (id serial);
        create domain d as int;
        create view v as select n from ch1;
        create aggregate agg(int) (sfunc = one, stype = int);";
    owner.batch_execute(setup).await.unwrap();
    let (mut known, _) = changes(&reader, None).await.unwrap().unwrap();
    reader.batch_execute("rollback").await.unwrap();
    for change in [
        "alter table ch2 inherit par",
        "alter table ch2 no inherit par",
        "alter table numbered rename column id to number",
        "alter table ch2 alter n set default one(1, 2)",
        "alter table ch2 add check (one(n, n) > 0)",
        "alter domain d set default one(1, 2)",
        "create index on ch2 (one(n, n))",
        "create or replace view v as select one(n, n) as n from ch1",
        "create or replace aggregate agg(int) (sfunc = int4pl, stype = int)",
        "alter table ch2 disable trigger t",
        "create rule r as on insert to ch1 do also select one(1, 2)",
        "create policy p on ch1 using (one(n, n) > 0)",
        "alter function one(int, int) volatile",
    ] {
        owner.batch_execute(change).await.unwrap();
        let found = changes(&reader, Some(&known)).await.unwrap();
        let (fingerprint, rows) = found.unwrap_or_else(|| panic!("{change} was not noticed"));
        known = fingerprint;
        reader.batch_execute("rollback").await.unwrap();
        let catalog = Catalog::from_rows(1, &rows);
        let tells = |text: &str| format!("{:?}", classify(text, &catalog).effects);
        let told = tells("update par set n = n + 1").contains("app.tenant");
        assert_eq!(told, change == "alter table ch2 inherit par", "{change}");
    }
    assert!(changes(&reader, Some(&known)).await.unwrap().is_none());
}
