//! The section `admin`: who may watch the proxy and give it orders, and where.

use std::net::SocketAddr;

use super::auth::{Auth, AuthMethod};
use crate::config::secret::Secret;
use crate::config::section::{Read, Section};
use crate::config::values::{address, identifier};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admin {
    /// Where `/metrics`, `/livez`, `/readyz` and `/api/status` are served; none switches them off.
    pub http: Option<SocketAddr>,
    /// What operators must show over HTTP; none means that only this machine's may give orders.
    pub secret: Option<Secret>,
    /// Who may use the console; without anybody there is none, and `causeway` is a database like others.
    pub users: Vec<String>,
}

pub(super) fn admin(section: &mut Section<'_>, listen: Read<SocketAddr>) -> Read<Admin> {
    let http = http(section, listen.ok());
    let secret = section.secret("secret", "secret_file");
    let users = if section.has("users") {
        section.texts("users", identifier)
    } else {
        section.known("users");
        Ok(Vec::new())
    };
    Ok(Admin {
        http: http?,
        secret: secret?.map(|given| given.secret),
        users: users?,
    })
}

fn http(section: &mut Section<'_>, listen: Option<SocketAddr>) -> Read<Option<SocketAddr>> {
    let http = section.optional("http", address)?;
    if let (Some(http), Some(listen)) = (http, listen) {
        let overlap =
            http.ip() == listen.ip() || http.ip().is_unspecified() || listen.ip().is_unspecified();
        // Port 0 is any free one.
        if http.port() == listen.port() && http.port() != 0 && overlap {
            return Err(section.fault("http", format!("must differ from listen, {listen}")));
        }
    }
    Ok(http)
}

/// Whoever gives orders on the console has shown who they are, or sits at this machine.
pub(super) fn admins(
    section: &Section<'_>,
    users: &[String],
    auth: &Auth,
    listen: Read<SocketAddr>,
) -> Read<()> {
    if auth.method == AuthMethod::Trust {
        if !users.is_empty() && listen.is_ok_and(|listen| !listen.ip().is_loopback()) {
            let text = "users: under auth.method trust anybody could claim to be one of them: \
                choose another method, or let `listen` be a loopback address";
            return Err(section.fault("admin", text));
        }
        return Ok(());
    }
    match users.iter().find(|name| !auth.users.contains_key(*name)) {
        None => Ok(()),
        Some(name) => {
            let text = format!("users: `{name}` could not log in: it is not among auth.users");
            Err(section.fault("admin", text))
        }
    }
}
