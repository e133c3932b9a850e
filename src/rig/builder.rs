//! Describes a cluster, makes its data directories, and brings its servers up.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::account::Account;
use super::agent::Agent;
use super::authority::Authority;
use super::cluster::Cluster;
use super::credentials::{Credentials, Login};
use super::data;
use super::home::{self, Home};
use super::net::{Host, Place};
use super::ports::Reservation;
use super::settings::{self, Settings};
use super::shared::Shared;
use super::watchdog::Watchdog;
use super::{Binaries, Node, RigError, find_binaries};

/// Describes a cluster; [`Builder::start`] brings it up.
#[derive(Clone, Debug)]
pub struct Builder {
    name: String,
    standbys: usize,
    directory: Option<PathBuf>,
    keep: bool,
    ports: Vec<u16>,
    settings: Settings,
    replay_delays: BTreeMap<usize, Duration>,
    durable: bool,
    own_history: bool,
    binaries: Option<Binaries>,
    credentials: Credentials,
    within: Duration,
    agents: Option<PathBuf>,
    places: Vec<Place>,
}

impl Cluster {
    /// Describes a cluster. The name shows in its directory and where logs are saved.
    pub fn builder(name: &str) -> Builder {
        Builder::new(name)
    }
}

impl Builder {
    /// One primary and two standbys on free ports, in a temporary directory, without fsync.
    fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            standbys: 2,
            directory: None,
            keep: false,
            ports: Vec::new(),
            settings: Settings::new(),
            replay_delays: BTreeMap::new(),
            durable: false,
            own_history: false,
            binaries: None,
            credentials: Credentials::default(),
            within: Duration::from_secs(60),
            agents: None,
            places: Vec::new(),
        }
    }

    /// How many standbys stream from the primary; two if not said.
    pub fn standbys(mut self, count: usize) -> Self {
        self.standbys = count;
        self
    }

    /// Where everything is kept; the directory must be new or empty.
    pub fn directory(mut self, directory: impl Into<PathBuf>) -> Self {
        self.directory = Some(directory.into());
        self
    }

    /// Puts each node on a host of its own, the primary on the first; it takes root.
    pub fn on(mut self, hosts: &[Host]) -> Self {
        self.places = hosts.iter().map(Host::place).collect();
        self
    }

    /// Leaves the directory behind.
    pub fn keep(mut self, keep: bool) -> Self {
        self.keep = keep;
        self
    }

    /// The ports, the primary's first; free ones if not said.
    pub fn ports(mut self, ports: impl Into<Vec<u16>>) -> Self {
        self.ports = ports.into();
        self
    }

    /// A line of every node's `postgresql.conf`; stronger than the rig's own.
    pub fn setting(mut self, name: &str, value: &str) -> Self {
        self.settings.insert(name.to_owned(), value.to_owned());
        self
    }

    /// Delays replay on one node; standbys count from 1.
    pub fn replay_delay(mut self, node: usize, delay: Duration) -> Self {
        self.replay_delays.insert(node, delay);
        self
    }

    /// Whether commits wait for the disk (`fsync`). Killed servers lose nothing either way.
    pub fn durable(mut self, durable: bool) -> Self {
        self.durable = durable;
        self
    }

    /// Whether the data are made for this cluster, with a system identifier that no other one has. It takes
    /// longer than a copy.
    pub fn own_history(mut self, own: bool) -> Self {
        self.own_history = own;
        self
    }

    /// Which servers to run; found by [`find_binaries`] if not said.
    pub fn binaries(mut self, binaries: Binaries) -> Self {
        self.binaries = Some(binaries);
        self
    }

    /// One more application login, which owns the database it names.
    pub fn application(mut self, login: Login) -> Self {
        self.credentials.applications.push(login);
        self
    }

    /// Bound on every single operation, such as one server's start; a minute if not said.
    pub fn within(mut self, bound: Duration) -> Self {
        self.within = bound;
        self
    }

    /// Starts `causeway agent` beside each server; `program` is the `causeway` binary.
    pub fn agents(mut self, program: impl Into<PathBuf>) -> Self {
        self.agents = Some(program.into());
        self
    }

    /// Makes the cluster and returns once the primary takes writes and every standby streams.
    pub async fn start(self) -> Result<Cluster, RigError> {
        let binaries = self.binaries.clone().map_or_else(find_binaries, Ok)?;
        let account = Account::choose()?;
        let ports = self.reserve_ports()?;
        let wanted = self.directory.as_deref();
        let home = Home::create(wanted, &self.name, self.keep, self.durable, account)?;
        let home = Arc::new(home);
        let watchdog = Watchdog::start(&home.path, self.keep)?;
        let credentials = self.credentials.clone();
        let shared = Arc::new(Shared {
            binaries,
            account,
            credentials,
            within: self.within,
        });
        let authority = match &self.agents {
            Some(_) => {
                let addresses: Vec<_> = self.places.iter().map(|place| place.address).collect();
                let authority = Authority::create(&home.path, account, &addresses)?;
                Some(Arc::new(authority))
            }
            None => None,
        };
        let nodes = self.make_nodes(ports, &home.path, &shared, authority.as_ref())?;
        // From here on the cluster's Drop cleans up.
        let cluster = Cluster::new(self.name, home, nodes, shared, authority, watchdog);

        let [primary, standbys @ ..] = cluster.nodes() else {
            return Ok(cluster);
        };
        // A directory that was asked for is kept, or shown.
        let own = self.own_history || self.durable || self.directory.is_some();
        make_data(&cluster, primary, standbys, own).await?;
        for node in cluster.nodes() {
            node.spawn()?;
        }
        let session = primary.wait_ready().await?;
        let written = primary.written_on(&session).await?;
        for standby in standbys {
            let session = standby.wait_ready().await?;
            standby.wait_streaming_on(&session).await?;
            if !self
                .replay_delays
                .contains_key(&standby_number(standbys, standby))
            {
                standby.wait_replayed_on(&session, written).await?;
            }
        }
        for agent in cluster.nodes().iter().filter_map(|node| node.agent()) {
            agent.start().await?;
        }
        Ok(cluster)
    }

    fn place(&self, index: usize) -> Place {
        self.places.get(index).copied().unwrap_or(Place::LOOPBACK)
    }

    fn reserve_ports(&self) -> Result<Vec<Reservation>, RigError> {
        let nodes = self.standbys + 1;
        if self.ports.is_empty() {
            return (0..nodes).map(|_| Reservation::any()).collect();
        }
        if self.ports.len() != nodes {
            return Err(RigError::PortCount {
                given: self.ports.len(),
                nodes,
            });
        }
        self.ports
            .iter()
            .map(|port| Reservation::of(*port))
            .collect()
    }

    fn make_nodes(
        &self,
        ports: Vec<Reservation>,
        directory: &Path,
        shared: &Arc<Shared>,
        authority: Option<&Arc<Authority>>,
    ) -> Result<Vec<Arc<Node>>, RigError> {
        let primary_port = ports.first().map(Reservation::port);
        let nodes = ports.into_iter().enumerate().map(|(index, port)| {
            let name = format!("pg{}", index + 1);
            let mut settings = settings::base(self.durable);
            settings.insert("port".into(), port.port().to_string());
            settings.insert("cluster_name".into(), name.clone());
            let place = self.place(index);
            settings.insert("listen_addresses".into(), place.address.to_string());
            let address = self.place(0).address;
            if let Some(upstream) = primary_port.filter(|_| index > 0) {
                let login = &shared.credentials.replication;
                let conninfo =
                    settings::conninfo(address, upstream, &login.user, &login.password, &name);
                settings.insert("primary_conninfo".into(), conninfo);
            }
            settings.extend(self.settings.clone());
            if let Some(delay) = self.replay_delays.get(&index) {
                let delay = format!("{}ms", delay.as_millis());
                settings.insert("recovery_min_apply_delay".into(), delay);
            }
            let home = directory.join(&name);
            let agent = match (&self.agents, authority) {
                (Some(program), Some(authority)) => {
                    let (program, authority) = (program.clone(), Arc::clone(authority));
                    Some(Agent::new(
                        &name,
                        &home,
                        place,
                        program,
                        authority,
                        Arc::clone(shared),
                    )?)
                }
                _ => None,
            };
            let shared = Arc::clone(shared);
            Ok(Arc::new(Node::new(
                name, home, place, port, settings, shared, agent,
            )))
        });
        nodes.collect()
    }
}

