//! Which node a host and a port mean. An administrator may have written a name where the configuration has
//! an address, the other way round, or, on the machine of both servers, a socket.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::config::Node;
use crate::core::topology::NodeId;
use crate::pg::conninfo::Address;

/// How long what a name was found to mean is gone by, and how long it is not asked for again that it was
/// not found.
const FRESH: Duration = Duration::from_secs(30);
/// Bound on a name that is met for the first time.
const FIRST: Duration = Duration::from_millis(200);

/// What names mean, as last asked for; shared by those who meet them.
#[derive(Debug, Default)]
pub(super) struct Hosts {
    known: Mutex<HashMap<String, Resolved>>,
}

#[derive(Clone, Debug)]
struct Resolved {
    addresses: Vec<IpAddr>,
    asked: Instant,
}

impl Hosts {
    /// The node at an address as the server of `from` reads it.
    pub(super) async fn node_at(
        self: &Arc<Self>,
        nodes: &[Node],
        from: NodeId,
        address: &Address,
    ) -> Option<NodeId> {
        if let Some(node) = same_text(nodes, address) {
            return Some(node);
        }
        let written = address.hosts.iter().map(String::as_str);
        self.ask(written.chain(nodes.iter().map(|node| node.host.as_str())))
            .await;
        same_meaning(nodes, from, address, &|host| self.addresses(host))
    }

    /// Has names asked for that are new or old, and waits for the new ones.
    async fn ask(self: &Arc<Self>, hosts: impl Iterator<Item = &str>) {
        let now = Instant::now();
        let mut first = Vec::new();
        for host in hosts {
            if is_socket(host) || literal(host).is_some() {
                continue;
            }
            let before = {
                let mut known = self.known.lock();
                let before = known.get(host).cloned();
                let is_fresh = before
                    .as_ref()
                    .is_some_and(|known| known.asked + FRESH > now);
                if is_fresh {
                    continue;
                }
                // What was known is gone by until the answer is there.
                let addresses = before.as_ref().map(|known| known.addresses.clone());
                let asked = Resolved {
                    addresses: addresses.unwrap_or_default(),
                    asked: now,
                };
                known.insert(host.to_owned(), asked);
                before
            };
            let resolving = tokio::spawn(Arc::clone(self).resolve(host.to_owned()));
            if before.is_none() {
                first.push(resolving);
            }
        }
        // Those that take longer go on, and are known the next time.
        let wait = async {
            for resolving in first {
                let _ = resolving.await;
            }
        };
        let _ = tokio::time::timeout(FIRST, wait).await;
    }

    async fn resolve(self: Arc<Self>, host: String) {
        let Ok(found) = tokio::net::lookup_host((host.as_str(), 0)).await else {
            return;
        };
        let addresses: Vec<IpAddr> = found.map(|found| found.ip().to_canonical()).collect();
        if let Some(resolved) = self.known.lock().get_mut(&host) {
            resolved.addresses = addresses;
        }
    }

    fn addresses(&self, host: &str) -> Vec<IpAddr> {
        if let Some(address) = literal(host) {
            return vec![address];
        }
        let known = self.known.lock();
        known
            .get(host)
            .map_or(Vec::new(), |resolved| resolved.addresses.clone())
    }
}

fn same_text(nodes: &[Node], address: &Address) -> Option<NodeId> {
    let find = |host: &String| {
        let here = |node: &Node| node.port == address.port && plain(&node.host) == plain(host);
        nodes.iter().position(here)
    };
    id(address.hosts.iter().find_map(find)?)
}

/// The only node whose host has an address of the one that is written. What means the machine on which it
/// is read, a socket or the loopback, is what the server of `from` is reached at.
fn same_meaning(
    nodes: &[Node],
    from: NodeId,
    address: &Address,
    addresses: &dyn Fn(&str) -> Vec<IpAddr>,
) -> Option<NodeId> {
    let own = nodes.get(usize::from(from.0))?;
    let find = |host: &str| {
        let written = addresses(host);
        let is_here = is_socket(host) || written.iter().any(IpAddr::is_loopback);
        let meant = match is_here {
            true => addresses(&own.host),
            false => written,
        };
        let here = |node: &Node| {
            let same_host = is_here && plain(&node.host) == plain(&own.host);
            let there = addresses(&node.host);
            same_host || there.iter().any(|address| meant.contains(address))
        };
        let others = nodes.iter().enumerate().filter(|(index, node)| {
            *index != usize::from(from.0) && node.port == address.port && here(node)
        });
        let mut others = others.map(|(index, _)| index);
        match (others.next(), others.next()) {
            (Some(only), None) => Some(only),
            _ => None,
        }
    };
    let found = match address.hosts.is_empty() {
        // The server's default is a socket.
        true => find("/"),
        false => address.hosts.iter().find_map(|host| find(host)),
    };
    id(found?)
}

