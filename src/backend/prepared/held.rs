//! Which statements one server connection holds, and which of them is closed for want of room.

use std::collections::{HashMap, VecDeque};

use ahash::RandomState;

use super::Shape;

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

    /// How many it holds.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Forgets those for which `stays` is false.
    pub fn retain(&mut self, mut stays: impl FnMut(u64) -> bool) {
        self.ids.retain(|id, _| stays(*id));
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