/// A standby's place in the cluster, where the primary's is 0.
fn standby_number(standbys: &[Arc<Node>], standby: &Arc<Node>) -> usize {
    1 + standbys
        .iter()
        .take_while(|other| !Arc::ptr_eq(other, standby))
        .count()
}

/// Makes the primary's data, and the standbys' by copying it before it is first started.
async fn make_data(
    cluster: &Cluster,
    primary: &Arc<Node>,
    standbys: &[Arc<Node>],
    own: bool,
) -> Result<(), RigError> {
    let primary = Arc::clone(primary);
    let standbys = standbys.to_vec();
    home::blocking(cluster.home(), "make the data directories", move || {
        let account = primary.shared.account;
        home::private_directory(primary.home(), account)?;
        data::make(primary.home(), &primary.shared, own)?;
        primary.configure(false)?;
        let copy = |standby: &Node| {
            home::private_directory(standby.home(), account)?;
            home::copy_data(&primary.data(), &standby.data(), account)?;
            standby.configure(true)
        };
        std::thread::scope(|scope| {
            let copies: Vec<_> = standbys
                .iter()
                .map(|standby| scope.spawn(|| copy(standby)))
                .collect();
            copies.into_iter().try_for_each(|copy| match copy.join() {
                Ok(outcome) => outcome,
                Err(panic) => std::panic::resume_unwind(panic),
            })
        })
    })
    .await
}
