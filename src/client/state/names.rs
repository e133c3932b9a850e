//! The prepared statements that a client knows by its own names.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use ahash::RandomState;

use crate::backend::prepared::{Prepared, Shape};
use crate::core::exchange::Effects;
use crate::core::statement::{Effect, Statement, Step, WriteReason};

/// A session may not name more statements than this.
pub(in crate::client) const MAX_NAMES: usize = 100_000;

/// Texts that one session may keep, in bytes.
const MOST_BYTES: usize = 1 << 30;

/// One session's names.
#[derive(Debug, Default)]
pub(in crate::client) struct Names {
    /// Portals whose statements have effects; few have.
    portals: HashMap<Box<[u8]>, Arc<[Step]>, RandomState>,
    /// Portals that were bound in messages that are not confirmed yet.
    portals_unconfirmed: Vec<Box<[u8]>>,
    /// Portals that may be others than is known here, since their Bind may have been skipped.
    portals_unknown: HashSet<Box<[u8]>, RandomState>,
    /// The texts of the named statements, in bytes.
    bytes: usize,
    named: HashMap<Box<[u8]>, Named, RandomState>,
    /// What executing an SQL-prepared statement does, by name.
    in_sql: HashMap<Box<[u8]>, Arc<[Effect]>, RandomState>,
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
    /// A Parse or Close of the unnamed statement, and what that was.
    Unnamed(Option<Arc<Prepared>>),
    /// A Parse of this name, which was taken.
    InVain(Box<[u8]>),
    /// A Parse under this name, and what it meant before, if a statement in front of it drops that.
    Parsed(Box<[u8]>, Option<Named>),
    /// A Close of this name, and what it meant.
    Closed(Box<[u8]>, Option<Named>),
}

impl Names {
    /// What a name means.
    pub(in crate::client) fn get(&self, name: &[u8]) -> Option<&Arc<Prepared>> {
        if name.is_empty() {
            self.unnamed.as_ref()
        } else {
            self.named.get(name).map(|named| &named.prepared)
        }
    }

    /// The rows that the client expects of a named statement, if it has asked.
    pub(in crate::client) fn shape(&self, name: &[u8]) -> Option<Shape> {
        self.named.get(name)?.shape
    }

    /// The client was told what rows to expect.
    pub(in crate::client) fn described(&mut self, name: &[u8], id: u64, shape: Shape) {
        if let Some(named) = self.named.get_mut(name)
            && named.prepared.id() == id
        {
            named.shape = Some(shape);
        }
    }

    /// The name that the message whose turn it is wanted in vain.
    pub(in crate::client) fn wanted_in_vain(&self) -> Option<&[u8]> {
        match self.unconfirmed.front() {
            Some(Change::InVain(name)) => Some(name),
            _ => None,
        }
    }

    /// Whether there is room for one more with a text of so many bytes.
    pub(in crate::client) fn has_room(&self, bytes: usize) -> bool {
        self.named.len() < MAX_NAMES && self.bytes + bytes <= MOST_BYTES
    }

    /// A portal is bound to a statement with these effects.
    pub(in crate::client) fn bound(&mut self, portal: &[u8], effects: Arc<[Step]>) {
        if !self.portals_unknown.is_empty() {
            self.portals_unknown.remove(portal);
        }
        if effects.is_empty() {
            if !self.portals.is_empty() && self.portals.remove(portal).is_some() {
                self.portals_unconfirmed.push(portal.into());
            }
        } else {
            self.portals.insert(portal.into(), effects);
            self.portals_unconfirmed.push(portal.into());
        }
    }

    /// What executing a portal does to the session.
    pub(in crate::client) fn portal(&self, portal: &[u8]) -> Effects {
        if !self.portals_unknown.is_empty() && self.portals_unknown.contains(portal) {
            return Some(Arc::clone(&Statement::unseen(WriteReason::Command).effects));
        }
        if self.portals.is_empty() {
            return None;
        }
        self.portals.get(portal).cloned()
    }

    /// What was bound so far was accepted, or has failed.
    pub(in crate::client) fn ready(&mut self) {
        if !self.portals_unconfirmed.is_empty() {
            self.portals_unconfirmed.clear();
        }
    }

    /// Portals end with the transaction.
    pub(in crate::client) fn transaction_ended(&mut self) {
        if !self.portals.is_empty() {
            self.portals.clear();
        }
        if !self.portals_unknown.is_empty() {
            self.portals_unknown.clear();
        }
    }

    /// Whether the session has named nothing.
    pub(in crate::client) fn is_empty(&self) -> bool {
        self.named.is_empty()
    }

    /// All names that the server has confirmed, each with its statement.
    pub(in crate::client) fn all(&self) -> impl Iterator<Item = (&[u8], &Arc<Prepared>)> {
        let parsing = self.unconfirmed.iter().filter_map(|change| match change {
            Change::Parsed(name, _) => Some(name),
            _ => None,
        });
        let parsing: Vec<_> = parsing.collect();
        let named = self.named.iter();
        let confirmed = named.filter(move |(name, _)| !parsing.contains(name));
        confirmed.map(|(name, named)| (&**name, &named.prepared))
    }

