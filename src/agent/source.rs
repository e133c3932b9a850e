//! Asking servers: our own how it stands, and the one to follow who it is.

use std::path::Path;
use std::time::Duration;

use tokio_postgres::types::PgLsn;
use tokio_postgres::{Client, NoTls};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::api::{Role, Source};
use super::files;
use super::postmaster::Server;
use super::tools::{Tool, ToolError};
use crate::config::{self, Login, Secret};

/// Bound on one question to the source.
const QUESTION: Duration = Duration::from_secs(10);

/// What our own server says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Standing {
    pub(super) role: Role,
    /// That it writes, or that it receives; none for a standby that receives none.
    pub(super) timeline: Option<u32>,
    /// Which WAL receiver streams, if one does.
    pub(super) streams: Option<i32>,
    /// How far it has replayed.
    pub(super) replayed: u64,
}

/// Our own server, asked on a connection that is kept: it is asked many times a second.
#[derive(Debug, Default)]
pub(super) struct Inquiry(tokio::sync::Mutex<Option<Kept>>);

/// A connection, which ends with this.
#[derive(Debug)]
struct Kept {
    client: Client,
    _connection: AbortOnDropHandle<()>,
}

impl Inquiry {
    /// How the server stands; none when it does not answer within the bound.
    pub(super) async fn standing(
        &self,
        config: &config::Agent,
        server: &Server,
        within: Duration,
    ) -> Option<Standing> {
        match tokio::time::timeout(within, self.ask(config, server)).await {
            Ok(Ok(standing)) => Some(standing),
            Ok(Err(error)) => {
                tracing::debug!(%error, "the server was asked in vain");
                None
            }
            Err(_) => None,
        }
    }

    async fn ask(
        &self,
        config: &config::Agent,
        server: &Server,
    ) -> Result<Standing, tokio_postgres::Error> {
        let mut kept = self.0.lock().await;
        // Taken out: one that does not answer in time must not be asked again.
        if let Some(connection) = kept.take()
            && let Ok(standing) = ask(&connection.client).await
        {
            *kept = Some(connection);
            return Ok(standing);
        }
        let connection = connect(config, server).await?;
        let standing = ask(&connection.client).await?;
        *kept = Some(connection);
        Ok(standing)
    }
}

async fn connect(config: &config::Agent, server: &Server) -> Result<Kept, tokio_postgres::Error> {
    let Login {
        user,
        password,
        database,
        host,
    } = &config.login;
    let file = server.listens().unwrap_or_default();
    let mut to = tokio_postgres::Config::new();
    to.user(user)
        .dbname(database)
        .application_name("causeway-agent");
    if let Some(password) = password {
        to.password(password.reveal());
    }
    to.port(file.port.unwrap_or(5432));
    let address = match (host, file.socket_directory, file.address.as_deref()) {
        (Some(host), _, _) => host.clone(),
        (None, Some(directory), _) => directory,
        (None, None, None | Some("*" | "0.0.0.0")) => "127.0.0.1".to_owned(),
        (None, None, Some("::")) => "::1".to_owned(),
        (None, None, Some(address)) => address.to_owned(),
    };
    to.host(address);
    let (client, connection) = to.connect(NoTls).await?;
    let task = tokio::spawn(async move {
        // Its error is told by the question that it breaks.
        let _ = connection.await;
    });
    Ok(Kept {
        client,
        _connection: AbortOnDropHandle::new(task),
    })
}

async fn ask(client: &Client) -> Result<Standing, tokio_postgres::Error> {
    // CASE keeps the parts that fail in the other role from being asked.
    const QUESTION: &str = "select pg_is_in_recovery(), \
        case when pg_is_in_recovery() then (select received_tli from pg_stat_wal_receiver) \
        else ('x' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8))::bit(32)::int4 end, \
        (select pid from pg_stat_wal_receiver where status = 'streaming'), \
        coalesce(pg_last_wal_replay_lsn(), '0/0')";
    let row = client.query_one(QUESTION, &[]).await?;
    let role = match row.try_get(0)? {
        true => Role::Standby,
        false => Role::Primary,
    };
    let timeline: Option<i32> = row.try_get(1)?;
    Ok(Standing {
        role,
        timeline: timeline.and_then(|timeline| u32::try_from(timeline).ok()),
        streams: row.try_get(2)?,
        replayed: u64::from(row.try_get::<_, PgLsn>(3)?),
    })
}

/// How the server that is to be followed names itself (`IDENTIFY_SYSTEM`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) system_identifier: u64,
    /// The live one, which its `pg_control` may not know yet.
    pub(super) timeline: u32,
    /// How far its WAL was written when it was asked.
    pub(super) written: u64,
}

