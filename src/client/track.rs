//! What a session has set, and what its open transaction will have set once it commits.

use std::sync::Arc;

use crate::backend::settings::Settings;
use crate::core::exchange::TransactionStatus;
use crate::core::session::Level;
use crate::core::statement::{Effect, PinReason};

/// A session's settings and consistency level.
#[derive(Debug)]
pub(super) struct Track {
    /// Settings to be found on every server connection that the session uses.
    pub(super) settings: Arc<Settings>,
    /// Settings as they were at login, which `RESET ALL` goes back to.
    initial: Arc<Settings>,
    /// What the client was told of those at login: ParameterStatus by name.
    pub(super) greeted: Vec<(String, String)>,
    /// Level chosen by `SET causeway.consistency`.
    chosen: Option<Level>,
    /// Level by configuration or startup option.
    default: Level,
    /// Level chosen by `SET LOCAL`, until the transaction ends.
    local: Option<Level>,
    /// Effects of the open transaction, not yet committed.
    pending: Vec<Effect>,
    /// Savepoints, each with how many effects were pending at it.
    savepoints: Vec<(Box<str>, usize)>,
    /// Why the session keeps its server connection beyond transactions.
    pub(super) pinned: Option<PinReason>,
}

/// What applying effects asks of the session beyond its settings.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Consequences {
    /// The settings changed on the server connection too.
    pub(super) settings_changed: bool,
    /// What the server connection has applied is no longer known.
    pub(super) settings_unknown: bool,
    /// Settings that went back to the startup packet's, unlike what the server has just reported.
    pub(super) restored: Vec<(String, String)>,
    /// `DISCARD ALL`: prepared statements are gone as well, here and on the connection.
    pub(super) discarded: bool,
    /// Statements deallocated by name; none means all of them.
    pub(super) deallocated: Vec<Option<Box<str>>>,
    /// Definitions changed: functions may have too.
    pub(super) ddl: bool,
}

impl Track {
    /// A session at login.
    pub(super) fn new(default: Level, settings: Settings) -> Self {
        let settings = Arc::new(settings);
        Self {
            initial: Arc::clone(&settings),
            settings,
            greeted: Vec::new(),
            chosen: None,
            default,
            local: None,
            pending: Vec::new(),
            savepoints: Vec::new(),
            pinned: None,
        }
    }

    /// The level in force.
    pub(super) fn level(&self) -> Level {
        self.local.or(self.chosen).unwrap_or(self.default)
    }

    /// `SET [LOCAL] causeway.consistency`, or a reset of it.
    pub(super) fn set_level(&mut self, level: Option<Level>, local: bool) {
        if local {
            self.local = level;
        } else {
            self.chosen = level;
            self.local = None;
        }
    }

    /// Whether `standard_conforming_strings` may be off in this session.
    pub(super) fn standard_strings(&self) -> bool {
        const NAME: &str = "standard_conforming_strings";
        let pending = self
            .pending
            .iter()
            .any(|e| matches!(e, Effect::Set { name, .. } if &**name == NAME));
        !pending && !self.settings.contains(NAME)
    }

    /// Whether `synchronous_commit` may differ from the server's default in this session.
    pub(super) fn may_commit_async(&self) -> bool {
        self.settings.contains("synchronous_commit")
            || self
                .pending
                .iter()
                .any(|e| matches!(e, Effect::Set { name, .. } if &**name == "synchronous_commit"))
    }

    /// A batch has ended: `failed` when it brought an error, `rolled_back` when a transaction ended
    /// without its effects.
    pub(super) fn batch_ended(
        &mut self,
        effects: &[Effect],
        failed: bool,
        rolled_back: bool,
        status: TransactionStatus,
    ) -> Consequences {
        let mut consequences = Consequences::default();
        if effects.is_empty() && self.pending.is_empty() && self.local.is_none() {
            return consequences;
        }
        if failed {
            // An error undoes an implicit transaction, but not what a COMMIT in it had ended.
            consequences.settings_unknown = effects.iter().any(changes_settings);
        } else {
            effects
                .iter()
                .for_each(|effect| self.note(effect, &mut consequences));
        }
        if status == TransactionStatus::Idle {
            let pending = std::mem::take(&mut self.pending);
            self.savepoints.clear();
            self.local = None;
            if !rolled_back {
                pending
                    .iter()
                    .for_each(|effect| self.apply(effect, &mut consequences));
            }
        }
        consequences
    }

    fn note(&mut self, effect: &Effect, consequences: &mut Consequences) {
        match effect {
            Effect::Savepoint(name) => self.savepoints.push((name.clone(), self.pending.len())),
            Effect::RollbackTo(name) => {
                let found = self.savepoints.iter().rposition(|(known, _)| known == name);
                if let Some(index) = found {
                    self.pending.truncate(self.savepoints[index].1);
                    self.savepoints.truncate(index + 1);
                }
            }
            // These take effect whatever becomes of the transaction.
            Effect::Pin(reason) => self.pinned = Some(*reason),
            Effect::Deallocate(name) => consequences.deallocated.push(name.clone()),
            Effect::Ddl => consequences.ddl = true,
            Effect::SetOwn { name, value, local } if &**name == "consistency" => {
                self.set_level(
                    value.as_deref().and_then(|value| value.parse().ok()),
                    *local,
                );
            }
            Effect::Set { .. } | Effect::ResetAll | Effect::DiscardAll => {
                self.pending.push(effect.clone());
            }
            _ => {}
        }
    }

