//! Whether a coordination store would do, found out without changing it: for `causeway check`.

use std::path::Path;
use std::time::Duration;

use nix::unistd::{AccessFlags, access};

use super::keys;
use super::members::Members;
use super::rpc::{Compare, Connection, RequestOp, Txn};
use super::{OpenError, Unavailable, file};
use crate::config::{Coordination, Etcd};

/// Every member is given that long.
const BOUND: Duration = Duration::from_secs(3);

/// A file or a member of etcd, and what came of looking at it.
#[derive(Clone, Debug)]
pub struct Examined {
    /// A path or a URL.
    pub place: String,
    /// What was found, or why it would not do.
    pub outcome: Result<String, String>,
}

/// Looks at the file, or at every member of etcd.
pub async fn examine(coordination: &Coordination, cluster: &str) -> Vec<Examined> {
    match coordination {
        Coordination::File { state_file } => {
            let (path, place) = (state_file.clone(), state_file.display().to_string());
            let looked = tokio::task::spawn_blocking(move || state_of_file(&path));
            let outcome = match tokio::time::timeout(BOUND, looked).await {
                Ok(Ok(outcome)) => outcome,
                _ => Err("the disk does not answer".to_owned()),
            };
            vec![Examined { place, outcome }]
        }
        Coordination::Etcd(settings) => {
            let mut examined = Vec::new();
            for endpoint in &settings.endpoints {
                let alone = Etcd {
                    endpoints: vec![endpoint.clone()],
                    ..settings.clone()
                };
                examined.push(Examined {
                    place: endpoint.clone(),
                    outcome: state_of_member(&alone, cluster).await,
                });
            }
            examined
        }
    }
}

fn state_of_file(path: &Path) -> Result<String, String> {
    let path = std::path::absolute(path).map_err(|error| error.to_string())?;
    let directory = path.parent().unwrap_or(Path::new("/"));
    let writable = access(directory, AccessFlags::W_OK | AccessFlags::X_OK);
    writable.map_err(|errno| format!("{} cannot be written to: {errno}", directory.display()))?;
    match file::peek(&path).map_err(|error: OpenError| error.to_string())? {
        Some(version) => Ok(format!("a state file with version {version}")),
        None => Ok("will be made".to_owned()),
    }
}

async fn state_of_member(settings: &Etcd, cluster: &str) -> Result<String, String> {
    let members = Members::new(settings, BOUND).map_err(|error| error.to_string())?;
    let explain = |Unavailable(reason)| reason;
    let status = |connection: Connection| async move { connection.status().await };
    let status = members.call(BOUND, status).await.map_err(explain)?.value;
    if status.leader == 0 {
        return Err(format!("etcd {}: it has no leader", status.version));
    }
    // A transaction whose condition cannot hold needs every right of one whose condition does.
    let [leader, record] = keys::names(settings, cluster);
    let txn = Txn {
        compare: vec![Compare::revision_is(&leader, -1)],
        success: vec![RequestOp::put(&leader, ""), RequestOp::put(&record, "")],
        failure: vec![RequestOp::get(&leader), RequestOp::get(&record)],
    };
    let transact = |connection: Connection| {
        let txn = txn.clone();
        async move { connection.transact(txn).await }
    };
    members.call(BOUND, transact).await.map_err(explain)?;
    let megabytes = u64::try_from(status.db_size).unwrap_or(0).div_ceil(1 << 20);
    Ok(format!("etcd {}, {megabytes} MB of data", status.version))
}
