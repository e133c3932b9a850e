//! The server that ours is to follow: how it is reached, who it is, and what ours is told of it.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{self, Path};
use std::time::Duration;

use tokio_postgres::types::PgLsn;
use tokio_util::sync::CancellationToken;

use super::api::Source;
use super::files;
use super::postmaster::Server;
use super::tablespaces::{self, Locations};
use super::tools::{Tool, ToolError};
use crate::config::{AgentConfig, Secret};
use crate::core::failover::slots;
use crate::file;
use crate::pg::conninfo::Conninfo;

/// Holds the replication password, for PostgreSQL to find.
const PASSFILE: &str = "passfile";
/// Before the node's name, in the `application_name` of tools.
const TOOLS_NAME: &str = "causeway_copy_";
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
            conninfo: as_a_tool(conninfo(config, source, None), &config.name).into(),
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

    /// Where it has its tablespaces.
    pub(super) async fn tablespaces(
        &self,
        cancel: &CancellationToken,
    ) -> Result<Locations, ToolError> {
        let sql = "select oid, pg_tablespace_location(oid) from pg_tablespace \
                   where pg_tablespace_location(oid) like '/%'";
        let answer = self.psql(&self.conninfo(), sql, cancel).await?;
        tablespaces::parse(&answer).ok_or(ToolError::Unexpected {
            program: "psql",
            output: answer,
        })
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

/// Tells the server of a data directory whom to follow, when it reads its settings the next time; false if
/// it has been told so. Blocks on the disk.
pub(super) fn set(config: &AgentConfig, data: &Path, source: &Source) -> io::Result<bool> {
    let conninfo = primary_conninfo(config, source)?;
    let mut changed = files::set_auto(data, "primary_conninfo", &conninfo)?;
    let slot = source.slot.as_deref();
    if slot.is_some() || files::auto_has(data, "primary_slot_name", slots::PREFIX)? {
        changed |= files::set_auto(data, "primary_slot_name", slot.unwrap_or_default())?;
    }
    Ok(changed)
}

/// A standby's `primary_conninfo`. The password is written to a file that it names: whoever may read a
/// server's settings, its statements or its log finds none. Blocks on the disk.
pub(super) fn primary_conninfo(config: &AgentConfig, source: &Source) -> io::Result<String> {
    let Some(password) = password(config, source) else {
        return Ok(conninfo(config, source, None).into());
    };
    let user = source.user.as_deref().unwrap_or(&config.replication.user);
    let line = passfile_line(user, password.reveal()).ok_or_else(|| {
        let text = "the replication password has a line break, which a password file cannot hold";
        io::Error::new(ErrorKind::InvalidInput, text)
    })?;
    // The server has a working directory of its own.
    let path = path::absolute(&config.state_dir)?.join(PASSFILE);
    if fs::read(&path).ok().as_deref() != Some(line.as_bytes()) {
        file::replace(&path, line.as_bytes())?;
    }
    Ok(conninfo(config, source, Some(&path)).into())
}

/// The line of a password file for a role, whatever server it logs in to.
fn passfile_line(user: &str, password: &str) -> Option<String> {
    if password.contains(['\n', '\r']) {
        return None;
    }
    let escaped = |text: &str| text.replace('\\', "\\\\").replace(':', "\\:");
    Some(format!("*:*:*:{}:{}\n", escaped(user), escaped(password)))
}

/// Of keys that are given more than once the last counts: the agent's own.
fn conninfo(config: &AgentConfig, source: &Source, passfile: Option<&Path>) -> Conninfo {
    let user = source.user.as_deref().unwrap_or(&config.replication.user);
    let more = source.conninfo.as_deref().unwrap_or_default();
    let mut conninfo = Conninfo::default()
        .with("host", &source.host)
        .with("port", &source.port.to_string())
        .with("user", user)
        .with("application_name", &config.name)
        .with("connect_timeout", "5");
    if let Some(passfile) = passfile {
        conninfo = conninfo.with("passfile", &passfile.to_string_lossy());
    }
    conninfo.and(more).and(&config.conninfo)
}

/// As whom tools log in: under a name of their own. A base backup's stream that bore the node's name would
/// acknowledge commits which no standby has.
fn as_a_tool(conninfo: Conninfo, node: &str) -> Conninfo {
    conninfo.with("application_name", &format!("{TOOLS_NAME}{node}"))
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

    #[test]
    fn a_tool_does_not_bear_the_name_of_a_standby() {
        let node = Conninfo::default().with("application_name", "pg1");
        let text = String::from(as_a_tool(node, "pg1"));
        let (_, last) = text.rsplit_once("application_name=").unwrap();
        assert_eq!(last, "'causeway_copy_pg1'");
    }

    #[test]
    fn a_password_file_takes_any_password_of_one_line() {
        let line = passfile_line("copy", r"a:b\c").unwrap();
        assert_eq!(line, "*:*:*:copy:a\\:b\\\\c\n");
        assert_eq!(passfile_line("copy", "two\nlines"), None);
    }
}
