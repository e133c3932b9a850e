//! What one worker knows of the statements of one database.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use crate::backend::prepared::{Prepared, Registry, Sense};
use crate::core::statement::Statement;
use crate::shared::memory::{MemoryBudget, Share};
use crate::sql::catalog::Catalog;
use crate::sql::{Classifier, Lexical, Skim, tells_time};
use crate::wire::frame;

/// Shapes and parameterised texts that are remembered per worker and database.
pub(super) const REMEMBERED: usize = 10_000;

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

impl Databases {
    pub(super) fn add(&self, database: &Arc<Database>) {
        self.0.lock().push(Arc::downgrade(database));
    }
}

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
            definitions: self.definitions.load(Ordering::Acquire) ^ catalog.objects(),
        };
        let mut known = self.known.lock();
        if let Some(found) = known.registry.find(body, sense) {
            if found.catalog_version() != catalog.version() {
                let statement = known.classifier.classify(text, &catalog, lexical);
                found.reclassify(statement, catalog.version());
            }
            return Ok(Some(found));
        }
        // What it says of the time is settled when it is parsed: nobody else may be given that.
        let keep = (named || text.contains(&b'$')) && !tells_time(text, lexical);
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