    fn apply(&mut self, effect: &Effect, consequences: &mut Consequences) {
        match effect {
            Effect::Set {
                name,
                sql: Some(sql),
                ..
            } => Arc::make_mut(&mut self.settings).set(name, sql),
            Effect::Set {
                name, sql: None, ..
            } => {
                // RESET goes back to the server's default; what the client asked for at login is
                // its own default and comes back with the next synchronisation.
                let settings = Arc::make_mut(&mut self.settings);
                settings.reset(name);
                if settings.restore(name, &self.initial) {
                    consequences.settings_unknown = true;
                    let same = |(known, _): &&(String, String)| known.eq_ignore_ascii_case(name);
                    consequences
                        .restored
                        .extend(self.greeted.iter().filter(same).cloned());
                }
            }
            Effect::ResetAll => {
                self.settings = Arc::clone(&self.initial);
                consequences.settings_unknown = true;
                consequences.restored.clone_from(&self.greeted);
            }
            Effect::DiscardAll => {
                self.settings = Arc::clone(&self.initial);
                consequences.restored.clone_from(&self.greeted);
                self.chosen = None;
                self.pinned = None;
                consequences.settings_unknown = true;
                consequences.discarded = true;
            }
            _ => return,
        }
        consequences.settings_changed = true;
    }
}

fn changes_settings(effect: &Effect) -> bool {
    matches!(
        effect,
        Effect::Set { .. } | Effect::ResetAll | Effect::DiscardAll
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use TransactionStatus::{Idle, InTransaction};

    fn set(name: &str, sql: &str) -> Effect {
        Effect::Set {
            name: name.into(),
            sql: Some(sql.into()),
            local: false,
        }
    }

    fn track() -> Track {
        let mut initial = Settings::default();
        initial.set_value("application_name", "app");
        Track::new(Level::Session, initial)
    }

    #[test]
    fn a_setting_lasts_only_if_its_transaction_commits() {
        let mut track = track();
        let effects = [
            Effect::Begin {
                read_only: None,
                isolation: None,
            },
            set("work_mem", "SET work_mem = 1"),
        ];
        track.batch_ended(&effects, false, false, InTransaction);
        assert!(!track.settings.contains("work_mem"));
        track.batch_ended(&[Effect::End { chain: false }], false, true, Idle);
        assert!(!track.settings.contains("work_mem"), "rolled back");
        track.batch_ended(&effects, false, false, InTransaction);
        let after = track.batch_ended(&[Effect::End { chain: false }], false, false, Idle);
        assert!(track.settings.contains("work_mem") && after.settings_changed);
    }

    #[test]
    fn rolling_back_to_a_savepoint_takes_later_settings_back() {
        let mut track = track();
        track.batch_ended(
            &[set("a", "SET a = 1"), Effect::Savepoint("s".into())],
            false,
            false,
            InTransaction,
        );
        track.batch_ended(&[set("b", "SET b = 1")], false, false, InTransaction);
        track.batch_ended(
            &[Effect::RollbackTo("s".into())],
            false,
            false,
            InTransaction,
        );
        track.batch_ended(&[Effect::End { chain: false }], false, false, Idle);
        assert!(track.settings.contains("a") && !track.settings.contains("b"));
    }

    #[test]
    fn an_error_after_a_set_leaves_the_connection_in_doubt() {
        let mut track = track();
        let after = track.batch_ended(&[set("a", "SET a = 1")], true, false, Idle);
        assert!(after.settings_unknown && !track.settings.contains("a"));
    }

    #[test]
    fn reset_goes_back_to_what_the_client_asked_for_at_login() {
        let mut track = track();
        track.batch_ended(
            &[set("application_name", "SET application_name = 'x'")],
            false,
            false,
            Idle,
        );
        let reset = Effect::Set {
            name: "application_name".into(),
            sql: None,
            local: false,
        };
        let after = track.batch_ended(&[reset], false, false, Idle);
        assert!(track.settings.contains("application_name") && after.settings_unknown);
        let after = track.batch_ended(&[Effect::DiscardAll], false, false, Idle);
        assert!(after.discarded && track.settings.contains("application_name"));
    }

    #[test]
    fn a_local_level_ends_with_its_transaction() {
        let mut track = track();
        track.set_level(Some(Level::Primary), true);
        assert_eq!(track.level(), Level::Primary);
        track.batch_ended(&[Effect::End { chain: false }], false, false, Idle);
        assert_eq!(track.level(), Level::Session);
    }
}
