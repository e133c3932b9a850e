//! The prepared statements that a client knows by its own names.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use ahash::RandomState;

use super::noted::Noted;
use crate::backend::prepared::{Basis, Prepared, Shape};
use crate::core::exchange::Effects;
use crate::core::statement::{Effect, Statement, Step, WriteReason};

/// A session may not name more statements than this.
pub(in crate::client) const MAX_NAMES: usize = 100_000;

/// One session's names.
#[derive(Debug, Default)]
pub(in crate::client) struct Names {
    /// Portals whose statements have effects; few have.
    portals: HashMap<Box<[u8]>, Arc<[Step]>, RandomState>,
    /// Portals that were bound in messages that are not confirmed yet.
    portals_unconfirmed: Noted<[u8]>,
    /// Portals that may be others than is known here, since their Bind may have been skipped.
    portals_unknown: Noted<[u8]>,
    /// Parse messages with a name so far.
    turns: u64,
    /// The texts of the named statements, and the settings under which they were parsed, in bytes.
    texts: usize,
    /// The settings of the one that was named last: others are counted for those that bring them.
    basis: Option<Arc<Basis>>,
    /// Names and what stands beside them, in bytes.
    beside: usize,
    named: HashMap<Box<[u8]>, Named, RandomState>,
    /// What executing an SQL-prepared statement does, by name.
    in_sql: HashMap<Box<[u8]>, Arc<[Effect]>, RandomState>,
    /// The unnamed statement.
    unnamed: Option<Arc<Prepared>>,
    /// What the client has asked for and is not confirmed yet, in order.
    unconfirmed: VecDeque<Undo>,
}

/// What a name means.
#[derive(Debug)]
struct Named {
    prepared: Arc<Prepared>,
    /// The rows that the client was told to expect, if it has asked.
    shape: Option<Shape>,
    /// The how manyth Parse it was.
    turn: u64,
    /// What its text takes, and its settings if it brought them.
    bytes: usize,
}

/// What an error takes back.
#[derive(Debug)]
enum Undo {
    /// A Parse or Close of the unnamed statement, and what that was.
    Unnamed(Option<Arc<Prepared>>),
    /// A Parse of this name, which was taken.
    InVain(Box<[u8]>),
    /// A Parse under this name, and what it meant before, if a statement in front of it drops that.
    Parsed(Box<[u8]>, Option<Named>),
    /// A Close of this name, and what it meant.
    Closed(Box<[u8]>, Option<Named>),
}

/// What remembering an effect takes, in bytes.
fn bytes_of(effect: &Effect) -> usize {
    size_of::<Effect>()
        + match effect {
            Effect::Set { name, sql, .. } => name.len() + sql.as_ref().map_or(0, |sql| sql.len()),
            Effect::Opaque(opaque) => opaque.names.iter().map(|name| name.len()).sum(),
            _ => 0,
        }
}

/// What a portal takes, in bytes.
pub(in crate::client) fn portal_bytes(name: &[u8], effects: &[Step]) -> usize {
    let each = effects.iter().map(|step| bytes_of(&step.effect));
    Names::BESIDE + name.len() + each.sum::<usize>()
}

