//! Opening a connection.

use tokio::task::JoinHandle;
use tokio_postgres::{Client, Config, Error, NoTls};

use crate::config::{Monitor, Node};

/// Connects. The task carries the connection; unless it is aborted it ends once the client has been
/// dropped and the server has been told so.
pub(crate) async fn connect(config: &Config) -> Result<(Client, JoinHandle<()>), Error> {
    let (client, connection) = config.connect(NoTls).await?;
    let task = tokio::spawn(async move {
        // Its error is told by the statement that it breaks.
        let _ = connection.await;
    });
    Ok((client, task))
}

/// How the monitoring role logs in to a node; `purpose` is the application's name.
pub(crate) fn monitor(node: &Node, monitor: &Monitor, purpose: &str) -> Config {
    let mut config = Config::new();
    config
        .host(&node.host)
        .port(node.port)
        .user(&monitor.user)
        .dbname(&monitor.database)
        .application_name(purpose);
    if let Some(password) = &monitor.password {
        config.password(password.reveal());
    }
    config
}
