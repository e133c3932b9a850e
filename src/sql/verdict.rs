//! A classification while it is being made: it starts mild and only ever becomes stricter.

use crate::core::statement::{Access, Effect, Statement, Step, WriteReason};

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
        }
    }

    /// A read, unless it already is more.
    pub(super) fn read(&mut self) {
        self.access = self.access.max(Access::Read);
    }

    /// A write. The first reason is kept.
    pub(super) fn write(&mut self, reason: WriteReason) {
        self.access = Access::Write;
        self.write_reason.get_or_insert(reason);
    }

    /// Whether it has come out as a write already.
    pub(super) fn is_write(&self) -> bool {
        self.access == Access::Write
    }

    /// Adds an effect; the same pin twice is one pin.
    pub(super) fn effect(&mut self, effect: Effect) {
        self.literal |= !matches!(
            effect,
            Effect::Begin { .. }
                | Effect::End { .. }
                | Effect::Rollback { .. }
                | Effect::Pin(_)
                | Effect::ResetAll
                | Effect::DiscardAll
                | Effect::DiscardTemp
                | Effect::DiscardSequences
                | Effect::DiscardPlans
                | Effect::Deallocate(None)
        );
        let step = Step {
            statement: self.statement,
            effect,
        };
        if !(matches!(step.effect, Effect::Pin(_)) && self.effects.contains(&step)) {
            self.effects.push(step);
        }
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
