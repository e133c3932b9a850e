//! Runs a script on both sides, step by step, up to the first difference.

use std::fmt;
use std::time::Duration;

use crate::compare::{Verdict, compare};
use crate::hold::{Holds, Pins, Stays};
use crate::script::{Act, CopyIn, Script, Step};
use crate::side::{Side, holds_within, until};
use crate::wire::{Frame, LATE, Wire};

/// Two databases alike: one reached directly, one through what is tried.
pub struct Pair {
    pub direct: Side,
    pub proxied: Side,
    /// The standby that may answer for the second, if there is one.
    pub standby: Option<Wire>,
    pub pins: Pins,
    /// Whether server connections may still bear traces of a difference.
    dirty: bool,
}

/// How a script ended.
pub enum Outcome {
    Same {
        steps: usize,
        refused: usize,
    },
    /// Cut short by a documented difference.
    Documented {
        steps: usize,
        reason: &'static str,
    },
    Differs(Box<Difference>),
}

/// The first difference of a script.
pub struct Difference {
    /// In a few words; the same words are most likely the same fault.
    pub kind: String,
    /// Which step it was; none after it was taken.
    pub index: usize,
    pub step: String,
    pub direct: Vec<String>,
    pub proxied: Vec<String>,
}

/// How long another session's traces may stay after it has left.
const LINGER: Duration = Duration::from_secs(10);

impl Pair {
    pub fn new(direct: Side, proxied: Side, standby: Option<Wire>, pins: Pins) -> Self {
        Self {
            direct,
            proxied,
            standby,
            pins,
            dirty: false,
        }
    }

    /// Runs a script from the start on fresh sessions.
    pub fn run(&mut self, script: &Script) -> Outcome {
        if std::mem::take(&mut self.dirty) {
            self.purge();
        }
        self.direct.reset();
        self.proxied.reset();
        let outcome = self.steps(script);
        self.dirty = !matches!(outcome, Outcome::Same { .. });
        outcome
    }

    /// Closes the server connections that the proxy keeps.
    pub fn purge(&mut self) {
        self.proxied.purge();
    }

    fn steps(&mut self, script: &Script) -> Outcome {
        let mut holds = Holds::new(self.pins);
        let mut stays = Stays::default();
        let (mut steps, mut refused) = (0, 0);
        let nothing = Act::Simple {
            statements: Vec::new(),
            copy: CopyIn::default(),
        };
        for (index, step) in script.steps.iter().enumerate() {
            let Step { session, act } = step;
            let absent = !self.direct.has(*session);
            if !holds.allow(*session, act) || absent && !matches!(act, Act::Connect(_)) {
                continue;
            }
            steps += 1;
            match act {
                Act::Connect(_) => self.catch_up(),
                // Asking takes a connection.
                Act::Leave { .. } if holds.allow(*session, &nothing) => {
                    if let Some(difference) = self.notes(index, step) {
                        return Outcome::Differs(difference);
                    }
                }
                _ => {}
            }
            let direct = self.direct.act(*session, act);
            if direct.iter().any(|frame| frame.tag == LATE) {
                // No script of ours: an answer was awaited that PostgreSQL does not owe.
                return Outcome::Same { steps, refused };
            }
            let proxied = self.proxied.act(*session, act);
            refused += usize::from(direct.iter().any(|frame| frame.tag == b'E'));
            let busy = self.direct.busy(*session);
            holds.learn(*session, act, &direct, busy);
            stays.learn(*session, act);
            let verdict = compare(act, &direct, &proxied, stays.may(*session));
            if !busy {
                stays.ended(*session);
            }
            match verdict {
                Verdict::Same => {}
                Verdict::Documented(reason) => return Outcome::Documented { steps, reason },
                Verdict::Differ(kind) => {
                    let show = |frames: &[Frame]| frames.iter().map(|f| format!("{f:?}")).collect();
                    return Outcome::Differs(Box::new(Difference {
                        kind,
                        index,
                        step: step.to_string(),
                        direct: show(&direct),
                        proxied: show(&proxied),
                    }));
                }
            }
            if let Act::Connect(_) | Act::Leave { .. } = act
                && !absent
                && let Some(difference) = self.locks(index, step)
            {
                return Outcome::Differs(difference);
            }
        }
        Outcome::Same { steps, refused }
    }

    /// Who comes anew has seen nothing yet, and may read from a standby what is there.
    fn catch_up(&mut self) {
        let Some(standby) = &mut self.standby else {
            return;
        };
        let mut written = self.proxied.admin.rows("SELECT pg_current_wal_lsn()");
        let written = written.swap_remove(0).swap_remove(0).unwrap_or_default();
        let replayed = format!("SELECT pg_last_wal_replay_lsn() >= '{written}'");
        until(|| standby.rows(&replayed)[0][0].as_deref() == Some("t"));
    }

    fn notes(&mut self, index: usize, step: &Step) -> Option<Box<Difference>> {
        if self.direct.busy(step.session) {
            return None;
        }
        let direct = self.direct.notes(step.session, None);
        // They are there at the end of any answer; from others who keep their promises later.
        let awaited = (self.pins == Pins::Stay).then_some(direct.len());
        let proxied = self.proxied.notes(step.session, awaited);
        Difference::of("notifications", index, step, direct, proxied)
    }

    fn locks(&mut self, index: usize, step: &Step) -> Option<Box<Difference>> {
        // Until Flush or Sync, when a pipeline takes its locks is nobody's business.
        if self.direct.owes() {
            return None;
        }
        let direct = self.direct.locks();
        let mut proxied = Vec::new();
        holds_within(LINGER, || {
            proxied = self.proxied.locks();
            proxied == direct
        });
        Difference::of("locks after a session left", index, step, direct, proxied)
    }
}

impl Difference {
    fn of(
        kind: &str,
        index: usize,
        step: &Step,
        direct: Vec<String>,
        proxied: Vec<String>,
    ) -> Option<Box<Self>> {
        (direct != proxied).then(|| {
            Box::new(Self {
                kind: kind.to_owned(),
                index,
                step: step.to_string(),
                direct,
                proxied,
            })
        })
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}, at {}", self.kind, self.step)?;
        writeln!(f, "  directly: {}", self.direct.join(" "))?;
        write!(f, "  proxied:  {}", self.proxied.join(" "))
    }
}
