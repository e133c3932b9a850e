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
    /// The sections `nodes`, `monitor` and `auth` of a proxy's configuration.
    pub fn yaml(&self) -> String {
        self.cluster.yaml()
    }
}

/// Brings up a primary and standbys for `causeway demo`. A directory that is named is kept.
pub async fn demo_cluster(standbys: usize, keep: Option<PathBuf>) -> Result<DemoCluster, RigError> {
    let mut builder = Cluster::builder("demo").standbys(standbys).durable(true);
    if let Some(directory) = keep {
        builder = builder.directory(directory).keep(true);
    }
    Ok(DemoCluster {
        cluster: builder.start().await?,
    })
}

impl Cluster {
    /// The sections `nodes`, `monitor` and `auth` of a proxy's configuration for these servers.
    pub fn yaml(&self) -> String {
        let mut yaml = String::from("nodes:\n");
        for node in self.nodes() {
            let (name, port) = (node.name(), node.port());
            let _ = writeln!(
                yaml,
                "  - {{ name: {name}, host: 127.0.0.1, port: {port} }}"
            );
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
