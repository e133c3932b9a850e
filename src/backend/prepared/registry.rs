//! One worker's statements, each under its number, within bounds.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use ahash::RandomState;
use arc_swap::ArcSwap;

use super::{Classified, Prepared, Reading, Sense};
use crate::core::statement::Statement;
use crate::shared::memory::Share;

/// The texts are those of the statements themselves.
type ByBody = HashMap<Arc<[u8]>, Arc<Prepared>, RandomState>;

/// A registry holds this many bytes of texts at most, each with the settings under which it is read; longer
/// ones than `LONGEST_SHARED` are not shared.
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
        reading: Option<&Reading>,
        (statement, catalog_version): (Arc<Statement>, u64),
        keep: bool,
        share: Share,
    ) -> Arc<Prepared> {
        let prepared = Arc::new(Prepared {
            id: self.next_id,
            token: self.token,
            body: body.into(),
            _share: share,
            reading: reading.cloned(),
            classified: ArcSwap::from_pointee(Classified {
                statement,
                catalog_version,
            }),
            definitions: sense.definitions,
            refused: AtomicBool::new(false),
            stale: AtomicBool::new(false),
        });
        self.next_id += self.step;
        if keep && body.len() <= LONGEST_SHARED && self.make_room(prepared.bytes()) {
            let texts = self.by_settings.entry(sense.settings).or_default();
            let text = Arc::clone(&prepared.body);
            match texts.remove(&text) {
                Some(before) => self.bytes -= before.bytes(),
                None => self.entries += 1,
            }
            self.bytes += prepared.bytes();
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
            self.bytes += texts.values().map(|of| of.bytes()).sum::<usize>();
        }
        self.by_settings.retain(|_, texts| !texts.is_empty());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::settings::Settings;
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
        let first = registry.add(body, sense, None, (statement(), 1), true, share());
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
                .add(body, sense, None, (statement(), 1), true, share())
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
                    None,
                    (statement, 1),
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
            None,
            (Arc::clone(&statement), 1),
            true,
            share(),
        );
        registry.add(
            b"and again",
            Sense::default(),
            None,
            (statement, 1),
            true,
            share(),
        );
        assert!(registry.entries <= 2, "what nobody holds makes room");
    }

    #[test]
    fn settings_are_kept_once_and_make_room() {
        let budget = Arc::new(MemoryBudget::new(1 << 30, 1 << 30));
        let mut settings = Settings::default();
        settings.set("search_path", &vec![b'x'; 1024 * 1024]);
        let reading = Reading::under(&settings, &Reading::default());
        let mut counted = budget.share();
        assert!(reading.basis.is_uncounted() && counted.grow_to(reading.basis.bytes()));
        reading.basis.counted_by(counted);
        let mut registry = Registry::new(7, 1, 1, 10_000);
        let held: Vec<_> = (0..2_300u32)
            .map(|number| {
                let statement = Arc::new(Statement::unexamined(WriteReason::Command));
                let (body, sense) = (number.to_be_bytes(), Sense::default());
                let share = budget.share();
                registry.add(&body, sense, Some(&reading), (statement, 1), true, share)
            })
            .collect();
        assert_eq!(Arc::strong_count(&reading.basis), 1 + held.len());
        assert_eq!(budget.held(), reading.basis.bytes());
        assert!(
            registry.entries < 64,
            "the settings take room: {}",
            registry.entries
        );
        drop((held, reading));
        registry.sweep();
        assert_eq!((registry.entries, budget.held()), (0, 0));
    }
}
