//! The keys of a cluster on etcd, changed by transactions and watched.
//!
//! `<prefix>/<cluster>/leader` says who leads, `<prefix>/<cluster>/record` is the controller's, and below
//! `<prefix>/<cluster>/proxies/` each proxy says how far it has come (`attended.rs`). The
//! record changes only in a transaction that also finds the leader's key to be ours: so a proxy that
//! has been replaced changes nothing, whatever it believes and however late its request arrives.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::watch;
use tonic::Streaming;

use super::attended::Attended;
use super::claim;
use super::members::{Answered, Members};
use super::rpc::{Compare, Connection, KeyValue, RequestOp, Txn, TxnResponse, WatchResponse};
use super::{OpenError, SaveError, Stored, Unavailable, Version};
use crate::config;
use crate::core::leader_lease::{Micros, margin, micros};

/// The keys and how they are reached.
#[derive(Debug)]
pub(super) struct Keys {
    members: Members,
    prefix: String,
    leader_key: String,
    record_key: String,
    /// What the proxies' keys begin with.
    pub(super) proxies: String,
    pub(super) ttl: Duration,
    /// When the latest look that was answered began.
    looked: AtomicU64,
    pub(super) seen: watch::Sender<SeenKeys>,
    pub(super) record: watch::Sender<Option<Stored>>,
    pub(super) attended: Mutex<Attended>,
}

/// What the leader's key holds. It stays the same to the byte for a whole tenure, so that writing it
/// again, which is what a renewal is, can be conditional on it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct LeaderValue {
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

impl LeaderValue {
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
pub(super) struct SeenKeys {
    /// The store answered.
    pub(super) reachable: bool,
    /// etcd's revision, which grows with every change of anything.
    pub(super) revision: u64,
    pub(super) leader: Option<SeenLeader>,
}

/// The leader's key as it was last seen.
#[derive(Clone, Debug)]
pub(super) struct SeenLeader {
    /// None when the key holds something else than a holder: somebody meddled.
    pub(super) holder: Option<LeaderValue>,
    /// The revision of its last change: every renewal is one.
    pub(super) revision: i64,
    /// When it was first seen at this revision, counted after the answer that showed it.
    pub(super) since: Micros,
}

fn prefix(settings: &config::Etcd, cluster: &str) -> String {
    format!("{}/{cluster}/", settings.prefix)
}

/// The leader's key and the record's.
pub(super) fn names(settings: &config::Etcd, cluster: &str) -> [String; 2] {
    ["leader", "record"].map(|name| prefix(settings, cluster) + name)
}

impl Keys {
    pub(super) fn open(settings: &config::Etcd, cluster: &str) -> Result<Self, OpenError> {
        // Three attempts fit into a tenure, so that one frozen member does not end it.
        let members = Members::new(settings, settings.ttl / 4)?;
        let [leader_key, record_key] = names(settings, cluster);
        Ok(Self {
            members,
            proxies: prefix(settings, cluster) + "proxies/",
            prefix: prefix(settings, cluster),
            leader_key,
            record_key,
            ttl: settings.ttl,
            looked: AtomicU64::new(0),
            seen: watch::Sender::default(),
            record: watch::Sender::default(),
            attended: Mutex::default(),
        })
    }

    /// For how long what was read of the record may still be relied on: no other can be acted on
    /// meanwhile by a leader that waits out `ttl`.
    pub(super) fn current_for(&self) -> Duration {
        let looked = self.looked.load(Ordering::Acquire);
        let good_for = micros(self.ttl.saturating_sub(margin(self.ttl)));
        let left = looked.saturating_add(good_for).checked_sub(claim::now());
        Duration::from_micros(left.unwrap_or_default())
    }

