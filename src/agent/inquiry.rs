//! Asking our own server how it stands.

use std::time::Duration;

use tokio_postgres::Client;
use tokio_postgres::types::PgLsn;
use tokio_util::task::AbortOnDropHandle;

use super::api::Role;
use super::postmaster::Server;
use crate::config::{AgentConfig, AgentLogin};
use crate::pg;
use crate::pg::queries::{primary_timeline, received_timeline};

/// What our own server says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ServerState {
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
        config: &AgentConfig,
        server: &Server,
        within: Duration,
    ) -> Option<ServerState> {
        match tokio::time::timeout(within, self.ask(config, server)).await {
            Ok(Ok(standing)) => Some(standing),
            Ok(Err(error)) => {
                tracing::debug!(error = pg::describe(&error), "the server was asked in vain");
                None
            }
            Err(_) => None,
        }
    }

    async fn ask(
        &self,
        config: &AgentConfig,
        server: &Server,
    ) -> Result<ServerState, tokio_postgres::Error> {
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

async fn connect(config: &AgentConfig, server: &Server) -> Result<Kept, tokio_postgres::Error> {
    let AgentLogin {
        user,
        password,
        database,
        host,
    } = &config.login;
    let file = server.listens().unwrap_or_default();
    let mut to = tokio_postgres::Config::new();
    to.user(user)
        .dbname(database)
        .options(pg::OPTIONS)
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
    let (client, task) = pg::connect(&to).await?;
    Ok(Kept {
        client,
        _connection: AbortOnDropHandle::new(task),
    })
}

async fn ask(client: &Client) -> Result<ServerState, tokio_postgres::Error> {
    // CASE keeps the parts that fail in the other role from being asked.
    const QUESTION: &str = concat!(
        "select pg_is_in_recovery(), case when pg_is_in_recovery() then ",
        received_timeline!(),
        " else ",
        primary_timeline!(),
        " end, (select pid from pg_stat_wal_receiver where status = 'streaming'), \
        coalesce(pg_last_wal_replay_lsn(), '0/0')"
    );
    let row = client.query_one(QUESTION, &[]).await?;
    let role = match row.try_get(0)? {
        true => Role::Standby,
        false => Role::Primary,
    };
    let timeline: Option<i32> = row.try_get(1)?;
    Ok(ServerState {
        role,
        timeline: timeline.and_then(|timeline| u32::try_from(timeline).ok()),
        streams: row.try_get(2)?,
        replayed: u64::from(row.try_get::<_, PgLsn>(3)?),
    })
}
