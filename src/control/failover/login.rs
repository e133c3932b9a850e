//! Logging in to a server as the monitoring role.

use tokio_postgres::{Client, Error};

use crate::config::{Monitor, Node};
use crate::pg;

/// Options of a session that writes nothing.
pub(super) const READS: &str = "";
/// Options of one whose commits wait for no standby.
const WRITES: &str = "-c synchronous_commit=local";

/// Logs in as the monitoring role, for commands.
pub(super) async fn connect(node: &Node, monitor: &Monitor, name: &str) -> Result<Client, Error> {
    login(node, monitor, name, WRITES).await
}

pub(super) async fn login(
    node: &Node,
    monitor: &Monitor,
    name: &str,
    options: &str,
) -> Result<Client, Error> {
    let mut config = pg::monitor(node, monitor, name, options);
    config.connect_timeout(monitor.timeout);
    let (client, _) = pg::connect(&config).await?;
    Ok(client)
}
