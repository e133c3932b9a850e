//! Prepared statements that outlive a server connection.
//!
//! A client's statement is known by its text and parameter types, by the settings that decide what a text
//! means, and by the changes of definitions that came before it. Each distinct one has a number, under
//! which it is prepared, when first needed, on any server connection that runs it. So a thousand sessions
//! with the same statement share one plan per connection, under whatever names.

use std::collections::HashMap;
use std::collections::VecDeque;
use std::hash::Hasher;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ahash::{AHasher, RandomState};
use arc_swap::ArcSwap;

use crate::core::statement::Statement;
use crate::core::tag;
use crate::shared::memory::Share;
use crate::wire::frame;

/// Before the token and the number in a statement's name on servers.
pub const NAME_PREFIX: &str = "causeway_";

/// A statement's name on servers. Nobody can guess the token, so that no client's own name can mean
/// another session's statement.
pub fn server_name(token: u64, id: u64) -> String {
    format!("{NAME_PREFIX}{token:016x}_{id}")
}

/// What a statement needs and does, by one version of the catalogue.
#[derive(Debug)]
struct Classified {
    statement: Arc<Statement>,
    catalog_version: u64,
}

/// What a text's meaning depends on beside the text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sense {
    /// [`Settings::meaning`](super::settings::Settings::meaning), or a session's own number where its
    /// temporary objects hide others'.
    pub settings: u64,
    /// Changes of definitions that have been seen in the database.
    pub definitions: u64,
}

/// A statement as `Parse` described it.
#[derive(Debug)]
pub struct Prepared {
    /// Unique among the statements of one database.
    id: u64,
    token: u64,
    /// The Parse message's body behind the name: text, zero, parameter types.
    body: Arc<[u8]>,
    classified: ArcSwap<Classified>,
    /// Counts the text.
    _share: Share,
    /// Changes of definitions that had been seen when it was first parsed.
    definitions: u64,
    /// A standby refused to run it.
    refused: AtomicBool,
    /// Its plan no longer fits its tables: it must be prepared under a new number.
    stale: AtomicBool,
}

impl Prepared {
    /// The name that it has on server connections.
    pub fn server_name(&self) -> String {
        server_name(self.token, self.id)
    }

    /// What the names of all statements have in common.
    pub fn token(&self) -> u64 {
        self.token
    }

    /// Its number.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// What it needs and does.
    pub fn statement(&self) -> Arc<Statement> {
        Arc::clone(&self.classified.load().statement)
    }

    /// The version of the catalogue by which that was found.
    pub fn catalog_version(&self) -> u64 {
        self.classified.load().catalog_version
    }

    /// It was looked at by a newer catalogue.
    pub fn reclassify(&self, statement: Arc<Statement>, catalog_version: u64) {
        self.classified.store(Arc::new(Classified {
            statement,
            catalog_version,
        }));
        // A standby may have had a reason that is gone.
        self.refused.store(false, Ordering::Relaxed);
    }

    /// The text, zero, and parameter types.
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    /// Appends the Parse message that prepares it under `name`.
    pub fn write_parse(&self, name: &str, out: &mut Vec<u8>) {
        self.write_parse_as(name.as_bytes(), out);
    }

    /// The same under a client's own name.
    pub fn write_parse_as(&self, name: &[u8], out: &mut Vec<u8>) {
        frame::write(out, tag::frontend::PARSE, |body| {
            body.extend_from_slice(name);
            body.push(0);
            body.extend_from_slice(&self.body);
        });
    }

    /// Remembers that it must go to the primary.
    pub fn refuse(&self) {
        self.refused.store(true, Ordering::Relaxed);
    }

    /// Whether a standby refused it.
    pub fn is_refused(&self) -> bool {
        self.refused.load(Ordering::Relaxed)
    }

    /// Marks its plans as outdated everywhere.
    pub fn outdate(&self) {
        self.stale.store(true, Ordering::Relaxed);
    }

    /// Whether its plans are outdated.
    pub fn is_outdated(&self) -> bool {
        self.stale.load(Ordering::Relaxed)
    }
}

/// The columns that a statement's rows have, as its description gave them: names and types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape(u64);

impl Shape {
    /// Of the answer to Describe: a RowDescription frame, or NoData.
    pub fn of_frame(frame: &[u8]) -> Self {
        let mut hasher = AHasher::default();
        let mut rest = frame.get(frame::HEADER + 2..).unwrap_or_default();
        // Per column behind its name: table 4, column 2, type 4, size 2, modifier 4, format 2 bytes.
        while let Some((name, column)) = frame::cstr(rest)
            && let Some((numbers, next)) = column.split_first_chunk::<18>()
        {
            hasher.write(name);
            hasher.write(&numbers[6..16]);
            rest = next;
        }
        Self(hasher.finish())
    }
}

