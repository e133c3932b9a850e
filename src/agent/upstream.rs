//! The server that ours is to follow: how it is reached, who it is, and what ours is told of it.

use std::path::Path;
use std::time::Duration;

use tokio_postgres::types::PgLsn;
use tokio_util::sync::CancellationToken;

use super::api::Source;
use super::postmaster::Server;
use super::tools::{Tool, ToolError};
use crate::config::{AgentConfig, Secret};
use crate::pg::conninfo::Conninfo;

/// Bound on one question.
const QUESTION: Duration = Duration::from_secs(10);

/// How the server that is to be followed names itself (`IDENTIFY_SYSTEM`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SystemIdentity {
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
        config: &AgentConfig,
        server: &'a Server,
        log: &'a Path,
        source: &Source,
    ) -> Self {
        Self {
            server,
            log,
            conninfo: conninfo(config, source).into(),
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
    pub(super) async fn identify(
        &self,
        cancel: &CancellationToken,
    ) -> Result<SystemIdentity, ToolError> {
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

fn parse_identity(answer: &str) -> Option<SystemIdentity> {
    let mut fields = answer.trim().split('|');
    Some(SystemIdentity {
        system_identifier: fields.next()?.parse().ok()?,
        timeline: fields.next()?.parse().ok()?,
        written: fields.next()?.parse::<PgLsn>().ok()?.into(),
    })
}

/// A standby's `primary_conninfo`, password included: that is where PostgreSQL looks for it.
pub(super) fn primary_conninfo(config: &AgentConfig, source: &Source) -> String {
    let conninfo = conninfo(config, source);
    let conninfo = match password(config, source) {
        Some(password) => conninfo.with("password", password.reveal()),
        None => conninfo,
    };
    conninfo.into()
}

fn conninfo(config: &AgentConfig, source: &Source) -> Conninfo {
    let user = source.user.as_deref().unwrap_or(&config.replication.user);
    let conninfo = Conninfo::default()
        .with("host", &source.host)
        .with("port", &source.port.to_string())
        .with("user", user)
        .with("application_name", &config.name);
    let conninfo = match config.conninfo.contains("connect_timeout") {
        true => conninfo,
        false => conninfo.with("connect_timeout", "5"),
    };
    conninfo.and(&config.conninfo)
}

fn password(config: &AgentConfig, source: &Source) -> Option<Secret> {
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
