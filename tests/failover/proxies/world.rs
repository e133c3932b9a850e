//! Three servers with their agents, proxies, and etcd, each on a host of its own, on one switch.

use std::path::Path;
use std::time::Duration;

use pgcauseway::rig::{Cluster, Etcd, Net, Node, Proxy};
use serde_json::Value;

use crate::support::history::writers::TABLE;
use crate::support::history::{Route, Rows, Writers, stored};
use crate::support::{BOUND, PROGRAM, becomes, in_namespaces, need, status, turn};

/// Between the writes of a session.
const PACE: Duration = Duration::from_millis(20);
/// As many servers.
pub(crate) const NODES: usize = 3;
/// How long a proxy may rely on what etcd said.
pub(crate) const TTL: Duration = Duration::from_secs(2);

/// All of it.
pub(crate) struct World {
    pub(crate) proxies: Vec<Proxy>,
    pub(crate) etcd: Option<Etcd>,
    pub(crate) cluster: Cluster,
    pub(crate) net: Net,
}

/// Whether the test of that full name is to go on here; else it has run elsewhere, or is skipped.
pub(crate) fn go_on(test: &str) -> bool {
    // For as long as it runs elsewhere.
    let _turn = turn();
    need("etcd") && in_namespaces(test)
}

impl World {
    /// Brings everything up; one proxy keeps its record in a file, several on etcd.
    pub(crate) async fn start(name: &str, proxies: usize, settings: &str) -> Self {
        Self::start_by(Path::new(PROGRAM), name, proxies, settings).await
    }

    /// The same, with what starts the program.
    pub(crate) async fn start_by(
        program: &Path,
        name: &str,
        proxies: usize,
        settings: &str,
    ) -> Self {
        Self::start_with(program, name, proxies, settings, TTL).await
    }

    /// The same, with how long a proxy may rely on what etcd said.
    pub(crate) async fn start_with(
        program: &Path,
        name: &str,
        proxies: usize,
        settings: &str,
        ttl: Duration,
    ) -> Self {
        let net = Net::new(u8::try_from(NODES + proxies + 1).unwrap()).unwrap();
        let cluster = Cluster::builder(name)
            .agents(program)
            .on(&net.hosts()[..NODES])
            .start()
            .await
            .unwrap();
        let mut failover = format!("durability: quorum\nhold_timeout: 20s\n{settings}\n");
        let etcd = if proxies > 1 {
            let hosts = &net.hosts()[NODES + proxies..];
            let etcd = Etcd::start_on(&format!("{name}-etcd"), hosts)
                .await
                .unwrap();
            failover += &format!(
                "coordination: etcd\netcd: {{ endpoints: {:?}, ttl: {}ms }}\n",
                etcd.endpoints(),
                ttl.as_millis()
            );
            Some(etcd)
        } else {
            None
        };
        let yaml = format!("{}{}", cluster.yaml(), cluster.failover_yaml(&failover));
        let made = (0..proxies).map(|index| {
            let host = &net.hosts()[NODES + index];
            let name = format!("p{}", index + 1);
            Proxy::new(&cluster, &name, Some(host), program, &yaml).unwrap()
        });
        let world = Self {
            proxies: made.collect(),
            etcd,
            cluster,
            net,
        };
        for proxy in &world.proxies {
            proxy.start().await.unwrap();
        }
        world.settled().await;
        let login = world.cluster.application();
        let (client, connection) =
            tokio_postgres::connect(&world.proxies[0].url(login), tokio_postgres::NoTls)
                .await
                .unwrap();
        tokio::spawn(connection);
        client.batch_execute(TABLE).await.unwrap();
        world
    }

    /// What a proxy says of itself, unless it is silent.
    pub(crate) async fn status(&self, proxy: usize) -> Option<Value> {
        let asked = self.proxies[proxy].ask("GET", "/api/status");
        let answered = tokio::time::timeout(Duration::from_secs(2), asked).await;
        let (_, body) = answered.ok().flatten()?;
        serde_json::from_str(&body).ok()
    }

    /// The same; waits until it says something.
    pub(crate) async fn heard(&self, proxy: usize) -> Value {
        let mut said = None;
        becomes("the proxy answers", async || {
            said = self.status(proxy).await;
            said.is_some()
        })
        .await;
        said.unwrap()
    }

