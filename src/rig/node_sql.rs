//! One server of the cluster as PostgreSQL sees it: connections, readiness, replay, roles.

use std::future::Future;
use std::time::Duration;

use tokio_postgres::types::{FromSqlOwned, PgLsn};
use tokio_postgres::{Client, Config};

use super::credentials::Login;
use super::deadline::Deadline;
use super::home;
use super::{Node, RigError};
use crate::core::lsn::{Lsn, WalGeometry};
use crate::pg;

impl Node {
    /// How to connect here as somebody.
    pub fn connection(&self, login: &Login) -> Config {
        let mut config = Config::new();
        config
            .host(self.address().to_string())
            .port(self.port())
            .user(&login.user)
            .password(&login.password)
            .dbname(&login.database)
            .application_name("causeway-rig")
            .connect_timeout(self.shared.within);
        config
    }

    /// The same as a URL for psql and drivers.
    pub fn url(&self, login: &Login) -> String {
        let Login {
            user,
            password,
            database,
        } = login;
        format!(
            "postgresql://{user}:{password}@{}:{}/{database}",
            self.address(),
            self.port()
        )
    }

    /// Connects; the connection lives in a task of its own until the client is dropped.
    pub async fn connect(&self, login: &Login) -> Result<Client, RigError> {
        self.bounded("accept a connection", async {
            let connected = pg::connect(&self.connection(login)).await;
            let (client, _) = connected.map_err(self.sql_error("connect"))?;
            Ok(client)
        })
        .await
    }

    /// Connects as the superuser.
    pub async fn admin(&self) -> Result<Client, RigError> {
        self.connect(&self.shared.credentials.superuser).await
    }

    /// Runs statements as the superuser, on a connection of their own.
    pub async fn execute(&self, sql: &str) -> Result<(), RigError> {
        let admin = self.admin().await?;
        let run = async { admin.batch_execute(sql).await.map_err(self.sql_error(sql)) };
        self.bounded(sql, run).await
    }

    /// The first column of the only row that a query gives, as the superuser.
    pub async fn query<T: FromSqlOwned>(&self, sql: &str) -> Result<T, RigError> {
        let admin = self.admin().await?;
        let run = async {
            let row = admin.query_one(sql, &[]).await;
            row.and_then(|row| row.try_get(0))
                .map_err(self.sql_error(sql))
        };
        self.bounded(sql, run).await
    }

    /// Waits until the server answers a query, and gives the session that it answered in; fails at once when
    /// its process ends.
    pub(super) async fn wait_ready(&self) -> Result<Client, RigError> {
        let deadline = Deadline::after(self.shared.within);
        loop {
            if let Some(status) = self.ended() {
                let log = home::tail(&self.log());
                return Err(RigError::Exited {
                    node: self.name.clone(),
                    status,
                    log,
                });
            }
            // One that refuses starts a process to say so, and takes the longer to start.
            if self.says_ready() {
                let asked = async {
                    let session = self.admin().await?;
                    let answer = session.batch_execute("select 1").await;
                    answer.map_err(self.sql_error("answer")).map(|()| session)
                };
                match tokio::time::timeout(deadline.left(), asked).await {
                    Ok(Ok(session)) => return Ok(session),
                    Ok(Err(_)) => {}
                    Err(_) => return Err(self.too_late("answer a query", deadline)),
                }
            }
            if !deadline.again().await {
                return Err(self.too_late("answer a query", deadline));
            }
        }
    }

    /// Waits until the node, a standby, receives WAL as a stream.
    pub async fn wait_streaming(&self) -> Result<(), RigError> {
        let session = self.admin().await?;
        self.wait_streaming_on(&session).await
    }

    pub(super) async fn wait_streaming_on(&self, session: &Client) -> Result<(), RigError> {
        let sql = "select exists (select from pg_stat_wal_receiver where status = 'streaming')";
        self.wait_on(session, "stream", sql).await
    }

    /// Waits until a query that gives one boolean gives true.
    pub async fn wait_for(&self, awaited: &str, sql: &str) -> Result<(), RigError> {
        let session = self.admin().await?;
        self.wait_on(&session, awaited, sql).await
    }

    /// The same in a session that there is.
    async fn wait_on(&self, session: &Client, awaited: &str, sql: &str) -> Result<(), RigError> {
        let deadline = Deadline::after(self.shared.within);
        loop {
            let answer = tokio::time::timeout(deadline.left(), session.query_one(sql, &[])).await;
            let Ok(row) = answer else {
                return Err(self.too_late(awaited, deadline));
            };
            let met = row
                .and_then(|row| row.try_get(0))
                .map_err(self.sql_error(awaited))?;
            if met {
                return Ok(());
            }
            if !deadline.again().await {
                return Err(self.too_late(awaited, deadline));
            }
        }
    }

