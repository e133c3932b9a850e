//! What the sessions of one worker share.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::{Mutex, RwLock};
use tokio_util::sync::CancellationToken;

use super::cancels::Cancels;
use super::rules::{LiveRules, StartConfig};
use crate::backend::pools::Pools;
use crate::backend::prepared::{Prepared, Registry, Sense};
use crate::backend::server::StartupSettings;
use crate::core::statement::Statement;
use crate::core::topology::Incarnation;
use crate::metrics::Metrics;
use crate::shared::admin::Console;
use crate::shared::cluster::ClusterState;
use crate::shared::memory::{MemoryBudget, Share};
use crate::shared::pause::Pause;
use crate::shared::registry::Connections;
use crate::sql::catalog::Catalog;
use crate::sql::{Classifier, Lexical, Skim};
use crate::strangers::Strangers;
use crate::wire::frame;

/// Shapes and parameterised texts that are remembered per worker and database.
const REMEMBERED: usize = 10_000;

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
    /// The cancel registry.
    pub cancels: Cancels,
    /// ParameterStatus as the servers give it, by database, user and startup settings.
    pub greetings: RwLock<HashMap<(DatabaseName, UserName, StartupSettings), Greeting>>,
    /// Changes of definitions seen, by database.
    pub definitions: RwLock<HashMap<DatabaseName, Arc<AtomicU64>>>,
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

    fn definitions_of(&self, database: &Arc<str>) -> Arc<AtomicU64> {
        if let Some(found) = self.definitions.read().get(database) {
            return Arc::clone(found);
        }
        let mut all = self.definitions.write();
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
        if let Some(found) = databases.get(name) {
            return Arc::clone(found);
        }
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
        common.databases.0.lock().push(Arc::downgrade(&database));
        databases.insert(name, Arc::clone(&database));
        database
    }
}

/// One worker's knowledge of the statements of one database.
#[derive(Debug)]
pub struct Database {
    /// Its name.
    pub name: Arc<str>,
    catalog: Arc<ArcSwap<Catalog>>,
    definitions: Arc<AtomicU64>,
    memory: Arc<MemoryBudget>,
    all: Arc<Databases>,
    known: Mutex<Known>,
}

/// What all workers know of all databases' statements.
#[derive(Debug, Default)]
pub struct Databases(Mutex<Vec<Weak<Database>>>);

/// There is no room for it, by the bounds of `memory`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NoRoom;

/// An unnamed statement with a shorter text is not counted: a session has one.
const COUNTED: usize = 16 * 1024;

struct Known {
    classifier: Classifier,
    registry: Registry,
}

impl fmt::Debug for Known {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Known").finish_non_exhaustive()
    }
}

impl Database {
    pub(super) fn new(
        name: Arc<str>,
        catalog: Arc<ArcSwap<Catalog>>,
        definitions: Arc<AtomicU64>,
        registry: Registry,
        memory: Arc<MemoryBudget>,
        all: Arc<Databases>,
    ) -> Self {
        let classifier = Classifier::new(REMEMBERED);
        Self {
            name,
            catalog,
            definitions,
            memory,
            all,
            known: Mutex::new(Known {
                classifier,
                registry,
            }),
        }
    }

    /// What a simple query needs and does.
    pub fn classify(&self, text: &[u8], lexical: Lexical) -> Arc<Statement> {
        let catalog = self.catalog.load();
        self.known
            .lock()
            .classifier
            .classify(text, &catalog, lexical)
    }

    /// A look at a long text as it passes.
    pub fn skim(&self) -> Skim<Arc<Catalog>> {
        Skim::new(self.catalog.load_full())
    }

    /// The statement that a Parse message describes: `body` is what follows its name, `meaning` stands for
    /// the settings that decide what it means. Only those with parameters are worth remembering unless
    /// they have a name. A statement that was parsed before the last change of definitions is another.
    pub(super) fn prepare(
        &self,
        body: &[u8],
        named: bool,
        lexical: Lexical,
        meaning: u64,
    ) -> Result<Option<Arc<Prepared>>, NoRoom> {
        let Some((text, _types)) = frame::cstr(body) else {
            return Ok(None);
        };
        let catalog = self.catalog.load();
        let sense = Sense {
            settings: meaning ^ lexical.number() << 48,
            definitions: self.definitions.load(Ordering::Acquire),
        };
        let mut known = self.known.lock();
        if let Some(found) = known.registry.find(body, sense) {
            if found.catalog_version() != catalog.version() {
                let statement = known.classifier.classify(text, &catalog, lexical);
                found.reclassify(statement, catalog.version());
            }
            return Ok(Some(found));
        }
        let keep = named || text.contains(&b'$');
        let mut share = self.memory.share();
        if keep || named || body.len() > COUNTED {
            drop(known);
            if !self.reserve(&mut share, body.len()) {
                return Err(NoRoom);
            }
            known = self.known.lock();
        }
        let statement = known.classifier.classify(text, &catalog, lexical);
        let version = catalog.version();
        let add = &mut known.registry;
        Ok(Some(add.add(body, sense, statement, version, keep, share)))
    }

    /// Makes a share so many bytes, at the cost of statements that no session uses, if need be.
    pub(super) fn reserve(&self, share: &mut Share, bytes: usize) -> bool {
        if share.grow_to(bytes) {
            return true;
        }
        let all = self.all.0.lock().clone();
        for database in all.iter().filter_map(Weak::upgrade) {
            database.known.lock().registry.sweep();
        }
        share.grow_to(bytes)
    }

    /// The bounds.
    pub(super) fn memory(&self) -> &Arc<MemoryBudget> {
        &self.memory
    }

    /// A statement classified by an older catalogue may call what has changed since.
    pub fn keep_up(&self, prepared: &Prepared, lexical: Lexical) {
        let catalog = self.catalog.load();
        if prepared.catalog_version() == catalog.version() {
            return;
        }
        if let Some((text, _types)) = frame::cstr(prepared.body()) {
            let mut known = self.known.lock();
            let statement = known.classifier.classify(text, &catalog, lexical);
            prepared.reclassify(statement, catalog.version());
        }
    }

    /// Definitions have changed: what is parsed from now on may mean something else.
    pub fn redefined(&self) {
        self.definitions.fetch_add(1, Ordering::AcqRel);
    }

    /// A standby refused this text: it goes to the primary from now on.
    pub fn refused_by_standby(&self, text: &[u8], lexical: Lexical) {
        let mut known = self.known.lock();
        known.classifier.refused_by_standby(text, lexical);
    }
}
