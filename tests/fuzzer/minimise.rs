//! Makes a script that differs as short as it can be while it differs in the same way.

use crate::run::{Difference, Outcome, Pair};
use crate::script::{Act, Script};

/// Runs that one script is worth.
const RUNS: usize = 250;

/// The shortest script found, and its difference; none if the script does not differ again.
pub fn minimise(pair: &mut Pair, script: &Script, kind: &str) -> Option<(Script, Difference)> {
    let mut search = Search {
        pair,
        kind,
        best: script.clone(),
        difference: None,
        runs: 0,
    };
    // What a standby is asked depends on how far it is; a few times are worth the while.
    (0..3).find(|_| search.attempt(script.clone()))?;
    for session in (0..script.sessions()).rev() {
        let mut fewer = search.best.clone();
        fewer.steps.retain(|step| step.session != session);
        search.attempt(fewer);
    }
    let mut size = search.best.steps.len() / 2;
    while size > 0 {
        search.drop_chunks(size);
        size /= 2;
    }
    search.shorten_acts();
    search.drop_chunks(1);
    Some((search.best, search.difference?))
}

struct Search<'a> {
    pair: &'a mut Pair,
    kind: &'a str,
    best: Script,
    difference: Option<Difference>,
    runs: usize,
}

impl Search<'_> {
    /// Keeps a script if it still differs.
    fn attempt(&mut self, mut script: Script) -> bool {
        self.runs += 1;
        if self.runs > RUNS {
            return false;
        }
        // What an earlier script left behind is no part of this one.
        self.pair.purge();
        match self.pair.run(&script) {
            Outcome::Differs(difference) if difference.kind == self.kind => {
                script.steps.truncate(difference.index + 1);
                self.best = script;
                self.difference = Some(*difference);
                true
            }
            _ => false,
        }
    }

    fn drop_chunks(&mut self, size: usize) {
        let mut end = self.best.steps.len();
        while end > 0 {
            let start = end.saturating_sub(size);
            let mut fewer = self.best.clone();
            fewer.steps.drain(start..end);
            self.attempt(fewer);
            end = start.min(self.best.steps.len());
        }
    }

    fn shorten_acts(&mut self) {
        for index in 0..self.best.steps.len() {
            let mut part = 0;
            while let Some(fewer) = self.without(index, part) {
                if !self.attempt(fewer) {
                    part += 1;
                }
            }
        }
    }

    /// The best script without one part of one of its acts; none if the act has no such part.
    fn without(&self, index: usize, part: usize) -> Option<Script> {
        let mut script = self.best.clone();
        let shortened = match &mut script.steps.get_mut(index)?.act {
            Act::Simple { statements, .. } => shorten(statements, part),
            Act::Extended { messages, .. } => shorten(messages, part),
            Act::Connect(options) if part < options.len() => {
                options.remove(part);
                true
            }
            Act::Connect(_) | Act::Leave { .. } => false,
        };
        shortened.then_some(script)
    }
}

fn shorten<T>(parts: &mut Vec<T>, part: usize) -> bool {
    let can = parts.len() > 1 && part < parts.len();
    if can {
        parts.remove(part);
    }
    can
}
