//! The `primary_conninfo` of a standby that is told to follow another node.

use std::collections::BTreeMap;

use parking_lot::Mutex;

use crate::config::{Node, Replication, Secret};
use crate::core::topology::NodeId;
use crate::pg::conninfo::{Conninfo, pointing};

/// What agents have said that `primary_conninfo` must say on their servers: with the keys of their machines,
/// and the password in a file there.
#[derive(Debug, Default)]
pub(super) struct Conninfos(Mutex<BTreeMap<NodeId, String>>);

impl Conninfos {
    /// What a standby's agent has said now, or said before of another server. Without either it is
    /// `unheard`, and the standby may have to wait for its agent: the server's log shows what is set.
    pub(super) fn of(
        &self,
        standby: NodeId,
        told: Option<String>,
        server: &Node,
        unheard: impl FnOnce() -> String,
    ) -> String {
        let mut known = self.0.lock();
        if let Some(told) = told {
            known.insert(standby, told.clone());
            return told;
        }
        let before = known.get(&standby);
        before.map_or_else(unheard, |before| {
            pointing(before, &server.host, server.port)
        })
    }
}

/// Where a standby of this name is to find a node, with the password if there is one.
pub(super) fn towards(node: &Node, login: Option<&Replication>, standby: &str) -> String {
    let password = login.and_then(|login| login.password.as_ref());
    written(node, login, password, standby)
}

/// The same without the password.
pub(super) fn without_password(node: &Node, login: Option<&Replication>, standby: &str) -> String {
    written(node, login, None, standby)
}

fn written(
    node: &Node,
    login: Option<&Replication>,
    password: Option<&Secret>,
    standby: &str,
) -> String {
    let mut conninfo = Conninfo::default()
        .with("host", &node.host)
        .with("port", &node.port.to_string());
    if let Some(login) = login {
        conninfo = conninfo.with("user", &login.user);
    }
    if let Some(password) = password {
        conninfo = conninfo.with("password", password.reveal());
    }
    // A peer that is gone without a word is noticed in seconds, not in hours.
    let conninfo = conninfo
        .with("application_name", standby)
        .with("connect_timeout", "5");
    let more = login.map_or("", |login| &login.conninfo);
    conninfo.and(more).into()
}