    /// The proxy that decides; waits for one.
    pub(crate) async fn decider(&self) -> usize {
        let mut found = None;
        becomes("a proxy decides", async || {
            found = self.decider_now().await;
            found.is_some()
        })
        .await;
        found.unwrap()
    }

    pub(crate) async fn decider_now(&self) -> Option<usize> {
        for proxy in 0..self.proxies.len() {
            let status = self.status(proxy).await;
            if status.is_some_and(|status| status["failover"]["leads"] == true) {
                return Some(proxy);
            }
        }
        None
    }

    /// Waits until a proxy other than this one decides.
    pub(crate) async fn decider_but(&self, not: usize) -> usize {
        let mut found = None;
        becomes("another proxy decides", async || {
            found = self.decider_now().await.filter(|proxy| *proxy != not);
            found.is_some()
        })
        .await;
        found.unwrap()
    }

    /// The place of the server that leads, by the word of the deciding proxy; waits for one.
    pub(crate) async fn primary(&self) -> usize {
        let mut found = None;
        becomes("a server leads", async || {
            for proxy in 0..self.proxies.len() {
                let Some(status) = self.status(proxy).await else {
                    continue;
                };
                let name = status["failover"]["primary"].as_str();
                found = name.and_then(|name| self.place_of(name));
                if found.is_some() {
                    return true;
                }
            }
            false
        })
        .await;
        found.unwrap()
    }

    fn place_of(&self, name: &str) -> Option<usize> {
        let mut nodes = self.cluster.nodes().iter();
        nodes.position(|node| node.name() == name)
    }

    pub(crate) fn node(&self, node: usize) -> &Node {
        &self.cluster.nodes()[node]
    }

    /// Waits until one server leads, the others stand by on its timeline, and every proxy says so.
    pub(crate) async fn settled(&self) {
        let mut last = Vec::new();
        let within = std::time::Instant::now() + BOUND;
        loop {
            last.clear();
            for proxy in 0..self.proxies.len() {
                last.push(self.status(proxy).await.unwrap_or_default());
            }
            if last.iter().all(is_settled) && last.windows(2).all(|two| agree(&two[0], &two[1])) {
                return;
            }
            if std::time::Instant::now() > within {
                for status in &last {
                    eprintln!("{status:#}");
                }
                panic!("everything is in service again within {:?}", BOUND);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// The timeline that the primary writes.
    pub(crate) async fn timeline(&self) -> u64 {
        let status = self.heard(self.decider().await).await;
        let nodes = status::list(&status, "nodes");
        let primary = nodes.iter().find(|node| node["role"] == "primary");
        primary.unwrap()["timeline"].as_u64().unwrap()
    }

    /// The host that a proxy is on, in the network's numbering.
    pub(crate) fn host_of(&self, proxy: usize) -> usize {
        NODES + proxy
    }

    /// The host that etcd is on.
    pub(crate) fn host_of_etcd(&self) -> usize {
        NODES + self.proxies.len()
    }

    /// Every way to the data: through each proxy, and to each server.
    pub(crate) fn routes(&self) -> Vec<Route> {
        let login = self.cluster.application();
        let proxies = self.proxies.iter();
        let proxies = proxies.map(|proxy| Route::through(proxy.name(), &proxy.url(login), PACE));
        let nodes = self.cluster.nodes().iter().map(|node| Route {
            patience: Duration::from_secs(5),
            ..Route::directly(node.name(), &node.url(login), PACE)
        });
        proxies.chain(nodes).collect()
    }

    /// What the present primary has of the history.
    pub(crate) async fn rows(&self) -> Rows {
        let primary = self.node(self.primary().await);
        let client = primary.connect(self.cluster.application()).await.unwrap();
        stored(&client).await
    }
}

/// Starts so many sessions on each route; their numbers begin after `first`.
pub(crate) fn write(routes: &[Route], each: usize, first: i32) -> Writers {
    let routes = routes
        .iter()
        .flat_map(|route| std::iter::repeat_n(route, each));
    Writers::start((first + 1..).zip(routes.cloned()))
}

fn is_settled(status: &Value) -> bool {
    status::is_settled(status) && status["failover"]["durability"] == "quorum"
}

fn agree(one: &Value, other: &Value) -> bool {
    let (one, other) = (&one["failover"], &other["failover"]);
    one["primary"] == other["primary"] && one["epoch"] == other["epoch"]
}
