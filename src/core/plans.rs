//! Plans that code of users leaves in a server process, and by what the constants in them were read.
//!
//! PostgreSQL reads a literal once, when the statement that has it is analysed: `'today'` in a function is the
//! day of its first call in that process, `'03/04/2026'` is read by the `DateStyle` of then. In a session of
//! their own that is the caller's doing; through a pool it is a stranger's.

/// By what constants in plans that code leaves may have been read; the greater the worse.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Constants {
    /// By nothing that differs between sessions.
    #[default]
    ByNothing,
    /// By settings of the session.
    BySettings,
    /// By the clock, or by what nobody knows.
    ByAnything,
}

/// What is left on one connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Plans {
    /// Nothing that another session could tell from its own.
    #[default]
    Any,
    /// Plans for these settings, by their hash.
    Under(u64),
    /// Plans that are right for nobody but whoever has brought them about.
    Own,
}

impl Plans {
    /// Code runs that leaves such plans, under these settings, if they are known.
    pub fn note(&mut self, settled: Constants, under: impl FnOnce() -> Option<u64>) {
        *self = match (settled, *self) {
            (Constants::ByNothing, before) => before,
            (Constants::ByAnything, _) | (_, Self::Own) => Self::Own,
            (Constants::BySettings, before) => match (under(), before) {
                (Some(now), Self::Any) => Self::Under(now),
                (Some(now), Self::Under(then)) if now == then => before,
                _ => Self::Own,
            },
        };
    }

    /// Whether they are those that another session would make, under these settings.
    pub fn suit(self, now: impl FnOnce() -> u64) -> bool {
        match self {
            Self::Any => true,
            Self::Under(then) => then == now(),
            Self::Own => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plans_suit_those_who_would_make_the_same() {
        use Constants::{ByAnything, ByNothing, BySettings};
        for (notes, suit) in [
            (&[][..], true),
            (&[(ByNothing, None)], true),
            (&[(BySettings, Some(7))], true),
            (&[(BySettings, Some(7)), (BySettings, Some(7))], true),
            (&[(BySettings, Some(8))], false),
            (&[(BySettings, Some(8)), (BySettings, Some(7))], false),
            (&[(BySettings, None)], false),
            (&[(ByAnything, Some(7))], false),
            (&[(ByAnything, Some(7)), (BySettings, Some(7))], false),
        ] {
            let mut plans = Plans::default();
            for (settled, under) in notes {
                plans.note(*settled, || *under);
            }
            assert_eq!(plans.suit(|| 7), suit, "{notes:?}");
        }
    }
}
