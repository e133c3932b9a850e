//! The `primary_conninfo` of a standby that is told to follow another node.

use crate::config::{Node, Replication};
use crate::pg::conninfo::Conninfo;

/// Where a standby of this name is to find a node.
pub(super) fn towards(node: &Node, login: Option<&Replication>, standby: &str) -> String {
    let mut conninfo = Conninfo::default()
        .with("host", &node.host)
        .with("port", &node.port.to_string());
    if let Some(login) = login {
        conninfo = conninfo.with("user", &login.user);
        if let Some(password) = &login.password {
            conninfo = conninfo.with("password", password.reveal());
        }
    }
    // A peer that is gone without a word is noticed in seconds, not in hours.
    let conninfo = conninfo
        .with("application_name", standby)
        .with("connect_timeout", "5");
    conninfo.into()
}
