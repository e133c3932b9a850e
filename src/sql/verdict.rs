//! A classification while it is being made: it starts mild and only ever becomes stricter.

use std::sync::Arc;

use crate::core::mutant::{Rule, holds};
use crate::core::plans::Constants;
use crate::core::statement::{Access, Effect, Opaque, PinReason, Statement, Step, WriteReason};

use super::conduct::{Conduct, any_name, merge};
use super::work;

/// So many names the statements of one text may have put together from what they call; with more, each may
/// set any. A short text could call much.
const MOST_MERGED: usize = 4096;

/// What is known so far about the statements of one text.
#[derive(Debug)]
pub(super) struct Verdict {
    access: Access,
    write_reason: Option<WriteReason>,
    effects: Vec<Step>,
    /// Names that were put together, statement by statement.
    merged: usize,
    /// Which of the text's statements is being looked at.
    pub(super) statement: u32,
    /// See [`Statement::may_commit_async`].
    pub(super) may_commit_async: bool,
    /// See [`Statement::may_flush_nothing`].
    pub(super) may_flush_nothing: bool,
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
    /// See [`Statement::may_run_code`].
    pub(super) may_run_code: bool,
    /// See [`Statement::settled`].
    settled: Constants,
}

impl Verdict {
    /// Of an empty text.
    pub(super) fn new() -> Self {
        Self {
            access: Access::Neutral,
            write_reason: None,
            effects: Vec::new(),
            merged: 0,
            statement: 0,
            may_commit_async: false,
            may_flush_nothing: false,
            literal: false,
            names_setting: false,
            asks_role: false,
            reads_rows: false,
            makes_up: false,
            may_run_code: false,
            settled: Constants::default(),
        }
    }

    /// Code may run of which no more is known than what this comes to.
    pub(super) fn runs_code(&mut self, settled: Constants) {
        self.may_run_code = true;
        self.settled = self.settled.max(settled);
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
        if !self.of_this_statement().any(|known| *known == step) {
            self.effects.push(step);
        }
    }

    /// What has been said of the statement that is being looked at: few things, at the end.
    fn of_this_statement(&mut self) -> impl Iterator<Item = &mut Step> {
        let number = self.statement;
        let all = self.effects.iter_mut().rev();
        all.take_while(move |step| {
            work::took(1);
            step.statement == number
        })
    }

    /// Runs what the text does not tell, on the primary: what is left of it is asked for there.
    pub(super) fn opaque(&mut self, opaque: &Arc<Opaque>) {
        self.write(WriteReason::SessionState);
        self.may_run_code = true;
        let merged = self.merged;
        let known = self
            .of_this_statement()
            .find_map(|step| match &mut step.effect {
                Effect::Opaque(known) => Some(known),
                _ => None,
            });
        match known {
            None => self.effect(Effect::Opaque(Arc::clone(opaque))),
            Some(known) if merged > MOST_MERGED => *known = Arc::new(any_name()),
            Some(known) => {
                let news = merge(known, opaque);
                let names = known.names.len();
                self.merged += usize::from(news) * names;
            }
        }
    }

    /// Runs code of which the catalogue tells this much.
    pub(super) fn conduct(&mut self, conduct: &Conduct) {
        if conduct.of_node && holds(Rule::NodeStateIsThePrimarys) {
            self.write(WriteReason::SessionState);
            self.effect(Effect::PrimaryOnly);
        }
        self.makes_up |= conduct.makes_up;
        self.may_run_code |= conduct.code;
        self.settled = self.settled.max(conduct.settled);
        self.may_commit_async |= conduct.sets_unnamed;
        if let Some(opaque) = &conduct.opaque {
            self.opaque(opaque);
        }
        for (does, reason) in [
            (conduct.stays, PinReason::Library),
            (conduct.seeds, PinReason::Seed),
        ] {
            if does {
                self.write(WriteReason::SessionState);
                self.effect(Effect::Pin(reason));
            }
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
            (
                conduct.sets_within && conduct.opaque.is_none(),
                Effect::SetsWithin,
            ),
        ] {
            if does {
                self.write(WriteReason::SessionState);
                self.effect(effect);
            }
        }
    }

    /// What it prepares may run.
    pub(super) fn settled(&self) -> Constants {
        self.settled
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
            may_run_code: self.may_run_code,
            may_flush_nothing: self.may_flush_nothing,
            settled: self.settled,
            hint: None,
        }
    }
}
