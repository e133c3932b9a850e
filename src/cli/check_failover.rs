//! `causeway check`, for failover: what the monitoring user must be allowed to do on a node, and
//! which settings of the server would slow a failover down or stop it.

use tokio_postgres::{Client, Error};

use crate::config::{Durability, Failover, FailoverMode};

/// From this version on, rights to settings can be granted.
const GRANTS_ON_SETTINGS: i32 = 150_000;

/// What a failover calls, as `has_function_privilege` names it.
const FUNCTIONS: [&str; 3] = [
    "pg_promote(boolean, integer)",
    "pg_reload_conf()",
    "pg_read_file(text, bigint, bigint, boolean)",
];

/// The functions among `names` that the login may not call, each as in `EXECUTE on pg_reload_conf()`.
pub(super) async fn missing_functions(
    client: &Client,
    names: &[&str],
) -> Result<Vec<String>, Error> {
    let sql = "SELECT name FROM unnest($1::text[]) AS name \
               WHERE NOT has_function_privilege(name, 'EXECUTE')";
    let rows = client.query(sql, &[&names]).await?;
    let missing = rows.iter().map(|row| row.get::<_, &str>(0));
    Ok(missing.map(|name| format!("EXECUTE on {name}")).collect())
}

/// What is missing for a failover, each as in `EXECUTE on pg_reload_conf()`.
pub(super) async fn missing_privileges(
    client: &Client,
    failover: &Failover,
) -> Result<Vec<String>, Error> {
    if failover.mode == FailoverMode::Observe {
        return Ok(Vec::new());
    }
    let mut missing = missing_functions(client, &FUNCTIONS).await?;
    missing.extend(missing_settings(client, failover).await?);
    missing.extend(replication(client, failover).await?);
    Ok(missing)
}

async fn missing_settings(client: &Client, failover: &Failover) -> Result<Vec<String>, Error> {
    let mut settings = vec!["primary_conninfo"];
    if failover.durability == Durability::Quorum {
        settings.push("synchronous_standby_names");
    }
    let row = client
        .query_one(
            "SELECT current_setting('server_version_num')::int4, \
             (SELECT rolsuper FROM pg_roles WHERE rolname = current_user)",
            &[],
        )
        .await?;
    if row.get::<_, bool>(1) {
        return Ok(Vec::new());
    }
    if row.get::<_, i32>(0) < GRANTS_ON_SETTINGS {
        let settings = settings.join(" and ");
        return Ok(vec![format!(
            "ALTER SYSTEM on {settings}, which before PostgreSQL 15 takes a superuser"
        )]);
    }
    let rows = client
        .query(
            "SELECT name FROM unnest($1::text[]) AS name \
             WHERE NOT has_parameter_privilege(name, 'ALTER SYSTEM')",
            &[&settings],
        )
        .await?;
    let missing = |row: &tokio_postgres::Row| {
        let name: &str = row.get(0);
        format!("ALTER SYSTEM on {name} (GRANT ALTER SYSTEM ON PARAMETER {name} TO …)")
    };
    Ok(rows.iter().map(missing).collect())
}

/// Whether the replication login is one. Its password is not tried: pg_hba.conf may well allow it
/// nothing but replication.
async fn replication(client: &Client, failover: &Failover) -> Result<Option<String>, Error> {
    let Some(login) = &failover.replication else {
        return Ok(None);
    };
    let role = client
        .query_opt(
            "SELECT rolcanlogin AND (rolreplication OR rolsuper) FROM pg_roles WHERE rolname = $1",
            &[&login.user],
        )
        .await?;
    let user = &login.user;
    Ok(match role.map(|row| row.get::<_, bool>(0)) {
        Some(true) => None,
        Some(false) => Some(format!("LOGIN REPLICATION of the role {user}")),
        None => Some(format!("the role {user}, with LOGIN REPLICATION")),
    })
}

/// What a failover would suffer from, one sentence each.
pub(super) async fn notes(client: &Client, failover: &Failover) -> Result<Vec<String>, Error> {
    if failover.mode == FailoverMode::Observe {
        return Ok(Vec::new());
    }
    let row = client
        .query_one(
            "SELECT (SELECT setting::int8 FROM pg_settings \
                      WHERE name = 'wal_retrieve_retry_interval'), \
             current_setting('wal_log_hints')::bool OR current_setting('data_checksums')::bool, \
             current_setting('hot_standby')::bool, \
             current_setting('max_wal_senders')::int4",
            &[],
        )
        .await?;
    let mut notes = Vec::new();
    let retry_ms: i64 = row.get(0);
    if retry_ms > 100 {
        notes.push(format!(
            "wal_retrieve_retry_interval is {retry_ms} ms: a promotion can take that long; set it \
             to 100 ms or less"
        ));
    }
    if !row.get::<_, bool>(1) {
        notes.push(
            "neither wal_log_hints nor data checksums are on: a former primary cannot be rewound \
             and needs a new base backup"
                .to_owned(),
        );
    }
    if !row.get::<_, bool>(2) {
        notes
            .push("hot_standby is off: as a standby this node cannot be asked anything".to_owned());
    }
    if row.get::<_, i32>(3) == 0 {
        notes.push("max_wal_senders is 0: no standby could follow this node".to_owned());
    }
    Ok(notes)
}
