//! The section `agents` and the key `nodes[].agent`: how the proxy reaches the agents.

use std::fmt;

use crate::config::pem::{Certificates, Identity, authorities, identity};
use crate::config::secret::Secret;
use crate::config::section::{Read, Section};
use crate::config::values::host;

/// How agents are trusted, and how the proxy proves itself to them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Agents {
    /// Who signs the agents' certificates.
    pub ca: Certificates,
    /// The secret that the agents ask for, if they do.
    pub secret: Option<Secret>,
    /// The certificate that the agents ask for, if they do.
    pub client: Option<Identity>,
}

/// Where an agent listens: `https://host:port`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentUrl {
    /// Host name or address; the agent's certificate must be for it.
    pub host: String,
    pub port: u16,
}

impl fmt::Display for AgentUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        match host.contains(':') {
            true => write!(f, "https://[{host}]:{port}"),
            false => write!(f, "https://{host}:{port}"),
        }
    }
}

/// An agent's address.
pub(super) fn agent_url(text: &str) -> Result<AgentUrl, String> {
    let wrong = || "must be https://, a host and a port, such as https://10.0.0.5:6433".to_owned();
    let rest = text.strip_prefix("https://").ok_or_else(wrong)?;
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    let (name, port) = rest.rsplit_once(':').ok_or_else(wrong)?;
    let name = match name.strip_prefix('[') {
        Some(name) => name.strip_suffix(']').ok_or_else(wrong)?,
        None if name.contains(':') => return Err(wrong()),
        None => name,
    };
    let digits = !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
    let port = port.parse().ok().filter(|port| digits && *port > 0);
    Ok(AgentUrl {
        host: host(name).map_err(|_| wrong())?,
        port: port.ok_or_else(wrong)?,
    })
}

/// Reads the section; `needed` is whether any node has an agent.
pub(super) fn agents(section: &mut Section<'_>, needed: bool) -> Read<Option<Agents>> {
    section.section("agents", |section| {
        let ca = section.found("ca_file", authorities);
        let secret = section.secret("secret", "secret_file");
        let client = identity(section, "cert_file", "key_file");
        let (ca, secret, client) = (ca?, secret?.map(|given| given.secret), client?);
        let Some(ca) = ca else {
            return match needed || secret.is_some() || client.is_some() {
                true => Err(section.fault(
                    "ca_file",
                    "missing: name the certificate of the authority that signed the agents'",
                )),
                false => Ok(None),
            };
        };
        if secret.is_none() && client.is_none() {
            return Err(section.fault(
                "secret",
                "missing: give what the agents ask for, `secret` (or `secret_file`), or \
                 `cert_file` and `key_file`, or both",
            ));
        }
        Ok(Some(Agents { ca, secret, client }))
    })
}
