//! A set of names that knows how many bytes it takes.

use std::collections::BTreeSet;

/// What remembering a name takes beside itself, in bytes.
const BESIDE: usize = 64;

/// Names that are kept for a while, whatever a client makes them.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Noted<T: ?Sized + Ord> {
    names: BTreeSet<Box<T>>,
    bytes: usize,
}

impl<T: ?Sized + Ord> Default for Noted<T> {
    fn default() -> Self {
        Self {
            names: BTreeSet::new(),
            bytes: 0,
        }
    }
}

impl<T: ?Sized + Ord + AsRef<[u8]>> Noted<T> {
    pub(super) fn insert(&mut self, name: Box<T>) {
        let bytes = bytes_of(&*name);
        if self.names.insert(name) {
            self.bytes += bytes;
        }
    }

    pub(super) fn remove(&mut self, name: &T) {
        if self.names.remove(name) {
            self.bytes -= bytes_of(name);
        }
    }

    pub(super) fn contains(&self, name: &T) -> bool {
        self.names.contains(name)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.names.iter().map(|name| &**name)
    }

    /// Empties it, without a word to the allocator where there is nothing.
    pub(super) fn clear(&mut self) {
        if !self.names.is_empty() {
            *self = Self::default();
        }
    }

    /// What it takes, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}

impl<T: ?Sized + Ord + AsRef<[u8]>> Extend<Box<T>> for Noted<T> {
    fn extend<I: IntoIterator<Item = Box<T>>>(&mut self, names: I) {
        names.into_iter().for_each(|name| self.insert(name));
    }
}

impl<T: ?Sized + Ord> IntoIterator for Noted<T> {
    type Item = Box<T>;
    type IntoIter = std::collections::btree_set::IntoIter<Box<T>>;

    fn into_iter(self) -> Self::IntoIter {
        self.names.into_iter()
    }
}

fn bytes_of<T: ?Sized + AsRef<[u8]>>(name: &T) -> usize {
    BESIDE + name.as_ref().len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_name_is_counted_once() {
        let mut noted = Noted::<str>::default();
        noted.extend(["one", "two", "one"].map(Box::from));
        assert_eq!(noted.bytes(), 2 * (BESIDE + 3));
        assert!(noted.contains("one") && noted.iter().eq(["one", "two"]));
        noted.remove("one");
        noted.remove("one");
        assert_eq!(noted.bytes(), BESIDE + 3);
        noted.clear();
        assert!(noted.is_empty() && noted.bytes() == 0);
    }
}
