//! Standing for leader: take the lease when it is free, renew it, and stop believing in it in time.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;

use super::Leader;
use super::claim::{self, Claim};
use super::keys::{Keys, LeaderValue, SeenKeys, SeenLeader, nonce};
use crate::core::leader_lease::{Micros, Sighting, Tenure, micros, takeable_from};

/// Between attempts at what has just failed.
const PAUSE: Duration = Duration::from_millis(50);

/// What the store and the task that stands for leader share.
#[derive(Clone, Debug)]
pub(super) struct Campaign {
    id: String,
    pub(super) claim: Claim,
    pub(super) leader: watch::Sender<Leader>,
    state: Arc<Mutex<CampaignState>>,
    /// Changes with every withdrawal.
    withdrawn: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct CampaignState {
    /// What we wrote last to the leader's key, or tried to.
    holder: Option<LeaderValue>,
    /// We do not stand before then.
    idle_until: Micros,
}

impl Campaign {
    pub(super) fn new(id: &str) -> Self {
        Self {
            id: id.to_owned(),
            claim: Claim::default(),
            leader: watch::Sender::new(Leader::Unknown),
            state: Arc::default(),
            withdrawn: watch::Sender::new(0),
        }
    }

    /// What proves that we lead; none when we do not.
    pub(super) fn holder(&self) -> Option<LeaderValue> {
        let state = self.state.lock();
        state.holder.clone().filter(|_| self.claim.holds())
    }

    /// Ends the claim now, and the candidacy for a while or for good; what is to be given back.
    pub(super) fn withdraw(&self, pause: Option<Duration>) -> Option<LeaderValue> {
        let mut state = self.state.lock();
        self.claim.end();
        state.idle_until = pause.map_or(Micros::MAX, |pause| {
            claim::now().saturating_add(micros(pause))
        });
        // Taken out, so that no answer that is still on its way brings the claim back.
        let held = state.holder.take();
        drop(state);
        self.withdrawn.send_modify(|count| *count += 1);
        held
    }

    /// Lets the claim hold until then, unless the candidacy was withdrawn meanwhile.
    fn claim_until(&self, holder: &LeaderValue, tenure: Tenure) -> bool {
        let state = self.state.lock();
        let stands = claim::now() >= state.idle_until
            && state
                .holder
                .as_ref()
                .is_some_and(|mine| mine.nonce == holder.nonce);
        if stands {
            self.claim.set(holder.term, tenure.until());
        }
        stands
    }
}

/// The task that stands for leader.
pub(super) struct Candidacy {
    keys: Arc<Keys>,
    seen: watch::Receiver<SeenKeys>,
    withdrawn: watch::Receiver<u64>,
    campaign: Campaign,
}

impl Candidacy {
    pub(super) fn new(keys: Arc<Keys>, campaign: Campaign) -> Self {
        Self {
            seen: keys.seen.subscribe(),
            withdrawn: campaign.withdrawn.subscribe(),
            keys,
            campaign,
        }
    }

    /// Stands, leads, and stands again, for ever.
    pub(super) async fn run(mut self) {
        loop {
            let (holder, tenure) = self.wait_and_take().await;
            let term = holder.term;
            if !self.campaign.claim_until(&holder, tenure) {
                continue;
            }
            tracing::info!(term, "this proxy leads");
            self.tell(Leader::Me { term });
            let why = self.lead(&holder, tenure).await;
            self.campaign.claim.end();
            self.tell(Leader::Unknown);
            tracing::warn!(term, reason = why, "this proxy does not lead any more");
        }
    }

