//! From `config.yaml` to a checked [`Config`], with every fault reported at once.
//!
//! Text becomes a tree with lines (`raw`), the tree is read key by key (`section`, `values`), and
//! each section says what it knows and what must hold (`check`, `auth`). Whatever is read carries
//! its own proof: there is no way to a [`Config`] around the checks.

mod auth;
mod check;
mod faults;
mod raw;
mod secrets;
mod section;
#[cfg(test)]
mod tests;
mod types;
mod units;
mod values;

use std::path::Path;

pub use faults::{Fault, Faults};
pub use types::{
    Auth, AuthMethod, Config, Log, LogFormat, Monitor, Node, Pool, PoolMode, Routing, Secret, User,
};
pub use units::{Bytes, InvalidQuantity, Span};

use section::Reader;

impl Config {
    /// Reads and checks a file, with the environment of this process.
    pub fn load(path: impl AsRef<Path>) -> Result<Self, Faults> {
        let path = path.as_ref();
        let name = path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|error| {
            let text = format!("cannot be read: {error}");
            Faults::new(vec![Fault {
                file: name.clone(),
                line: None,
                key: String::new(),
                text,
            }])
        })?;
        Self::parse(&name, &text, &|variable| std::env::var(variable).ok())
    }

    /// Checks a text; `name` is its file's path, to which paths inside it are relative.
    pub fn parse(
        name: &str,
        text: &str,
        env: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, Faults> {
        let reader = Reader::new(name, env);
        let config = match raw::read(text) {
            Ok(raw) if raw.is_nothing() => {
                let text = "the file says nothing: it needs at least `nodes` and `auth`".to_owned();
                Err(reader.fault(Some(1), String::new(), text))
            }
            Ok(raw) => reader.document(&raw, check::config),
            Err(error) => Err(reader.fault(Some(error.line), String::new(), error.text)),
        };
        config.map_err(|section::Reported| Faults::new(reader.into_faults()))
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
        advice
    }
}
