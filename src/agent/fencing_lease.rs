//! Epochs and leases: pure. Time comes in, what is allowed comes out.
//!
//! Times are those of one clock that runs through suspends, since the machine started. A lease that
//! has run out is not renewed while the server it let run may still run: whoever reckoned with its
//! end may have made another primary meanwhile. A server that stands still since then runs on only by
//! what was asked for, or promised, after it had begun to.

use std::time::Duration;

use super::api::PeerRule;

/// What the agent has been told about who may lead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ledger {
    highest_epoch: u64,
    status: LeaseStatus,
    /// The epoch of the last stop in good order that has succeeded. Its lease was renewed meanwhile, and a
    /// renewal that comes late must not let the server run again.
    stopped_in: Option<u64>,
    /// By whose promises a lease may be prolonged, as the latest grant said.
    failsafe: Option<PeerRule>,
    /// What was promised to another node.
    promise: Option<GivenPromise>,
    /// The server is being stopped, or its data changed, to make it a standby of another: nothing lets it
    /// lead meanwhile.
    rejoining: bool,
}

/// That the server is granted no lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GivenPromise {
    /// The node that it was given to.
    pub to: String,
    pub ends: Duration,
    /// How long it was to last; it begins anew where its end means nothing any more.
    pub lasts: Duration,
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
        /// It would be over but for what others have promised.
        prolonged: bool,
    },
    /// It must not.
    Fenced,
}

/// Whether the server runs as a primary, as far as can be known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Runs {
    No,
    Yes,
    /// Its processes stand still since then.
    Held(Duration),
}

impl From<bool> for Runs {
    fn from(leads: bool) -> Self {
        match leads {
            true => Self::Yes,
            false => Self::No,
        }
    }
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
    /// The epoch of the last stop in good order.
    pub stopped_in: Option<u64>,
    /// See [`Ledger::failsafe`].
    pub failsafe: Option<PeerRule>,
    /// What was promised; its end is known if the machine has run on since.
    pub promise: Option<RememberedPromise>,
}

/// A promise as it is kept on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RememberedPromise {
    pub to: String,
    pub ends: Option<Duration>,
    pub lasts: Duration,
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
    /// Another node goes on leading because of what was promised to it.
    #[error("{to} was promised that this server is granted no lease for another {left:?}")]
    Promised { to: String, left: Duration },
    /// Who may lead promises nobody that it will not.
    #[error("its server has a lease of its own")]
    HasLease,
    /// It is being changed into what cannot lead.
    #[error(
        "the server is being made a standby of another: wait for the end of the rejoin, or stop"
    )]
    Rejoining,
    /// Started as a primary it would be stopped at once.
    #[error("no lease is in force: the server starts as a primary only under one")]
    LeaseRequired,
}

impl Ledger {
    /// After the agent's start, which gives no right: a lease keeps its end, also one that has passed
    /// meanwhile, and one whose end is not known is over, since others may have reckoned with that.
    pub fn restored(remembered: Remembered, now: Duration) -> Self {
        let status = match remembered.status {
            RememberedStatus::Ungoverned => LeaseStatus::Ungoverned,
            RememberedStatus::Fenced => LeaseStatus::Fenced,
            RememberedStatus::Leased(grant, ends) => LeaseStatus::Leased {
                ends: ends.unwrap_or(now).min(now + grant.ttl),
                grant,
                prolonged: false,
            },
        };
        let promise = remembered.promise.map(|promise| GivenPromise {
            // Whoever was promised something may reckon with all of it.
            ends: promise.ends.unwrap_or(now + promise.lasts),
            to: promise.to,
            lasts: promise.lasts,
        });
        Self {
            highest_epoch: remembered.highest_epoch,
            status,
            stopped_in: remembered.stopped_in,
            failsafe: remembered.failsafe,
            promise,
            rejoining: false,
        }
    }

