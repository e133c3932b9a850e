//! Under what texts are parsed within an open transaction, also where code has made settings of which no
//! text tells: the server reports those that matter most.

use std::sync::Arc;

use crate::backend::prepared::Reading;
use crate::backend::settings::{Settings, reads_literals};

/// Of the open transaction.
#[derive(Debug, Default)]
pub(super) struct Within {
    /// As of so many changes in it.
    reading: Option<(u64, Reading)>,
    /// What has run in it may have made any setting.
    unsure: bool,
    /// What the server has reported of the settings that constants are read by.
    told: Settings,
    /// Another number whenever that has changed.
    turn: u64,
}

impl Within {
    /// Something has run that may have made any setting.
    pub(super) fn sets(&mut self) {
        self.unsure = true;
        self.turn += 1;
    }

    /// ParameterStatus.
    pub(super) fn reported(&mut self, name: &str, value: &str) {
        let name = name.to_ascii_lowercase();
        if reads_literals(&name) {
            self.told.set_value(&name, value.as_bytes());
            self.turn += 1;
        }
    }

    /// The transaction has ended.
    pub(super) fn ended(&mut self) {
        if self.unsure || !self.told.is_empty() {
            *self = Self {
                turn: self.turn + 1,
                ..Self::default()
            };
        }
    }

    /// The settings outside of it are others.
    pub(super) fn changed(&mut self) {
        self.reading = None;
    }

    /// Whether settings are in force, or may be, of which texts do not tell.
    pub(super) fn tells_more(&self) -> bool {
        self.unsure || !self.told.is_empty()
    }

    /// These are in force by what texts tell: what code has made counts, as far as the server reports it.
    pub(super) fn correct(&self, settings: &mut Arc<Settings>) {
        if !self.told.is_empty() {
            Arc::make_mut(settings).take_from(&self.told);
        }
    }

    /// Under what texts are parsed since the transaction's last change, if that was found out.
    pub(super) fn reading(&self, turn: u64) -> Option<Reading> {
        let (known, reading) = self.reading.as_ref()?;
        (*known == turn + self.turn).then(|| reading.clone())
    }

    /// These are in force since the transaction's last change; `outside` of it texts are parsed like this.
    pub(super) fn found(&mut self, turn: u64, now: &Settings, outside: &Reading) -> Reading {
        let before = self.reading.as_ref();
        let before = before.map_or(outside, |(_, reading)| reading);
        let reading = Reading {
            private: self.unsure,
            ..Reading::under(now, before)
        };
        self.reading = Some((turn + self.turn, reading.clone()));
        reading
    }

    /// What it takes, in bytes.
    pub(super) fn bytes(&self) -> usize {
        let reading = self.reading.as_ref();
        self.told.bytes() + reading.map_or(0, |(_, reading)| reading.basis.bytes())
    }
}
