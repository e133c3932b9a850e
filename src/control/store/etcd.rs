//! The store of several proxies: two keys on etcd, changed by transactions and watched.
//!
//! `<prefix>/<cluster>/leader` says who leads, `<prefix>/<cluster>/record` is the controller's. The
//! record changes only in a transaction that also finds the leader's key to be ours: so a proxy that
//! has been replaced changes nothing, whatever it believes and however late its request arrives.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::Streaming;

use super::claim::{self, Claim};
use super::leadership::{Campaign, Candidacy};
use super::members::{Answered, Members};
use super::rpc::{Compare, Connection, KeyValue, RequestOp, Txn, TxnResponse, WatchResponse};
use super::{Leader, OpenError, SaveError, Stored, Unavailable, Version};
use crate::config;
use crate::core::leader_lease::{Micros, margin};

/// The record on etcd, and the candidacy for leader.
#[derive(Debug)]
pub struct EtcdStore {
    keys: Arc<Keys>,
    campaign: Campaign,
    /// Ends the background tasks with this.
    _stop: DropGuard,
}

/// The two keys and how they are reached.
#[derive(Debug)]
pub(super) struct Keys {
    members: Members,
    prefix: String,
    leader: String,
    record: String,
    pub(super) ttl: Duration,
    /// When the latest look that was answered began.
    looked: AtomicU64,
    pub(super) seen: watch::Sender<Seen>,
    known: watch::Sender<Option<Stored>>,
}

/// What the leader's key holds. It stays the same to the byte for a whole tenure, so that writing it
/// again, which is what a renewal is, can be conditional on it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Holder {
    /// The proxy's name, for people.
    pub(super) id: String,
    /// Greater than that of every holder before.
    pub(super) term: u64,
    /// How long the lease lasts without a renewal, in milliseconds: the holder's setting counts.
    pub(super) ttl_ms: u64,
    /// Tells tenures apart, also of one proxy.
    pub(super) nonce: String,
    /// Given back.
    pub(super) vacant: bool,
}

