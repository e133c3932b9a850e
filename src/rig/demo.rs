//! The cluster of `causeway demo`, with what the proxy's configuration must say about it.

use std::fmt::Write;
use std::path::PathBuf;

use super::{Cluster, RigError};

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
        let mut yaml = format!(
            "failover:\n  mode: automatic\n  replication: {{ user: {:?}, password: {:?} }}\n",
            login.user, login.password
        );
        if !more.contains("coordination: etcd") {
            let state = self.directory().join("causeway.state");
            let _ = writeln!(yaml, "  state_file: {state:?}");
        }
        for line in more.lines() {
            let _ = writeln!(yaml, "  {}", line.trim());
        }
        yaml
    }

    /// The sections `nodes`, `agents`, `monitor` and `auth` of a proxy's configuration for these servers.
    pub fn yaml(&self) -> String {
        let mut yaml = String::from("nodes:\n");
        for node in self.nodes() {
            let (name, address, port) = (node.name(), node.address(), node.port());
            let agent = node
                .agent()
                .map(|agent| format!(", agent: {:?}", agent.url()));
            let agent = agent.unwrap_or_default();
            let _ = writeln!(
                yaml,
                "  - {{ name: {name}, host: {address}, port: {port}{agent} }}"
            );
        }
        if let Some(authority) = self.authority() {
            yaml.push_str(&authority.yaml());
        }
        let credentials = self.credentials();
        let monitor = &credentials.monitor;
        let _ = writeln!(
            yaml,
            "monitor:\n  user: {:?}\n  password: {:?}\n  database: {:?}",
            monitor.user, monitor.password, monitor.database
        );
        yaml.push_str("auth:\n  users:\n");
        for login in &credentials.applications {
            let _ = writeln!(
                yaml,
                "    {:?}: {{ password: {:?} }}",
                login.user, login.password
            );
        }
        yaml
    }
}