    /// What must outlive the agent.
    pub fn to_remember(&self) -> Remembered {
        let status = match &self.status {
            LeaseStatus::Ungoverned => RememberedStatus::Ungoverned,
            LeaseStatus::Fenced => RememberedStatus::Fenced,
            LeaseStatus::Leased { grant, ends, .. } => {
                RememberedStatus::Leased(grant.clone(), Some(*ends))
            }
        };
        let promise = self.promise.as_ref().map(|promise| RememberedPromise {
            to: promise.to.clone(),
            ends: Some(promise.ends),
            lasts: promise.lasts,
        });
        Remembered {
            highest_epoch: self.highest_epoch,
            status,
            stopped_in: self.stopped_in,
            failsafe: self.failsafe.clone(),
            promise,
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
            LeaseStatus::Leased { grant, ends, .. } if now < *ends => Some((grant, *ends - now)),
            _ => None,
        }
    }

    /// Whether the lease in force would be over but for what others have promised.
    pub fn is_prolonged(&self) -> bool {
        matches!(
            self.status,
            LeaseStatus::Leased {
                prolonged: true,
                ..
            }
        )
    }

    /// Whether there was a lease that nobody has renewed, rather than an order to stop.
    pub fn has_run_out(&self) -> bool {
        matches!(self.status, LeaseStatus::Leased { .. })
    }

    /// The lease that was in force then and is over now, with nothing decided since.
    pub fn lapsed(&self, then: Duration, now: Duration) -> Option<&Grant> {
        match &self.status {
            LeaseStatus::Leased { grant, ends, .. }
                if then < *ends && *ends <= now && grant.epoch == self.highest_epoch =>
            {
                Some(grant)
            }
            _ => None,
        }
    }

    /// By whose promises a lease may be prolonged.
    pub fn failsafe(&self) -> Option<&PeerRule> {
        self.failsafe.as_ref()
    }

    /// What was promised and is not over, and what is left of it.
    pub fn promised(&self, now: Duration) -> Option<(&GivenPromise, Duration)> {
        let promise = self.promise.as_ref()?;
        let left = promise.ends.checked_sub(now)?;
        (!left.is_zero()).then_some((promise, left))
    }

    /// Whether a server that runs as a primary has to be stopped.
    pub fn forbids_primary(&self, now: Duration) -> bool {
        self.is_governed() && self.lease(now).is_none()
    }

