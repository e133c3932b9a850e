//! The cluster of `causeway demo`, with what the proxy's configuration must say about it.

use std::fmt::Write;
use std::path::PathBuf;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::cluster::Login;
use super::yaml::{path, section};
use super::{Cluster, Node, RigError};

/// A durable cluster for `causeway demo`.
#[derive(Debug)]
pub struct DemoCluster {
    /// The servers; they live as long as this does.
    pub cluster: Cluster,
}

impl DemoCluster {
    /// The sections `nodes`, `agents`, `monitor` and `auth` of a proxy's configuration.
    pub fn yaml(&self) -> String {
        let mut yaml = self.cluster.yaml();
        if self
            .cluster
            .nodes()
            .iter()
            .all(|node| node.agent().is_some())
        {
            yaml.push_str(&self.cluster.failover_yaml(""));
        }
        yaml
    }
}

/// Brings up a primary and standbys for `causeway demo`, with agents if the `causeway` binary is
/// given. A directory that is named is kept.
pub async fn demo_cluster(
    standbys: usize,
    keep: Option<PathBuf>,
    agents: Option<PathBuf>,
) -> Result<DemoCluster, RigError> {
    let mut builder = Cluster::builder("demo").standbys(standbys).durable(true);
    if let Some(directory) = keep {
        builder = builder.directory(directory).keep(true);
    }
    if let Some(program) = agents {
        builder = builder.agents(program);
    }
    Ok(DemoCluster {
        cluster: builder.start().await?,
    })
}

impl Cluster {
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
}
