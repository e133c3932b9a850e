//! The prepared statements that a client knows by its own names.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use ahash::RandomState;

use crate::backend::prepared::{Prepared, Shape};

/// A session may not name more statements than this.
pub(super) const MAX_NAMES: usize = 100_000;

/// One session's names.
#[derive(Debug, Default)]
pub(super) struct Names {
    named: HashMap<Box<[u8]>, Named, RandomState>,
    /// The unnamed statement.
    unnamed: Option<Arc<Prepared>>,
    /// What the client has asked for and is not confirmed yet, in order.
    unconfirmed: VecDeque<Change>,
}

/// What a name means.
#[derive(Debug)]
struct Named {
    prepared: Arc<Prepared>,
    /// The rows that the client was told to expect, if it has asked.
    shape: Option<Shape>,
}

/// What an error takes back.
#[derive(Debug)]
enum Change {
    /// A Parse that took no name.
    None,
    /// A Parse of this name, which was taken.
    InVain(Box<[u8]>),
    /// A Parse under this name.
    Parsed(Box<[u8]>),
    /// A Close of this name, and what it meant.
    Closed(Box<[u8]>, Option<Named>),
}

impl Names {
    /// What a name means.
    pub(super) fn get(&self, name: &[u8]) -> Option<&Arc<Prepared>> {
        if name.is_empty() {
            self.unnamed.as_ref()
        } else {
            self.named.get(name).map(|named| &named.prepared)
        }
    }

    /// The rows that the client expects of a named statement, if it has asked.
    pub(super) fn shape(&self, name: &[u8]) -> Option<Shape> {
        self.named.get(name)?.shape
    }

    /// The client was told what rows to expect.
    pub(super) fn described(&mut self, name: &[u8], id: u64, shape: Shape) {
        if let Some(named) = self.named.get_mut(name)
            && named.prepared.id() == id
        {
            named.shape = Some(shape);
        }
    }

    /// The name that the message whose turn it is wanted in vain.
    pub(super) fn wanted_in_vain(&self) -> Option<&[u8]> {
        match self.unconfirmed.front() {
            Some(Change::InVain(name)) => Some(name),
            _ => None,
        }
    }

    /// Whether there is room for one more.
    pub(super) fn is_full(&self) -> bool {
        self.named.len() >= MAX_NAMES
    }

    /// The client parses a statement; if the server refuses, the name is taken back.
    pub(super) fn parse(&mut self, name: &[u8], prepared: Arc<Prepared>) {
        if name.is_empty() {
            self.unnamed = Some(prepared);
            self.unconfirmed.push_back(Change::None);
        } else {
            let named = Named {
                prepared,
                shape: None,
            };
            self.named.insert(name.into(), named);
            self.unconfirmed.push_back(Change::Parsed(name.into()));
        }
    }

    /// A Parse that will certainly fail, because its name is taken.
    pub(super) fn parse_in_vain(&mut self, name: &[u8]) {
        self.unconfirmed.push_back(Change::InVain(name.into()));
    }

    /// A large unnamed Parse is passed through: only the server connection that it went to knows it.
    pub(super) fn parse_unkept(&mut self) {
        self.unnamed = None;
        self.unconfirmed.push_back(Change::None);
    }

    /// The oldest unconfirmed Parse, or Close of a name, succeeded.
    pub(super) fn confirmed(&mut self) {
        self.unconfirmed.pop_front();
    }

    /// Everything parsed so far was accepted.
    pub(super) fn confirm_all(&mut self) {
        self.unconfirmed.clear();
    }

    /// An error: what was not confirmed never happened.
    pub(super) fn failed(&mut self) {
        while let Some(change) = self.unconfirmed.pop_back() {
            match change {
                Change::Parsed(name) => drop(self.named.remove(&name)),
                Change::Closed(name, Some(named)) => drop(self.named.insert(name, named)),
                Change::Closed(_, None) | Change::InVain(_) | Change::None => {}
            }
        }
    }

    /// A Close message for a name; an error before it takes it back.
    pub(super) fn close_message(&mut self, name: &[u8]) {
        if name.is_empty() {
            self.unnamed = None;
        } else {
            let closed = self.named.remove(name);
            self.unconfirmed
                .push_back(Change::Closed(name.into(), closed));
        }
    }

    /// `DEALLOCATE name`. True when the name was known.
    pub(super) fn close(&mut self, name: &[u8]) -> bool {
        self.named.remove(name).is_some()
    }

    /// `DEALLOCATE ALL`, `DISCARD ALL`.
    pub(super) fn clear(&mut self) {
        self.named.clear();
        self.unnamed = None;
    }

    /// Another number for a statement whose plans are outdated.
    pub(super) fn renew(&mut self, name: &[u8], prepared: Arc<Prepared>) {
        if let Some(known) = self.named.get_mut(name) {
            known.prepared = prepared;
        }
    }
}
