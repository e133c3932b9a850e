//! What a session cannot know by what it has sent: the question that is put to the server, and what its
//! answer makes of the session.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::State;
use crate::backend::settings::{ROLE, Settings, duration};
use crate::core::mutant::{Rule, holds};
use crate::core::residue::Residue;
use crate::core::statement::{Opaque, PinReason};
use crate::sql::{Encoding, Skimmed};

/// Custom settings with longer names are not asked for, in bytes.
const LONGEST_NAME: usize = 256;

impl State {
    pub(super) fn doubt_of(&mut self, opaque: &Opaque) {
        self.doubt(&opaque.names, opaque.sets_unknown_names());
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
        self.after.ddl |= found.defines;
        // It may have, and asking whether costs more than to prefer this connection.
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

    /// Nobody can be asked any more. True if nothing speaks for anything being left: no pin, and no setting
    /// that what ran was known to make.
    pub(in crate::client) fn forget_doubt(&mut self) -> bool {
        let doubt = self.doubt.take().unwrap_or_default();
        self.may_be_free = false;
        self.custom.clear();
        let unsure = self.channels.is_unsure();
        self.channels.lost();
        !unsure && self.pins.is_empty() && doubt.names.is_empty() && !doubt.any_name
    }

    /// What the server has answered. The settings are those that it shows.
    pub(in crate::client) fn answered(&mut self, residue: &Residue) {
        let doubt = self.doubt.take().unwrap_or_default();
        self.may_be_free = false;
        self.borne_silence = residue.silence.as_deref().and_then(duration);
        let before = self.pins;
        self.pins = residue.pins_after(before);
        // Whether it stays for what it listens to is still to be settled.
        self.pins.remove(PinReason::Listen);
        if before.contains(PinReason::Listen) {
            self.pins.insert(PinReason::Listen);
        }
        let channels = residue.channels.iter().map(|name| Arc::from(&**name));
        self.channels.find(channels.collect());
        if doubt.any_name {
            self.pins.insert(PinReason::Settings);
        }
        let mut settings = Settings::default();
        for (name, value) in &residue.settings {
            settings.set_value(name, value);
        }
        if let Some(role) = &residue.role {
            let mut sql = b"SET ROLE \"".to_vec();
            for byte in role.iter() {
                sql.extend(std::iter::repeat_n(*byte, 1 + usize::from(*byte == b'"')));
            }
            sql.push(b'"');
            settings.set(ROLE, &sql);
        }
        self.meaning = settings.meaning();
        self.settings = Arc::new(settings);
        self.restore_application_name();
    }
}