/// The server that is to be followed, as libpq reaches it: with its TLS and its password file.
#[derive(Debug)]
pub(super) struct Upstream<'a> {
    pub(super) server: &'a Server,
    pub(super) log: &'a Path,
    conninfo: String,
    password: Option<Secret>,
}

impl<'a> Upstream<'a> {
    pub(super) fn new(
        config: &config::Agent,
        server: &'a Server,
        log: &'a Path,
        source: &Source,
    ) -> Self {
        Self {
            server,
            log,
            conninfo: conninfo(config, source),
            password: password(config, source),
        }
    }

    /// A connection string without the password, which would show in the list of processes.
    pub(super) fn conninfo(&self) -> String {
        let dbname = "dbname=postgres";
        format!("{} {dbname}", self.conninfo)
    }

    /// One of PostgreSQL's programs, with the password where only its owner can see it.
    pub(super) fn tool(&self, name: &'static str, within: Duration) -> Tool {
        let mut tool = Tool::new(self.server, name, self.log, within);
        if let Some(password) = &self.password {
            tool.secret("PGPASSWORD", password);
        }
        tool
    }

    /// Who it is; fails while it does not answer.
    pub(super) async fn identify(&self, cancel: &CancellationToken) -> Result<Identity, ToolError> {
        let conninfo = format!("{} replication=true", self.conninfo);
        let answer = self.psql(&conninfo, "IDENTIFY_SYSTEM", cancel).await?;
        parse_identity(&answer).ok_or(ToolError::Unexpected {
            program: "psql",
            output: answer,
        })
    }

    /// Whether it is a standby itself.
    pub(super) async fn is_standby(&self, cancel: &CancellationToken) -> Result<bool, ToolError> {
        let answer = self
            .psql(&self.conninfo(), "select pg_is_in_recovery()", cancel)
            .await?;
        Ok(answer.trim() != "f")
    }

    /// Makes its `pg_control` tell the live timeline, which pg_rewind goes by.
    pub(super) async fn checkpoint(
        &self,
        within: Duration,
        cancel: &CancellationToken,
    ) -> Result<(), ToolError> {
        let mut psql = self.tool("psql", within);
        psql.args([
            "-X",
            "-A",
            "-t",
            "-q",
            "-w",
            "-d",
            &self.conninfo(),
            "-c",
            "CHECKPOINT",
        ]);
        psql.run(cancel).await.map(drop)
    }

    async fn psql(
        &self,
        conninfo: &str,
        sql: &str,
        cancel: &CancellationToken,
    ) -> Result<String, ToolError> {
        let mut psql = self.tool("psql", QUESTION);
        psql.args(["-X", "-A", "-t", "-q", "-w", "-d", conninfo, "-c", sql]);
        psql.run(cancel).await
    }
}

fn parse_identity(answer: &str) -> Option<Identity> {
    let mut fields = answer.trim().split('|');
    Some(Identity {
        system_identifier: fields.next()?.parse().ok()?,
        timeline: fields.next()?.parse().ok()?,
        written: fields.next()?.parse::<PgLsn>().ok()?.into(),
    })
}

/// A standby's `primary_conninfo`, password included: that is where PostgreSQL looks for it.
pub(super) fn primary_conninfo(config: &config::Agent, source: &Source) -> String {
    let mut conninfo = conninfo(config, source);
    if let Some(password) = password(config, source) {
        conninfo.push_str(&format!(" password={}", files::quoted(password.reveal())));
    }
    conninfo
}

fn conninfo(config: &config::Agent, source: &Source) -> String {
    let user = source.user.as_deref().unwrap_or(&config.replication.user);
    let mut conninfo = format!(
        "host={} port={} user={} application_name={}",
        files::quoted(&source.host),
        source.port,
        files::quoted(user),
        files::quoted(&config.name),
    );
    if !config.conninfo.contains("connect_timeout") {
        conninfo.push_str(" connect_timeout=5");
    }
    if !config.conninfo.is_empty() {
        conninfo.push(' ');
        conninfo.push_str(&config.conninfo);
    }
    conninfo
}

fn password(config: &config::Agent, source: &Source) -> Option<Secret> {
    // Another role's password is not ours.
    match source.user {
        Some(_) => source.secret(),
        None => source
            .secret()
            .or_else(|| config.replication.password.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_system_is_identified() {
        let identity = parse_identity("7300000000000000001|2|0/3000060|\n").unwrap();
        assert_eq!(identity.system_identifier, 7_300_000_000_000_000_001);
        assert_eq!((identity.timeline, identity.written), (2, 0x300_0060));
        assert_eq!(parse_identity("psql: error"), None);
    }
}
