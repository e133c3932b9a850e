//! What one worker knows of the statements of one database.

use std::fmt;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::definitions::{Definitions, Redefinition};
use crate::backend::prepared::{Prepared, Reading, Registry, Sense};
use crate::core::plans::Constants;
use crate::core::statement::Statement;
use crate::core::traces::Knowledge;
use crate::shared::catalogs::LatestCatalog;
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
    catalog: Arc<LatestCatalog>,
    definitions: Arc<Definitions>,
    memory: Arc<MemoryBudget>,
    all: Arc<Databases>,
    known: Mutex<Known>,
}

/// What all workers know of all databases' statements.
#[derive(Debug, Default)]
pub struct Databases(Mutex<Vec<Weak<Database>>>);

impl Databases {
    pub(super) fn add(&self, database: &Arc<Database>) {
        let mut all = self.0.lock();
        all.retain(|known| known.strong_count() > 0);
        all.push(Arc::downgrade(database));
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

impl Known {
    /// What a statement of the protocol needs and does. One of several commands no server takes, so that it
    /// does nothing, however often it is bound.
    fn parsed(&mut self, text: &[u8], catalog: &Catalog, lexical: Lexical) -> Arc<Statement> {
        let statement = self.classifier.classify(text, catalog, lexical);
        if statement.count <= 1 {
            return statement;
        }
        Arc::new(Statement {
            effects: Arc::default(),
            ..Statement::clone(&statement)
        })
    }
}

impl fmt::Debug for Known {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Known").finish_non_exhaustive()
    }
}

impl Database {
    pub(super) fn new(
        name: Arc<str>,
        catalog: Arc<LatestCatalog>,
        definitions: Arc<Definitions>,
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

    /// Whether it has been dropped since.
    pub(super) fn is_gone(&self) -> bool {
        self.catalog.is_gone()
    }

    /// By which reading of the catalogue the definitions of now are known.
    pub fn knowledge(&self) -> Knowledge {
        self.catalog.knowledge()
    }

    /// Whether any code has literals that are read by what differs between sessions.
    pub fn keeps_constants(&self) -> bool {
        self.catalog.load().settled() != Constants::ByNothing
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

    /// The statement that a Parse message describes: `body` is what follows its name, `reading` the settings
    /// that decide what it means; none if they may change before the server comes to it. Only those with
    /// parameters are worth remembering unless they have a name. A statement that was parsed before the last
    /// change of definitions is another.
    pub(super) fn prepare(
        &self,
        body: &[u8],
        named: bool,
        lexical: Lexical,
        reading: Option<&Reading>,
    ) -> Result<Option<Arc<Prepared>>, NoRoom> {
        let Some((text, _types)) = frame::cstr(body) else {
            return Ok(None);
        };
        let catalog = self.catalog.load();
        let sense = Sense {
            settings: reading.map_or(0, |reading| reading.meaning) ^ lexical.number() << 48,
            definitions: self.definitions.seen() ^ catalog.objects(),
        };
        let mut known = self.known.lock();
        let is_shared =
            reading.is_some_and(|reading| !reading.private) && !self.definitions.are_changing();
        if is_shared && let Some(found) = known.registry.find(body, sense) {
            if found.catalog_version() != catalog.version() {
                let statement = known.parsed(text, &catalog, lexical);
                found.reclassify(statement, catalog.version());
            }
            return Ok(Some(found));
        }
        // What it says of the time is settled when it is parsed: nobody else may be given that.
        let settled = is_shared && !tells_time(text, lexical);
        let keep = (named || text.contains(&b'$')) && settled;
        let mut share = self.memory.share();
        if keep || named || body.len() > COUNTED {
            drop(known);
            if !self.reserve(&mut share, body.len()) {
                return Err(NoRoom);
            }
            if let Some(reading) = reading.filter(|reading| reading.basis.is_uncounted()) {
                let mut counted = self.memory.share();
                if !self.reserve(&mut counted, reading.basis.bytes()) {
                    return Err(NoRoom);
                }
                reading.basis.counted_by(counted);
            }
            known = self.known.lock();
        }
        let statement = known.parsed(text, &catalog, lexical);
        let classified = (statement, catalog.version());
        let registry = &mut known.registry;
        let added = registry.add(body, sense, reading, classified, keep, share);
        Ok(Some(added))
    }

    /// Makes a share so many bytes, at the cost of statements that no session uses, if need be.
    pub(super) fn reserve(&self, share: &mut Share, bytes: usize) -> bool {
        // What has arrived is counted even where there is no room for it.
        let fits = |share: &mut Share| share.grow_to(bytes) && self.memory.has_room(0);
        if fits(share) {
            return true;
        }
        let all = self.all.0.lock().clone();
        for database in all.iter().filter_map(Weak::upgrade) {
            database.known.lock().registry.sweep();
        }
        fits(share)
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
            let statement = known.parsed(text, &catalog, lexical);
            prepared.reclassify(statement, catalog.version());
        }
    }

    /// Definitions have changed: what is parsed from now on may mean something else.
    pub fn redefined(&self) {
        self.definitions.changed();
    }

    /// What may change definitions is about to be sent: what others parse until its answer is read is not
    /// shared, since nobody can tell what came first.
    pub fn redefines(&self) -> Redefinition {
        self.definitions.change()
    }

    /// A standby refused this text: it goes to the primary from now on.
    pub fn refused_by_standby(&self, text: &[u8], lexical: Lexical) {
        let mut known = self.known.lock();
        known.classifier.refused_by_standby(text, lexical);
    }
}