    /// Reads all keys at one moment and tells everybody.
    pub(super) async fn look(&self, bound: Duration) -> Result<Option<Stored>, Unavailable> {
        let read = Txn {
            success: vec![
                RequestOp::get(&self.leader_key),
                RequestOp::get(&self.record_key),
                RequestOp::get_all(&self.proxies),
            ],
            ..Txn::default()
        };
        let began = claim::now();
        let answer = self.transact(bound, read).await?.value;
        self.tell_leader(&answer, claim::now());
        self.attended
            .lock()
            .see(answer.revision(), answer.all(2), claim::now());
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
            seen.leader = answer.got(0).map(|key| SeenLeader {
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
        self.record.send_if_modified(|known| {
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
            let key = &self.record_key;
            Unavailable(format!(
                "etcd holds no record of Causeway's at {key}: {error}"
            ))
        })?;
        Ok(Stored {
            record: envelope.record,
            version: Version(unsigned(key.mod_revision)),
        })
    }

    /// Says something below the proxies' prefix.
    pub(super) async fn attend(&self, key: &str, value: &str) -> Result<(), Unavailable> {
        let put = Txn {
            success: vec![RequestOp::put(key, value)],
            ..Txn::default()
        };
        self.transact(self.ttl / 2, put).await.map(drop)
    }

    /// Takes a key away unless it has been changed since it was seen at this revision; 0 takes it in any case.
    pub(super) async fn dismiss(&self, key: &str, revision: i64) -> Result<(), Unavailable> {
        let unchanged = (revision != 0).then(|| Compare::revision_is(key, revision));
        let delete = Txn {
            compare: unchanged.into_iter().collect(),
            success: vec![RequestOp::delete(key)],
            ..Txn::default()
        };
        self.transact(self.ttl / 2, delete).await.map(drop)
    }

    /// Follows the keys for ever: told of every change by a watch, and looking now and then in case
    /// the watch has died without a word.
    pub(super) async fn observe(&self) {
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
        let lost = |seen: &mut SeenKeys| std::mem::replace(&mut seen.reachable, false);
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
        holder: &LeaderValue,
        seen: Option<&SeenLeader>,
    ) -> Result<Option<Micros>, Unavailable> {
        // A key that is not there has revision 0.
        let revision = seen.map_or(0, |seen| seen.revision);
        let unchanged = Compare::revision_is(&self.leader_key, revision);
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
    pub(super) async fn renew(&self, holder: &LeaderValue) -> Result<Option<Micros>, Unavailable> {
        let ours = Compare::value_is(&self.leader_key, &holder.json());
        let txn = self.write_leader(ours, holder);
        let answer = self.transact(self.ttl, txn).await?;
        Ok(answer.value.succeeded.then_some(answer.sent))
    }

    /// Gives the lease back if it is ours.
    pub(super) async fn vacate(&self, holder: &LeaderValue) -> Result<(), Unavailable> {
        let ours = Compare::value_is(&self.leader_key, &holder.json());
        let vacant = LeaderValue {
            vacant: true,
            ..holder.clone()
        };
        let txn = self.write_leader(ours, &vacant);
        self.transact(self.ttl, txn).await?;
        Ok(())
    }

    fn write_leader(&self, condition: Compare, holder: &LeaderValue) -> Txn {
        Txn {
            compare: vec![condition],
            success: vec![RequestOp::put(&self.leader_key, &holder.json())],
            failure: vec![RequestOp::get(&self.leader_key)],
        }
    }

    fn is_ours(&self, answer: &TxnResponse, holder: &LeaderValue) -> bool {
        let key = answer.got(0);
        key.is_some_and(|key| key.value == holder.json().as_bytes())
    }

    pub(super) async fn save(
        &self,
        holder: &LeaderValue,
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
                Compare::value_is(&self.leader_key, &holder.json()),
                Compare::revision_is(&self.record_key, revision),
            ],
            success: vec![RequestOp::put(&self.record_key, &value)],
            failure: vec![
                RequestOp::get(&self.leader_key),
                RequestOp::get(&self.record_key),
            ],
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
