//! Epochs and leases: pure. Time comes in, what is allowed comes out.
//!
//! Times are those of one clock that runs through suspends, since the machine started. A lease that
//! has run out is not renewed while the server it let run may still run: whoever reckoned with its
//! end may have made another primary meanwhile.

use std::time::Duration;

/// What the agent has been told about who may lead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ledger {
    highest_epoch: u64,
    status: LeaseStatus,
    /// The epoch of the last stop in good order that has succeeded. Its lease was renewed meanwhile, and a
    /// renewal that comes late must not let the server run again.
    stopped_in: Option<u64>,
}

/// On which condition the server may run as a primary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeaseStatus {
    /// On none: nobody has ever asked for one.
    Ungoverned,
    /// Until the lease ends.
    Leased {
        /// Who has it, under which epoch.
        grant: Grant,
        ends: Duration,
    },
    /// It must not.
    Fenced,
}

/// A lease without its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The epoch it was given under.
    pub epoch: u64,
    pub holder: String,
    /// How long it lasts.
    pub ttl: Duration,
}

/// What outlives the agent, on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remembered {
    /// The highest epoch ever seen.
    pub highest_epoch: u64,
    /// The status, and a lease without its end.
    pub status: RememberedStatus,
}

/// A status as it is kept on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RememberedStatus {
    /// See [`LeaseStatus::Ungoverned`].
    Ungoverned,
    /// See [`LeaseStatus::Leased`]; the end is known if the machine has run on since.
    Leased(Grant, Option<Duration>),
    /// See [`LeaseStatus::Fenced`].
    Fenced,
}

/// Why something is not allowed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// A lower epoch than the highest seen.
    #[error("epoch {asked} is over: epoch {highest} has been seen")]
    StaleEpoch {
        /// What was asked for.
        asked: u64,
        /// What has been seen.
        highest: u64,
    },
    /// Two holders under one epoch.
    #[error("{holder} has the lease of epoch {epoch}")]
    OtherHolder {
        holder: String,
        /// The epoch of both.
        epoch: u64,
    },
    /// The lease has run out and the server may still run.
    #[error("the lease has run out: the server is stopped before another is granted")]
    Expired,
    /// The lease that is asked for would be over already.
    #[error("the request was sent too long ago: the lease would be over")]
    Late,
    /// The server was stopped in good order in this epoch.
    #[error("the server was stopped in epoch {0}: it runs as a primary again only in a later one")]
    Stopped(u64),
    /// Started as a primary it would be stopped at once.
    #[error("no lease is in force: the server starts as a primary only under one")]
    LeaseRequired,
}

impl Ledger {
    /// After the agent's start. A lease whose end is known keeps it; one that ended while the agent
    /// was away, or before the machine started, leaves the server one more period to get another.
    pub fn restored(remembered: Remembered, now: Duration) -> Self {
        let status = match remembered.status {
            RememberedStatus::Ungoverned => LeaseStatus::Ungoverned,
            RememberedStatus::Fenced => LeaseStatus::Fenced,
            RememberedStatus::Leased(grant, ends) => {
                let period = now + grant.ttl;
                let ends = ends.filter(|ends| *ends > now).unwrap_or(period);
                LeaseStatus::Leased {
                    // The clock of another start of the machine must not stretch it.
                    ends: ends.min(period),
                    grant,
                }
            }
        };
        Self {
            highest_epoch: remembered.highest_epoch,
            status,
            stopped_in: None,
        }
    }

    /// What must outlive the agent.
    pub fn to_remember(&self) -> Remembered {
        let status = match &self.status {
            LeaseStatus::Ungoverned => RememberedStatus::Ungoverned,
            LeaseStatus::Fenced => RememberedStatus::Fenced,
            LeaseStatus::Leased { grant, ends } => {
                RememberedStatus::Leased(grant.clone(), Some(*ends))
            }
        };
        Remembered {
            highest_epoch: self.highest_epoch,
            status,
        }
    }

    /// The highest epoch ever seen.
    pub fn highest_epoch(&self) -> u64 {
        self.highest_epoch
    }

    /// Whether the server may run as a primary only under a lease.
    pub fn is_governed(&self) -> bool {
        self.status != LeaseStatus::Ungoverned
    }

    /// The lease in force and what is left of it.
    pub fn lease(&self, now: Duration) -> Option<(&Grant, Duration)> {
        match &self.status {
            LeaseStatus::Leased { grant, ends } if now < *ends => Some((grant, *ends - now)),
            _ => None,
        }
    }

    /// Whether a server that runs as a primary has to be stopped.
    pub fn forbids_primary(&self, now: Duration) -> bool {
        self.is_governed() && self.lease(now).is_none()
    }

