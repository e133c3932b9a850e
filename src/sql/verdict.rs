//! A classification while it is being made: it starts mild and only ever becomes stricter.

use std::sync::Arc;

use crate::core::mutant::{Rule, holds};
use crate::core::statement::{Access, Effect, Opaque, Statement, Step, WriteReason};

use super::conduct::{Conduct, merged};

/// What is known so far about the statements of one text.
#[derive(Debug)]
pub(super) struct Verdict {
    access: Access,
    write_reason: Option<WriteReason>,
    effects: Vec<Step>,
    /// Which of the text's statements is being looked at.
    pub(super) statement: u32,
    /// See [`Statement::may_commit_async`].
    pub(super) may_commit_async: bool,
    /// Other literals in the same shape would give another classification, or the shape is one
    /// that hardly comes back.
    pub(super) literal: bool,
    /// A setting is asked for by a literal name.
    pub(super) names_setting: bool,
    /// What is asked for may be a setting in which nodes differ.
    pub(super) asks_role: bool,
    /// Rows of a relation are read.
    pub(super) reads_rows: bool,
    /// It runs SQL that its text may bring along.
    pub(super) makes_up: bool,
}

impl Verdict {
    /// Of an empty text.
    pub(super) fn new() -> Self {
        Self {
            access: Access::Neutral,
            write_reason: None,
            effects: Vec::new(),
            statement: 0,
            may_commit_async: false,
            literal: false,
            names_setting: false,
            asks_role: false,
            reads_rows: false,
            makes_up: false,
        }
    }

    /// A read, unless it already is more.
    pub(super) fn read(&mut self) {
        self.access = self.access.max(Access::Read);
    }

    /// A write. The first reason is kept, but for that of a transaction, which may be declared READ ONLY.
    pub(super) fn write(&mut self, reason: WriteReason) {
        self.access = Access::Write;
        if matches!(self.write_reason, None | Some(WriteReason::Transaction)) {
            self.write_reason = Some(reason);
        }
    }

    /// Whether it has come out as a write already.
    pub(super) fn is_write(&self) -> bool {
        self.access == Access::Write
    }

    /// Adds an effect. What is said of a statement twice is said once.
    pub(super) fn effect(&mut self, effect: Effect) {
        self.literal |= matches!(
            effect,
            Effect::Savepoint(_)
                | Effect::Release(_)
                | Effect::RollbackTo(_)
                | Effect::Set { .. }
                | Effect::Deallocate(Some(_))
                | Effect::Prepare { .. }
                | Effect::Execute(_)
                | Effect::Renew(_)
                | Effect::Ddl
                | Effect::SetOwn { .. }
                | Effect::ShowOwn(_)
        );
        let step = Step {
            statement: self.statement,
            effect,
        };
        if !self.effects.contains(&step) {
            self.effects.push(step);
        }
    }

    /// Runs what the text does not tell, on the primary: what is left of it is asked for there.
    pub(super) fn opaque(&mut self, opaque: &Arc<Opaque>) {
        self.write(WriteReason::SessionState);
        let number = self.statement;
        let known = self
            .effects
            .iter_mut()
            .find_map(|step| match &mut step.effect {
                Effect::Opaque(known) if step.statement == number => Some(known),
                _ => None,
            });
        match known {
            None => self.effect(Effect::Opaque(Arc::clone(opaque))),
            Some(known) if known != opaque => *known = Arc::new(merged(known, opaque)),
            Some(_) => {}
        }
    }

    /// Runs code of which the catalogue tells this much.
    pub(super) fn conduct(&mut self, conduct: &Conduct) {
        if conduct.of_node && holds(Rule::NodeStateIsThePrimarys) {
            self.write(WriteReason::SessionState);
            self.effect(Effect::PrimaryOnly);
        }
        self.makes_up |= conduct.makes_up;
        if let Some(opaque) = &conduct.opaque {
            self.opaque(opaque);
        }
        if conduct.names {
            self.effect(Effect::NamesStatements);
        }
        for (does, effect) in [
            (conduct.draws, Effect::DrawsNumber),
            (conduct.asks, Effect::AsksNumber),
            (conduct.asks_channels, Effect::AsksChannels),
            (conduct.notifies, Effect::Notify),
            (conduct.defines, Effect::Ddl),
        ] {
            if does {
                self.write(WriteReason::SessionState);
                self.effect(effect);
            }
        }
    }

    /// The effects alone, of a single statement.
    pub(super) fn into_effects(self) -> Arc<[Effect]> {
        self.effects.into_iter().map(|step| step.effect).collect()
    }

    /// The finished classification of `count` statements.
    pub(super) fn finish(self, count: usize) -> Statement {
        Statement {
            access: self.access,
            write_reason: self.write_reason,
            effects: self.effects.into(),
            count,
            may_commit_async: self.may_commit_async,
            hint: None,
        }
    }
}
