//! The section `nodes`: the servers, each under a name and at an address of its own.

use std::collections::HashMap;

use super::agents::{AgentUrl, agent_url};
use crate::config::section::{Read, Reported, Section};
use crate::config::values::{host, short_name, whole};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Unique short name, shown wherever the node is spoken of.
    pub name: String,
    pub host: String,
    pub port: u16,
    /// Failure domain, if given.
    pub zone: Option<String>,
    /// Share of reads relative to the other standbys; 0 means none.
    pub weight: u32,
    /// Where `causeway agent` beside it is reached, if there is one.
    pub agent: Option<AgentUrl>,
    /// Of standbys that have received and replayed equally much, the one with the highest is promoted; one with
    /// 0 never is.
    pub promote_priority: u32,
}

pub(super) fn nodes(section: &mut Section<'_>) -> Read<Vec<Node>> {
    let mut names = HashMap::new();
    let mut addresses = HashMap::new();
    let nodes = section.list("nodes", |section| {
        let node = node(section);
        let unique_name = once(section, "name", node.name.clone(), &mut names);
        let unique_address = once(section, "host", node.address(), &mut addresses);
        unique_name?;
        unique_address?;
        node.checked()
    })?;
    if nodes.is_empty() {
        return Err(section.fault("nodes", "missing: name at least one PostgreSQL server"));
    }
    if nodes.iter().all(|node| node.weight == 0) {
        return Err(section.fault(
            "nodes",
            "no node could serve reads: give one a weight above 0",
        ));
    }
    Ok(nodes)
}

/// A node whose parts have been read and may be faulty, each for itself.
struct NodeParts {
    name: Read<String>,
    host: Read<String>,
    port: Read<u16>,
    zone: Read<Option<String>>,
    weight: Read<u32>,
    agent: Read<Option<AgentUrl>>,
    promote_priority: Read<u32>,
}

fn node(section: &mut Section<'_>) -> NodeParts {
    NodeParts {
        name: section.required("name", short_name),
        host: section.required("host", host),
        port: section.or("port", 5432, whole(1..=u16::MAX)),
        zone: section.optional("zone", short_name),
        weight: section.or("weight", 1, whole(0..=1000)),
        agent: section.optional("agent", agent_url),
        promote_priority: section.or("promote_priority", 100, whole(0..=1000)),
    }
}

impl NodeParts {
    fn address(&self) -> Read<String> {
        let (Ok(host), Ok(port)) = (&self.host, self.port) else {
            return Err(Reported);
        };
        Ok(format!("{}:{port}", host.to_ascii_lowercase()))
    }

    fn checked(self) -> Read<Node> {
        Ok(Node {
            name: self.name?,
            host: self.host?,
            port: self.port?,
            zone: self.zone?,
            weight: self.weight?,
            agent: self.agent?,
            promote_priority: self.promote_priority?,
        })
    }
}

/// Refuses what an earlier item of the list has already; `seen` holds the lines.
fn once(
    section: &Section<'_>,
    key: &str,
    value: Read<String>,
    seen: &mut HashMap<String, usize>,
) -> Read<()> {
    let (value, line) = (value?, section.line_of(key));
    match seen.get(&value) {
        Some(first) => {
            let text = format!("`{value}` is already on line {first}: every node needs its own");
            Err(section.fault(key, text))
        }
        None => {
            seen.insert(value, line);
            Ok(())
        }
    }
}