    /// The end of the WAL that this node, a primary, has written.
    pub async fn written(&self) -> Result<Lsn, RigError> {
        self.written_on(&self.admin().await?).await
    }

    /// The same, asked in a session that there is.
    pub(super) async fn written_on(&self, session: &Client) -> Result<Lsn, RigError> {
        let sql = "select pg_current_wal_insert_lsn()";
        let asked = async {
            let row = session.query_one(sql, &[]).await;
            row.and_then(|row| row.try_get::<_, PgLsn>(0))
                .map_err(self.sql_error(sql))
        };
        let lsn = self.bounded(sql, asked).await?;
        Ok(Lsn(lsn.into()).without_page_header(WalGeometry::default()))
    }

    /// The end of the WAL that this node, a standby, has replayed.
    pub async fn replayed(&self) -> Result<Lsn, RigError> {
        let lsn: PgLsn = self.query("select pg_last_wal_replay_lsn()").await?;
        Ok(Lsn(lsn.into()))
    }

    /// Waits until this node, a standby, has replayed WAL up to there.
    pub async fn wait_replayed(&self, lsn: Lsn) -> Result<(), RigError> {
        let session = self.admin().await?;
        self.wait_replayed_on(&session, lsn).await
    }

    pub(super) async fn wait_replayed_on(
        &self,
        session: &Client,
        lsn: Lsn,
    ) -> Result<(), RigError> {
        let sql = format!("select pg_last_wal_replay_lsn() >= '{lsn}'");
        self.wait_on(session, &format!("replay WAL up to {lsn}"), &sql)
            .await
    }

    /// Holds replay and returns once it stands still; reception goes on.
    pub async fn pause_replay(&self) -> Result<(), RigError> {
        self.execute("select pg_wal_replay_pause()").await?;
        // Version 13 cannot tell a pause that was asked for from one that has begun.
        let sql = match self.shared.binaries.major() {
            13 => "select pg_is_wal_replay_paused()",
            _ => "select pg_get_wal_replay_pause_state() = 'paused'",
        };
        self.wait_for("pause replay", sql).await
    }

    /// Lets replay go on.
    pub async fn resume_replay(&self) -> Result<(), RigError> {
        self.execute("select pg_wal_replay_resume()").await
    }

    /// Delays replay of every commit by that much after its time on the primary; zero ends it.
    pub async fn set_replay_delay(&self, delay: Duration) -> Result<(), RigError> {
        self.set(
            "recovery_min_apply_delay",
            &format!("{}ms", delay.as_millis()),
        )
        .await
    }

    /// Changes a setting that needs no restart, and returns once new sessions see it.
    pub async fn set(&self, name: &str, value: &str) -> Result<(), RigError> {
        self.write_setting(name, value)?;
        self.reload().await
    }

    /// Makes the server read its configuration files again, and returns once it has.
    pub async fn reload(&self) -> Result<(), RigError> {
        let loaded: std::time::SystemTime = self.query("select pg_conf_load_time()").await?;
        self.signal_reload()?;
        let deadline = Deadline::after(self.shared.within);
        // A session inherits the time from the postmaster, so each look needs a new one.
        while self
            .query::<std::time::SystemTime>("select pg_conf_load_time()")
            .await?
            <= loaded
        {
            if !deadline.again().await {
                return Err(self.too_late("reload its configuration", deadline));
            }
        }
        Ok(())
    }

    /// Whether the node is a standby.
    pub async fn is_standby(&self) -> Result<bool, RigError> {
        self.query("select pg_is_in_recovery()").await
    }

    /// Makes a standby a primary and returns once it takes writes. The other nodes stay as they are.
    pub async fn promote(&self) -> Result<(), RigError> {
        let seconds = self.shared.within.as_secs().max(1);
        self.execute(&format!("select pg_promote(true, {seconds})"))
            .await?;
        self.wait_for("leave recovery", "select not pg_is_in_recovery()")
            .await
    }

    /// Bounds a step that talks to the server.
    async fn bounded<T>(
        &self,
        doing: &str,
        step: impl Future<Output = Result<T, RigError>>,
    ) -> Result<T, RigError> {
        let deadline = Deadline::after(self.shared.within);
        match tokio::time::timeout(deadline.within, step).await {
            Ok(outcome) => outcome,
            Err(_) => Err(self.too_late(doing, deadline)),
        }
    }

    fn sql_error(&self, doing: &str) -> impl FnOnce(tokio_postgres::Error) -> RigError {
        let (node, doing) = (self.name.clone(), doing.to_owned());
        move |source| RigError::Sql {
            node,
            doing,
            source,
        }
    }
}
