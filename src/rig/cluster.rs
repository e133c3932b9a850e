//! A running cluster: its nodes, what a proxy is told of them, and its end.

use std::fmt::Write;
use std::path::Path;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::authority::Authority;
use super::credentials::{Credentials, Login};
use super::home::{self, Home};
use super::settings;
use super::shared::Shared;
use super::watchdog::Watchdog;
use super::yaml::{path, section};
use super::{Binaries, Node, RigError, StopMode};

/// A running cluster. Dropping it kills every server and removes the directory unless it is kept;
/// when a panic is what drops it, the logs are saved in `target/rig-logs/<name>/` before.
#[derive(Debug)]
pub struct Cluster {
    name: String,
    home: Arc<Home>,
    nodes: Vec<Arc<Node>>,
    shared: Arc<Shared>,
    authority: Option<Arc<Authority>>,
    /// Last, so that it is called off when all is clean.
    _watchdog: Watchdog,
}

impl Cluster {
    pub(super) fn new(
        name: String,
        home: Arc<Home>,
        nodes: Vec<Arc<Node>>,
        shared: Arc<Shared>,
        authority: Option<Arc<Authority>>,
        watchdog: Watchdog,
    ) -> Self {
        Self {
            name,
            home,
            nodes,
            shared,
            authority,
            _watchdog: watchdog,
        }
    }

    /// All nodes, `pg1`, the first primary, in front.
    pub fn nodes(&self) -> &[Arc<Node>] {
        &self.nodes
    }

    /// `pg1`: the node that was made the primary, whatever it has become since.
    pub fn primary(&self) -> &Arc<Node> {
        &self.nodes[0]
    }

    /// The nodes that were made standbys: `pg2` and on.
    pub fn standbys(&self) -> &[Arc<Node>] {
        &self.nodes[1..]
    }

    pub fn credentials(&self) -> &Credentials {
        &self.shared.credentials
    }

    /// The application's login: `demo`.
    pub fn application(&self) -> &Login {
        &self.shared.credentials.applications[0]
    }

    pub fn binaries(&self) -> &Binaries {
        &self.shared.binaries
    }

    /// Where the nodes' data and logs are.
    pub fn directory(&self) -> &Path {
        &self.home.path
    }

    /// Who vouches for the agents, if there are any.
    pub(super) fn authority(&self) -> Option<&Authority> {
        self.authority.as_deref()
    }

    /// What all nodes share.
    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// The directory as a thing to hold on to.
    pub(super) fn home(&self) -> &Arc<Home> {
        &self.home
    }

    /// The section `failover` for these servers, with more of its keys, one to a line.
    pub fn failover_yaml(&self, more: &str) -> String {
        let login = &self.credentials().replication;
        let mut failover = json!({
            "mode": "automatic",
            "replication": { "user": login.user, "password": login.password },
        });
        if !more.contains("coordination: etcd") {
            failover["state_file"] = path(&self.directory().join("causeway.state"));
        }
        let mut yaml = section("failover", failover);
        for line in more.lines() {
            let _ = writeln!(yaml, "  {}", line.trim());
        }
        yaml
    }

    /// The sections `nodes`, `agents`, `monitor` and `auth` of a proxy's configuration for these servers.
    pub fn yaml(&self) -> String {
        let node = |node: &Arc<Node>| {
            let (name, host, port) = (node.name(), node.address(), node.port());
            let mut section = json!({ "name": name, "host": host, "port": port });
            if let Some(agent) = node.agent() {
                section["agent"] = agent.url().into();
            }
            section
        };
        let nodes: Vec<Value> = self.nodes().iter().map(node).collect();
        let agents = self.authority().map(|authority| authority.yaml());
        let credentials = self.credentials();
        let Login {
            user,
            password,
            database,
        } = &credentials.monitor;
        let monitor = json!({ "user": user, "password": password, "database": database });
        let user = |login: &Login| (login.user.clone(), json!({ "password": login.password }));
        let users: Map<_, _> = credentials.applications.iter().map(user).collect();
        [
            section("nodes", nodes),
            agents.unwrap_or_default(),
            section("monitor", monitor),
            section("auth", json!({ "users": users })),
        ]
        .concat()
    }

    /// Waits until every standby of the first primary has replayed what it has written by now.
    pub async fn wait_caught_up(&self) -> Result<(), RigError> {
        let written = self.primary().written().await?;
        for standby in self.standbys() {
            standby.wait_replayed(written).await?;
        }
        Ok(())
    }

    /// Throws a node's data away and makes it a standby of another, from a copy of the other's data
    /// taken while it runs; returns once it streams.
    pub async fn reseed(&self, node: &Arc<Node>, upstream: &Arc<Node>) -> Result<(), RigError> {
        node.kill()?;
        let login = &self.shared.credentials.replication;
        let conninfo = settings::conninfo(
            upstream.address(),
            upstream.port(),
            &login.user,
            &login.password,
            node.name(),
        );
        // The backup lasts as long as the session that began it.
        let session = upstream.admin().await?;
        let (begin, end) = match self.shared.binaries.major() {
            13 | 14 => (
                "select pg_start_backup('causeway', true, false)::text",
                "pg_stop_backup(false)",
            ),
            _ => (
                "select pg_backup_start('causeway', true)::text",
                "pg_backup_stop()",
            ),
        };
        let sql_error = |source| RigError::Sql {
            node: upstream.name().to_owned(),
            doing: "back up".to_owned(),
            source,
        };
        session.batch_execute(begin).await.map_err(sql_error)?;
        let (from, to) = (Arc::clone(upstream), Arc::clone(node));
        home::blocking(&self.home, "copy the data directory", move || {
            to.erase();
            home::copy_data(&from.data(), &to.data(), to.shared.account)
        })
        .await?;
        let label = format!("select labelfile from {end}");
        let label = session
            .query_one(&label, &[])
            .await
            .and_then(|row| row.try_get(0));
        let label: String = label.map_err(sql_error)?;
        let file = node.data().join("backup_label");
        home::write_private(&file, &label, self.shared.account)?;
        node.configure(true)?;
        node.write_setting("primary_conninfo", &conninfo)?;
        node.start().await?;
        node.wait_streaming().await
    }

    /// Stops every server in good order, the primary last, so that a directory that is kept can be
    /// started again without recovery; then cleans up as dropping does.
    pub async fn stop(self) -> Result<(), RigError> {
        // A primary that is stopped in good order must not be fenced meanwhile.
        for agent in self.nodes.iter().filter_map(|node| node.agent()) {
            agent.kill()?;
        }
        for node in self.nodes.iter().rev() {
            node.stop(StopMode::Fast).await?;
        }
        Ok(())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking()
            && let Some(logs) = self.home.rescue_logs(&self.name)
        {
            eprintln!(
                "the logs of cluster {} are in {}",
                self.name,
                logs.display()
            );
        }
        for node in &self.nodes {
            if let Some(agent) = node.agent() {
                let _ = agent.kill();
            }
        }
        for node in &self.nodes {
            node.destroy();
        }
    }
}