    /// Waits until the lease may be taken, and takes it.
    async fn wait_and_take(&mut self) -> (LeaderValue, Tenure) {
        loop {
            let seen = self.seen.borrow_and_update().clone();
            // What was withdrawn by now is not the tenure that is taken next.
            self.withdrawn.borrow_and_update();
            self.tell_who_else_leads(&seen);
            let idle_until = self.campaign.state.lock().idle_until;
            let free_from = takeable_from(seen.leader.as_ref().map(|seen| self.sighting(seen)));
            let wait = free_from.max(idle_until).saturating_sub(claim::now());
            if wait > 0 || !seen.reachable {
                // Another look is due by then, or at the next news.
                let most = Duration::from_secs(3600);
                let wait = if seen.reachable {
                    Duration::from_micros(wait).min(most)
                } else {
                    most
                };
                tokio::select! {
                    _ = tokio::time::sleep(wait) => {}
                    _ = self.seen.changed() => {}
                    _ = self.withdrawn.changed() => {}
                }
                continue;
            }
            if let Some(taken) = self.take(&seen).await {
                return taken;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn take(&self, seen: &SeenKeys) -> Option<(LeaderValue, Tenure)> {
        let holder = LeaderValue {
            id: self.campaign.id.clone(),
            // Every taking of the lease is a change, so that the next one reads a greater revision.
            term: seen.revision + 1,
            ttl_ms: u64::try_from(self.keys.ttl.as_millis()).unwrap_or(u64::MAX),
            nonce: nonce(),
            vacant: false,
        };
        self.campaign.state.lock().holder = Some(holder.clone());
        // An answer may also say that another was faster, and that is seen soon.
        let sent = self.keys.take(&holder, seen.leader.as_ref()).await.ok()??;
        let tenure = Tenure::begin(sent, claim::now(), self.keys.ttl)?;
        Some((holder, tenure))
    }

    /// Renews until the tenure ends; says why it ended.
    async fn lead(&mut self, holder: &LeaderValue, mut tenure: Tenure) -> &'static str {
        let rest = self.keys.ttl / 3;
        loop {
            let lapse = Duration::from_micros(tenure.until().saturating_sub(claim::now()));
            let renewed = async {
                tokio::time::sleep(rest).await;
                self.keys.renew(holder).await
            };
            let sent = tokio::select! {
                biased;
                _ = self.withdrawn.changed() => return "it stepped down",
                () = taken_by_another(&mut self.seen, holder) => return "another took the lease",
                () = tokio::time::sleep(lapse) => return "the lease could not be renewed in time",
                renewed = renewed => match renewed {
                    Ok(Some(sent)) => sent,
                    Ok(None) => return "another took the lease",
                    // Whether anything is left to lead by is what the next round finds out.
                    Err(_) => continue,
                },
            };
            match tenure.renewed(sent, claim::now(), self.keys.ttl) {
                Some(longer) if self.campaign.claim_until(holder, longer) => tenure = longer,
                Some(_) => return "it stepped down",
                None => return "the lease could not be renewed in time",
            }
        }
    }

    fn sighting(&self, seen: &SeenLeader) -> Sighting {
        let own = self.campaign.state.lock().holder.clone();
        match &seen.holder {
            Some(holder) => Sighting {
                since: seen.since,
                ttl: Duration::from_millis(holder.ttl_ms),
                vacant: holder.vacant,
                own: own.is_some_and(|own| own.nonce == holder.nonce),
            },
            // Whoever wrote this is no leader; but somebody may have been until just then.
            None => Sighting {
                since: seen.since,
                ttl: self.keys.ttl * 2,
                vacant: false,
                own: false,
            },
        }
    }

    fn tell_who_else_leads(&self, seen: &SeenKeys) {
        let holder = seen.leader.as_ref().and_then(|seen| seen.holder.as_ref());
        self.tell(match holder {
            _ if !seen.reachable => Leader::Unknown,
            Some(holder) if !holder.vacant => Leader::Other {
                id: holder.id.clone(),
                term: holder.term,
            },
            _ => Leader::Nobody,
        });
    }

    fn tell(&self, leader: Leader) {
        self.campaign.leader.send_if_modified(|known| {
            let changed = *known != leader;
            *known = leader;
            changed
        });
    }
}

/// Ends once the leader's key is seen to hold something else than ours.
async fn taken_by_another(seen: &mut watch::Receiver<SeenKeys>, holder: &LeaderValue) {
    let lost = |seen: &SeenKeys| {
        // What was seen before we took it says nothing.
        let newer = seen.revision >= holder.term;
        let theirs = seen
            .leader
            .as_ref()
            .is_none_or(|now| now.holder.as_ref() != Some(holder));
        seen.reachable && newer && theirs
    };
    // The other end lives as long as the keys do.
    let _ = seen.wait_for(lost).await;
}
