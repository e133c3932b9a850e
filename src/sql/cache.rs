//! A bounded map from shapes to classifications: two generations instead of a linked list.
//!
//! When the young generation is full it becomes the old one and the former old one is dropped;
//! what is found in the old one moves back to the young. Keys are whole shapes, so that no
//! collision of hashes can send a statement astray.

use std::collections::HashMap;

type Map<V> = HashMap<Box<[u8]>, V, ahash::RandomState>;

/// Keys longer than this are not kept: one of them would push out dozens of useful ones.
const LONGEST_KEY: usize = 8 * 1024;
/// The bytes of keys that a generation may hold for each entry it may hold.
const BYTES_PER_ENTRY: usize = 512;

/// At most `capacity` entries over both generations.
pub(super) struct Cache<V> {
    young: Map<V>,
    old: Map<V>,
    young_bytes: usize,
    per_generation: usize,
}

impl<V: Clone> Cache<V> {
    /// An empty cache.
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            young: Map::default(),
            old: Map::default(),
            young_bytes: 0,
            per_generation: (capacity / 2).max(1),
        }
    }

    /// The value kept for a key.
    pub(super) fn get(&mut self, key: &[u8]) -> Option<V> {
        if let Some(value) = self.young.get(key) {
            return Some(value.clone());
        }
        let (key, value) = self.old.remove_entry(key)?;
        self.put(key, value.clone());
        Some(value)
    }

    /// Keeps a value, in place of an earlier one for the same key.
    pub(super) fn insert(&mut self, key: &[u8], value: V) {
        if key.len() > LONGEST_KEY {
            return;
        }
        if let Some(kept) = self.young.get_mut(key) {
            *kept = value;
            return;
        }
        self.old.remove(key);
        self.put(Box::from(key), value);
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        self.young.clear();
        self.old.clear();
        self.young_bytes = 0;
    }

    fn put(&mut self, key: Box<[u8]>, value: V) {
        let full = self.young.len() >= self.per_generation
            || self.young_bytes + key.len() > self.per_generation.saturating_mul(BYTES_PER_ENTRY);
        if full && !self.young.is_empty() {
            self.old = std::mem::take(&mut self.young);
            self.young_bytes = 0;
        }
        self.young_bytes += key.len();
        self.young.insert(key, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl<V: Clone> Cache<V> {
        fn len(&self) -> usize {
            self.young.len() + self.old.len()
        }
    }

    #[test]
    fn stays_within_its_capacity_and_keeps_what_is_used() {
        let mut cache = Cache::new(8);
        cache.insert(b"hot", 0);
        for number in 0_u32..1000 {
            cache.insert(&number.to_be_bytes(), number);
            assert_eq!(cache.get(b"hot"), Some(0));
            assert!(cache.len() <= 8);
        }
        assert_eq!(cache.get(&0_u32.to_be_bytes()), None);
        assert_eq!(cache.get(&999_u32.to_be_bytes()), Some(999));
    }

    #[test]
    fn replaces_a_value_in_either_generation() {
        let mut cache = Cache::new(4);
        cache.insert(b"a", 1);
        cache.insert(b"b", 1);
        cache.insert(b"c", 1);
        cache.insert(b"a", 2);
        assert_eq!(cache.get(b"a"), Some(2));
        cache.insert(b"a", 3);
        assert_eq!(cache.get(b"a"), Some(3));
        cache.clear();
        assert_eq!(cache.len(), 0);
        assert_eq!(cache.get(b"a"), None);
    }

    #[test]
    fn long_keys_are_neither_kept_nor_let_push_others_out() {
        let mut cache = Cache::new(64);
        cache.insert(&vec![7; LONGEST_KEY + 1], 1);
        assert_eq!(cache.len(), 0);
        for byte in 0..200 {
            cache.insert(&vec![byte; LONGEST_KEY], 1);
            assert!(cache.len() <= 6);
        }
    }
}
