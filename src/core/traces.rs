//! What a server connection may bear of those who have used it, beyond what anybody knows of: whether it has
//! to be cleaned before another session has it.
//!
//! A classification that overlooks users' code is found out by nothing that the server says. So what counts
//! is not whether code was seen, but whether there can have been none: see docs/adr/0014-hand-over.md.

/// How a database's definitions are known at one moment: by which reading of its catalogue, if no change
/// has been seen since.
pub type Knowledge = Option<u64>;

/// What has run on a connection since it was last clean.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traces {
    /// Code of users may have run.
    code: bool,
    /// By this reading of the catalogue, none has.
    by: Knowledge,
    /// Definitions have changed in the meantime, or were not known.
    unsure: bool,
}

impl Traces {
    /// Something is about to run. `code` tells whether users' code may run by it, as classified with
    /// `knowledge`.
    pub fn note(&mut self, code: bool, knowledge: Knowledge) {
        let unsure = knowledge.is_none() || self.by.is_some() && self.by != knowledge;
        self.code |= code || unsure;
        self.unsure |= unsure;
        self.by = knowledge;
    }

    /// Whether code of users may have run.
    pub fn ran_code(&self) -> bool {
        self.code
    }

    /// Whether code may have run that was not there for whoever has classified it.
    pub fn are_unsure(&self, now: Knowledge) -> bool {
        self.unsure || self.by.is_some() && self.by != now
    }

    /// Whether nothing can be left that nobody knows of, as things are known now. What was concluded from
    /// definitions that have changed may have been wrong already.
    pub fn are_harmless(&self, now: Knowledge) -> bool {
        !self.code && (self.by.is_none() || self.by == now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(notes: &[(bool, Knowledge)]) -> Traces {
        let mut traces = Traces::default();
        notes
            .iter()
            .for_each(|(code, knowledge)| traces.note(*code, *knowledge));
        traces
    }

    #[test]
    fn what_is_not_proved_counts() {
        for (notes, now, harmless) in [
            (&[][..], Some(2), true),
            (&[], None, true),
            (&[(false, Some(1)), (false, Some(1))], Some(1), true),
            (&[(false, Some(1)), (true, Some(1))], Some(1), false),
            (&[(true, Some(1)), (false, Some(1))], Some(1), false),
            // A trigger that was made in the meantime may have fired already.
            (&[(false, Some(1))], Some(2), false),
            (&[(false, Some(1))], None, false),
            (&[(false, Some(1)), (false, Some(2))], Some(2), false),
            (&[(false, None)], Some(1), false),
            (&[(false, None)], None, false),
        ] {
            assert_eq!(
                after(notes).are_harmless(now),
                harmless,
                "{notes:?} {now:?}"
            );
        }
    }
}