fn id(index: usize) -> Option<NodeId> {
    u16::try_from(index).ok().map(NodeId)
}

fn plain(host: &str) -> String {
    host.trim_end_matches('.').to_ascii_lowercase()
}

/// A directory, or a name in the abstract namespace.
fn is_socket(host: &str) -> bool {
    host.starts_with(['/', '@'])
}

/// An address that is written as one, with or without brackets and the zone of a link.
fn literal(host: &str) -> Option<IpAddr> {
    let bare = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    let bare = bare.unwrap_or(host);
    let bare = bare.split_once('%').map_or(bare, |(address, _)| address);
    bare.parse::<IpAddr>()
        .ok()
        .map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(host: &str, port: u16) -> Node {
        Node {
            name: format!("{host}-{port}"),
            host: host.to_owned(),
            port,
            zone: None,
            weight: 1,
            agent: None,
            promote_priority: 100,
        }
    }

    fn resolved(host: &str) -> Vec<IpAddr> {
        let text: &[&str] = match host {
            "db1" | "db1.example.com" => &["10.0.0.1", "fd00::1"],
            "db2" => &["10.0.0.2"],
            "localhost" => &["::1", "127.0.0.1"],
            "any" => &["10.0.0.1", "10.0.0.2"],
            _ => return literal(host).into_iter().collect(),
        };
        text.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn at(nodes: &[Node], from: u16, hosts: &[&str], port: u16) -> Option<u16> {
        let address = Address {
            hosts: hosts.iter().map(|host| (*host).to_owned()).collect(),
            port,
        };
        let found = same_text(nodes, &address);
        let found = found.or_else(|| same_meaning(nodes, NodeId(from), &address, &resolved));
        found.map(|node| node.0)
    }

    #[test]
    fn a_host_is_known_however_it_is_written() {
        let nodes = [
            node("db1", 5432),
            node("10.0.0.2", 5432),
            node("10.0.0.3", 5432),
        ];
        for (host, expected) in [
            ("db1", Some(0)),
            ("DB1.", Some(0)),
            ("10.0.0.1", Some(0)),
            ("::ffff:10.0.0.1", Some(0)),
            ("fd00:0::1", Some(0)),
            ("[fd00::1]", Some(0)),
            ("fd00::1%eth0", Some(0)),
            ("db1.example.com", Some(0)),
            ("db2", Some(1)),
            ("10.0.0.9", None),
            ("nobody", None),
            // It may lead to either.
            ("any", None),
        ] {
            assert_eq!(at(&nodes, 2, &[host], 5432), expected, "{host}");
        }
        assert_eq!(at(&nodes, 2, &["db1"], 5433), None);
        // hostaddr goes before host.
        assert_eq!(at(&nodes, 2, &["10.0.0.2", "elsewhere"], 5432), Some(1));
    }

    #[test]
    fn what_means_this_machine_is_read_on_the_standbys() {
        let nodes = [node("db1", 5432), node("db1", 5433), node("10.0.0.2", 5432)];
        for here in [
            "/var/run/postgresql",
            "@pg",
            "localhost",
            "127.0.0.1",
            "::1",
        ] {
            assert_eq!(at(&nodes, 1, &[here], 5432), Some(0), "{here}");
            assert_eq!(at(&nodes, 2, &[here], 5432), None, "{here}");
        }
        assert_eq!(at(&nodes, 1, &[], 5432), Some(0));
        let names = [node("unresolved", 1), node("unresolved", 2)];
        assert_eq!(at(&names, 1, &["/tmp"], 1), Some(0));
        let demo = [node("127.0.0.1", 1), node("127.0.0.1", 2)];
        assert_eq!(at(&demo, 1, &["localhost"], 1), Some(0));
    }
}
