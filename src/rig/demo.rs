//! The cluster of `causeway demo`, with what the proxy's configuration must say about it.

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
