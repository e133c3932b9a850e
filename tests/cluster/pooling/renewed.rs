//! What is changed for roles and databases, also past the proxy, is what new sessions find.

use pgcauseway::rig::{Cluster, Login};

use crate::support::console::rows;
use crate::support::{Proxy, Wire, block_on, connect, eventually};

fn start(name: &str) -> (Cluster, Proxy) {
    let cluster = block_on(Cluster::builder(name).standbys(1).start()).unwrap();
    let proxy = Proxy::start(&cluster, "");
    (cluster, proxy)
}

async fn console(proxy: &Proxy, login: &Login) -> tokio_postgres::Client {
    let Login { user, password, .. } = login;
    connect(&format!(
        "host=127.0.0.1 port={} user={user} password={password} dbname=causeway",
        proxy.port
    ))
    .await
}

/// A setting as a new session finds it on the primary, and on the standby.
fn found(proxy: &Proxy, setting: &str) -> [String; 2] {
    ["/* causeway: consistency=primary */", ""].map(|hint| {
        let mut wire = proxy.wire();
        let value = wire.value(&format!("{hint} SELECT current_setting('{setting}')"));
        let route = wire.value("SHOW causeway.last_route");
        let expected = if hint.is_empty() {
            "standby"
        } else {
            "primary"
        };
        assert!(route.starts_with(expected), "{route}");
        value
    })
}

#[test]
fn settings_of_roles_and_databases_reach_new_sessions_node_by_node() {
    let (cluster, proxy) = start("newdefaults");
    let (primary, standby) = (cluster.primary(), &cluster.standbys()[0]);
    let execute = |sql: &str| block_on(primary.execute(sql)).unwrap();
    let Login { user, database, .. } = cluster.application();
    assert_eq!(found(&proxy, "join_collapse_limit"), ["8", "8"]);
    let mut open = proxy.wire();
    open.run("BEGIN");
    assert_eq!(open.value("SHOW join_collapse_limit"), "8");

    block_on(standby.pause_replay()).unwrap();
    execute(&format!("ALTER ROLE {user} SET join_collapse_limit = 17"));
    eventually("new sessions have it on the primary", || {
        found(&proxy, "join_collapse_limit") == ["17", "8"]
    });
    assert_eq!(open.value("SHOW join_collapse_limit"), "8");
    open.run("COMMIT");
    block_on(standby.resume_replay()).unwrap();
    eventually("and on the standby, once it has replayed", || {
        found(&proxy, "join_collapse_limit") == ["17", "17"]
    });
    for (sql, value) in [
        ("ALTER ROLE {user} RESET ALL", "8"),
        (
            "ALTER DATABASE {database} SET join_collapse_limit = 18",
            "18",
        ),
        (
            "ALTER ROLE {user} IN DATABASE {database} SET join_collapse_limit = 19",
            "19",
        ),
        ("ALTER ROLE {user} IN DATABASE {database} RESET ALL", "18"),
        ("ALTER DATABASE {database} RESET ALL", "8"),
        ("ALTER ROLE ALL SET join_collapse_limit = 20", "20"),
        ("ALTER ROLE ALL RESET ALL", "8"),
    ] {
        let sql = sql.replace("{user}", user).replace("{database}", database);
        execute(&sql);
        eventually(&sql, || found(&proxy, "join_collapse_limit") == [value; 2]);
    }
    // What a login is told is not that of before either.
    execute(&format!("ALTER ROLE {user} SET TimeZone = 'Asia/Tokyo'"));
    eventually("the greeting tells it", || {
        let mut greeting = proxy.wire().greeting.into_iter().map(|f| f.to_string());
        greeting.any(|told| told == "S[TimeZone=Asia/Tokyo]")
    });
    proxy.assert_well();
}

#[test]
fn a_role_that_may_not_log_in_is_refused_as_by_a_server() {
    let (cluster, proxy) = start("nologin");
    let login = cluster.application();
    let execute = |sql: &str| block_on(cluster.primary().execute(sql)).unwrap();
    let refused = || {
        Wire::try_login(proxy.port, login, &[])
            .err()
            .map(|frame| frame.to_string())
    };
    assert_eq!(refused(), None);
    execute(&format!("ALTER ROLE {} NOLOGIN", login.user));
    eventually("it is refused", || {
        refused().is_some_and(|told| told == "E[28000]")
    });
    execute(&format!("ALTER ROLE {} LOGIN", login.user));
    eventually("it is let in", || refused().is_none());
    execute(&format!("ALTER ROLE {} RENAME TO another", login.user));
    eventually("it is not known", || {
        refused().is_some_and(|told| told == "E[28P01]")
    });
}

#[test]
fn a_database_can_be_dropped_or_renamed_behind_its_last_client() {
    let cluster = block_on(Cluster::builder("dropped").standbys(1).start()).unwrap();
    let operator = "admin: { http: 127.0.0.1:0, users: [demo] }\n";
    let proxy = Proxy::start(&cluster, operator);
    let login = cluster.application();
    let execute = |sql: &str| block_on(cluster.primary().execute(sql)).unwrap();
    let elsewhere = |database: &str| Login {
        database: database.to_owned(),
        ..login.clone()
    };
    execute(&format!("ALTER ROLE {} CREATEDB", login.user));
    let mut wire = proxy.wire();
    wire.run("CREATE DATABASE passing");
    block_on(cluster.wait_caught_up()).unwrap();
    let visit = |database: &str| {
        let mut wire = Wire::try_login(proxy.port, &elsewhere(database), &[])?;
        assert_eq!(wire.value("SELECT 1"), "1");
        assert_eq!(
            wire.value("/* causeway: consistency=primary */ SELECT 2"),
            "2"
        );
        Ok::<_, crate::support::Frame>(())
    };
    for database in ["passing", "passed"] {
        visit(database).unwrap();
        wire.run(match database {
            "passing" => "ALTER DATABASE passing RENAME TO passed",
            _ => "DROP DATABASE passed",
        });
        let refused = visit(database).unwrap_err();
        assert_eq!(refused.to_string(), "E[3D000]");
        block_on(cluster.wait_caught_up()).unwrap();
    }
    // Nobody asks for it any more, and another one of its name is known as well as the first.
    let console = block_on(console(&proxy, login));
    let is_known = |name: &str| {
        let rows = rows(&console, "SHOW DATABASES").unwrap();
        rows.iter().any(|row| row["name"] == name)
    };
    eventually("they are forgotten", || {
        !is_known("passing") && !is_known("passed")
    });
    assert!(is_known(&login.database));
    wire.run("CREATE DATABASE passed");
    block_on(cluster.wait_caught_up()).unwrap();
    let mut again = Wire::login(proxy.port, &elsewhere("passed"), &[]);
    again.run("CREATE FUNCTION known() RETURNS int LANGUAGE sql STABLE AS 'SELECT 1'");
    eventually("its catalogue is read", || {
        again.run("SELECT known()");
        again
            .value("SHOW causeway.last_route")
            .starts_with("standby")
    });
    proxy.assert_well();
}
