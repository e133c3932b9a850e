//! What a text in another encoding than UTF-8 leaves behind: its own words cannot be repeated, since they
//! were translated to be read, so that the server is asked instead.

use std::sync::Arc;

use crate::core::statement::{Access, Effect, Opaque, Statement, WriteReason};

use super::settings::custom;

/// The statement as it is to be acted upon; unchanged unless its text is `foreign`.
pub(super) fn settled(mut statement: Statement, foreign: bool) -> Statement {
    let is_plain = |effect: &Effect| match effect {
        Effect::Set { name, sql, .. } => {
            name.is_ascii() && sql.as_ref().is_none_or(|sql| sql.is_ascii())
        }
        Effect::Opaque(opaque) => opaque.names.iter().all(|name| name.is_ascii()),
        _ => true,
    };
    if !foreign || statement.effects.iter().all(|step| is_plain(&step.effect)) {
        return statement;
    }
    let mut effects = statement.effects.to_vec();
    for step in effects.iter_mut().filter(|step| !is_plain(&step.effect)) {
        step.effect = match &step.effect {
            Effect::Set { name, .. } => unrepeatable(custom(name)),
            Effect::Opaque(opaque) => unrepeatable(opaque.names.iter().cloned()),
            _ => continue,
        };
        statement.access = Access::Write;
        statement
            .write_reason
            .get_or_insert(WriteReason::SessionState);
    }
    statement.effects = effects.into();
    statement
}

/// A question about custom settings; it cannot be put for names beyond ASCII.
fn unrepeatable(names: impl IntoIterator<Item = Box<str>>) -> Effect {
    let (names, others): (Vec<_>, Vec<_>) = names.into_iter().partition(|name| name.is_ascii());
    Effect::Opaque(Arc::new(Opaque {
        by_chance: false,
        names: names.into(),
        any_name: !others.is_empty(),
        parameters: Box::default(),
    }))
}
