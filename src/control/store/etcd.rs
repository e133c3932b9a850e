//! The store of several proxies: the record on etcd, and the candidacy for leader.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::attendance::Attendance;
use super::claim::Claim;
use super::keys::Keys;
use super::leadership::{Campaign, Candidacy};
use super::{Leader, OpenError, SaveError, Stored, Unavailable, Version};
use crate::config;

/// The record on etcd, and the candidacy for leader.
#[derive(Debug)]
pub struct EtcdStore {
    keys: Arc<Keys>,
    campaign: Campaign,
    attendance: Attendance,
    /// Ends the background tasks with this.
    _stop: DropGuard,
}

impl EtcdStore {
    /// Stands for leader from now on. etcd need not answer yet.
    pub(super) fn open(
        settings: &config::Etcd,
        cluster: &str,
        id: &str,
    ) -> Result<Self, OpenError> {
        let keys = Arc::new(Keys::open(settings, cluster)?);
        let stop = CancellationToken::new();
        let campaign = Campaign::new(id);
        let (observed, stopped) = (Arc::clone(&keys), stop.clone());
        tokio::spawn(async move {
            stopped.run_until_cancelled(observed.observe()).await;
        });
        let candidacy = Candidacy::new(Arc::clone(&keys), campaign.clone());
        let stopped = stop.clone();
        tokio::spawn(async move {
            stopped.run_until_cancelled(candidacy.run()).await;
        });
        let attendance = Attendance::new(Arc::clone(&keys), id);
        let (attending, stopped) = (attendance.clone(), stop.clone());
        tokio::spawn(async move {
            stopped.run_until_cancelled(attending.run()).await;
        });
        Ok(Self {
            keys,
            campaign,
            attendance,
            _stop: stop.drop_guard(),
        })
    }

    pub(super) async fn load(&self) -> Result<Option<Stored>, Unavailable> {
        self.keys.look(self.keys.ttl).await
    }

    pub(super) async fn save(
        &self,
        record: &Value,
        expected: Version,
    ) -> Result<Version, SaveError> {
        let holder = self.campaign.holder().ok_or(SaveError::NotLeader)?;
        self.keys.save(&holder, record, expected).await
    }

    pub(super) fn current_for(&self) -> Duration {
        self.keys.current_for()
    }

    pub(super) fn attendance(&self) -> &Attendance {
        &self.attendance
    }

    pub(super) fn watch(&self) -> watch::Receiver<Option<Stored>> {
        self.keys.record.subscribe()
    }

    pub(super) fn leader(&self) -> watch::Receiver<Leader> {
        self.campaign.leader.subscribe()
    }

    pub(super) fn claim(&self) -> &Claim {
        &self.campaign.claim
    }

    pub(super) async fn step_down(&self, pause: Option<Duration>) {
        if let Some(holder) = self.campaign.withdraw(pause) {
            let vacated = self.keys.vacate(&holder).await;
            if let Err(error) = vacated {
                tracing::warn!(%error, "could not give the leadership back: it runs out by itself");
            }
        }
    }
}
