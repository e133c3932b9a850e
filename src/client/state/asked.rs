//! What a session cannot know by what it has sent: the question that is put to the server, and what its
//! answer makes of the session.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::State;
use crate::backend::prepared::Reading;
use crate::backend::settings::{ROLE, Settings};
use crate::core::duration::duration;
use crate::core::fanout::Channel;
use crate::core::mutant::{Rule, holds};
use crate::core::residue::Residue;
use crate::core::statement::{Opaque, PinReason};
use crate::sql::{Encoding, Skimmed};

/// Custom settings with longer names are not asked for, in bytes.
const LONGEST_NAME: usize = 256;

impl State {
    pub(super) fn doubt_of(&mut self, opaque: &Opaque) {
        // It may have drawn a number, and asking whether costs more than to prefer this connection.
        self.after.drew = true;
        self.doubt(&opaque.names, opaque.sets_unknown_names());
        self.doubt.get_or_insert_default().code |= !opaque.by_chance;
    }

    pub(super) fn doubt(&mut self, names: &[Box<str>], any_name: bool) {
        let foreign = self.lexical.encoding != Encoding::Utf8;
        // A question in another encoding can only be put in ASCII.
        let (names, others): (Vec<_>, Vec<_>) = names
            .iter()
            .partition(|name| name.len() <= LONGEST_NAME && (name.is_ascii() || !foreign));
        let doubt = self.doubt.get_or_insert_default();
        doubt.names.extend(names.into_iter().cloned());
        doubt.any_name |= any_name || !others.is_empty();
    }

    /// A long text has passed, and this was found in it.
    pub(in crate::client) fn skimmed(&mut self, found: &Skimmed) {
        let names: Vec<_> = found.names.iter().cloned().collect();
        self.doubt(&names, found.any_name);
        self.doubt.get_or_insert_default().code = true;
        self.after.ddl |= found.defines;
        self.defines |= found.defines;
        self.after.drew = true;
    }

    /// The question that is to be asked of the server; none when all is known.
    pub(in crate::client) fn question(&self) -> Option<String> {
        if self.is_settled() {
            return None;
        }
        let mut names: BTreeSet<&str> = self
            .settings
            .names()
            .filter(|name| name.contains('.'))
            .collect();
        names.extend(self.custom.iter());
        if let Some(doubt) = &self.doubt {
            names.extend(doubt.names.iter());
        }
        names.retain(|_| holds(Rule::CustomSettingsAreAsked));
        Some(Residue::question(names))
    }

    /// Nobody can be asked any more. True if nothing speaks for anything being left: whoever was told that a
    /// setting is made or a lock is held does not go on without.
    pub(in crate::client) fn forget_doubt(&mut self) -> bool {
        let doubt = self.doubt.take().unwrap_or_default();
        self.may_be_free = false;
        self.custom.clear();
        let unsure = self.channels.is_unsure();
        self.channels.lost();
        !unsure && self.pins.is_empty() && !doubt.code && !doubt.any_name
    }

    /// The server has refused to say what is left: the session keeps the connection until it does.
    pub(in crate::client) fn unanswered(&mut self) {
        self.doubt.get_or_insert_default();
        self.pins.insert(PinReason::Unanswered);
    }

    /// The server does not show the session what it has left: all of it stays where it is, unless nothing
    /// speaks for anything being left.
    pub(in crate::client) fn may_not_look(&mut self) {
        let doubt = self.doubt.take().unwrap_or_default();
        self.may_be_free = false;
        self.pins.remove(PinReason::Unanswered);
        if self.pins.is_empty() && !doubt.code && !doubt.any_name {
            return;
        }
        // The one that the session can end by itself, and one that is asked for whenever it may have ended.
        self.pins.insert(PinReason::Settings);
        self.pins.insert(PinReason::AdvisoryLock);
    }

    /// What the server has answered. The settings are those that it shows.
    pub(in crate::client) fn answered(&mut self, residue: &Residue) {
        let doubt = self.doubt.take().unwrap_or_default();
        self.may_be_free = false;
        self.borne_silence = residue.silence.as_deref().and_then(duration);
        let before = self.pins;
        self.pins = residue.pins_after(before);
        if !self.pins.contains(PinReason::SqlPrepare) {
            self.names.forget_sql();
        }
        // Whether it stays for what it listens to is still to be settled.
        self.pins.remove(PinReason::Listen);
        if before.contains(PinReason::Listen) {
            self.pins.insert(PinReason::Listen);
        }
        let (named, others): (Vec<_>, Vec<_>) = residue
            .channels
            .iter()
            .map(|name| Channel::from(&**name))
            .partition(|name| !residue.raw || name.is_ascii());
        self.channels.find(named, !others.is_empty());
        if doubt.any_name {
            self.pins.insert(PinReason::Settings);
        }
        let mut settings = Settings::default();
        for (name, value) in &residue.settings {
            match residue.raw {
                true => settings.set_value_of_database(name, value),
                false => settings.set_value(name, value),
            }
        }
        if let Some(role) = residue
            .role
            .as_ref()
            .filter(|role| residue.raw && !role.is_ascii())
        {
            settings.set_value_of_database(ROLE, role);
        } else if let Some(role) = &residue.role {
            let mut sql = b"SET ROLE \"".to_vec();
            for byte in role.iter() {
                sql.extend(std::iter::repeat_n(*byte, 1 + usize::from(*byte == b'"')));
            }
            sql.push(b'"');
            settings.set(ROLE, &sql);
        }
        self.settings = Arc::new(settings);
        self.settings_changed();
        self.restore_application_name();
    }

    /// Under what its texts are parsed: found out when settings change, not for each text.
    pub(in crate::client) fn reading(&mut self) -> Reading {
        if !holds(Rule::SettingsGiveMeaning) {
            return Reading::default();
        }
        let settled = self.transaction.changes().next().is_none() && !self.within.tells_more();
        let mut reading = match settled {
            true => self.reading.clone(),
            false => {
                let turn = self.transaction.turn();
                let known = self.within.reading(turn);
                known.unwrap_or_else(|| {
                    let now = self.in_force();
                    self.within.found(turn, &now, &self.reading)
                })
            }
        };
        if self.pins.contains(PinReason::TemporaryObject) {
            reading.meaning ^= self.own_meaning;
        }
        // By which settings it is parsed nobody has said.
        reading.private |= self.pins.contains(PinReason::Unanswered);
        reading
    }

    /// The settings outside of a transaction are others.
    pub(super) fn settings_changed(&mut self) {
        self.reading = Reading::under(&self.settings, &self.reading);
        self.within.changed();
    }
}
