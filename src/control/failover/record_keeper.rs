//! The failover record as this proxy knows it: read before the first decision, stored before anything of
//! a decision is done.

use std::sync::Arc;

use super::event_log::EventLog;
use super::facts::Facts;
use crate::control::store::{SaveError, Store, Stored, Version};
use crate::core::failover::{FailoverPolicy, Record};
use crate::metrics::Metrics;

pub(super) struct RecordKeeper {
    store: Store,
    /// Their clock is that of `phase_since_us`.
    facts: Arc<Facts>,
    metrics: Arc<Metrics>,
    known: Option<KnownRecord>,
    /// It was found that another has changed it.
    overtaken: bool,
}

/// A record that is stored for certain.
pub(super) struct KnownRecord {
    pub(super) record: Record,
    pub(super) phase_since_us: u64,
    /// Whoever has heard of this has heard of the phase.
    pub(super) phase_version: Version,
    version: Version,
}

impl RecordKeeper {
    pub(super) fn new(store: Store, facts: Arc<Facts>, metrics: Arc<Metrics>) -> Self {
        Self {
            store,
            facts,
            metrics,
            known: None,
            overtaken: false,
        }
    }

    /// Whether it was found since this was last asked that another has changed the record.
    pub(super) fn was_overtaken(&mut self) -> bool {
        std::mem::take(&mut self.overtaken)
    }

    pub(super) fn store(&self) -> &Store {
        &self.store
    }

    pub(super) fn known(&self) -> Option<&KnownRecord> {
        self.known.as_ref()
    }

    /// Another may have changed it.
    pub(super) fn forget(&mut self) {
        self.known = None;
    }

    /// Reads the record if it is not known; false when that is not possible now.
    pub(super) async fn ensure_known(
        &mut self,
        policy: &FailoverPolicy,
        log: &mut EventLog,
    ) -> bool {
        if self.known.is_some() {
            return true;
        }
        let loaded = self.store.load().await;
        self.metrics.failover.state.coordination(loaded.is_ok());
        let loaded = match loaded {
            Ok(loaded) => loaded,
            Err(error) => {
                log.stuck("read the failover record", &error.to_string());
                return false;
            }
        };
        let (record, version) = match loaded {
            None => (Record::new(policy), Version(0)),
            Some(stored) => match decode(&stored, policy, log) {
                Some(record) => (record, stored.version),
                None => return false,
            },
        };
        self.known = Some(KnownRecord {
            record,
            version,
            phase_version: version,
            phase_since_us: self.facts.now_us(),
        });
        true
    }

    /// What was last seen of the record that another proxy stores, and in which state.
    pub(super) fn watched(
        &self,
        policy: &FailoverPolicy,
        log: &mut EventLog,
    ) -> Option<(Record, Version)> {
        let stored = self.store.watch().borrow().clone()?;
        Some((decode(&stored, policy, log)?, stored.version))
    }

    /// Raises the epoch of a record that was ever stored; false when it is not certain to be stored.
    pub(super) async fn raise_epoch(&mut self, log: &mut EventLog) -> bool {
        let Some(known) = &self.known else {
            return false;
        };
        if known.version == Version(0) {
            return true;
        }
        let mut record = known.record.clone();
        record.epoch += 1;
        self.save(record, log).await
    }

    /// Stores a record before anything of it is done; false when it is not certain to be stored.
    pub(super) async fn save(&mut self, record: Record, log: &mut EventLog) -> bool {
        let Some(known) = &mut self.known else {
            return false;
        };
        let value = match serde_json::to_value(&record) {
            Ok(value) => value,
            Err(error) => {
                log.stuck("store the failover record", &error.to_string());
                return false;
            }
        };
        match self.store.save(&value, known.version).await {
            Ok(version) => {
                let (phase, epoch) = (record.phase.label(), record.epoch);
                if (known.record.epoch, known.record.phase.label()) != (epoch, phase) {
                    known.phase_since_us = self.facts.now_us();
                    known.phase_version = version;
                    tracing::info!(phase, epoch, "failover phase");
                }
                known.record = record;
                known.version = version;
                true
            }
            Err(SaveError::Conflict { .. } | SaveError::NotLeader) => {
                self.overtaken = true;
                self.forget();
                false
            }
            Err(SaveError::Unavailable(error)) => {
                self.forget();
                self.metrics.failover.state.coordination(false);
                log.stuck("store the failover record", &error.to_string());
                false
            }
        }
    }
}

fn decode(stored: &Stored, policy: &FailoverPolicy, log: &mut EventLog) -> Option<Record> {
    let decoded: Result<Record, _> = serde_json::from_value(stored.record.clone());
    let record = match decoded {
        Ok(record) => record,
        Err(error) => {
            log.stuck("read the failover record", &error.to_string());
            return None;
        }
    };
    if record.fits(policy) {
        return Some(record);
    }
    match record.renumbered(policy) {
        Ok(record) => Some(record),
        Err(node) => {
            let what = format!("node {node} is in it and not in the configuration");
            log.stuck("use the failover record", &what);
            None
        }
    }
}