    /// Grants or renews a lease. `sent` is this clock's time when the request was sent, if known;
    /// `leads` is whether the server runs as a primary, as far as can be known.
    pub fn grant(
        &self,
        asked: Grant,
        sent: Option<Duration>,
        now: Duration,
        leads: bool,
    ) -> Result<Self, Denied> {
        self.check(asked.epoch)?;
        if self.stopped_in == Some(asked.epoch) {
            return Err(Denied::Stopped(asked.epoch));
        }
        if leads && self.forbids_primary(now) {
            return Err(Denied::Expired);
        }
        let mut ends = sent.unwrap_or(now).min(now) + asked.ttl;
        if ends <= now {
            return Err(Denied::Late);
        }
        if let LeaseStatus::Leased {
            grant,
            ends: before,
        } = &self.status
            && now < *before
            && grant.epoch == asked.epoch
        {
            if grant.holder != asked.holder {
                return Err(Denied::OtherHolder {
                    holder: grant.holder.clone(),
                    epoch: grant.epoch,
                });
            }
            // Requests may overtake one another.
            ends = ends.max(*before);
        }
        Ok(Self {
            highest_epoch: asked.epoch,
            status: LeaseStatus::Leased { grant: asked, ends },
            stopped_in: self.stopped_in,
        })
    }

    /// A stop in good order has succeeded.
    pub fn stopped(&self, epoch: u64) -> Result<Self, Denied> {
        Ok(Self {
            stopped_in: Some(epoch),
            ..self.fence(epoch)?
        })
    }

    /// Ends any lease: the server must not run as a primary until another is granted.
    pub fn fence(&self, epoch: u64) -> Result<Self, Denied> {
        self.check(epoch)?;
        Ok(Self {
            highest_epoch: epoch,
            status: LeaseStatus::Fenced,
            stopped_in: self.stopped_in,
        })
    }

    /// Ends the rule of leases.
    pub fn release(&self, epoch: u64) -> Result<Self, Denied> {
        self.check(epoch)?;
        Ok(Self {
            highest_epoch: epoch,
            status: LeaseStatus::Ungoverned,
            stopped_in: self.stopped_in,
        })
    }

    /// Notes an epoch under which something else is asked for.
    pub fn admit(&self, epoch: u64) -> Result<Self, Denied> {
        self.check(epoch)?;
        Ok(Self {
            highest_epoch: epoch,
            ..self.clone()
        })
    }

    /// The same for a start as a primary.
    pub fn admit_primary(&self, epoch: u64, now: Duration) -> Result<Self, Denied> {
        self.check(epoch)?;
        if self.forbids_primary(now) {
            return Err(Denied::LeaseRequired);
        }
        self.admit(epoch)
    }

