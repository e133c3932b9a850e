//! Under what a text is parsed: the settings that decide what it means.

use std::sync::{Arc, OnceLock};

use crate::backend::settings::Settings;
use crate::shared::memory::Share;

/// Under what a text is parsed.
#[derive(Clone, Debug, Default)]
pub struct Reading {
    /// [`Settings::meaning`], or a session's own number where its temporary objects hide others'.
    pub meaning: u64,
    /// Those of the settings in force that a text is read by.
    pub basis: Arc<Basis>,
    /// Nobody knows all that is in force: what is parsed now is nobody else's.
    pub private: bool,
}

/// The settings that texts are read by; one of them for a session until these change, whatever is prepared.
#[derive(Debug, Default)]
pub struct Basis {
    settings: Settings,
    /// Counts them, once a statement has kept them.
    share: OnceLock<Share>,
}

impl Basis {
    /// Of all settings in force.
    pub fn of(settings: &Settings) -> Self {
        Self {
            settings: settings.reading(),
            share: OnceLock::new(),
        }
    }

    /// The settings.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// How many bytes they take.
    pub fn bytes(&self) -> usize {
        self.settings.bytes()
    }

    /// Whether somebody is still to count them, because they may outlive their session.
    pub fn is_uncounted(&self) -> bool {
        self.bytes() > 0 && self.share.get().is_none()
    }

    /// They are counted by this share as long as anybody has them.
    pub fn counted_by(&self, share: Share) {
        let _ = self.share.set(share);
    }
}

impl Reading {
    /// Under these settings, which are in force; like `before`, if that is the same.
    pub fn under(settings: &Settings, before: &Self) -> Self {
        let basis = Basis::of(settings);
        let same = basis.settings == before.basis.settings;
        Self {
            meaning: settings.meaning(),
            basis: if same {
                Arc::clone(&before.basis)
            } else {
                Arc::new(basis)
            },
            private: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_text_is_read_by_makes_no_other_basis() {
        let mut settings = Settings::default();
        settings.set("search_path", b"SET search_path = a");
        let first = Reading::under(&settings, &Reading::default());
        assert_eq!(first.basis.bytes(), settings.bytes());
        settings.set("work_mem", b"SET work_mem = '1GB'");
        let second = Reading::under(&settings, &first);
        assert!(Arc::ptr_eq(&first.basis, &second.basis));
        assert_ne!(first.meaning, second.meaning);
        settings.set("search_path", b"SET search_path = b");
        let third = Reading::under(&settings, &second);
        assert!(!Arc::ptr_eq(&second.basis, &third.basis));
    }
}
