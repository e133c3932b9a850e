//! What the sessions of one worker share.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use tokio_util::sync::CancellationToken;

use super::cancels::Cancels;
use super::database::{Database, Databases, REMEMBERED};
use super::definitions::Definitions;
use super::listening::Listening;
use super::rules::{LiveRules, StartConfig};
use crate::backend::pools::Pools;
use crate::backend::prepared::Registry;
use crate::backend::server::StartupSettings;
use crate::core::topology::Incarnation;
use crate::metrics::Metrics;
use crate::shared::admin::Console;
use crate::shared::cluster::ClusterState;
use crate::shared::connections::Connections;
use crate::shared::memory::MemoryBudget;
use crate::shared::pause::Pause;
use crate::strangers::Strangers;

type DatabaseName = Arc<str>;
type UserName = Arc<str>;

/// What all workers share.
#[derive(Debug)]
pub struct Common {
    pub start: StartConfig,
    /// What a reload changes.
    pub rules: LiveRules,
    /// The cluster.
    pub cluster: Arc<ClusterState>,
    /// The pools.
    pub pools: Arc<Pools>,
    /// The metrics.
    pub metrics: Arc<Metrics>,
    /// What sessions may make the proxy hold.
    pub memory: Arc<MemoryBudget>,
    /// All that workers know of statements.
    pub databases: Arc<Databases>,
    /// Closed while operators pause clients.
    pub pause: Arc<Pause>,
    /// Who is connected.
    pub connections: Arc<Connections>,
    /// Who answers on the console.
    pub console: Arc<dyn Console>,
    /// The connections that listen for sessions.
    pub listening: Arc<Listening>,
    /// The cancel registry.
    pub cancels: Cancels,
    /// ParameterStatus as the servers give it, by database, user and startup settings.
    pub greetings: RwLock<HashMap<(DatabaseName, UserName, StartupSettings), Greeting>>,
    /// Changes of definitions seen, by database.
    pub definitions: RwLock<HashMap<DatabaseName, Arc<Definitions>>>,
    /// In the names of prepared statements: nobody's guess.
    pub token: u64,
    /// Number of workers.
    pub workers: usize,
    /// Who has not logged in yet.
    pub strangers: Arc<Strangers>,
    /// How many may have logged in, whatever is configured.
    pub most_clients: usize,
    /// Cancelled when idle sessions are to end.
    pub draining: CancellationToken,
    /// For so long after that, what is under way may go on.
    pub grace: Duration,
}

/// What a server says to a user at login.
#[derive(Clone, Debug)]
pub struct Greeting {
    /// The life of the server that said it.
    pub incarnation: Incarnation,
    /// ParameterStatus messages.
    pub parameters: Arc<[(String, String)]>,
}

/// One worker.
#[derive(Debug)]
pub struct Worker {
    /// Its number, from 0.
    pub index: usize,
    /// What it shares with the others.
    pub common: Arc<Common>,
    databases: Mutex<HashMap<Arc<str>, Arc<Database>>>,
}

impl Common {
    /// Whether everybody who may has logged in.
    pub fn is_full(&self) -> bool {
        let connected = usize::try_from(self.metrics.clients.connections.get()).unwrap_or(0);
        let known = connected.saturating_sub(self.strangers.count());
        known > self.rules.load().config.max_clients.min(self.most_clients)
    }

    fn definitions_of(&self, database: &Arc<str>) -> Arc<Definitions> {
        if let Some(found) = self.definitions.read().get(database) {
            return Arc::clone(found);
        }
        let mut all = self.definitions.write();
        // Of databases that nobody has in mind any more, whose names need not come again.
        all.retain(|_, count| Arc::strong_count(count) > 1);
        Arc::clone(all.entry(Arc::clone(database)).or_default())
    }

    /// Forgets what servers say at a login: it may be something else from now on.
    pub fn forget_greetings(&self) {
        self.greetings.write().clear();
    }
}

impl Worker {
    /// A worker that has seen nothing yet.
    pub fn new(index: usize, common: Arc<Common>) -> Self {
        Self {
            index,
            common,
            databases: Mutex::default(),
        }
    }

    /// What is known of a database's statements.
    pub fn database(&self, name: &str) -> Arc<Database> {
        let mut databases = self.databases.lock();
        if let Some(found) = databases.get(name).filter(|known| !known.is_gone()) {
            return Arc::clone(found);
        }
        databases.retain(|_, known| !known.is_gone());
        let name: Arc<str> = Arc::from(name);
        let common = &self.common;
        let registry = Registry::new(
            common.token,
            self.index as u64 + 1,
            common.workers as u64,
            REMEMBERED,
        );
        let catalog = common.cluster.catalogs.of(&name);
        let definitions = common.definitions_of(&name);
        let database = Arc::new(Database::new(
            Arc::clone(&name),
            catalog,
            definitions,
            registry,
            Arc::clone(&common.memory),
            Arc::clone(&common.databases),
        ));
        common.databases.add(&database);
        databases.insert(name, Arc::clone(&database));
        database
    }
}