    fn check(&self, asked: u64) -> Result<(), Denied> {
        let highest = self.highest_epoch;
        if asked < highest {
            return Err(Denied::StaleEpoch { asked, highest });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn new() -> Ledger {
        let remembered = Remembered {
            highest_epoch: 0,
            status: RememberedStatus::Ungoverned,
        };
        Ledger::restored(remembered, s(100))
    }

    fn ask(epoch: u64, holder: &str) -> Grant {
        Grant {
            epoch,
            holder: holder.to_owned(),
            ttl: s(3),
        }
    }

    fn leased(epoch: u64, at: Duration) -> Ledger {
        new().grant(ask(epoch, "a"), None, at, true).unwrap()
    }

    #[test]
    fn without_a_lease_ever_the_server_is_left_alone() {
        assert!(!new().forbids_primary(s(100_000)));
        assert!(new().admit_primary(1, s(0)).is_ok());
    }

    #[test]
    fn a_lease_ends_and_is_not_renewed_while_the_server_runs() {
        let ledger = leased(1, s(100));
        assert!(!ledger.forbids_primary(s(102)));
        assert!(ledger.forbids_primary(s(103)));
        let late = ledger.grant(ask(1, "a"), None, s(104), true);
        assert_eq!(late, Err(Denied::Expired));
        let higher = ledger.grant(ask(2, "a"), None, s(104), true);
        assert_eq!(higher, Err(Denied::Expired));
        let stopped = ledger.grant(ask(1, "a"), None, s(104), false).unwrap();
        assert!(!stopped.forbids_primary(s(106)));
    }

    #[test]
    fn renewals_prolong_and_never_shorten() {
        let ledger = leased(1, s(100));
        let renewed = ledger.grant(ask(1, "a"), None, s(102), true).unwrap();
        assert_eq!(renewed.lease(s(102)).unwrap().1, s(3));
        let overtaken = renewed
            .grant(ask(1, "a"), Some(s(100)), s(102), true)
            .unwrap();
        assert_eq!(overtaken.lease(s(102)).unwrap().1, s(3));
    }

    #[test]
    fn a_request_that_waited_ends_when_its_sender_reckons() {
        let ledger = leased(1, s(100));
        let waited = ledger
            .grant(ask(2, "b"), Some(s(100)), s(102), true)
            .unwrap();
        assert_eq!(waited.lease(s(102)).unwrap().1, s(1));
        let over = new().grant(ask(1, "a"), Some(s(100)), s(103), false);
        assert_eq!(over, Err(Denied::Late));
        // A clock from before a restart of the machine is ahead: it grants no more than the period.
        let ahead = new()
            .grant(ask(1, "a"), Some(s(900)), s(100), true)
            .unwrap();
        assert_eq!(ahead.lease(s(100)).unwrap().1, s(3));
    }

    #[test]
    fn lower_epochs_are_refused_for_everything() {
        let ledger = leased(5, s(100));
        let stale = Denied::StaleEpoch {
            asked: 4,
            highest: 5,
        };
        let grant = ledger.grant(ask(4, "a"), None, s(101), true);
        assert_eq!(grant, Err(stale.clone()));
        assert_eq!(ledger.fence(4), Err(stale.clone()));
        assert_eq!(ledger.admit(4), Err(stale.clone()));
        assert_eq!(ledger.admit_primary(4, s(101)), Err(stale));
    }

    #[test]
    fn one_holder_an_epoch() {
        let ledger = leased(5, s(100));
        let other = ledger.grant(ask(5, "b"), None, s(101), true);
        assert!(matches!(other, Err(Denied::OtherHolder { .. })));
        let next = ledger.grant(ask(6, "b"), None, s(101), true).unwrap();
        assert_eq!(next.lease(s(101)).unwrap().0.holder, "b");
    }

    #[test]
    fn a_fence_stands_until_a_lease_of_its_epoch() {
        let fenced = leased(1, s(100)).fence(2).unwrap();
        assert!(fenced.forbids_primary(s(100)));
        assert_eq!(fenced.admit_primary(2, s(100)), Err(Denied::LeaseRequired));
        assert!(fenced.grant(ask(1, "a"), None, s(101), false).is_err());
        let again = fenced.grant(ask(2, "a"), None, s(101), false).unwrap();
        assert!(again.admit_primary(2, s(102)).is_ok());
        // Its own epoch repeated changes nothing.
        assert_eq!(fenced.fence(2), Ok(fenced));
    }

    #[test]
    fn released_the_server_is_left_alone_and_an_older_renewal_changes_nothing() {
        let released = leased(4, s(100)).release(5).unwrap();
        assert!(!released.is_governed() && !released.forbids_primary(s(900)));
        assert!(released.grant(ask(4, "a"), None, s(101), true).is_err());
        let restored = Ledger::restored(released.to_remember(), s(500));
        assert!(!restored.is_governed() && restored.highest_epoch() == 5);
        let again = released.grant(ask(6, "a"), None, s(101), true).unwrap();
        assert!(again.forbids_primary(s(105)));
        assert!(leased(4, s(100)).release(3).is_err());
    }

    #[test]
    fn a_renewal_that_comes_after_a_clean_stop_is_refused() {
        let stopping = leased(1, s(100)).admit(2).unwrap();
        let renewed = stopping.grant(ask(2, "a"), None, s(101), true).unwrap();
        let stopped = renewed.stopped(2).unwrap();
        assert!(stopped.forbids_primary(s(101)));
        let late = stopped.grant(ask(2, "a"), None, s(101), false);
        assert_eq!(late, Err(Denied::Stopped(2)));
        let next = stopped.grant(ask(3, "a"), None, s(101), false).unwrap();
        assert!(next.admit_primary(3, s(102)).is_ok());
    }

    #[test]
    fn a_restart_forgets_neither_epoch_nor_end() {
        let ledger = leased(7, s(100));
        let back = Ledger::restored(ledger.to_remember(), s(101));
        assert_eq!(back, ledger);
        // Away for longer than the lease: one more period.
        let back = Ledger::restored(ledger.to_remember(), s(200));
        assert_eq!(back.lease(s(200)).unwrap().1, s(3));
        assert!(back.forbids_primary(s(203)));
        // The machine started anew: its clock began again, the old end means nothing.
        let mut other_boot = ledger.to_remember();
        if let RememberedStatus::Leased(_, ends) = &mut other_boot.status {
            *ends = None;
        }
        let back = Ledger::restored(other_boot, s(5));
        assert_eq!(back.lease(s(5)).unwrap().1, s(3));
        assert_eq!(back.highest_epoch(), 7);
        let fenced = ledger.fence(8).unwrap();
        let back = Ledger::restored(fenced.to_remember(), s(300));
        assert!(back.forbids_primary(s(300)));
    }
}
