//! What is left on a server connection, and what the session is to hear, is found out when a batch has been
//! answered; a server that refuses to say it is asked again later.

use std::time::Duration;

use tokio::time::Instant;

use super::hearing::Hearing;
use crate::client::attachment::Attachment;
use crate::client::attachment::ask::{self, Unanswered};
use crate::client::attachment::context::Context;
use crate::client::state::State;

/// A question that a server has refused is put again after so long, then after twice as long, and so on.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// The server is lost, and what was left on it.
#[derive(Debug)]
pub(super) struct Lost;

/// When a server may be asked what is left on it: it may have refused, and whoever asks again at each statement
/// has each of them wait.
#[derive(Debug, Default)]
pub(super) struct Inquiry {
    /// When it is asked again, and how long that is.
    again: Option<(Instant, Duration)>,
}

impl Inquiry {
    /// Whether it may be asked.
    fn is_open(&self, now: Instant) -> bool {
        self.again.is_none_or(|(again, _)| again <= now)
    }

    /// Whether it has refused, and is to be asked again.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.again.is_some() && self.is_open(now)
    }

    /// Finds out what is left on the connection, and what the session is to hear. Where the server refuses to say
    /// it, or was not to be asked again yet, the session keeps the connection.
    pub(super) async fn put(
        &mut self,
        held: &mut Attachment,
        hearing: &mut Hearing,
        state: &mut State,
        context: &Context,
    ) -> Result<(), Lost> {
        let asked = state.is_settled() || self.is_open(Instant::now());
        let mut found = Err(Unanswered::Refused);
        if asked {
            found = ask::ask(held, state).await;
        }
        if found.is_ok() {
            found = hearing.settle(held, state, context).await;
        }
        match found {
            Ok(()) => {
                self.again = None;
                state.unit_ended();
            }
            // A standby is no place to stay: the session could not write.
            Err(Unanswered::Refused) if !held.is_primary() && !context.is_session_pooled() => {
                return Err(Lost);
            }
            Err(Unanswered::Refused) => {
                if asked {
                    self.refused(Instant::now());
                }
                state.unanswered();
                hearing.unanswered(held, state, context);
            }
            Err(Unanswered::Lost) => return Err(Lost),
        }
        Ok(())
    }

    fn refused(&mut self, now: Instant) {
        let twice = |(_, pause): (_, Duration)| LONGEST_PAUSE.min(pause * 2);
        let pause = self.again.map_or(FIRST_PAUSE, twice);
        self.again = Some((now + pause, pause));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_refused_is_asked_more_and_more_seldom() {
        let (mut inquiry, mut now) = (Inquiry::default(), Instant::now());
        assert!(inquiry.is_open(now) && !inquiry.is_due(now));
        for pause in [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300] {
            inquiry.refused(now);
            now += Duration::from_secs(pause);
            let before = now - Duration::from_millis(1);
            assert!(!inquiry.is_open(before) && inquiry.is_due(now), "{pause}");
        }
        inquiry.again = None;
        assert!(inquiry.is_open(now) && !inquiry.is_due(now));
    }
}