impl Holder {
    fn json(&self) -> String {
        // Nothing in it can fail to be written.
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// What the record's key holds.
#[derive(Debug, Serialize, Deserialize)]
struct Envelope {
    /// Who saved it, for people.
    by: String,
    /// Tells saves apart, so that one whose answer was lost is known again.
    nonce: String,
    record: Value,
}

/// The keys as they were last seen.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    /// The store answered.
    pub(super) reachable: bool,
    /// etcd's revision, which grows with every change of anything.
    pub(super) revision: u64,
    pub(super) leader: Option<SeenHolder>,
}

/// The leader's key as it was last seen.
#[derive(Clone, Debug)]
pub(super) struct SeenHolder {
    /// None when the key holds something else than a holder: somebody meddled.
    pub(super) holder: Option<Holder>,
    /// The revision of its last change: every renewal is one.
    pub(super) revision: i64,
    /// When it was first seen at this revision, counted after the answer that showed it.
    pub(super) since: Micros,
}

impl EtcdStore {
    /// Stands for leader from now on. etcd need not answer yet.
    pub(super) fn open(
        settings: &config::Etcd,
        cluster: &str,
        id: &str,
    ) -> Result<Self, OpenError> {
        // Three attempts fit into a tenure, so that one frozen member does not end it.
        let members = Members::new(settings, settings.ttl / 4)?;
        let [leader, record] = keys(settings, cluster);
        let keys = Arc::new(Keys {
            members,
            prefix: prefix(settings, cluster),
            leader,
            record,
            ttl: settings.ttl,
            looked: AtomicU64::new(0),
            seen: watch::Sender::default(),
            known: watch::Sender::default(),
        });
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
        Ok(Self {
            keys,
            campaign,
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

    /// For how long what was read of the record may still be relied on: no other can be acted on
    /// meanwhile by a leader that waits out `ttl`.
    pub(super) fn current_for(&self) -> Duration {
        let looked = self.keys.looked.load(Ordering::Acquire);
        let good_for = self.keys.ttl.saturating_sub(margin(self.keys.ttl));
        let good_for = Micros::try_from(good_for.as_micros()).unwrap_or_default();
        let left = looked.saturating_add(good_for).checked_sub(claim::now());
        Duration::from_micros(left.unwrap_or_default())
    }

    pub(super) fn watch(&self) -> watch::Receiver<Option<Stored>> {
        self.keys.known.subscribe()
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

fn prefix(settings: &config::Etcd, cluster: &str) -> String {
    format!("{}/{cluster}/", settings.prefix)
}

/// The leader's key and the record's.
pub(super) fn keys(settings: &config::Etcd, cluster: &str) -> [String; 2] {
    ["leader", "record"].map(|name| prefix(settings, cluster) + name)
}

impl Keys {
    /// Reads both keys at one moment and tells everybody.
    pub(super) async fn look(&self, bound: Duration) -> Result<Option<Stored>, Unavailable> {
        let read = Txn {
            success: vec![RequestOp::get(&self.leader), RequestOp::get(&self.record)],
            ..Txn::default()
        };
        let began = claim::now();
        let answer = self.transact(bound, read).await?.value;
        self.tell_leader(&answer, claim::now());
        let stored = answer.got(1).map(|key| self.stored(key)).transpose()?;
        self.tell_record(stored.as_ref());
        // Last, so that who finds this finds what was seen, or something newer.
        self.looked.fetch_max(began, Ordering::AcqRel);
        Ok(stored)
    }

    fn tell_leader(&self, answer: &TxnResponse, arrived: Micros) {
        let revision = unsigned(answer.revision());
        self.seen.send_modify(|seen| {
            // Answers may overtake each other.
            if revision < seen.revision {
                return;
            }
            let known = seen.leader.take();
            seen.reachable = true;
            seen.revision = revision;
            seen.leader = answer.got(0).map(|key| SeenHolder {
                holder: serde_json::from_slice(&key.value).ok(),
                revision: key.mod_revision,
                since: match known {
                    Some(known) if known.revision == key.mod_revision => known.since,
                    _ => arrived,
                },
            });
        });
    }

    fn tell_record(&self, stored: Option<&Stored>) {
        let Some(stored) = stored else { return };
        self.known.send_if_modified(|known| {
            let newer = known
                .as_ref()
                .is_none_or(|known| known.version < stored.version);
            if newer {
                *known = Some(stored.clone());
            }
            newer
        });
    }

    fn stored(&self, key: &KeyValue) -> Result<Stored, Unavailable> {
        let envelope = serde_json::from_slice::<Envelope>(&key.value).map_err(|error| {
            let key = &self.record;
            Unavailable(format!(
                "etcd holds no record of Causeway's at {key}: {error}"
            ))
        })?;
        Ok(Stored {
            record: envelope.record,
            version: Version(unsigned(key.mod_revision)),
        })
    }

    /// Follows both keys for ever: told of every change by a watch, and looking now and then in case
    /// the watch has died without a word.
    async fn observe(&self) {
        let look_anyway = self.ttl / 3;
        loop {
            match self.open_watch().await {
                Ok(mut changes) => loop {
                    if let Err(error) = self.look(self.ttl / 2).await {
                        self.lose_sight(&error);
                        break;
                    }
                    match tokio::time::timeout(look_anyway, changes.message()).await {
                        Ok(Ok(Some(change))) if !change.canceled => {}
                        Err(_) => {}
                        Ok(_) => break,
                    }
                },
                Err(error) => self.lose_sight(&error),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn lose_sight(&self, error: &Unavailable) {
        let lost = |seen: &mut Seen| std::mem::replace(&mut seen.reachable, false);
        if self.seen.send_if_modified(lost) {
            tracing::warn!(%error, "etcd does not answer");
        }
    }

    async fn open_watch(&self) -> Result<Streaming<WatchResponse>, Unavailable> {
        let watch = |connection: Connection| async move { connection.watch(&self.prefix).await };
        Ok(self.members.call(self.ttl / 2, watch).await?.value)
    }

    /// Takes the lease if the leader's key is as it was seen, and says when the write was sent at
    /// the earliest. None when another was faster.
    pub(super) async fn take(
        &self,
        holder: &Holder,
        seen: Option<&SeenHolder>,
    ) -> Result<Option<Micros>, Unavailable> {
        // A key that is not there has revision 0.
        let revision = seen.map_or(0, |seen| seen.revision);
        let unchanged = Compare::revision_is(&self.leader, revision);
        let txn = self.write_leader(unchanged, holder);
        let answer = self.transact(self.ttl / 2, txn).await?;
        if answer.value.succeeded {
            return Ok(Some(answer.sent));
        }
        // An attempt without an answer may have been ours and successful.
        let ours = self.is_ours(&answer.value, holder);
        Ok(ours.then_some(answer.first_sent))
    }

    /// Renews the lease and says when the renewal was sent. None when it is not ours any more.
    pub(super) async fn renew(&self, holder: &Holder) -> Result<Option<Micros>, Unavailable> {
        let ours = Compare::value_is(&self.leader, &holder.json());
        let txn = self.write_leader(ours, holder);
        let answer = self.transact(self.ttl, txn).await?;
        Ok(answer.value.succeeded.then_some(answer.sent))
    }

    /// Gives the lease back if it is ours.
    async fn vacate(&self, holder: &Holder) -> Result<(), Unavailable> {
        let ours = Compare::value_is(&self.leader, &holder.json());
        let vacant = Holder {
            vacant: true,
            ..holder.clone()
        };
        let txn = self.write_leader(ours, &vacant);
        self.transact(self.ttl, txn).await?;
        Ok(())
    }

    fn write_leader(&self, condition: Compare, holder: &Holder) -> Txn {
        Txn {
            compare: vec![condition],
            success: vec![RequestOp::put(&self.leader, &holder.json())],
            failure: vec![RequestOp::get(&self.leader)],
        }
    }

    fn is_ours(&self, answer: &TxnResponse, holder: &Holder) -> bool {
        let key = answer.got(0);
        key.is_some_and(|key| key.value == holder.json().as_bytes())
    }

    async fn save(
        &self,
        holder: &Holder,
        record: &Value,
        expected: Version,
    ) -> Result<Version, SaveError> {
        let nonce = nonce();
        let envelope = Envelope {
            by: holder.id.clone(),
            nonce: nonce.clone(),
            record: record.clone(),
        };
        let value = serde_json::to_string(&envelope)
            .map_err(|error| Unavailable(format!("the record cannot be written: {error}")))?;
        let revision = i64::try_from(expected.0).unwrap_or(i64::MAX);
        let txn = Txn {
            compare: vec![
                Compare::value_is(&self.leader, &holder.json()),
                Compare::revision_is(&self.record, revision),
            ],
            success: vec![RequestOp::put(&self.record, &value)],
            failure: vec![RequestOp::get(&self.leader), RequestOp::get(&self.record)],
        };
        let answer = self.transact(self.ttl, txn).await?.value;
        if answer.succeeded {
            let version = Version(unsigned(answer.revision()));
            let record = record.clone();
            self.tell_record(Some(&Stored { record, version }));
            return Ok(version);
        }
        let current = answer.got(1).map(|key| self.stored(key)).transpose()?;
        self.tell_record(current.as_ref());
        // An earlier attempt of this very save may have succeeded without an answer.
        let envelope = answer.got(1).map(|key| serde_json::from_slice(&key.value));
        if let (Some(Ok(Envelope { nonce: saved, .. })), Some(current)) = (envelope, &current)
            && saved == nonce
        {
            return Ok(current.version);
        }
        if self.is_ours(&answer, holder) {
            return Err(SaveError::Conflict { current });
        }
        Err(SaveError::NotLeader)
    }

    async fn transact(
        &self,
        bound: Duration,
        txn: Txn,
    ) -> Result<Answered<TxnResponse>, Unavailable> {
        let transact = |connection: Connection| {
            let txn = txn.clone();
            async move { connection.transact(txn).await }
        };
        self.members.call(bound, transact).await
    }
}

/// A text that nobody else makes.
pub(super) fn nonce() -> String {
    format!("{:032x}", rand::random::<u128>())
}

fn unsigned(revision: i64) -> u64 {
    u64::try_from(revision).unwrap_or(0)
}