/// What a statement that was prepared as SQL takes, in bytes.
fn sql_bytes(name: &[u8], effects: &[Effect]) -> usize {
    Names::BESIDE + name.len() + effects.iter().map(bytes_of).sum::<usize>()
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
            Some(Undo::InVain(name)) => Some(name),
            _ => None,
        }
    }

    /// What a name takes beside itself, in bytes.
    pub(in crate::client) const BESIDE: usize = 128;

    /// Whether there may not be one more.
    pub(in crate::client) fn are_too_many(&self) -> bool {
        self.named.len() >= MAX_NAMES
    }

    /// What all of them take with the statements' texts, in bytes.
    pub(in crate::client) fn bytes(&self) -> usize {
        self.texts + self.own_bytes()
    }

    /// The same without the texts, which sessions share.
    pub(in crate::client) fn own_bytes(&self) -> usize {
        self.beside + self.portals_unconfirmed.bytes() + self.portals_unknown.bytes()
    }

    /// A portal is bound to a statement with these effects.
    pub(in crate::client) fn bound(&mut self, portal: &[u8], effects: Arc<[Step]>) {
        self.portals_unknown.remove(portal);
        if effects.is_empty() {
            if !self.portals.is_empty()
                && let Some(before) = self.portals.remove(portal)
            {
                self.beside -= portal_bytes(portal, &before);
                self.is_unconfirmed(portal);
            }
        } else {
            self.beside += portal_bytes(portal, &effects);
            if let Some(before) = self.portals.insert(portal.into(), effects) {
                self.beside -= portal_bytes(portal, &before);
            }
            self.is_unconfirmed(portal);
        }
    }

    fn is_unconfirmed(&mut self, portal: &[u8]) {
        if !self.portals_unconfirmed.contains(portal) {
            self.portals_unconfirmed.insert(portal.into());
        }
    }

    /// What executing a portal does to the session.
    pub(in crate::client) fn portal(&self, portal: &[u8]) -> Effects {
        if self.portals_unknown.contains(portal) {
            return Some(Arc::clone(&Statement::unseen(WriteReason::Command).effects));
        }
        if self.portals.is_empty() {
            return None;
        }
        self.portals.get(portal).cloned()
    }

    /// What was bound so far was accepted, or has failed.
    pub(in crate::client) fn ready(&mut self) {
        self.portals_unconfirmed.clear();
    }

    /// Portals end with the transaction.
    pub(in crate::client) fn transaction_ended(&mut self) {
        if !self.portals.is_empty() {
            let each = self.portals.iter().map(|(name, of)| portal_bytes(name, of));
            self.beside -= each.sum::<usize>();
            self.portals.clear();
        }
        self.portals_unknown.clear();
    }

    /// Whether the session has named nothing.
    pub(in crate::client) fn is_empty(&self) -> bool {
        self.named.is_empty()
    }

    /// All names that the server has confirmed, each with its statement, in the order in which the client
    /// has prepared them.
    pub(in crate::client) fn all(&self) -> Vec<(&[u8], &Arc<Prepared>)> {
        let (mut all, mut changing) = (Vec::new(), HashSet::new());
        // What the batch at hand parses anew or closes stands until the server comes to it.
        for change in &self.unconfirmed {
            if let Undo::Parsed(name, before) | Undo::Closed(name, before) = change
                && changing.insert(name)
                && let Some(before) = before
            {
                all.push((name, before));
            }
        }
        let others = self.named.iter();
        all.extend(others.filter(|(name, _)| !changing.contains(name)));
        all.sort_unstable_by_key(|(_, named)| named.turn);
        all.into_iter()
            .map(|(name, named)| (&**name, &named.prepared))
            .collect()
    }

    /// What was closed, or parsed anew, by messages that the server has not come to yet.
    fn before(&self) -> impl Iterator<Item = (&Box<[u8]>, &Named)> {
        self.unconfirmed.iter().filter_map(|change| match change {
            Undo::Closed(name, Some(before)) | Undo::Parsed(name, Some(before)) => {
                Some((name, before))
            }
            _ => None,
        })
    }

    /// The client parses a statement; if the server refuses, the name is taken back.
    pub(in crate::client) fn parse(&mut self, name: &[u8], prepared: Arc<Prepared>) {
        if name.is_empty() {
            let before = self.unnamed.replace(prepared);
            self.unconfirmed.push_back(Undo::Unnamed(before));
        } else {
            self.turns += 1;
            let named = Named {
                prepared,
                shape: None,
                turn: self.turns,
                bytes: 0,
            };
            let before = self.remove(name);
            self.insert(name.into(), named);
            self.unconfirmed
                .push_back(Undo::Parsed(name.into(), before));
        }
    }

    /// A Parse that will certainly fail, because its name is taken.
    pub(in crate::client) fn parse_in_vain(&mut self, name: &[u8]) {
        self.unconfirmed.push_back(Undo::InVain(name.into()));
    }

    /// The oldest unconfirmed Parse, or Close of a name, succeeded.
    pub(in crate::client) fn confirmed(&mut self) {
        self.unconfirmed.pop_front();
    }

    /// Everything parsed so far was accepted.
    pub(in crate::client) fn confirm_all(&mut self) {
        self.unconfirmed.clear();
    }

    /// An error that answers a Parse: of the unnamed statement, it has dropped the one before.
    pub(in crate::client) fn refused_to_parse(&mut self) {
        if let Some(Undo::Unnamed(before)) = self.unconfirmed.front_mut() {
            *before = None;
        }
    }

    /// A simple query drops the unnamed statement, whatever becomes of it.
    pub(in crate::client) fn drop_unnamed(&mut self) {
        self.unnamed = None;
    }

    /// An error: what was not confirmed never happened.
    pub(in crate::client) fn failed(&mut self) {
        self.portals_unknown
            .extend(std::mem::take(&mut self.portals_unconfirmed));
        while let Some(change) = self.unconfirmed.pop_back() {
            match change {
                Undo::Parsed(name, before) => {
                    self.remove(&name);
                    if let Some(before) = before {
                        self.insert(name, before);
                    }
                }
                Undo::Closed(name, Some(named)) => self.insert(name, named),
                Undo::Unnamed(before) => self.unnamed = before,
                Undo::Closed(_, None) | Undo::InVain(_) => {}
            }
        }
    }

    /// A Close message for a name; an error before it takes it back.
    pub(in crate::client) fn close_message(&mut self, name: &[u8]) {
        if name.is_empty() {
            let closed = self.unnamed.take();
            self.unconfirmed.push_back(Undo::Unnamed(closed));
        } else {
            let closed = self.remove(name);
            self.unconfirmed
                .push_back(Undo::Closed(name.into(), closed));
        }
    }

    /// `PREPARE name` in SQL.
    pub(in crate::client) fn prepared(&mut self, name: &str, effects: &Arc<[Effect]>) {
        self.forget_executed(name.as_bytes());
        if self.in_sql.len() < MAX_NAMES {
            self.beside += sql_bytes(name.as_bytes(), effects);
            self.in_sql
                .insert(name.as_bytes().into(), Arc::clone(effects));
        }
    }

    /// Whether a statement has this name by `PREPARE` in SQL.
    pub(in crate::client) fn is_in_sql(&self, name: &[u8]) -> bool {
        !self.in_sql.is_empty() && self.in_sql.contains_key(name)
    }

    /// The server connection has none any more that were prepared in SQL.
    pub(in crate::client) fn forget_sql(&mut self) {
        let each = self.in_sql.iter().map(|(name, of)| sql_bytes(name, of));
        self.beside -= each.sum::<usize>();
        self.in_sql.clear();
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
        self.forget_executed(name);
        self.remove(name).is_some()
    }

    fn forget_executed(&mut self, name: &[u8]) {
        if let Some(effects) = self.in_sql.remove(name) {
            self.beside -= sql_bytes(name, &effects);
        }
    }

    fn remove(&mut self, name: &[u8]) -> Option<Named> {
        let removed = self.named.remove(name)?;
        self.texts -= removed.bytes;
        self.beside -= Self::BESIDE + name.len();
        Some(removed)
    }

    /// What settings take that a statement is parsed under, unless the one before it has brought them.
    pub(in crate::client) fn basis_bytes(&self, basis: Option<&Arc<Basis>>) -> usize {
        let known = |basis: &&Arc<Basis>| {
            self.basis
                .as_ref()
                .is_some_and(|known| Arc::ptr_eq(known, basis))
        };
        basis
            .filter(|basis| !known(basis))
            .map_or(0, |basis| basis.bytes())
    }

    fn insert(&mut self, name: Box<[u8]>, mut named: Named) {
        self.remove(&name);
        let basis = named.prepared.basis();
        named.bytes = named.prepared.body().len() + self.basis_bytes(basis);
        self.basis = basis.cloned();
        self.texts += named.bytes;
        self.beside += Self::BESIDE + name.len();
        self.named.insert(name, named);
    }

    /// `DEALLOCATE ALL`, `DISCARD ALL`: what is parsed behind it in the same pipeline stays, and what has no
    /// name.
    pub(in crate::client) fn clear(&mut self) {
        let later: HashSet<Box<[u8]>, RandomState> = self
            .unconfirmed
            .iter()
            .filter_map(|change| match change {
                Undo::Parsed(name, _) => Some(name.clone()),
                _ => None,
            })
            .collect();
        self.in_sql.clear();
        for change in &mut self.unconfirmed {
            if let Undo::Parsed(_, before) | Undo::Closed(_, before) = change {
                *before = None;
            }
        }
        self.named.retain(|name, _| later.contains(name));
        self.texts = self.named.values().map(|named| named.bytes).sum();
        let names = self.named.keys().map(|name| Self::BESIDE + name.len());
        let portals = self.portals.iter().map(|(name, of)| portal_bytes(name, of));
        self.beside = names.chain(portals).sum();
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
