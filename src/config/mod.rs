//! From `config.yaml` to a checked [`Config`], with every fault reported at once.
//!
//! Text becomes a tree with lines (`raw`), the tree is read key by key (`section`, `values`), and
//! each section says what it knows and what must hold (`check`, `auth`). Whatever is read carries
//! its own proof: there is no way to a [`Config`] around the checks.

mod agent;
mod agents;
mod auth;
mod check;
mod failover;
mod faults;
mod live;
mod pem;
mod raw;
mod reload;
mod secrets;
mod section;
#[cfg(test)]
mod tests;
mod types;
mod units;
mod values;

use std::path::{Path, PathBuf};

pub use agent::{Agent, Login};
pub use agents::{AgentUrl, Agents};
pub use failover::{
    Coordination, Durability, Etcd, Failover, FailoverMode, Fencing, OnLostWrites, Replication,
};
pub use faults::{Fault, Faults};
pub use live::Live;
pub use pem::{Certificates, Identity};
pub use reload::{Reload, reload};
pub use types::{
    Auth, AuthMethod, Config, Log, LogFormat, Monitor, Node, Pool, PoolMode, Routing, Secret, User,
};
pub use units::{Bytes, InvalidQuantity, Span};

use section::{Read, Reader, Section};

/// Reads a file as a text.
fn text_of(path: &Path) -> Result<(String, String), Faults> {
    let name = path.display().to_string();
    match std::fs::read_to_string(path) {
        Ok(text) => Ok((name, text)),
        Err(error) => Err(Faults::new(vec![Fault {
            file: name,
            line: None,
            key: String::new(),
            text: format!("cannot be read: {error}"),
        }])),
    }
}

/// Checks a text as one document; `needed` is what a file that says nothing lacks.
fn document<T>(
    name: &str,
    text: &str,
    env: &dyn Fn(&str) -> Option<String>,
    needed: &str,
    read: impl FnOnce(&mut Section<'_>) -> Read<T>,
) -> Result<T, Faults> {
    let reader = Reader::new(name, env);
    let checked = match raw::read(text) {
        Ok(raw) if raw.is_nothing() => {
            let text = format!("the file says nothing: it needs at least {needed}");
            Err(reader.fault(Some(1), String::new(), text))
        }
        Ok(raw) => reader.document(&raw, read),
        Err(error) => Err(reader.fault(Some(error.line), String::new(), error.text)),
    };
    checked.map_err(|section::Reported| Faults::new(reader.into_faults()))
}

impl Agent {
    /// Reads and checks an agent's file, with the environment of this process.
    pub fn load(path: impl AsRef<Path>) -> Result<Self, Faults> {
        let (name, text) = text_of(path.as_ref())?;
        Self::parse(&name, &text, &|variable| std::env::var(variable).ok())
    }

    /// Checks a text; `name` is its file's path, to which paths inside it are relative.
    pub fn parse(
        name: &str,
        text: &str,
        env: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, Faults> {
        document(
            name,
            text,
            env,
            "`name`, `postgres` and `tls`",
            agent::agent,
        )
    }
}

impl Config {
    /// Reads and checks a file, with the environment of this process.
    pub fn load(path: impl AsRef<Path>) -> Result<Self, Faults> {
        let (name, text) = text_of(path.as_ref())?;
        Self::parse(&name, &text, &|variable| std::env::var(variable).ok())
    }

    /// Checks a text; `name` is its file's path, to which paths inside it are relative.
    pub fn parse(
        name: &str,
        text: &str,
        env: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, Faults> {
        let config = document(name, text, env, "`nodes` and `auth`", check::config)?;
        Ok(Self {
            file: PathBuf::from(name),
            ..config
        })
    }

    /// What is allowed and yet probably not meant, one sentence each.
    pub fn advice(&self) -> Vec<String> {
        let mut advice = Vec::new();
        let servers_ask = self.auth.method != AuthMethod::Trust;
        for name in auth::without_server_password(&self.auth)
            .iter()
            .filter(|_| servers_ask)
        {
            advice.push(format!(
                "auth.users.{name}: a verifier or hash and no server_password: this user's \
                 statements succeed only on servers that ask the proxy for no password"
            ));
        }
        if !servers_ask && !self.listen.ip().is_loopback() {
            advice.push(format!(
                "auth.method: trust lets anyone who reaches {} in as any user",
                self.listen
            ));
        }
        if let Some(zone) = &self.routing.zone
            && self
                .nodes
                .iter()
                .all(|node| node.zone.as_ref() != Some(zone))
        {
            advice.push(format!("routing.zone: no node is in zone {zone}"));
        }
        if self.agents.is_some() && self.nodes.iter().all(|node| node.agent.is_none()) {
            advice.push("agents: no node has an `agent`".to_owned());
        }
        if let Some(failover) = &self.failover {
            advice.extend(failover::advice(failover, self));
        }
        advice
    }
}
