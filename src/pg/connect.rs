//! Opening a connection.

use tokio::task::JoinHandle;
use tokio_postgres::{Client, Config, Error, NoTls};

use crate::config::{Monitor, Node};

/// The server's options of all sessions of our own, whatever the server, the database or the role have chosen
/// for theirs.
///
/// What a question names stands in `pg_catalog`: with another `search_path` an operator or a function that a
/// user has made could be taken instead, and would run as whoever asks (PostgreSQL manual, "Writing SECURITY
/// DEFINER Functions Safely"; CVE-2018-1058). A standby refuses `serializable`, a string is read by
/// `standard_conforming_strings`, and how long a question may take is bounded here.
pub(crate) const OPTIONS: &str = "-c search_path=pg_catalog -c statement_timeout=0 -c lock_timeout=0 \
    -c idle_in_transaction_session_timeout=0 -c default_transaction_isolation=read\\ committed \
    -c default_transaction_read_only=off -c default_transaction_deferrable=off \
    -c standard_conforming_strings=on -c datestyle=ISO -c jit=off";

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

/// How the monitoring role logs in to a node, with further options of the server's; `purpose` is the
/// application's name.
pub(crate) fn monitor(node: &Node, monitor: &Monitor, purpose: &str, options: &str) -> Config {
    let mut config = Config::new();
    config
        .host(&node.host)
        .port(node.port)
        .user(&monitor.user)
        .dbname(&monitor.database)
        .options(format!("{OPTIONS} {options}"))
        .application_name(purpose);
    if let Some(password) = &monitor.password {
        config.password(password.reveal());
    }
    config
}