    /// Grants or renews a lease. `sent` is this clock's time when the request was sent, if known.
    pub fn grant(
        &self,
        asked: Grant,
        sent: Option<Duration>,
        now: Duration,
        runs: impl Into<Runs>,
    ) -> Result<Self, Denied> {
        self.check(asked.epoch)?;
        if self.stopped_in == Some(asked.epoch) {
            return Err(Denied::Stopped(asked.epoch));
        }
        self.check_promise(now)?;
        self.check_rejoin()?;
        let may_run_on = match runs.into() {
            Runs::No => true,
            Runs::Yes => false,
            Runs::Held(since) => sent.is_some_and(|sent| sent >= since),
        };
        if !may_run_on && self.forbids_primary(now) {
            return Err(Denied::Expired);
        }
        let mut ends = sent.unwrap_or(now).min(now) + asked.ttl;
        if ends <= now {
            return Err(Denied::Late);
        }
        if let LeaseStatus::Leased {
            grant,
            ends: before,
            ..
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
            status: LeaseStatus::Leased {
                grant: asked,
                ends,
                prolonged: false,
            },
            ..self.clone()
        })
    }

    /// With the rule that came with a grant; a lower version than the present one came late.
    pub fn with_failsafe(self, rule: Option<PeerRule>) -> Self {
        let present = self.failsafe.as_ref().map(|rule| rule.version);
        match rule {
            Some(rule) if present > Some(rule.version) => self,
            failsafe => Self { failsafe, ..self },
        }
    }

    /// Lets the lease of this epoch go on by what others have promised; one that has run out only where the
    /// server stands still since, and by what was promised after that.
    pub fn prolong(
        &self,
        epoch: u64,
        until: Duration,
        now: Duration,
        is_held: bool,
    ) -> Result<Self, Denied> {
        self.check(epoch)?;
        match &self.status {
            LeaseStatus::Leased { grant, ends, .. }
                if grant.epoch == epoch && (now < *ends || is_held && now < until) =>
            {
                Ok(Self {
                    status: LeaseStatus::Leased {
                        grant: grant.clone(),
                        ends: until.max(*ends),
                        prolonged: true,
                    },
                    ..self.clone()
                })
            }
            _ => Err(Denied::Expired),
        }
    }

    /// Promises a node, which leads in this epoch, that the server is granted no lease: from `received` on,
    /// when it was asked.
    pub fn promise(
        &self,
        to: &str,
        epoch: u64,
        lasts: Duration,
        received: Duration,
    ) -> Result<Self, Denied> {
        self.may_promise(epoch, received)?;
        let ends = received + lasts;
        // A longer one stands, whoever has it, and in another run of the machine for all of its time.
        let before = self.promised(received).map(|(promise, _)| promise);
        Ok(Self {
            highest_epoch: epoch,
            promise: Some(GivenPromise {
                to: to.to_owned(),
                ends: before.map_or(ends, |before| ends.max(before.ends)),
                lasts: before.map_or(lasts, |before| lasts.max(before.lasts)),
            }),
            ..self.clone()
        })
    }

    /// Whether it would.
    pub fn may_promise(&self, epoch: u64, now: Duration) -> Result<(), Denied> {
        self.check(epoch)?;
        match self.lease(now) {
            Some(_) => Err(Denied::HasLease),
            None => Ok(()),
        }
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
            ..self.clone()
        })
    }

    /// The server has been made a standby: what lease it had is no matter any more, and it is not left alone
    /// for that. A lease in force stays.
    pub fn stands_by(&self, epoch: u64, now: Duration) -> Result<Self, Denied> {
        match self.forbids_primary(now) {
            true => self.fence(epoch),
            false => self.admit(epoch),
        }
    }

    /// Ends the rule of leases.
    pub fn release(&self, epoch: u64) -> Result<Self, Denied> {
        self.check(epoch)?;
        Ok(Self {
            highest_epoch: epoch,
            status: LeaseStatus::Ungoverned,
            ..self.clone()
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
        self.check_promise(now)?;
        self.check_rejoin()?;
        if self.forbids_primary(now) {
            return Err(Denied::LeaseRequired);
        }
        self.admit(epoch)
    }

    /// Right before the server is stopped or its data changed for a rejoin of this epoch: whether that may be.
    /// A lease that was granted meanwhile is stronger; one that an earlier decision has left to a server that
    /// does not lead ends.
    pub fn begin_rejoin(&self, epoch: u64, now: Duration, leads: bool) -> Result<Self, Denied> {
        self.check(epoch)?;
        let status = match self.lease(now) {
            Some((grant, _)) if leads || grant.epoch >= epoch => return Err(Denied::HasLease),
            Some(_) => LeaseStatus::Fenced,
            None => self.status.clone(),
        };
        Ok(Self {
            highest_epoch: epoch,
            status,
            rejoining: true,
            ..self.clone()
        })
    }

    /// The server runs as a standby again, or the rejoin was given up.
    pub fn end_rejoin(&self) -> Self {
        Self {
            rejoining: false,
            ..self.clone()
        }
    }

    fn check_rejoin(&self) -> Result<(), Denied> {
        match self.rejoining {
            true => Err(Denied::Rejoining),
            false => Ok(()),
        }
    }

    fn check_promise(&self, now: Duration) -> Result<(), Denied> {
        match self.promised(now) {
            Some((promise, left)) => Err(Denied::Promised {
                to: promise.to.clone(),
                left,
            }),
            None => Ok(()),
        }
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
mod tests;
