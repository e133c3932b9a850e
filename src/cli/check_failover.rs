//! `causeway check`, for failover: what the monitoring user must be allowed to do on a node, and
//! which settings of the server would slow a failover down or stop it.

use tokio_postgres::{Client, Error};

use crate::config::{Durability, Failover, FailoverMode};
use crate::pg::queries::early_commits;

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
    if failover.slots.is_some() && !may_make_slots(client).await? {
        missing.push("REPLICATION of the monitoring role, for failover.slots".to_owned());
    }
    Ok(missing)
}

async fn missing_settings(client: &Client, failover: &Failover) -> Result<Vec<String>, Error> {
    let mut settings = vec!["primary_conninfo"];
    if failover.durability == Durability::Quorum {
        settings.push("synchronous_standby_names");
    }
    if failover.slots.is_some() {
        settings.push("primary_slot_name");
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

async fn may_make_slots(client: &Client) -> Result<bool, Error> {
    let sql = "SELECT rolreplication OR rolsuper FROM pg_roles WHERE rolname = current_user";
    client.query_one(sql, &[]).await?.try_get(0)
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
             current_setting('max_wal_senders')::int4, \
             current_setting('max_replication_slots')::int4, \
             (SELECT setting::int8 FROM pg_settings WHERE name = 'max_slot_wal_keep_size')",
            &[],
        )
        .await?;
    let mut notes = Vec::new();
    notes.extend(few_connections(client).await?);
    if failover.durability == Durability::Quorum {
        notes.extend(early_commits(client).await?);
    }
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
    notes.extend(lost_keys(client, failover).await?);
    if failover.slots.is_some() {
        if row.get::<_, i32>(4) == 0 {
            notes.push("max_replication_slots is 0: there can be no slots".to_owned());
        }
        if row.get::<_, Option<i64>>(5).is_none_or(|bound| bound < 0) {
            notes.push(
                "max_slot_wal_keep_size has no bound: while no proxy runs, and where a standby is connected \
                 and slow, nothing keeps slots from filling the disk"
                    .to_owned(),
            );
        }
    }
    Ok(notes)
}

/// The most connections of the monitoring role that a proxy has on one server: six that stay, and those of orders.
const CONNECTIONS: i32 = 10;

/// Whether the monitoring role may have fewer connections than failover takes.
async fn few_connections(client: &Client) -> Result<Option<String>, Error> {
    let sql = "SELECT rolconnlimit, rolsuper FROM pg_roles WHERE rolname = current_user";
    let row = client.query_one(sql, &[]).await?;
    let limit: i32 = row.try_get(0)?;
    let limited = !row.try_get::<_, bool>(1)? && (0..CONNECTIONS).contains(&limit);
    Ok(limited.then(|| {
        format!(
            "the monitoring role has a CONNECTION LIMIT of {limit}: a proxy takes up to {CONNECTIONS} of its \
             connections on each server, and a new primary that it cannot log in to serves nobody"
        )
    }))
}

/// Whose commits wait for no standby's disk, whatever `durability` says.
async fn early_commits(client: &Client) -> Result<Vec<String>, Error> {
    let sql = concat!(
        "SELECT current_setting('synchronous_commit'), ",
        early_commits!()
    );
    let row = client.query_one(sql, &[]).await?;
    let (server, mut whose): (String, Vec<String>) = (row.try_get(0)?, row.try_get(1)?);
    if !matches!(server.as_str(), "on" | "remote_apply") {
        whose.insert(0, format!("synchronous_commit is {server}"));
    }
    let note = |early| format!("{early}: such commits are not kept by durability: quorum");
    Ok(whose.into_iter().map(note).collect())
}

/// Keys of the node's connection string, such as those of TLS, that would be gone once it is told to follow
/// another node. Their values stay on the server.
async fn lost_keys(client: &Client, failover: &Failover) -> Result<Option<String>, Error> {
    let login = failover.replication.as_ref();
    let kept = login.map_or("", |login| &login.conninfo);
    let row = client
        .query_one(
            r"SELECT string_agg(DISTINCT key[1], ', ') FROM regexp_matches(
                current_setting('primary_conninfo'),
                '(\w+)\s*=\s*(?:''(?:[^''\\]|\\.)*''|(?:[^\s''\\](?:[^\s\\]|\\.)*)?)', 'g') AS key
               WHERE key[1] NOT IN ('host', 'hostaddr', 'port', 'user', 'password', 'passfile', 'dbname',
                                    'application_name', 'connect_timeout', 'replication')
                 AND $1 !~ ('\m' || key[1] || '\s*=')
                 AND current_setting('primary_conninfo') !~ '^postgres(ql)?://'",
            &[&kept],
        )
        .await?;
    let lost: Option<String> = row.get(0);
    Ok(lost.map(|lost| {
        format!(
            "primary_conninfo has {lost}: name them in failover.replication.conninfo, or in \
             replication.conninfo of the node's agent, or they are gone when it is told to follow another \
             node"
        )
    }))
}
