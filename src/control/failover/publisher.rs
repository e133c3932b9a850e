//! What clients are shown: who may be written to, for how long, and how long they had to wait.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::control::store::Claim;
use crate::core::leader_lease::micros;
use crate::core::topology::{NodeSet, Ruling, Writer};
use crate::metrics::Metrics;
use crate::shared::cluster::ClusterState;

/// A claim is looked at as often as this.
const TICK: Duration = Duration::from_millis(50);
/// How long a record may be read late without being suspicious.
const BEHIND: Duration = Duration::from_secs(2);

pub(super) struct Publisher {
    cluster: Arc<ClusterState>,
    metrics: Arc<Metrics>,
    published: Option<Ruling>,
    /// The epoch of the latest ruling that the cluster did not follow, and since when, until it is told.
    ignored: Option<(u64, Option<Instant>)>,
    /// The term by whose claim the permission stands; 0 when it stands by no claim.
    granted_by: Arc<AtomicU64>,
    /// When clients' statements began to be held.
    held_since: Option<Instant>,
    last_stall: Duration,
}

impl Publisher {
    /// Nobody may be written to before the record says who.
    pub(super) fn new(cluster: Arc<ClusterState>, metrics: Arc<Metrics>) -> Self {
        // Nothing can have been ruled before.
        let ruling = Ruling {
            writer: Writer::Nobody,
            ..Ruling::default()
        };
        let _ = cluster.rule(ruling, u64::MAX);
        Self {
            cluster,
            metrics,
            published: None,
            ignored: None,
            granted_by: Arc::default(),
            held_since: None,
            last_stall: Duration::ZERO,
        }
    }

    pub(super) fn is_holding(&self) -> bool {
        let published = self.published;
        published.is_some_and(|ruling| ruling.writer == Writer::Nobody)
    }

    /// For how long statements were held the last time.
    pub(super) fn last_stall(&self) -> Duration {
        self.last_stall
    }

    /// What is published stands for as long as the claim of this term.
    pub(super) fn bind_to(&self, term: u64) {
        self.granted_by.store(term, Ordering::Release);
    }

    /// What is published stands until its own end.
    pub(super) fn unbind(&self) {
        self.bind_to(0);
    }

    /// Until when what is under way may go on once what is published has run out.
    pub(super) fn goes_on_until(&self, until_us: u64) {
        self.cluster.goes_on_until(until_us);
    }

    pub(super) fn publish(&mut self, ruling: Ruling, until_us: u64) {
        let Ruling { epoch, writer, .. } = ruling;
        // The cluster withdraws a ruling by itself when its time has run out.
        if self.cluster.topology().ruling() == ruling && self.published == Some(ruling) {
            return self.cluster.prolong(epoch, until_us);
        }
        self.published = Some(ruling);
        if let Err(in_force) = self.cluster.rule(ruling, until_us) {
            return self.ignored(epoch, in_force);
        }
        self.ignored = None;
        self.metrics.failover.epoch.set(epoch as i64);
        if writer == Writer::Nobody {
            self.held_since.get_or_insert_with(Instant::now);
            return;
        }
        if let Some(since) = self.held_since.take() {
            self.last_stall = since.elapsed();
            let stall_s = self.last_stall.as_secs_f64();
            self.metrics.failover.write_gap.observe(stall_s);
        }
        if let Writer::Only(node, _) = writer {
            // Clients go there once it has been measured in its new life.
            let mut demanded = NodeSet::default();
            demanded.insert(node);
            self.cluster.demands.ask(demanded);
        }
        // Functions may be others, and what a standby refused it may accept now.
        self.cluster.catalogs.want();
    }

    /// A record that is read late is no news. One that stays behind was lost, and begun again by a proxy that
    /// did not know how far this one has come.
    fn ignored(&mut self, epoch: u64, in_force: u64) {
        let since = match self.ignored {
            Some((known, since)) if known == epoch => since,
            _ => Some(Instant::now()),
        };
        let told = since.is_some_and(|since| since.elapsed() >= BEHIND);
        if told {
            tracing::error!(
                epoch,
                in_force,
                "the failover record is of an older epoch than clients here have gone by, and is not followed: \
                 if it was lost and begun anew, this proxy must be restarted"
            );
        }
        self.ignored = Some((epoch, since.filter(|_| !told)));
    }

    /// Lets what is published stand for as long as the claim that it is bound to, also while a command is
    /// being carried out; until it is dropped.
    pub(super) fn keep_up(&self, claim: Claim) -> impl Future<Output = ()> + Send + use<> {
        let (cluster, granted_by) = (Arc::clone(&self.cluster), Arc::clone(&self.granted_by));
        async move {
            loop {
                tokio::time::sleep(TICK).await;
                // Looking at it is what withdraws a permission whose time has run out.
                let epoch = cluster.topology().epoch;
                let (term, left) = (claim.term(), claim.left());
                if let (Some(term), Some(left)) = (term, left)
                    && term == granted_by.load(Ordering::Acquire)
                {
                    cluster.prolong(epoch, cluster.now_us().saturating_add(micros(left)));
                }
            }
        }
    }
}