/// The texts are those of the statements themselves.
type ByBody = HashMap<Arc<[u8]>, Arc<Prepared>, RandomState>;

/// A registry holds this many bytes of texts at most; longer ones than `LONGEST_SHARED` are not shared.
const MOST_BYTES: usize = 64 * 1024 * 1024;
const LONGEST_SHARED: usize = 1024 * 1024;

/// One worker's statements by their settings, text and parameter types.
#[derive(Debug)]
pub struct Registry {
    by_settings: HashMap<u64, ByBody, RandomState>,
    entries: usize,
    bytes: usize,
    /// Texts that found no room since the last sweep.
    turned_away: usize,
    token: u64,
    next_id: u64,
    step: u64,
    capacity: usize,
}

impl Registry {
    /// An empty registry whose numbers are `first`, `first + step`, … so that workers never share one.
    pub fn new(token: u64, first: u64, step: u64, capacity: usize) -> Self {
        Self {
            by_settings: HashMap::default(),
            entries: 0,
            bytes: 0,
            turned_away: 0,
            token,
            next_id: first,
            step,
            capacity,
        }
    }

    /// A statement that is known already, and was parsed after the last change of definitions.
    pub fn find(&self, body: &[u8], sense: Sense) -> Option<Arc<Prepared>> {
        let found = self.by_settings.get(&sense.settings)?.get(body)?;
        (!found.is_outdated() && found.definitions == sense.definitions).then(|| Arc::clone(found))
    }

    /// Gives a new statement its number, and remembers it if it is to be kept.
    pub fn add(
        &mut self,
        body: &[u8],
        sense: Sense,
        statement: Arc<Statement>,
        catalog_version: u64,
        keep: bool,
        share: Share,
    ) -> Arc<Prepared> {
        let prepared = Arc::new(Prepared {
            id: self.next_id,
            token: self.token,
            body: body.into(),
            _share: share,
            classified: ArcSwap::from_pointee(Classified {
                statement,
                catalog_version,
            }),
            definitions: sense.definitions,
            refused: AtomicBool::new(false),
            stale: AtomicBool::new(false),
        });
        self.next_id += self.step;
        if keep && body.len() <= LONGEST_SHARED && self.make_room(body.len()) {
            let texts = self.by_settings.entry(sense.settings).or_default();
            let text = Arc::clone(&prepared.body);
            if texts.remove(&text).is_none() {
                self.entries += 1;
                self.bytes += body.len();
            }
            texts.insert(text, Arc::clone(&prepared));
        }
        prepared
    }

    /// Drops what no session holds any more, now and then: their numbers are never given again.
    fn make_room(&mut self, bytes: usize) -> bool {
        let full = |registry: &Self| {
            registry.entries >= registry.capacity || registry.bytes + bytes > MOST_BYTES
        };
        if !full(self) {
            return true;
        }
        self.turned_away += 1;
        if self.turned_away < self.capacity / 8 && self.turned_away > 1 {
            return false;
        }
        self.sweep();
        if full(self) {
            return false;
        }
        self.turned_away = 0;
        true
    }

    /// Forgets what no session holds any more.
    pub fn sweep(&mut self) {
        (self.entries, self.bytes) = (0, 0);
        for texts in self.by_settings.values_mut() {
            texts.retain(|_, prepared| Arc::strong_count(prepared) > 1);
            self.entries += texts.len();
            self.bytes += texts.keys().map(|text| text.len()).sum::<usize>();
        }
        self.by_settings.retain(|_, texts| !texts.is_empty());
    }
}

/// One statement on one connection.
#[derive(Clone, Copy, Debug)]
struct Use {
    last: u64,
    shape: Option<Shape>,
}

/// The statements that one server connection holds, the longest unused first.
#[derive(Debug, Default)]
pub struct Held {
    ids: HashMap<u64, Use, RandomState>,
    uses: VecDeque<(u64, u64)>,
    clock: u64,
}

impl Held {
    /// Whether a statement is prepared here; it then counts as used now.
    pub fn touch(&mut self, id: u64) -> bool {
        self.clock += 1;
        let Some(used) = self.ids.get_mut(&id) else {
            return false;
        };
        used.last = self.clock;
        // A queue entry for every use would grow without bound; a lazy one every so often will do.
        if self.uses.len() < 4 * self.ids.len() + 16 {
            self.uses.push_back((id, self.clock));
        }
        true
    }

    /// Notes a statement as prepared.
    pub fn insert(&mut self, id: u64) {
        self.clock += 1;
        let used = Use {
            last: self.clock,
            shape: None,
        };
        self.ids.insert(id, used);
        self.uses.push_back((id, self.clock));
    }