    /// What was closed, or parsed anew, by messages that the server has not come to yet.
    fn before(&self) -> impl Iterator<Item = (&Box<[u8]>, &Named)> {
        self.unconfirmed.iter().filter_map(|change| match change {
            Change::Closed(name, Some(before)) | Change::Parsed(name, Some(before)) => {
                Some((name, before))
            }
            _ => None,
        })
    }

    /// The client parses a statement; if the server refuses, the name is taken back.
    pub(in crate::client) fn parse(&mut self, name: &[u8], prepared: Arc<Prepared>) {
        if name.is_empty() {
            let before = self.unnamed.replace(prepared);
            self.unconfirmed.push_back(Change::Unnamed(before));
        } else {
            let named = Named {
                prepared,
                shape: None,
            };
            let before = self.remove(name);
            self.bytes += named.prepared.body().len();
            self.named.insert(name.into(), named);
            self.unconfirmed
                .push_back(Change::Parsed(name.into(), before));
        }
    }

    /// A Parse that will certainly fail, because its name is taken.
    pub(in crate::client) fn parse_in_vain(&mut self, name: &[u8]) {
        self.unconfirmed.push_back(Change::InVain(name.into()));
    }

    /// The oldest unconfirmed Parse, or Close of a name, succeeded.
    pub(in crate::client) fn confirmed(&mut self) {
        self.unconfirmed.pop_front();
    }

    /// Everything parsed so far was accepted.
    pub(in crate::client) fn confirm_all(&mut self) {
        self.unconfirmed.clear();
    }

    /// An error: what was not confirmed never happened.
    pub(in crate::client) fn failed(&mut self) {
        self.portals_unknown
            .extend(self.portals_unconfirmed.drain(..));
        while let Some(change) = self.unconfirmed.pop_back() {
            match change {
                Change::Parsed(name, before) => {
                    self.remove(&name);
                    if let Some(before) = before {
                        self.restore(name, before);
                    }
                }
                Change::Closed(name, Some(named)) => self.restore(name, named),
                Change::Unnamed(before) => self.unnamed = before,
                Change::Closed(_, None) | Change::InVain(_) => {}
            }
        }
    }

    /// A Close message for a name; an error before it takes it back.
    pub(in crate::client) fn close_message(&mut self, name: &[u8]) {
        if name.is_empty() {
            self.unnamed = None;
        } else {
            let closed = self.remove(name);
            self.unconfirmed
                .push_back(Change::Closed(name.into(), closed));
        }
    }

    /// `PREPARE name` in SQL.
    pub(in crate::client) fn prepared(&mut self, name: &str, effects: &Arc<[Effect]>) {
        if self.in_sql.len() < MAX_NAMES {
            self.in_sql
                .insert(name.as_bytes().into(), Arc::clone(effects));
        }
    }

    /// What `EXECUTE name` does, if that is known.
    pub(in crate::client) fn executed(&self, name: &str) -> Option<Arc<[Effect]>> {
        if let Some(effects) = self.in_sql.get(name.as_bytes()) {
            return Some(Arc::clone(effects));
        }
        let statement = self.named.get(name.as_bytes())?.prepared.statement();
        let effects = statement.effects.iter().map(|step| step.effect.clone());
        Some(effects.collect())
    }

    /// `DEALLOCATE name`. True when the name was known.
    pub(in crate::client) fn close(&mut self, name: &[u8]) -> bool {
        self.in_sql.remove(name);
        self.remove(name).is_some()
    }

    fn restore(&mut self, name: Box<[u8]>, named: Named) {
        self.bytes += named.prepared.body().len();
        self.named.insert(name, named);
    }

    fn remove(&mut self, name: &[u8]) -> Option<Named> {
        let removed = self.named.remove(name)?;
        self.bytes -= removed.prepared.body().len();
        Some(removed)
    }

    /// `DEALLOCATE ALL`, `DISCARD ALL`: what is parsed behind it in the same pipeline stays.
    pub(in crate::client) fn clear(&mut self) {
        let later: Vec<Box<[u8]>> = self
            .unconfirmed
            .iter()
            .filter_map(|change| match change {
                Change::Parsed(name, _) => Some(name.clone()),
                _ => None,
            })
            .collect();
        self.in_sql.clear();
        for change in &mut self.unconfirmed {
            if let Change::Parsed(_, before) | Change::Closed(_, before) = change {
                *before = None;
            }
        }
        self.named.retain(|name, _| later.contains(name));
        let bodies = self.named.values().map(|named| named.prepared.body().len());
        self.bytes = bodies.sum();
        if !self
            .unconfirmed
            .iter()
            .any(|change| matches!(change, Change::Unnamed(_)))
        {
            self.unnamed = None;
        }
    }

    /// The client's name of a statement, by its number.
    pub(in crate::client) fn name_of(&self, id: u64) -> Option<&[u8]> {
        let is = |named: &Named| named.prepared.id() == id;
        let mut all = self.named.iter().chain(self.before());
        let found = all.find(|(_, named)| is(named));
        found.map(|(name, _)| &**name)
    }

    /// Another number for a statement whose plans are outdated.
    pub(in crate::client) fn renew(&mut self, name: &[u8], prepared: Arc<Prepared>) {
        if let Some(known) = self.named.get_mut(name) {
            known.prepared = prepared;
        }
    }
}