    /// Forgets the longest unused statement and gives it, to be closed, while there are more than
    /// `capacity`.
    pub fn evict(&mut self, capacity: usize) -> Option<u64> {
        if self.ids.len() <= capacity {
            return None;
        }
        while let Some((oldest, at)) = self.uses.pop_front() {
            match self.ids.get(&oldest) {
                Some(used) if used.last == at => {
                    self.ids.remove(&oldest);
                    return Some(oldest);
                }
                // Used again since: it queues again as of then.
                Some(used)
                    if used.last > at && !self.uses.iter().any(|(other, _)| *other == oldest) =>
                {
                    self.uses.push_back((oldest, used.last));
                }
                _ => {}
            }
        }
        None
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// The shape of its rows as this connection prepared it, if that is known.
    pub fn shape(&self, id: u64) -> Option<Shape> {
        self.ids.get(&id)?.shape
    }

    /// Notes what a description said.
    pub fn set_shape(&mut self, id: u64, shape: Shape) {
        if let Some(used) = self.ids.get_mut(&id) {
            used.shape = Some(shape);
        }
    }

    /// Forgets one: it was not prepared after all, or was closed.
    pub fn remove(&mut self, id: u64) {
        self.ids.remove(&id);
    }

    /// Adds what another has.
    pub fn merge(&mut self, other: Self) {
        let known = other.ids.into_keys();
        let new: Vec<_> = known.filter(|id| !self.ids.contains_key(id)).collect();
        new.into_iter().for_each(|id| self.insert(id));
    }

    /// Forgets all, and gives their numbers.
    pub fn take_all(&mut self) -> Vec<u64> {
        std::mem::take(self).ids.into_keys().collect()
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::statement::WriteReason;
    use crate::shared::memory::MemoryBudget;

    fn share() -> Share {
        Arc::new(MemoryBudget::new(1000, 1000)).share()
    }

    #[test]
    fn same_text_same_sense_same_number() {
        let mut registry = Registry::new(7, 1, 2, 10);
        let statement = || Arc::new(Statement::unexamined(WriteReason::Command));
        let body = b"select 1\0\0\0";
        let sense = Sense::default();
        assert!(registry.find(body, sense).is_none());
        let first = registry.add(body, sense, statement(), 1, true, share());
        assert_eq!(registry.find(body, sense).unwrap().id(), first.id());
        let elsewhere = Sense {
            settings: 7,
            ..sense
        };
        assert!(
            registry.find(body, elsewhere).is_none(),
            "another search_path"
        );
        let later = Sense {
            definitions: 1,
            ..sense
        };
        assert!(
            registry.find(body, later).is_none(),
            "a table was changed since"
        );
        first.outdate();
        assert!(
            registry.find(body, sense).is_none(),
            "outdated plans get a new number"
        );
        assert_eq!(
            registry
                .add(body, sense, statement(), 1, true, share())
                .id(),
            3
        );
    }

    #[test]
    fn a_registry_keeps_to_its_size() {
        let mut registry = Registry::new(7, 1, 1, 16);
        let held: Vec<_> = (0..100u32)
            .map(|number| {
                let statement = Arc::new(Statement::unexamined(WriteReason::Command));
                registry.add(
                    &number.to_be_bytes(),
                    Sense::default(),
                    statement,
                    1,
                    true,
                    share(),
                )
            })
            .collect();
        assert_eq!((registry.entries, registry.bytes), (16, 64));
        drop(held);
        let statement = Arc::new(Statement::unexamined(WriteReason::Command));
        registry.add(
            b"again",
            Sense::default(),
            Arc::clone(&statement),
            1,
            true,
            share(),
        );
        registry.add(b"and again", Sense::default(), statement, 1, true, share());
        assert!(registry.entries <= 2, "what nobody holds makes room");
    }

    #[test]
    fn the_longest_unused_is_closed() {
        let mut held = Held::default();
        for id in [1, 2, 3] {
            assert_eq!(held.evict(3), None);
            held.insert(id);
        }
        assert!(held.touch(1));
        held.insert(4);
        assert_eq!(held.evict(3), Some(2));
        assert_eq!(held.evict(3), None);
        assert!(!held.touch(2));
        assert!(held.touch(1) && held.touch(3) && held.touch(4));
        for _ in 0..1000 {
            held.touch(1);
        }
        assert!(held.uses.len() < 64, "bounded");
        for id in 5..100 {
            held.insert(id);
            assert!(held.evict(3).is_some());
        }
        assert_eq!(held.ids.len(), 3);
    }
}
